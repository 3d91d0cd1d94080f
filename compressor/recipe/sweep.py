"""The recipe of a sweep: one base recipe, and what its points change in it."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from compressor.recipe.base import Float, Name, PositiveInt, Seed, Spec, named_once

Overridden = list[dict[str, Any]]
"""A list of overrides: the name of the field `list` hides that of the type below it."""
Seeds = Annotated[list[Seed], named_once("seed")]
Grid = dict[str, list[Any]]


class EngineSpec(Spec):
    """What runs the points."""

    kind: Literal["local", "ray"] = "local"
    """`local`: processes of this machine. `ray`: tasks of a Ray cluster whose nodes share the folder of the sweep."""
    workers: PositiveInt | None = None
    """Points at a time on this machine; null: as many as there are `threads` for. A Ray cluster decides by its resources."""
    threads: PositiveInt | None = None
    """Threads of a point, pinned to cores of its own; null: the cores, divided by `workers` (by 1 where both are null)."""
    address: str | None = None
    """Address of the Ray cluster: `auto` for the one of this machine; null starts one here."""
    gpus: Annotated[Float, Field(ge=0)] = 0.0
    """GPUs of a point; 0 runs it on the CPU."""
    memory_gb: Annotated[Float, Field(gt=0)] | None = None
    """Memory that a point asks a Ray cluster for."""
    retries: Annotated[int, Field(ge=0)] = 1
    """How often a point whose process or node died is started again; it resumes. A wrong recipe is not tried again."""


class SweepRecipe(Spec):
    """Models x data x overrides x seeds: every point is an ordinary run of the base recipe with some values replaced.

    `${model}`, `${data}`, `${seed}` and `${sweep}` in texts stand for the names of a point's parts.
    """

    name: Name
    """What the sweep is called; its folder is runs/NAME."""
    base: str | dict[str, Any]
    """The base recipe: a YAML file, or its keys."""
    models: dict[str, str | dict[str, Any]] = {}
    """Name -> path of a model, or what is replaced for it, `{model.path: ./a, data.max_length: 64}`. Empty: the base's."""
    data: dict[str, dict[str, Any]] = {}
    """Name -> what is replaced below `data`. Empty: the base's."""
    grid: Grid = {}
    """Path of a key -> its values; every combination is taken."""
    seeds: Seeds = []
    """Seeds; empty: the base's."""
    engine: EngineSpec = EngineSpec()
    list: Overridden = []
    """In place of `grid`: what each point replaces, `{name: small, selection.layers: 2}`; the name is optional."""

    @model_validator(mode="after")
    def _grid_or_list(self) -> "SweepRecipe":
        if self.grid and self.list:
            raise ValueError("give either grid or list, not both")
        empty = next((key for key, values in self.grid.items() if not values), None)
        if empty is not None:
            raise ValueError(f"grid.{empty} has no values; name one at least, or leave it out")
        if self.engine.kind == "local" and (self.engine.address or self.engine.memory_gb):
            raise ValueError("engine.address and engine.memory_gb are for engine.kind: ray")
        return self
