"""What a value in a label column means: a whole number, a name, or what the recipe's mapping says; and which class it is."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import yaml

from compressor.errors import UserError, nearest

Label = int | str
INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.0+)?")
FRACTION = re.compile(r"-?[0-9]*\.[0-9]+|-?[0-9]{19,}")
GENERIC = re.compile(r"LABEL_[0-9]+")
"""How classes are called that were given no names."""
SURROGATE = re.compile("[\ud800-\udfff]")
YAML_WORDS = {"yes", "no", "on", "off", "y", "n"}
MAPPED = 50
"""More names than that are no classes that a recipe would map, but another column."""
SHOWN = 6
"""Values that an example of a mapping shows."""


@dataclass(frozen=True)
class NoClass:
    """A value that is no class, such as a fraction or a list."""

    value: object


def parse_label(value: object) -> Label | NoClass | None:
    """Return an int for whole numbers, however they are written, text for names and truth values, None where missing."""
    if is_missing(value):
        return None
    if not isinstance(value, int | float | str):
        return NoClass(value)
    text = str(value).strip()
    if INTEGER.fullmatch(text):
        return int(text.partition(".")[0])
    if isinstance(value, float) or FRACTION.fullmatch(text) or SURROGATE.search(text):
        return NoClass(value)  # regression targets are no classes
    return text or None


def is_missing(value: object) -> bool:
    """Return whether a value stands for none: None, NA, NaN."""
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def map_labels(
    labels: Sequence[Label | NoClass | None], mapping: Mapping[str, str]
) -> tuple[list[Label | NoClass | None], list[str]]:
    """Return labels with those that `mapping` names replaced, and the values that it lacks, each once.

    A value that it lacks becomes a `NoClass`. Keys fit exactly, or without case; numbers as they print.
    """
    keys = {printed(parse_label(key)): _target(target) for key, target in mapping.items()}
    mapped: dict[str, Label | NoClass] = {}
    lacking = []
    for text in dict.fromkeys(printed(label) for label in labels if label is not None):
        place = id_of_name(text, list(keys))
        if place is None:
            lacking.append(text)
        mapped[text] = NoClass(text) if place is None else list(keys.values())[place]
    return [None if label is None else mapped[printed(label)] for label in labels], lacking


def _target(text: str) -> Label:
    label = parse_label(text)
    return label if isinstance(label, Label) else text


def printed(label: Label | NoClass | None) -> str:
    """Return a value as text."""
    return str(label.value if isinstance(label, NoClass) else label).strip()


def yaml_hint(lacking: Iterable[str], mapping: Mapping[str, str]) -> str:
    """Return a remedy where YAML may have read words such as yes and no as truth values."""
    words = [text for text in lacking if text.casefold() in YAML_WORDS]
    return (
        " (YAML reads yes and no as true and false: put them in quotes)"
        if words and {"True", "False"} & {*mapping}
        else ""
    )


def class_ids(labels: Iterable[Label], names: Sequence[str], *, ids_allowed: bool) -> dict[Label, int | None]:
    """Return the index into `names` of each label, None for one that is no class.

    Labels are matched as names, exactly and then without case. Where no label is a name and `ids_allowed`, whole numbers
    below the number of classes are ids, and false and true are 0 and 1.
    """
    ids = {label: id_of_name(str(label), names) for label in labels}
    if ids_allowed and all(found is None for found in ids.values()):
        numbers = {label: {"false": 0, "true": 1}.get(str(label).casefold(), label) for label in ids}
        ids = {
            label: number if isinstance(number, int) and 0 <= number < len(names) else None
            for label, number in numbers.items()
        }
    return ids


def id_of_name(label: str, names: Sequence[str]) -> int | None:
    """Return the place of a name, exactly or, where one alone is the same without case, without it."""
    if label in names:
        return list(names).index(label)
    same = [index for index, name in enumerate(names) if name.casefold() == label.casefold()]
    return same[0] if len(same) == 1 else None


def check_targets(mapping: Mapping[str, str], names: Sequence[str]) -> None:
    """Raise UserError where a mapping of values names a label that is none of `names`."""
    for value, target in mapping.items():
        if class_ids([_target(target)], names, ids_allowed=True)[_target(target)] is None:
            hint = nearest(target, names) or ";"
            raise UserError(
                f"data.labels: {target!r} (for {value!r}) is no label of {listed(names)}{hint} correct the name."
            )


def check_named(source: str, column: str, ids: Mapping[Label, int | None], names: Sequence[str]) -> None:
    """Raise UserError where the data has names and the classes have none, so that nothing says which is which."""
    found = sorted(label for label in ids if isinstance(label, str))
    unnamed = all(map(GENERIC.fullmatch, names)) and all(place is None for place in ids.values())
    if unnamed and 0 < len(found) <= MAPPED:
        example = mapping_text(dict(zip(found, names, strict=False)))
        raise UserError(
            f"{source}: column {column!r} has the names {listed(found)}, and the model calls its classes {listed(names)}; "
            f"say which is which, for example data.labels: {example}."
        )


def mapping_text(mapping: Mapping[str, str]) -> str:
    """Return the begin of a mapping as it stands in a recipe."""
    few = dict(list(mapping.items())[:SHOWN])
    text = yaml.safe_dump(few, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000).strip()
    return text if len(few) == len(mapping) else f"{text[:-1]}, ...}}"


def listed(names: Sequence[str], most: int = 12) -> str:
    """Return names in quotes, the first of many."""
    few = ", ".join(map(shown, names[:most]))
    return few if len(names) <= most else f"{few}, ... ({len(names)})"


def shown(value: object) -> str:
    """Return a value as a message shows it: on one line, and not at any length."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
