"""What the report says of the ONNX files: which one to ship, what is left out exactly, and the nodes of each."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from compressor.report.formats import count, milliseconds, number, percent, ratio, with_interval

FORM_NAMES = {
    "reassociated": "without keys and values (products re-associated)",
    "single_row": "one query against the keys and values of all tokens",
    "attended": "through the feed-forward block behind the attention of all rows, which reads distances",
}


def shipping_reading(shipped: Mapping[str, Any] | None) -> str:
    """Return which file to ship and why, in two sentences; empty where the recipe named its variants."""
    if not shipped:
        return ""
    candidates = {entry["variant"]: entry for entry in shipped["candidates"]}
    chosen = candidates[shipped["variant"]]
    others = [
        f"{name} ({milliseconds(entry['mean_ms'])}{': ' + '; '.join(entry['misses']) if entry['misses'] else ''})"
        for name, entry in candidates.items()
        if name != shipped["variant"]
    ]
    verdict = "no file meets the goals on the selection split; the most exact one is named" if chosen["misses"] else (
        "the fastest that keeps to the goals on the selection split"
    )  # fmt: skip
    against = f" Compared with: {', '.join(others)}." if others else ""
    return (
        f"Ship onnx/{shipped['variant']}: {verdict}, at {milliseconds(chosen['mean_ms'])} (geometric mean of the medians of "
        f"all cells), judged on {count(shipped['rows'])} selection texts.{against}"
    )


def tail_reading(tail: Mapping[str, Any] | None) -> str:
    """Return what the CLS-only tail computes and how its form was chosen; empty where the files have none."""
    if not tail or not tail.get("form"):
        return ""
    said = (
        "Exact saving: the head reads the [CLS] row alone, so the last layer of optimized, fp16 and int8 computes that row "
        f"only, {FORM_NAMES[tail['form']]}; no prediction depends on the rest. The full model's files have it as well."
    )
    cells = tail.get("cells") or []
    if cells:
        figures = "; ".join(
            f"batch {cell['batch']}, {cell['length']} tokens: {with_interval(ratio, cell['ratio'], cell['ci95'])}"
            for cell in cells
        )
        said += (
            f" Form chosen by measurement on {tail['provider']}: time of the re-associated row over that of the single row, "
            f"{figures}."
        )
    return said


def operator_rows(operators: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    """Return the table of nodes by kind, header first: a line a kind, a column a graph, the most frequent kinds first."""
    if not operators:
        return []
    kinds: Counter[str] = Counter()
    for counts in operators.values():
        kinds |= Counter(counts)  # the largest of each
    header = ["operator", *("as exported" if name == "exported" else name for name in operators)]
    total = ["all nodes", *(count(sum(counts.values())) for counts in operators.values())]
    lines = [
        [kind, *(count(counts[kind]) if kind in counts else "–" for counts in operators.values())]
        for kind in sorted(kinds, key=lambda kind: (-kinds[kind], kind))
    ]
    return [header, total, *lines]


def parity_words(row: Mapping[str, Any]) -> str:
    """Return a file's largest logit difference in words: where float16 overflowed there is none."""
    return "not finite" if row["max_abs"] is None else number(row["max_abs"])


def shipped_line(shipped: Mapping[str, Any]) -> str:
    """Return one line for the terminal."""
    chosen = next(entry for entry in shipped["candidates"] if entry["variant"] == shipped["variant"])
    flips = "" if chosen["flips"] is None else f", {percent(chosen['flips'])} of the selection predictions changed"
    return f"ship onnx/{shipped['variant']} ({milliseconds(chosen['mean_ms'])}{flips})"
