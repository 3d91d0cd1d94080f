"""Which column of a table holds the labels of a model, and what its values mean. Functions of columns; nothing is read."""

# ruff: noqa: SIM905 - a list of words reads better as text
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from compressor.data.files import Table
from compressor.data.labels import (
    GENERIC,
    MAPPED,
    Label,
    NoClass,
    class_ids,
    id_of_name,
    is_missing,
    listed,
    map_labels,
    parse_label,
    printed,
)
from compressor.errors import UserError, nearest

LABELS = "label", "labels", "goldlabel", "gold", "target", "class", "sentiment", "y"
"""Names of a label column that say so, the surest first: one of them that does not fit the model is an error."""
MAYBE_LABELS = (
    "category stars rating polarity intent topic labeltext labelname coarselabel score isduplicate outcome verdict"
).split()
"""Names that other columns have as well: one that holds fractions or many values is no label column."""
NONE = "none"
"""What stands in place of a label column for texts without labels."""
NO_LABEL = -1
"""What stands in the label column of rows without a label, as in GLUE's test files."""


@dataclass(frozen=True)
class Reading:
    """The values of a column, held against the classes of a model."""

    ids: dict[str, int]
    """Class of each value that is one, as it is written."""
    unfit: tuple[str, ...]
    """Values that are no class."""
    fractions: bool
    """Whether some value could be no class of any model: a fraction, a list."""
    named: bool
    """Whether the values are the names of the classes (or were mapped), not their ids."""

    @property
    def empty(self) -> bool:
        """Whether no row has a label."""
        return not self.ids and not self.unfit

    @property
    def fits(self) -> bool:
        """Whether the values are classes, of which there are at least two."""
        return not self.unfit and len(set(self.ids.values())) > 1


def read_values(values: Sequence, classes: Sequence[str], mapping: Mapping[str, str] | None = None) -> Reading:
    """Return what the values of a column mean as labels: names, with or without case, or ids 0 to C-1; -1 means none."""
    found: dict[str, Label | NoClass] = {}
    for value in _distinct(values, max(20 * MAPPED, 10 * len(classes))):
        label = parse_label(value)
        if label is not None and (label != NO_LABEL or str(NO_LABEL) in {*classes, *(mapping or ())}):
            found.setdefault(printed(label), label)
    fractions = any(isinstance(label, NoClass) for label in found.values())
    if mapping:
        found = dict(zip(found, map_labels([*found.values()], mapping)[0], strict=True))
    usable = [label for label in found.values() if not isinstance(label, NoClass)]
    groups = (
        [[label] for label in usable] if mapping else [[*dict.fromkeys(usable)]]
    )  # a mapping may name ids and names
    ids = {label: place for group in groups for label, place in class_ids(group, classes, ids_allowed=True).items()}
    known = {text: ids[label] for text, label in found.items() if not isinstance(label, NoClass)}
    named = bool(mapping) or any(id_of_name(str(label), classes) is not None for label in usable)
    fit = {text: place for text, place in known.items() if place is not None}
    return Reading(fit, tuple(text for text in found if text not in fit), fractions, named)


def find_label(
    table: Table,
    taken: Sequence[str],
    classes: Sequence[str],
    wanted: str | None = None,
    mapping: Mapping[str, str] | None = None,
) -> tuple[str | None, dict[str, int], str]:
    """Return the label column (None: no labels), the class of each of its values, and why; errors of `find_columns`."""
    if wanted == NONE and NONE not in table.columns:
        return None, {}, f"as asked: {_AGREEMENT}"
    if wanted is not None:
        reading = read_values(table.column(wanted), classes, mapping)
        return _answer(table, wanted, reading, classes, "as asked")
    readings = _by_name(table, taken, classes, mapping)
    fitting = {name: reading for name, reading in readings.items() if reading.fits}
    if fitting:
        # names say more than ids, which a data set may count otherwise than the model
        sure = [] if all(map(GENERIC.fullmatch, classes)) else [name for name in fitting if fitting[name].named]
        name = (sure or [*fitting])[0]
        return _answer(table, name, fitting[name], classes, "by its name")
    for name, reading in readings.items():
        sure = plain(name) in LABELS or (not reading.fractions and len(reading.unfit) <= MAPPED)
        if sure and not reading.empty:
            return _answer(table, name, reading, classes, "by its name")
    guess = _by_values(table, {*taken, *readings}, classes, mapping)
    if guess is not None:
        why = f"a guess, since its values are the model's classes; --label COL for another, --label {NONE} for none"
        return _answer(table, *guess, classes, why)
    empty = next(iter(readings), None)
    why = f"{empty!r} is {_EMPTY}" if empty else "no column holds the model's classes"
    return None, {}, f"{why}: {_AGREEMENT}"


_EMPTY = "empty or -1 throughout"
_AGREEMENT = "agreement with the full model is what can be measured"


def _by_name(
    table: Table, taken: Collection[str], classes: Sequence[str], mapping: Mapping[str, str] | None
) -> dict[str, Reading]:
    """Return the values of the columns whose names are those of labels, the surest first."""
    others = {plain(name): name for name in reversed(table.columns) if name not in taken}
    names = [others[name] for name in (*LABELS, *MAYBE_LABELS) if name in others]
    names += [name for name in others.values() if name not in names and words(name) & {*LABELS[:-1]}]
    return {name: read_values(table.columns[name], classes, mapping) for name in names}


def _by_values(
    table: Table, taken: Collection[str], classes: Sequence[str], mapping: Mapping[str, str] | None
) -> tuple[str, Reading] | None:
    """Return the column whose values are the classes, by name or else by id; raises UserError where there are several."""
    readings = {
        name: read_values(values, classes, mapping) for name, values in table.columns.items() if name not in taken
    }
    for named in (True, False):
        guesses = [name for name, reading in readings.items() if reading.fits and reading.named == named]
        if len(guesses) > 1:
            raise UserError(
                f"{table.source}: the columns {listed(guesses)} could each be the label; say which with --label, or go "
                f"without labels with --label {NONE}."
            )
        if guesses:
            return guesses[0], readings[guesses[0]]
    return None


def check_mapping(mapping: Mapping[str, str], classes: Sequence[str]) -> None:
    """Raise UserError where a mapping of values names what is no class."""
    for value, target in mapping.items():
        label = parse_label(target)
        if not isinstance(label, Label) or class_ids([label], classes, ids_allowed=True)[label] is None:
            hint = nearest(target, classes) or ";"
            raise UserError(f"--labels {value}={target}: the model has no such class{hint} it has {listed(classes)}.")


def _answer(
    table: Table, name: str, reading: Reading, classes: Sequence[str], why: str
) -> tuple[str | None, dict[str, int], str]:
    """Return a label column as `find_label` does; raises UserError where its values are not the classes."""
    if reading.empty:
        return None, {}, f"{name!r} is {_EMPTY}: {_AGREEMENT}"
    where = f"{table.source}: column {name!r}"
    without = f"name another column with --label, or go without labels with --label {NONE}"
    if reading.unfit:
        values = sorted(
            [*reading.ids, *reading.unfit], key=lambda text: (len(text), text) if is_number(text) else (99, text)
        )
        example = ",".join(f"{value}={classes[place % len(classes)]}" for place, value in enumerate(values[:3]))
        more = ",..." if len(values) > 3 else ""
        counts = f"{len(values)} values" if len(values) > len(classes) else "values"
        raise UserError(
            f"{where} has the {counts} {listed(values)}, and the model has the {len(classes)} classes {listed(classes)}; "
            f"say which is which, for example --labels {example}{more}, {without}."
        )
    if len(set(reading.ids.values())) < 2:
        raise UserError(
            f"{where} holds the single class {classes[next(iter(reading.ids.values()))]!r}, and no accuracy can be told from "
            f"that; {without}."
        )
    return name, reading.ids, f"{why}; {_meaning(reading, classes)}"


def _meaning(reading: Reading, classes: Sequence[str]) -> str:
    if not reading.named:
        return "numbers are the model's ids: " + _pairs(reading.ids, classes)
    if all(text == classes[place] for text, place in reading.ids.items()):
        return "values are the model's classes"
    return _pairs(reading.ids, classes)


def _pairs(ids: Mapping[str, int], classes: Sequence[str]) -> str:
    few = ", ".join(f"{text} = {classes[place]}" for text, place in sorted(ids.items(), key=lambda item: item[1])[:6])
    return f"{few}, ... ({len(ids)} values)" if len(ids) > 6 else few


def _distinct(values: Sequence, most: int) -> list:
    """Return each value once, about the first `most`, more than classes could be; the first that cannot be hashed as it is."""
    seen: dict[tuple[type, object], object] = {}
    odd: list = []
    for value in values:
        if isinstance(value, int | float | str) or value is None:
            seen[type(value), value] = value
        elif not is_missing(value) and not odd:
            odd.append(value)
        if len(seen) > most:
            break
    return [*seen.values(), *odd]


def is_number(text: str) -> bool:
    """Return whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def plain(name: object) -> str:
    """Return a column's name without case and signs: `Review Text` and `review_text` are the same."""
    return "".join(letter for letter in str(name).casefold() if letter.isalnum())


def words(name: object) -> set[str]:
    """Return the words of a column's name, without case."""
    return {word.casefold() for word in re.findall(r"[A-Za-z][a-z]*|[A-Z]+|[^\W\d_]+", str(name))}
