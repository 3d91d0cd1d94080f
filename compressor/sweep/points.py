"""The points of a sweep: names, recipes and folders, all checked before any of them runs."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.recipe.compression import Recipe
from compressor.recipe.file import merged_values, read_yaml, recipe_of
from compressor.recipe.sweep import SweepRecipe

VARIABLE = re.compile(r"\$\{([^}]*)\}")
UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
"""What names of folders do without."""
LONGEST = 120
"""Characters of a name."""
MOST = 10_000
"""Points of a sweep."""


@dataclass(frozen=True)
class Point:
    """One run of a sweep; `place` says what it is by the parts of the sweep: model, data, seed and the keys replaced."""

    name: str
    recipe: Recipe
    place: dict[str, Any]


def points_of(sweep: SweepRecipe, source: Path | None = None) -> list[Point]:
    """Return the points in their order: models, data, overrides, seeds, the last one fastest.

    The base recipe's path is looked for from the current folder, then beside `source`, the file of the sweep. Raises UserError
    where a point is no recipe (naming the point), a `${name}` is not known, two points have one name, or there are too many.
    """
    ways = sweep.models, sweep.data, sweep.list, *sweep.grid.values(), sweep.seeds
    count = math.prod(max(1, len(way)) for way in ways)
    if count > MOST:
        raise UserError(
            f"sweep {sweep.name}: there are {count:,} points, and at most {MOST:,} are run; leave some out."
        )
    base = _base(sweep, source)
    found: dict[str, Point] = {}
    for parts in product(_models(sweep), _data(sweep), _changes(sweep), sweep.seeds or [None]):
        (model, of_model), (data, of_data), (change, replaced), seed = parts
        words = [model, data, change, None if seed is None else f"seed{seed}"]
        name = UNSAFE.sub("-", "_".join(word for word in words if word) or sweep.name)[:LONGEST].strip("-.")
        name = name or "point"  # of words without any sign that a folder may have
        place = {"model": model, "data": data, **{key: value for key, value in replaced.items() if key != "name"}}
        place |= {} if seed is None else {"seed": seed}
        known = {"sweep": sweep.name, "model": model, "data": data, "seed": seed}
        more = {**of_model, **of_data, **{key: value for key, value in replaced.items() if key != "name"}}
        more |= {"name": name} | ({} if seed is None else {"seed": seed})
        values = _filled(merged_values(base, more), known, f"point {name}")
        if name in found:
            raise UserError(
                f"sweep {sweep.name}: two points are called {name!r}; give the entries of list names of their own."
            )
        found[name] = Point(name, recipe_of(values, source=f"point {name}"), place)
    return list(found.values())


def _base(sweep: SweepRecipe, source: Path | None) -> Mapping[str, Any]:
    if not isinstance(sweep.base, str):
        return sweep.base
    path = Path(sweep.base)
    beside = source.parent / path if source is not None else path
    if not path.is_file() and not beside.is_file():
        raise UserError(
            f"base: {sweep.base}: no such recipe, neither from here nor beside the sweep; name a YAML file."
        )
    return read_yaml(path if path.is_file() else beside)[0]


def _models(sweep: SweepRecipe) -> list[tuple[str | None, dict[str, Any]]]:
    if not sweep.models:
        return [(None, {})]
    return [(name, {"model.path": given} if isinstance(given, str) else given) for name, given in sweep.models.items()]


def _data(sweep: SweepRecipe) -> list[tuple[str | None, dict[str, Any]]]:
    if not sweep.data:
        return [(None, {})]
    return [(name, {f"data.{key}": value for key, value in given.items()}) for name, given in sweep.data.items()]


def _changes(sweep: SweepRecipe) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield name and overrides of every entry of `list`, or of every combination of `grid`."""
    if sweep.list:
        for number, entry in enumerate(sweep.list, 1):
            yield str(entry.get("name", number)), entry
        return
    for values in product(*sweep.grid.values()):
        words = [f"{key.rpartition('.')[2]}-{_word(value)}" for key, value in zip(sweep.grid, values, strict=True)]
        yield "_".join(words) or None, dict(zip(sweep.grid, values, strict=True))


def _word(value: Any) -> str:  # noqa: ANN401
    """Return a value of the grid as part of a name."""
    if isinstance(value, Mapping):
        return "-".join(f"{key}-{_word(item)}" for key, item in value.items())
    return "-".join(map(_word, value)) if isinstance(value, list | tuple) else str(value)


def _filled(value: Any, known: Mapping[str, Any], where: str) -> Any:  # noqa: ANN401
    """Return a copy of a value whose texts have `${name}` replaced."""
    if isinstance(value, Mapping):
        return {key: _filled(item, known, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(item, known, where) for item in value]
    if not isinstance(value, str):
        return value

    def put(found: re.Match) -> str:
        given = known.get(found[1])
        if given is None:
            there = ", ".join(name for name, item in known.items() if item is not None)
            raise UserError(f"{where}: {found[0]} in {value!r} is not known; known here are {there}.")
        return str(given)

    return VARIABLE.sub(put, value)
