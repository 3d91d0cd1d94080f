"""Recipes as YAML files: reading with overrides, writing, and one readable sentence for the first mistake."""

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from compressor.errors import UserError, first_line, nearest
from compressor.recipe.base import Spec
from compressor.recipe.compression import Recipe
from compressor.recipe.placement import PlacementRecipe
from compressor.recipe.sweep import SweepRecipe
from compressor.recipe.text import compose, parse

Kind = TypeVar("Kind", bound=Spec)

Overrides = Sequence[str] | Mapping[str, Any]
"""What replaces values of a recipe: `key.path=value`, one or more, or a dict."""

DEMO = Path(__file__).parent / "demo.yaml"
"""The recipe of the embedded example, a part of the package; `recipes/demo.yaml` is a link to it."""
KINDS: dict[str, type[Spec]] = {"compression": Recipe, "placement": PlacementRecipe, "sweep": SweepRecipe}
"""What a recipe may describe: a compressed model, an experiment with models from scratch, or many of the first."""
TAKEN_BY = {"compression": "compressor run", "placement": "compressor analyze placement", "sweep": "compressor sweep"}

UNION_TAGS = {"str", "list[str]", "constrained-int", "literal['auto']"}
"""What pydantic adds to the path of an error to name the branch of a union, as in ("data", "text", "list[str]")."""


def load_recipe(recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Overrides = ()) -> Recipe:
    """Return the recipe in a YAML file, in a dict of its keys, or as it is, with `overrides` applied.

    These are `key.path=value` (values are read as YAML), or a dict, whose keys may be paths such as `benchmark.lengths` and
    whose dicts set the keys that they name and leave the others.

    Raises UserError naming the file, line, field path and remedy when the file or a field is wrong.
    """
    if isinstance(recipe, Recipe):
        return recipe_of(recipe.model_dump(mode="json"), overrides, source="the recipe") if overrides else recipe
    if isinstance(recipe, Mapping):
        return recipe_of(recipe, overrides, source="the recipe")
    if not isinstance(recipe, str | Path):
        raise UserError(
            f"recipe: a {type(recipe).__name__} is no recipe; give the path of a YAML file, a dict of its keys or a Recipe."
        )
    return load_spec(recipe, Recipe, overrides)


def load_spec(path: str | Path, kind: type[Kind], overrides: Overrides = ()) -> Kind:
    """Read a YAML file as a recipe of `kind`, as `load_recipe` does."""
    values, text = read_yaml(Path(path))
    likely = _kind_of(values)
    if _known(values, KINDS[likely]) > _known(values, kind):
        raise UserError(f"{path}: this is a recipe for `{TAKEN_BY[likely]}`, whose keys are others.")
    return _validated(Path(path), values, text, kind, overrides)


def load_any(path: str | Path, overrides: Overrides = ()) -> Spec:
    """Read a YAML file as whichever kind of recipe it is, as `load_recipe` does."""
    values, text = read_yaml(Path(path))
    return _validated(Path(path), values, text, KINDS[_kind_of(values)], overrides)


def recipe_of(values: Mapping[str, Any], overrides: Overrides = (), *, source: str) -> Recipe:
    """Return `values` as a recipe, overrides applied; `source` is what messages call them. Raises as `load_recipe` does."""
    return spec_of(values, Recipe, overrides, source=source)


def spec_of(values: Mapping[str, Any], kind: type[Kind], overrides: Overrides = (), *, source: str) -> Kind:
    """Return `values` as a recipe of a kind, as `recipe_of` does."""
    return _validated(Path(source), _as_yaml(values), "", kind, overrides)


def merged_values(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the keys of a recipe with `more` applied: overrides as `load_recipe` takes them in a dict."""
    values = _as_yaml(base)
    for key, value in more.items():
        _merge(values, _path(key), _as_yaml(value))
    return values


def _as_yaml(value: Any) -> Any:  # noqa: ANN401
    """Return a copy of a value as YAML would hold it: dicts, lists, and text for paths."""
    if isinstance(value, Mapping):
        return {key: _as_yaml(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_yaml(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _kind_of(values: Mapping[str, Any]) -> str:
    """Return the name of the kind of recipe that knows most of the keys; compression where several know as many."""
    return max(KINDS, key=lambda name: _known(values, KINDS[name]))


def _known(values: Mapping[str, Any], kind: type[Spec]) -> int:
    return len(values.keys() & kind.model_fields.keys())


def read_yaml(path: Path) -> tuple[dict, str]:
    """Return what a recipe file holds, and its text; raises UserError where it is missing, no YAML, or no mapping."""
    if not path.is_file():
        raise UserError(f"{path}: no such recipe file; `recipes/` holds examples.")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: the recipe cannot be read ({error.strerror}).") from error
    try:
        values = parse(text)
    except Exception as error:  # beside its own errors, yaml raises what values such as 2001-13-45 lead it to
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML ({_problem(error)}).") from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: a recipe is a mapping of keys such as name, model and data; `compressor schema` lists all."
        )
    return _as_yaml(values), text  # a copy, since what several aliases stand for is one object


def _problem(error: Exception) -> str:
    return getattr(error, "problem", None) or first_line(error)


def _validated(path: Path, values: dict, text: str, kind: type[Kind], overrides: Overrides) -> Kind:
    """Return `values` as a recipe of `kind`, overrides applied."""
    option = "" if isinstance(overrides, Mapping) else "--set "
    if isinstance(overrides, Mapping):
        overridden = [path for key, value in overrides.items() for path in _merge(values, _path(key), _as_yaml(value))]
    else:
        listed = [overrides] if isinstance(overrides, str) else overrides
        overridden = [_apply_override(values, str(override)) for override in listed]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, kind, path, text, [f"{option}{field}" for field in overridden])) from error


def dump_recipe(recipe: Spec, *, leave_out: Mapping[str, Any] | None = None) -> str:
    """Return the resolved recipe, defaults included, as YAML that `load_recipe` reads back to an equal recipe.

    `leave_out` says what is not wanted: a part by `{part: True}`, a field of one by `{part: {field}}`.
    """
    values = recipe.model_dump(mode="json", exclude=dict(leave_out or {}))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _apply_override(values: dict, override: str) -> str:
    """Set one `key.path=value` in `values`, in place; return the key path."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"--set {override!r}: write key.path=value, such as selection.layers=2.")
    try:
        value = parse(text)
    except Exception as error:  # see `read_yaml`
        raise UserError(
            f"--set {key}: the value {reprlib.repr(text)} is not valid YAML ({_problem(error)}); quote it."
        ) from error
    _set(values, parts, value)
    return ".".join(parts)


def _path(key: Any) -> list[str]:  # noqa: ANN401
    """Return the parts of a key of overrides; raises UserError where it is no path."""
    parts = key.split(".") if isinstance(key, str) else [""]
    if not all(parts):
        raise UserError(f"overrides: {key!r} is no key of a recipe; write a path such as 'selection.layers'.")
    return parts


def _merge(values: dict, parts: Sequence[str], value: Any) -> list[str]:  # noqa: ANN401
    """Set a value at a path in `values`, in place, of a dict only what it names; return the paths of what was set."""
    if isinstance(value, dict) and value:
        return [path for key, item in value.items() for path in _merge(values, [*parts, key], item)]
    _set(values, parts, value)
    return [".".join(map(str, parts))]


def _set(values: dict, parts: Sequence[str], value: Any) -> None:  # noqa: ANN401
    for part in parts[:-1]:
        if not isinstance(values.get(part), dict):
            values[part] = {}
        values = values[part]
    values[parts[-1]] = value


def _explain(error: ValidationError, kind: type[Spec], path: Path, text: str, overridden: list[str]) -> str:
    """Turn the first validation error into one sentence: where, what is wrong, what is allowed, the nearest name."""
    first = error.errors(include_url=False)[0]
    *above, last = first["loc"] or ("recipe",)
    location = [part for part in above if part not in UNION_TAGS]
    location += [] if last in UNION_TAGS and first["type"] != "extra_forbidden" else [last]
    field = ".".join(str(part) for part in location)
    line = _line_of(text, location)
    set_by = next((given for given in overridden if given.removeprefix("--set ") == field), None)
    where = set_by or f"{path}{f':{line}' if line else ''}: {field or 'recipe'}"
    if first["type"] == "extra_forbidden":
        allowed = _fields_at(kind, location[:-1])
        hint = nearest(location[-1], allowed)
        return f"{where}: unknown key{hint or ';'} allowed here: {', '.join(sorted(allowed))}."
    if first["type"] == "missing":
        named = next((name for name, known in KINDS.items() if known is kind), "compression")
        option = "" if named == "compression" else f" --kind {named}"
        return f"{where}: this key is missing; add it (`compressor schema{option}` describes it)."
    if first["type"] == "literal_error":
        allowed = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        near = nearest(first["input"], allowed)
        return f"{where}: {_shortened(first['input'])} is not one of {first['ctx']['expected']}{near}."
    message = first["msg"].removeprefix("Value error, ")
    # a value that is a number or a word has an error for each of the two
    words = [other["ctx"]["expected"] for other in error.errors() if other["type"] == "literal_error"
             and tuple(part for part in other["loc"] if part not in UNION_TAGS) == tuple(location)]  # fmt: skip
    message += f" or {words[0]}" if words else ""
    got = "" if first["type"] == "value_error" else f", not {_shortened(first['input'])}"
    return f"{where}: {message[0].lower() + message[1:]}{got}."


def _shortened(value: Any) -> str:  # noqa: ANN401
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields_at(spec: type[Spec], location: Sequence[str | int]) -> list[str]:
    """Return the keys that a recipe, `spec`, allows below `location`."""
    for part in location:
        if isinstance(part, int):  # an item of a list, whose type was found with the list's name
            continue
        annotation = spec.model_fields[part].annotation
        candidates = getattr(annotation, "__args__", None) or (annotation,)
        spec = next(cls for cls in candidates if isinstance(cls, type) and issubclass(cls, Spec))
    return list(spec.model_fields)


def _line_of(text: str, location: Sequence[str | int]) -> int | None:
    """Return the line (from 1) on which the YAML text holds `location`, or the deepest part of it that is there."""
    node, line = compose(text), None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                return line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def part_of_recipe(kind: type[Kind], name: str, values: Mapping[str, Any]) -> Kind:
    """Return the part `name` of a recipe from command-line values (None: the default), in the ranges that a recipe has.

    Raises UserError for a value outside of them.
    """
    try:
        return kind.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        raise _out_of_range(name, error) from error


def in_range(kind: Any, name: str, value: Any) -> Any:  # noqa: ANN401
    """Return the `value` of a command-line option that has the type of a recipe's field; raises UserError as above."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise _out_of_range(name, error) from error


def _out_of_range(name: str, error: ValidationError) -> UserError:
    first = error.errors(include_url=False)[0]
    field = ".".join([name, *map(str, first["loc"])])
    return UserError(f"{field}: {first['msg'].lower()}, not {_shortened(first['input'])}.")
