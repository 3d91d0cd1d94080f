"""The recipe that `compressor quick` makes of what it found: everything without labels or gradients that it can do without."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from compressor.errors import UserError, nearest
from compressor.recipe.ship import ShipSpec

GOALS = get_args(ShipSpec.model_fields["goal"].annotation)


def quick_values(
    name: str,
    model: str,
    files: Mapping[str, str],
    *,
    text: Sequence[str],
    label: str | None,
    max_length: int,
    selection: int,
    goal: str,
    seen: bool | None,
) -> dict[str, Any]:
    """Return the values of a recipe, as YAML would hold them.

    `files` are the paths of train, validation and perhaps test; `max_length` counts tokens; `selection` is the number
    of texts that there are for it; `seen` says whether the model was trained on them, None where nobody knows.
    """
    split = {"split": "test" if "test" in files else "train"}
    told = {} if seen is None else {"seen_in_training": seen}
    data = {**files, "text": text[0] if len(text) == 1 else list(text), **({} if label is None else {"label": label})}
    data |= {"calibration": {**split, **told}, "selection": {"size": selection}, "max_length": max_length}
    return {
        "name": name,
        "model": {"path": model},
        "data": data,
        "separability": {"labels": "teacher"},
        "benchmark": {"batch_sizes": [1, 8], "lengths": [], "min_seconds": 2, "footprint": False},
        "ship": {"goal": goal},
    }


def check_goal(goal: str) -> None:
    """Raise UserError for a goal that is none."""
    if goal not in GOALS:
        raise UserError(f"--goal {goal}: there is no such goal{nearest(goal, GOALS) or ';'} use {', '.join(GOALS)}.")


def labels_mapping(given: Sequence[str]) -> dict[str, str]:
    """Return `--labels` options, each VALUE=CLASS or several with commas between, as a dict; raises UserError for others."""
    mapping: dict[str, str] = {}
    for pair in (pair for option in given for pair in option.split(",")):
        value, equals, name = (part.strip() for part in pair.rpartition("="))
        if not (equals and value and name):
            raise UserError(f"--labels {pair}: write VALUE=CLASS, such as --labels bad=negative,good=positive.")
        if mapping.setdefault(value, name) != name:
            raise UserError(f"--labels: the value {value!r} is named twice, as {mapping[value]!r} and as {name!r}.")
    return mapping
