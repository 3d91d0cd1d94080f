"""Put a table that a benchmark made into README.md, between the benchmark's marks."""

from collections.abc import Iterable, Sequence
from pathlib import Path

README = Path(__file__).parent / "README.md"


def put(name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""
    start, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = README.read_text(encoding="utf-8").partition(start)
    if not found or end not in rest:
        raise SystemExit(f"{README}: the marks {start} and {end} are missing")
    README.write_text(f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
