"""Put a table that a benchmark made between its marks in one of the pages in tables/, or in the README."""

from collections.abc import Iterable, Sequence
from pathlib import Path

TABLES = Path(__file__).parents[1] / "tables"
README = Path(__file__).parents[2] / "README.md"


def put(name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` in the page that has these marks."""
    start, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    for page in [*sorted(TABLES.glob("*.md")), README]:
        before, found, rest = page.read_text(encoding="utf-8").partition(start)
        if found and end in rest:
            page.write_text(f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
            return
    raise SystemExit(f"{TABLES}, {README}: no page has the marks {start} and {end}")


def share(value: float, low: float, high: float, places: int = 1) -> str:
    """Return a share and its interval in per cent."""
    return f"{100 * value:.{places}f} % [{100 * low:.{places}f}, {100 * high:.{places}f}]"


def points(value: float, low: float, high: float, places: int = 1) -> str:
    """Return a difference of shares and its interval in points, with signs."""
    return f"{100 * value:+.{places}f} [{100 * low:+.{places}f}, {100 * high:+.{places}f}]"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
