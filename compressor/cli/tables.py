"""Tables for a terminal of any width: what matters most first, numbers whole, words wrapped, nothing cut without a sign."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from compressor.console import TOKEN, Sentence, wrap
from compressor.errors import plain
from compressor.report.wording.kinds import is_share

WIDE = 100
"""Columns of a terminal from which a table may have more than FEW columns."""
FEW = 5
GAP = 2
COMFORT, LONGEST, READABLE, NARROW = 24, 32, 18, 12
"""Widths of a column of words: what it keeps while columns that are not essential can go; the longest word that is broken only
where nothing else gives room; the least for sentences; the least of all."""
SHIPS = "bold green"
ALARM = "red"
"""Colours of rows: what ships, and what is wrong. The words of the row say it as well."""


@dataclass(frozen=True)
class Column:
    """A column: its name, whether it holds words, and how soon it goes where there is little room.

    Words stand to the left and wrap, numbers to the right. `rank` 0 always stays; the highest goes first.
    """

    name: str
    words: bool = False
    rank: int = 0
    below: bool = False
    """Long reasons: where their column would be narrow they stand below the table, each behind the first cell of its row."""


@dataclass(frozen=True)
class Grid:
    """A table that fits the terminal it is printed on.

    `rows` hold a text a column, `styles` row -> style. Columns that had to go are named below, `notes` stand there as well.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    styles: Mapping[int, str] = field(default_factory=dict)

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield title, rows and notes, none wider than the terminal unless a number is."""
        room = options.max_width
        shown, widths = fit(self.columns, self.rows, room)
        there = filled(self.rows, self.columns)
        long = next((index for index, column in enumerate(self.columns) if column.below and index in there), None)
        if long is not None and (not widths or widths[shown.index(long)] < READABLE):
            yield self._with_reasons_below(long)
            return
        if self.title:
            yield Sentence(self.title, "bold")
        yield self._table(shown, widths) if widths else self._records(room)
        gone = [self.columns[index].name for index in there if widths and index not in shown]
        more = [f"not shown at this width: {', '.join(gone)} (--json has all)"] if gone else []
        for note in [*self.notes, *more]:
            yield Sentence(note)
        yield ""

    def _with_reasons_below(self, long: int) -> "Grid":
        """Return the table without the column `long`, whose texts stand among the notes."""
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            reasons.setdefault(row[long], []).append(row[0])
        below = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items() if reason]
        columns, *rows = ((*row[:long], *row[long + 1 :]) for row in (self.columns, *self.rows))
        return replace(self, columns=columns, rows=rows, notes=[*below, *self.notes])

    def _table(self, shown: Sequence[int], widths: Sequence[int]) -> Table:
        named = any(column.name for column in self.columns)
        made = Table(
            box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), show_header=named,
            header_style="",
        )  # fmt: skip
        for index, width in zip(shown, widths, strict=True):
            column = self.columns[index]
            made.add_column(
                Text("\n".join(wrap(column.name, width))), width=width, no_wrap=True, justify="left" if column.words else "right",
                vertical="top", overflow="fold",
            )  # fmt: skip
        for number, row in enumerate(self.rows):
            cells = [Text("\n".join(wrap(row[index], width))) for index, width in zip(shown, widths, strict=True)]
            made.add_row(*cells, style=self.styles.get(number))
        return made

    def _records(self, room: int) -> Text:
        """Return a block of lines a row, each `name: value`: for terminals too narrow for the essential columns."""
        blocks = []
        for row in self.rows:
            pairs = [
                f"{column.name}: {cell}" if column.name else cell
                for column, cell in zip(self.columns, row, strict=True)
                if cell
            ]
            blocks.append("\n".join(line for pair in pairs for line in wrap(pair, room)))
        return Text("\n\n".join(blocks))


def filled(rows: Sequence[Sequence[str]], columns: Sequence[Column]) -> list[int]:
    """Return the columns that have a text in some row, the first always: what nobody measured needs no column."""
    return [index for index in range(len(columns)) if not index or not rows or any(row[index] for row in rows)]


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> tuple[list[int], list[int]]:
    """Return which columns are shown in `room` columns of a terminal, and how wide each is.

    Empty columns go, then those of a rank, the highest first, until words have a comfortable width and numbers stand on one
    line; then numbers with an interval take two lines and words what is left. No widths: not even so there is room for all
    that are essential.
    """
    least, good, best = [], [], []
    for index, column in enumerate(columns):
        name, *cells = map(plain, (column.name, *(row[index] for row in rows)))
        token = max((cell_len(part) for cell in (name, *cells) for part in TOKEN.findall(cell)), default=0)
        whole = max((cell_len(line) for cell in cells for line in cell.split("\n")), default=0)
        least.append(min(token, LONGEST) if column.words else token)
        good.append(max(least[-1], min(whole, COMFORT) if column.words else whole))
        best.append(max(good[-1], whole, cell_len(name)))
    shown = filled(rows, columns)

    def needs(widths: Sequence[int]) -> int:
        return sum(widths[index] for index in shown) + GAP * (len(shown) - 1)

    def crowded() -> bool:
        return needs(good) > room or (room < WIDE and len(shown) > FEW)

    while crowded() and any(columns[index].rank for index in shown):
        shown.remove(max(shown, key=lambda index: (columns[index].rank, index)))
    widths = {index: (good if needs(good) <= room else least)[index] for index in shown}
    words = [index for index in shown if columns[index].words]
    spare = room - GAP * (len(shown) - 1) - sum(widths.values())
    while spare < 0:
        widest = max(words, key=lambda index: widths[index], default=None)
        if widest is None or widths[widest] <= NARROW:
            return shown, []
        widths[widest] -= 1
        spare += 1
    figures = [index for index in shown if not columns[index].words]
    for target, some in ((good, figures), (good, shown), (best, shown)):
        while spare and (short := [index for index in some if widths[index] < target[index]]):
            widths[max(short, key=lambda index: target[index] - widths[index])] += 1
            spare -= 1
    return shown, [widths[index] for index in shown]


def words(*names: str, rank: int = 0) -> list[Column]:
    """Return columns of words."""
    return [Column(name, words=True, rank=rank) for name in names]


def numbers(*names: str, rank: int = 0) -> list[Column]:
    """Return columns of numbers."""
    return [Column(name, rank=rank) for name in names]


def accuracy_text(variant: Mapping[str, Any], metric: str = "accuracy") -> str:
    """Return the accuracy of a variant, or the other `metric` that it stands for, with its interval."""
    if variant["accuracy"] is None:
        return "no labels"
    values = variant["accuracy"], *variant["accuracy_ci95"]
    shown = "{:.1%} [{:.1%}, {:.1%}]" if is_share(metric) else "{:.3f} [{:.3f}, {:.3f}]"
    return shown.format(*values)


def ratio_text(value: float, bounds: Sequence[float] | None) -> str:
    """Return a ratio with its interval, `1.19x [1.17, 1.21]`."""
    return f"{value:.2f}x" + (f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else "")


def speedup_text(row: Mapping[str, Any] | None) -> str:
    """Return the speed-up of a latency row where it is claimed; nothing where it is noise or was compared with none."""
    if not row or not row["speedup_ci95"] or in_noise(row):
        return ""
    return ratio_text(row["speedup"], row["speedup_ci95"]) + (" (slower)" if row.get("slower") else "")


def in_noise(row: Mapping[str, Any] | None) -> bool:
    """Return whether a latency row was compared and its ratio lies within the noise of its opponent."""
    return bool(row and row["speedup_ci95"] and not row["claimed"] and not row.get("slower"))


def noise_note(rows: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """Return a line that counts the ratios which are left out of a table since they are not claimed; none where all are."""
    count = sum(map(in_noise, rows))
    compared = sum(bool(row and row["speedup_ci95"]) for row in rows)
    if not count:
        return []
    return [f"{count} of {compared} ratios within the noise of the opponent, so not claimed and left blank"]
