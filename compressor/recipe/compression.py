"""The typed recipe: what the result is. Where to write and on which device to run are no part of it."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from compressor.recipe.base import Float, Name, PositiveInt, Seed, Share, Spec, named_once
from compressor.recipe.data import DataSpec
from compressor.recipe.engine import EngineSpec
from compressor.recipe.ship import BaselineSpec, ShipSpec
from compressor.recipe.training import CascadeSpec, CompensationSpec, FinetuneSpec


class ModelSpec(Spec):
    """The model to compress."""

    path: str = Field(min_length=1)
    """A directory, a hub id, or `package:NAME` for the model that an installed Python package carries."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""


Score = Literal["trace_ratio", "shrunk_fisher", "h_score", "linear_probe", "pooled_trace_ratio"]
"""Measures of separability: the keys of `SCORES` in `selection/separability.py`."""
Sensitivity = Literal[
    "downstream_separability", "downstream_gain", "token_gradient", "gauss_newton", "gauss_newton_attention"
]
"""What gradients say of a layer: `SENSITIVITIES` in `selection/sensitivity.py`."""


class SeparabilitySpec(Spec):
    """How the [CLS] states of each layer are scored."""

    score: Score = "trace_ratio"
    """The measure: variance between the classes over variance within them (`trace_ratio`), or another."""
    labels: Literal["gold", "teacher"] = "gold"
    """`teacher` takes the full model's predictions as classes: no labels needed."""


class BudgetSpec(Spec):
    """What may remain of the encoder's cost; the mix of units that changes the fewest predictions is searched for."""

    keep: Annotated[Float, Field(gt=0, lt=1)]
    """Largest share of the cost of all layers that may remain: 0.5 halves it."""
    of: Literal["flops", "latency"] = "flops"
    """`flops` at 128 tokens, or predicted `latency`: each part timed in files of two layers (models, where a run
    makes no files), in every cell of the benchmark."""


class SelectionSpec(Spec):
    """Which layers, or which parts of layers, go."""

    search: Literal["ranked", "greedy", "beam", "guided", "exhaustive", "fixed"] = "exhaustive"
    """`ranked`: what `rank_by` says, no trial; `greedy`: one layer after the other; `beam`: the same with the `beam_width`
    best sets of every size; `guided`: a tenth of the sets, led by `rank_by` and by the trials so far; `exhaustive`: every set;
    `fixed`: `skip`."""
    layers: PositiveInt | Literal["auto"] = 1
    """Number of layers to skip; `auto`: as many as goals.max_drop and goals.max_flips allow on the selection split."""
    beam_width: PositiveInt = 8
    """With `search: beam`, the number of sets of each size that are widened by one layer more."""
    rank_by: Literal[
        "separability",
        Score,
        "negative_gain",
        Sensitivity,
        "block_influence",
        "cls_cosine",
        "angular_distance",
        "cka",
        "passthrough",
        "top_first",
        "every_other",
        "random",
    ] = "downstream_separability"
    """The score of the ranked plan, lowest first. `downstream_separability`: how much of the classes' separability at the end
    a layer's work could cost, by gradients (about three forward passes over 512 texts); `separability`: the gain in
    separability.score that the layer itself brings."""
    audit: bool = False
    """Also measure how far every score deserves trust, and the best set of every size (`compressor audit`)."""
    units: list[Literal["layer", "ffn", "attention", "width", "heads"]] = ["layer"]
    """With a budget, what may go: whole layers, feed-forward blocks, attention blocks, any number of the neurons of
    feed-forward blocks (`width`) and of the heads of attention blocks (`heads`)."""
    widths: list[Annotated[Float, Field(gt=0, lt=1)]] = [sixteenths / 16 for sixteenths in range(15, 0, -1)]
    """With unit `width`, the shares of a feed-forward block's neurons that may stay."""
    budget: BudgetSpec | None = None
    """In place of `layers`: how much of the encoder's cost may remain."""
    protect: list[PositiveInt] = []
    """Layers (from 1) that must stay."""
    skip: list[PositiveInt] | None = None
    """With `search: fixed`, the layers (from 1) to skip."""
    engine: EngineSpec | None = None
    """What tries sets of whole layers where that takes minutes: subtrees of the search, side by side; null: this process."""

    @model_validator(mode="before")
    @classmethod
    def _fixed_sets_layers(cls, values: Any) -> Any:  # noqa: ANN401
        if isinstance(values, dict) and isinstance(values.get("skip"), list) and "layers" not in values:
            return {**values, "layers": max(1, len(values["skip"]))}
        if isinstance(values, dict) and values.get("budget") is not None and "search" not in values:
            return {**values, "search": "beam"}
        return values

    @model_validator(mode="after")
    def _budget_fits(self) -> "SelectionSpec":
        if not self.units or len(set(self.units)) != len(self.units):
            raise ValueError("units must name at least one kind, and none twice")
        if self.budget is None and self.units != ["layer"]:
            raise ValueError(f"units {', '.join(self.units)} differ in cost: say with budget.keep how much may remain")
        if self.budget is not None and (self.search != "beam" or self.layers != 1):
            raise ValueError("a budget comes with search: beam and takes the place of layers; leave layers out")
        if self.budget is not None and self.audit:
            raise ValueError("audit measures sets of whole layers; leave it out, or the budget")
        if "width" in self.units and not self.widths:
            raise ValueError("unit width needs at least one share in widths")
        return self

    @model_validator(mode="after")
    def _fixed_has_skip(self) -> "SelectionSpec":
        if (self.search == "fixed") != (self.skip is not None):
            raise ValueError("search: fixed and skip: [...] go together")
        if self.layers == "auto" and self.search in {"ranked", "fixed"}:
            raise ValueError(f"layers: auto needs a search that tries sets of every size, not {self.search}")
        if self.skip is not None:
            if not self.skip or len(set(self.skip)) != len(self.skip):
                raise ValueError("skip must name at least one layer, and none twice")
            if len(self.skip) != self.layers:
                raise ValueError(f"skip names {len(self.skip)} layers but layers is {self.layers}; leave layers out")
            if set(self.skip) & set(self.protect):
                raise ValueError(f"layers {sorted(set(self.skip) & set(self.protect))} are both skipped and protected")
        return self


class ExportSpec(Spec):
    """Which ONNX files to write."""

    variants: Annotated[
        list[Literal["fp32", "alltokens", "optimized", "fp16", "int8"]] | Literal["auto"], named_once("variant")
    ] = ["fp32", "optimized", "int8"]
    """`fp32`: as the model is; `alltokens`: its nodes fused; `optimized`: also without what changes no prediction;
    `fp16`, `int8`: made from `optimized`. `auto`: those that may be the fastest on the device at hand, of which the fastest
    that meets the goals on the selection split is named as the one to ship."""
    cls_only_tail: bool | Literal["reassociated", "single_row"] = True
    """In the variants behind `optimized`, compute only the [CLS] row of the last layer: exact. true: in the form that is
    faster where the run takes place."""
    opset: Annotated[int, Field(ge=14, le=22)] | None = None
    """Version of the ONNX operators; null leaves it to Optimum."""


class BenchmarkSpec(Spec):
    """Where latency is measured."""

    batch_sizes: list[PositiveInt] = [1, 8, 32]
    """Texts in one call."""
    lengths: list[Annotated[int, Field(ge=4)]] = [32, 128]
    """Tokens of made-up texts without padding; empty: real lengths alone."""
    workload: bool = True
    """Also replay the real lengths of the evaluation texts with dynamic padding."""
    min_seconds: Annotated[Float, Field(ge=0)] = 5
    """Shortest measurement of a batch x length cell."""
    min_runs: PositiveInt = 100
    """Fewest runs of every model in a cell, unless `max_seconds` ends it first (the report then says so)."""
    max_seconds: Annotated[Float, Field(gt=0)] = 60
    """Longest measurement of a cell."""
    baseline: BaselineSpec = BaselineSpec()
    """What runs today; the speed-up of the answer is against it."""
    narrow: Annotated[Float, Field(gt=0, lt=1)] | None = None
    """End a cell after `min_runs`, before `min_seconds`, once every ratio is known to +- this share of it: 0.03."""
    footprint: bool = True
    """Also measure cold start and peak memory, each variant in a process of its own."""

    @property
    def limits(self) -> dict[str, Any]:
        """When the measurement of a cell ends, as `measurement.timing.latency.benchmark` takes it."""
        return self.model_dump(include={"min_seconds", "min_runs", "max_seconds", "narrow"})

    @model_validator(mode="after")
    def _limits_in_order(self) -> "BenchmarkSpec":
        if self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds ({self.min_seconds:g}) is above max_seconds ({self.max_seconds:g})")
        return self


class GoalsSpec(Spec):
    """What one variant of the compressed model must reach as a whole; the run ends with exit code 3 where none does."""

    max_drop: Share | None = None
    """Largest accuracy drop that the one-sided bound at `confidence` may allow."""
    max_flips: Share | None = None
    """Largest share of changed predictions."""
    min_speedup: Annotated[Float, Field(gt=0)] | None = None
    """Smallest claimed speed-up over the full model in the same format, in every cell."""
    max_p95_ms: Annotated[Float, Field(gt=0)] | None = None
    """Largest 95th percentile of the latency of a batch, in every cell."""
    confidence: Annotated[Float, Field(gt=0.5, lt=1)] = 0.95
    """Of the bounds."""


FREE = "protect", "beam_width", "rank_by", "widths"
"""What a recipe that leaves the decision to `ship` may still say of the selection."""
DECIDES = {
    "selection": "which layers and parts of layers go",
    "cascade": "whether texts leave early",
    "goals": "by its own goal",
    "compensation.distill": "by text that a distilled model must not have learned from",
    "export.variants": "which files are made",
}


class Recipe(Spec):
    """A whole run: what goes in, what is done to it, what is measured."""

    name: Name
    """Names the run and its default folder, runs/NAME."""
    seed: Seed = 0
    """Of everything that is drawn: splits, initial weights, orders."""
    model: ModelSpec
    finetune: FinetuneSpec | None = None
    data: DataSpec
    separability: SeparabilitySpec = SeparabilitySpec()
    selection: SelectionSpec = SelectionSpec()
    compensation: CompensationSpec = CompensationSpec()
    cascade: CascadeSpec | None = None
    export: ExportSpec = ExportSpec()
    benchmark: BenchmarkSpec = BenchmarkSpec()
    goals: GoalsSpec | None = None
    ship: ShipSpec | None = None
    """Decide what to ship: which layers, precision and exits; then selection, cascade, export.variants and goals are left out."""
    analysis: Annotated[list[Literal["errors", "ffn", "roles"]], named_once("analysis")] = []
    """What the report explains beside the result: the full model's confident errors (and the compressed one's), what its
    feed-forward blocks do, the role of each layer. `compressor analyze` does the same for a finished run."""

    @model_validator(mode="after")
    def _baseline_holds_every_length(self) -> "Recipe":
        longest = max(self.benchmark.lengths, default=0)
        if self.benchmark.baseline.padding == "max_length" and longest > self.data.max_length:
            raise ValueError(
                f"benchmark.lengths has {longest} tokens, which the baseline's padding to data.max_length "
                f"({self.data.max_length}) cannot hold: lower one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _one_who_decides(self) -> "Recipe":
        if self.ship is None:
            return self
        free = self.selection.model_copy(update={name: SelectionSpec.model_fields[name].default for name in FREE})
        decided = {
            "selection": free != SelectionSpec(),
            "cascade": self.cascade is not None,
            "goals": self.goals is not None,
            "compensation.distill": self.compensation.distill is not None,
            "export.variants": self.export.variants not in ("auto", ExportSpec().variants),
        }
        if any(decided.values()):
            named = next(name for name, found in decided.items() if found)
            raise ValueError(f"ship decides {DECIDES[named]}: leave {named} out, or ship")
        return self
