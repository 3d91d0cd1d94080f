"""The recipe of a sweep: one base recipe, and what its points change in it."""

from typing import Annotated, Any

from pydantic import model_validator

from compressor.recipe.base import Name, Seed, Spec, named_once
from compressor.recipe.engine import EngineSpec

Overridden = list[dict[str, Any]]
"""A list of overrides: the name of the field `list` hides that of the type below it."""
Seeds = Annotated[list[Seed], named_once("seed")]
Grid = dict[str, list[Any]]


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
    store: str | None = None
    """Folder, or URL that fsspec knows (s3://bucket/runs), of what points share; null: `store/` below the sweep's folder. With a
    URL the nodes of a Ray cluster need no common folder: points come back through it."""
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
