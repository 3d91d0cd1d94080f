"""Write docs/recipes.md, the reference of every key of a recipe, from the classes that read recipes (`make docs`).

A test compares the page with what this makes.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from compressor.recipe.compression import Recipe
from compressor.recipe.sweep import SweepRecipe

PAGE = Path(__file__).parent / "recipes.md"
HEAD = """# Recipes, key by key

Made from the classes that read recipes by `make docs`; `compressor schema` prints the same as JSON Schema, for editors, and
`compressor validate RECIPE` a recipe with every default. Unknown keys are refused, with the nearest known one. `--set key=value`
reaches every field of any command that takes a recipe, as `--set ship.goal=exact`. Experiments of feed-forward placement
have keys of their own: `compressor schema --kind placement`.
"""
TABLE = "| key | may be | default | |\n| --- | --- | --- | --- |\n"


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for path, spec, absent in sections(Recipe, ""):
        words = f"{inspect.getdoc(spec)}{' Left out by default.' if absent else ''}"
        plain = [(name, field) for name, field in spec.model_fields.items() if part_of(field) is None]
        rows = "".join(row(name, field) for name, field in plain)
        parts.append(f"## {path or 'The recipe'}\n\n{words}\n\n{TABLE + rows if rows else ''}".rstrip() + "\n")
    for path, spec, _ in sections(SweepRecipe, ""):
        rows = "".join(row(name, field) for name, field in spec.model_fields.items() if part_of(field) is None)
        parts.append(
            f"{'###' if path else '##'} {path or 'Sweeps'}\n\n{inspect.getdoc(spec)}\n\n{TABLE + rows}".rstrip() + "\n"
        )
    return "\n".join(parts)


def sections(spec: type[BaseModel], path: str, absent: bool = False) -> Iterator[tuple[str, type[BaseModel], bool]]:
    """Yield (dotted path, class, whether a recipe may do without) of a class and of every part below it, in their order."""
    yield path, spec, absent
    for name, field in spec.model_fields.items():
        part = part_of(field)
        if part is not None:
            yield from sections(part, f"{path}.{name}" if path else name, field.default is None)


def part_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the class that a field holds, None where it holds a value."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, BaseModel)), None)


def row(name: str, field: FieldInfo) -> str:
    """Return a row of the table of a part."""
    cells = (f"`{name}`", kind(field.annotation), default(field), " ".join((field.description or "").split()))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def default(field: FieldInfo) -> str:
    """Return what a key is where the recipe leaves it out."""
    value = field.get_default(call_default_factory=True)
    return "*needed*" if value is PydanticUndefined else f"`{written(value)}`"


def written(value: Any) -> str:  # noqa: ANN401
    """Return a value as YAML has it in one line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(written(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def kind(annotation: Any) -> str:  # noqa: ANN401
    """Return what a key may hold, in words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " ".join(f"`{written(value)}`" for value in inside)
    if origin in (list, tuple):
        return f"list of {kind(inside[0])}"
    if origin is dict:
        return f"mapping of {kind(inside[0])} to {kind(inside[1])}"
    if hasattr(annotation, "__metadata__"):
        return kind(annotation.__origin__)
    if inside:
        words = [kind(part) for part in inside if part is not type(None)]
        return " or ".join(dict.fromkeys([*words, *(["`null`"] if type(None) in inside else [])]))
    return {int: "whole number", float: "number", bool: "`true` `false`", str: "text", Any: "anything"}.get(
        annotation, annotation.__name__
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
