"""What to ship, and what it is compared with: the parts of a recipe behind its one answer."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from compressor.recipe.base import Float, Share, Spec, named_once

Goal = Literal["exact", "lossless", "near"]
Unit = Literal["layer", "ffn", "attention", "width", "heads"]
LIMITS: dict[str, dict[str, float | None]] = {
    "exact": {"max_flips": 0.0, "max_drop": None},
    "lossless": {"max_flips": 0.01, "max_drop": 0.01},
    "near": {"max_flips": None, "max_drop": 0.02},
}
"""Goal -> the largest share of changed predictions and the largest drop of the accuracy that it allows, None for any."""


class BaselineSpec(Spec):
    """What runs today: the speed-up of the answer is against it."""

    engine: Literal["pytorch"] = "pytorch"
    """What runs it."""
    padding: Literal["dynamic", "max_length"] = "dynamic"
    """`dynamic`: each batch is padded to its longest text; `max_length`: to data.max_length."""
    compile: bool = False
    """Run it through `torch.compile`, which takes a C++ compiler on a CPU."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of its weights and states."""


class ShipSpec(Spec):
    """Decide what to ship: of all compositions that meet the goal, the fastest; takes the place of single techniques."""

    goal: Goal = "lossless"
    """`exact`: no prediction changes; `lossless`: at most 1 % change, and the accuracy falls by less than a point; `near`:
    it falls by less than two points."""
    max_flips: Share | None = None
    """In place of the goal's, the largest share of changed predictions."""
    max_drop: Share | None = None
    """In place of the goal's, the largest drop of the accuracy; without labels each changed prediction counts as lost."""
    prefer: Literal["speed", "size"] = "speed"
    """Which of those that keep to the goal and are faster than today: the fastest, or the one of the fewest bytes."""
    min_speedup: Annotated[Float, Field(gt=0)] | None = None
    """Smallest speed-up over benchmark.baseline that the lower end of its interval must reach."""
    engines: Annotated[list[Literal["pytorch", "onnx"]], Field(min_length=1), named_once("engine")] = [
        "pytorch",
        "onnx",
    ]
    """What the file may run on."""
    units: Annotated[list[Unit] | None, named_once("unit")] = None
    """What may go of the model: layers, feed-forward blocks, attention blocks, neurons, heads. null: all of them where the
    goal is `near`, else none: on five tasks a sixth of the FLOPs less changes 1.3 % (`benchmarks/tables/units.md`), beyond
    lossless already before 8 bits are added, and the search takes minutes."""
    keep: list[Annotated[Float, Field(gt=0, lt=1)]] = [0.84, 0.67, 0.5]
    """Shares of the encoder's FLOPs that may remain, each tried while the one before it keeps to the goal."""
    budget_minutes: Annotated[Float, Field(gt=0)] | None = None
    """Minutes after which no further composition is built; null: as long as it takes."""
    confidence: Annotated[Float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of the bounds behind the decision, all of them together."""

    @property
    def parts(self) -> list[str]:
        """What may go of the model."""
        return [*(self.units if self.units is not None else get_args(Unit) if self.goal == "near" else [])]

    @property
    def exits(self) -> bool:
        """Whether an early exit may be shipped."""
        return self.goal != "exact" and "onnx" in self.engines

    @property
    def limits(self) -> dict[str, float | None]:
        """The largest share of changed predictions and the largest drop of the accuracy, None for any."""
        own = {"max_flips": self.max_flips, "max_drop": self.max_drop}
        return {name: LIMITS[self.goal][name] if value is None else value for name, value in own.items()}
