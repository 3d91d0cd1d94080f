"""Numbers and names as the report writes them, the same in figures, tables and sentences.

Every number format takes None (or a value that is not finite) and returns a dash. Shares and their differences come as 0..1.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from compressor.model.units import Unit, split_unit, unit_words

BLANK = "–"
CASCADE = "onnx_cascade"
"""Name of the guarded early exit among the variants."""
SCORE_NAMES = {
    "shrunk_fisher": "shrunk Fisher",
    "h_score": "H-score",
    "pooled_trace_ratio": "trace ratio of all tokens",
    "gauss_newton": "Gauss-Newton",
    "gauss_newton_attention": "Gauss-Newton of attention",
    "cls_cosine": "[CLS] cosine",
    "cka": "CKA",
    "passthrough": "passthrough role",
    "top_first": "top layers first",
    "every_other": "every other layer",
    "random": "random order",
}
"""What a score is called where that is not its key with spaces."""


def _or_blank(form: Callable[..., str]) -> Callable[..., str]:
    @functools.wraps(form)
    def checked(value: float | None, *others: float | None) -> str:
        numbers = (value, *others)
        missing = any(item is None or (isinstance(item, float) and not math.isfinite(item)) for item in numbers)
        return BLANK if missing else form(*numbers)

    return checked


@_or_blank
def percent(share: float) -> str:
    """Return 0.9702 as `97.02 %`; a share that only rounding would make 0 or 100 says so."""
    text = f"{100 * share:.2f} %"
    if text == "100.00 %" and share < 1:
        return ">99.99 %"
    return "<0.01 %" if text == "0.00 %" and share > 0 else text


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


@_or_blank
def points(difference: float) -> str:
    """Return -0.0023 as `−0.23 points`."""
    return f"{_signed(100 * difference, 2)} points"


@_or_blank
def bare_points(difference: float) -> str:
    """Return 0.121 as `12.10`, for a column whose title says points; only a loss of less than nothing has a sign."""
    return _signed(100 * difference, 2).removeprefix("+")


@_or_blank
def relative(difference: float) -> str:
    """Return a relative difference of -0.078 as `−7.8 %`."""
    return f"{_signed(100 * difference, 1)} %"


@_or_blank
def change(new: float, old: float) -> str:
    """Return the relative change from `old` to `new`, such as `−7.8 %`."""
    return relative((new - old) / old) if old else BLANK


@_or_blank
def ratio(value: float) -> str:
    """Return 1.19 as `1.19x`; three decimals where two would read as no change."""
    return f"{value:.3f}x" if 0 < abs(value - 1) < 0.005 else f"{value:.2f}x"


@_or_blank
def milliseconds(value: float) -> str:
    """Return a time in ms with three significant digits."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms"


@_or_blank
def seconds(value: float) -> str:
    """Return a time in s; from two minutes on in minutes and seconds."""
    return f"{value:.1f} s" if value < 120 else f"{round(value) // 60} min {round(value) % 60:02d} s"


@_or_blank
def megabytes(size: float) -> str:
    """Return bytes as MB of 10^6."""
    return f"{size / 1e6:.1f} MB"


@_or_blank
def gigaflops(flops: float) -> str:
    """Return FLOPs as GF of 10^9."""
    return f"{flops / 1e9:.2f} GF"


@_or_blank
def millions(number: float) -> str:
    """Return 22713986 as `22.71 M`."""
    return f"{number / 1e6:.2f} M"


@_or_blank
def count(number: float) -> str:
    """Return 22713986 as `22,713,986`."""
    return f"{number:,.0f}"


@_or_blank
def number(value: float) -> str:
    """Return a value without unit to three significant digits."""
    text = f"{abs(value):#.3g}".rstrip(".") if value else "0"
    return f"−{text}" if value < 0 else text


@_or_blank
def score(value: float) -> str:
    """Return an F1 or a correlation with three decimals."""
    return f"{value:.3f}".replace("-", "−")


@_or_blank
def correlation(value: float) -> str:
    """Return a rank correlation with two decimals: its interval is wider than that."""
    return _signed(value, 2).removeprefix("+")


@_or_blank
def p_value(value: float) -> str:
    """Return a p-value to two digits."""
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def interval(form: Callable[[float], str], bounds: Sequence[float] | None, unit: str = "") -> str:
    """Return both bounds as `form` writes them, with `unit` behind the last alone."""
    return f"{form(bounds[0]).removesuffix(unit)} to {form(bounds[1])}" if bounds else BLANK


def with_interval(
    form: Callable[[float | None], str], value: float | None, ci95: Sequence[float] | None, unit: str = ""
) -> str:
    """Return the value as `form` writes it, its interval in brackets without `unit`; the value alone without interval."""
    return form(value) + (f" ({interval(form, ci95, unit).removesuffix(unit)})" if ci95 else "")


def span(form: Callable[[float], str], values: Sequence[float], unit: str = "") -> str:
    """Return the smallest and largest value, such as `1.05x to 1.19x`; once where both read the same."""
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low.removesuffix(unit)} to {high}"


def points_interval(bounds: list[float] | None) -> str:
    """Return [-0.012, 0.008] as `−1.20 to +0.80 points`."""
    return interval(points, bounds, " points")


def percent_interval(bounds: list[float] | None) -> str:
    """Return [0.88, 0.92] as `88.00 to 92.00 %`."""
    return interval(percent, bounds, " %")


def ratio_interval(bounds: list[float] | None) -> str:
    """Return [1.17, 1.21] as `1.17x to 1.21x`."""
    return interval(ratio, bounds)


def correlation_interval(bounds: list[float] | None) -> str:
    """Return [-0.2, 0.9] as `−0.20 to 0.90`."""
    return interval(correlation, bounds)


def tie(text: str) -> str:
    """Return the text with no-break spaces between numbers and what they count, so that a line never ends in between."""
    return re.sub(r"(?<=\d) (?=%|ms|s\b|points|MB|GF|M\b|tokens)|(?<=n) (?==)|(?<==) ", "\u00a0", text)


def claimed_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the title of a figure of speed-ups says of those that are claimed, and of slow-downs.

    `rows` hold {speedup, claimed, slower}.
    """
    claimed, slow = [row["speedup"] for row in rows if row["claimed"]], slower_text(rows)
    if not claimed:
        return f"No speed-up is above the noise floor{slow}"
    return f"Claimed speed-up: {span(ratio, claimed)}, in {len(claimed)} of {len(rows)} comparisons{slow}"


def slower_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return `; slower in 2`, or nothing where no row is slower than its opponent beyond the noise."""
    slower = sum(bool(row.get("slower")) for row in rows)
    return f"; slower in {slower}" if slower else ""


def claim(row: Mapping[str, Any]) -> str:
    """Return what may be said of a row's ratio: `claimed`, `slower`, or `within noise`."""
    return "claimed" if row["claimed"] else "slower" if row.get("slower") else "within noise"


def score_name(score: str) -> str:
    """Return `block influence` for `block_influence`, `H-score` for `h_score`."""
    return SCORE_NAMES.get(score, score.replace("_", " "))


def series_name(row: dict) -> str:
    """Return the name of a frontier row's series: that of a score, or `exhaustive search` for {kind: search, ...}."""
    return f"{row['series']} search" if row["kind"] == "search" else score_name(row["series"])


def layers_text(units: Sequence[Unit]) -> str:
    """Return [4] as `layer 4`, [2, 4, "5.ffn"] as `layers 2 and 4 and the FFN of layer 5`, [] as `no layer`."""
    return unit_words(units)


def strip(skip: Sequence[Unit], layers: int) -> str:
    """Return one sign a layer: filled where it stays, half where it loses a part, hollow where it is skipped."""
    losses = dict(map(split_unit, skip))
    return "".join({None: "●", "": "○"}.get(losses.get(layer), "◐") for layer in range(1, layers + 1))


def is_cascade(variant: str) -> bool:
    """Return whether the variant is the guarded early exit, which is timed on real texts alone."""
    return variant == CASCADE


def is_full(variant: str) -> bool:
    """Return whether the variant is the uncompressed model in some format."""
    return variant == "full" or variant.startswith("full_")


def format_of(variant: str) -> str:
    """Return the format of a variant: `PyTorch`, `ONNX int8`, ..."""
    name = variant.removeprefix("full_")
    words = {"full": "PyTorch", "compressed": "PyTorch", CASCADE: "early exit", "onnx_alltokens": "ONNX all tokens"}
    return words.get(name) or name.replace("onnx_", "ONNX ").replace("pytorch_", "PyTorch ").replace("_", " ")


def variant_order(variant: str) -> tuple[int, str, bool]:
    """Return a sort key: formats from plain to small, the full model right before the compressed one."""
    known = ("PyTorch", "ONNX fp32", "ONNX all tokens", "ONNX optimized", "ONNX fp16", "ONNX int8")
    name = format_of(variant)
    return known.index(name) if name in known else len(known), name, not is_full(variant)


def variant_name(variant: str) -> str:
    """Return `full, ONNX int8` for `full_onnx_int8`, `compressed, PyTorch` for `compressed`."""
    if is_cascade(variant):
        return "guarded early exit, ONNX"
    return f"{'full' if is_full(variant) else 'compressed'}, {format_of(variant)}"


def cell_name(batch: int, length: int | str) -> str:
    """Return `batch 8, 128 tokens`, or `batch 8, real lengths` for the workload."""
    return f"batch {batch}, {'real lengths' if length == 'workload' else f'{length} tokens'}"


def short_names(paths: Sequence[str], longest: int = 42) -> dict[str, str]:
    """Return path -> what is left without the folders that all have in common, cut on the left to `longest` characters."""
    folders = [path.split("/")[:-1] for path in paths]
    common = takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    shared = len(list(common)) if len(paths) > 1 else 0
    short = {path: "/".join(path.split("/")[shared:]) for path in paths}
    return {path: name if len(name) <= longest else f"…{name[1 - longest :]}" for path, name in short.items()}


def cut(text: str, longest: int) -> str:
    """Return the text, cut on the right to `longest` characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def plain(value: Any) -> str:  # noqa: ANN401
    """Return any JSON value as text: mappings as `key: value`, lists and mappings separated by commas."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    return BLANK if value is None else str(value)
