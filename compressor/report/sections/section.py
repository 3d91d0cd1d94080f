"""An analysis as a section of a page: a reading, figures and tables, whichever analysis it comes from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure


@dataclass(frozen=True)
class SectionTable:
    """A table of a section; every cell is text. `numeric` columns stand to the right, `tall` ones scroll."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    text_columns: Sequence[int] = (0,)
    """Columns that are words, set to the left; the others are numbers."""
    folded: bool = False
    """Shown on request: what few readers want to see."""


@dataclass(frozen=True)
class Section:
    """One analysis: `reading` are the sentences in front, in plain language; figures by name, their titles the finding."""

    id: str
    title: str
    reading: str
    figures: dict[str, Figure] = field(default_factory=dict)
    tables: Sequence[SectionTable] = ()
    notes: Sequence[str] = ()
    """How it was measured, and what it does not say."""
