"""Numbers and sentences of a report: figures, tables and pages say the same thing in the same words.

Every format takes None (or a value that is not finite) and returns a dash. Shares and their differences come as 0..1.
"""

import functools
import math
import re
from collections.abc import Callable

from compressor.measurement.statistics import TIERS

BLANK = "–"
SMALL_ROWS = 500
"""Below this many evaluation rows the report warns: one example then weighs 0.2 points or more."""

SCORE_AXES = {
    "trace_ratio": "separability, tr(S_b) / tr(S_w)",
    "shrunk_fisher": "separability, tr(S_w⁻¹ S_b)",
    "linear_probe": "separability, linear probe accuracy",
}


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
def change(new: float, old: float) -> str:
    """Return the relative change from `old` to `new`, such as `−7.8 %`."""
    return f"{_signed(100 * (new - old) / old, 1)} %" if old else BLANK


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
def p_value(value: float) -> str:
    """Return a p-value to two digits."""
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def points_interval(bounds: list[float] | None) -> str:
    """Return [-0.012, 0.008] as `−1.20 to +0.80 points`."""
    return f"{points(bounds[0]).removesuffix(' points')} to {points(bounds[1])}" if bounds else BLANK


def percent_interval(bounds: list[float] | None) -> str:
    """Return [0.88, 0.92] as `88.00 to 92.00 %`."""
    return f"{percent(bounds[0]).removesuffix(' %')} to {percent(bounds[1])}" if bounds else BLANK


def ratio_interval(bounds: list[float] | None) -> str:
    """Return [1.17, 1.21] as `1.17x to 1.21x`."""
    return f"{ratio(bounds[0])} to {ratio(bounds[1])}" if bounds else BLANK


def tie(text: str) -> str:
    """Return the text with no-break spaces between numbers and what they count, so that a line never ends in between."""
    return re.sub(r"(?<=\d) (?=%|ms|s\b|points|MB|GF|M\b|tokens)|(?<=n) (?==)|(?<==) ", "\u00a0", text)


def layers_text(layers: list[int]) -> str:
    """Return [4] as `layer 4`, [2, 4, 5] as `layers 2, 4 and 5` and [] as `no layer`."""
    if len(layers) < 2:
        return f"layer {layers[0]}" if layers else "no layer"
    return f"layers {', '.join(map(str, layers[:-1]))} and {layers[-1]}"


def strip(skip: list[int], layers: int) -> str:
    """Return one sign a layer: filled where it stays, hollow where it is skipped."""
    return "".join("○" if layer in skip else "●" for layer in range(1, layers + 1))


def is_full(variant: str) -> bool:
    """Return whether the variant is the uncompressed model in some format."""
    return variant == "full" or variant.startswith("full_")


def format_of(variant: str) -> str:
    """Return the format of a variant: `PyTorch`, `ONNX int8`, ..."""
    name = variant.removeprefix("full_")
    return "PyTorch" if name in {"full", "compressed"} else name.replace("onnx_", "ONNX ").replace("_", " ")


def variant_name(variant: str) -> str:
    """Return `full, ONNX int8` for `full_onnx_int8`, `compressed, PyTorch` for `compressed`."""
    return f"{'full' if is_full(variant) else 'compressed'}, {format_of(variant)}"


def cell_name(batch: int, length: int | str) -> str:
    """Return `batch 8, 128 tokens`, or `batch 8, real lengths` for the workload."""
    return f"batch {batch}, {'real lengths' if length == 'workload' else f'{length} tokens'}"


def tier_meaning(tier: str) -> str:
    """Return the definition of a tier; that of lossy names the bound it misses."""
    return f"not even near ({TIERS['near']})" if tier == "lossy" else TIERS[tier]


def verdict(versus: dict) -> str:
    """Return what the paired interval allows to say of the accuracy: a verdict only where 0 is outside of it."""
    if versus["flips"] == 0:
        return "identical predictions"
    if versus["ci95"] is None:
        return "not measured"
    low, high = versus["ci95"]
    return "worse" if high < 0 else "better" if low > 0 else "not distinguishable"


def headline(result: dict, comparisons: list[dict]) -> str:
    """Return the one sentence above everything else; speed is the whole range of the claimed rows of `comparisons`."""
    versus, plan = result["variants"]["compressed"]["versus_full"], result["plan"]
    accuracy = {
        "identical predictions": "every prediction as in the full model",
        "not measured": "accuracy not measured (no labels)",
        "not distinguishable": "accuracy not distinguishable from the full model",
    }.get(verdict(versus), f"accuracy {points(versus['accuracy_delta'])} ({verdict(versus)} than the full model)")
    changed = f", {count(versus['flips'])} of {count(versus['rows'])} predictions changed" if versus["flips"] else ""
    claimed = [row["speedup"] for row in comparisons if row["claimed"]]
    speed = "no speed-up above the noise floor" if comparisons else "speed not measured"
    if claimed:
        speed = f"{spread_text(claimed)} as fast in {len(claimed)} of {len(comparisons)} comparisons"
    removed = f"{len(plan['skip'])} of {plan['layers']} layers removed"
    return f"{versus['tier'].capitalize()}: {removed}, {accuracy}{changed}, {speed}."


def accuracy_fact(full: dict, compressed: dict) -> tuple[str, str]:
    """Return the number and the sentence on accuracy, with what the interval leaves open."""
    versus = compressed["versus_full"]
    if full["accuracy"] is None:
        return (
            "not measured",
            "The evaluation data has no labels; agreement with the full model is all that can be said.",
        )
    text = f"Full {percent(full['accuracy'])}, compressed {percent(compressed['accuracy'])}; "
    if versus["flips"] == 0:
        text += "identical predictions."
    else:
        text += f"paired 95 % interval {points_interval(versus['ci95'])}: {verdict(versus)}."
        if verdict(versus) == "not distinguishable" and versus["ci95"][0] < 0:
            text += f" The interval leaves room for a loss of {-100 * versus['ci95'][0]:.2f} points."
    small = "Small sample: n" if versus["rows"] < SMALL_ROWS else "n"
    return points(versus["accuracy_delta"]), f"{text} {small} = {count(versus['rows'])}, " + (
        f"one example is {100 / max(versus['rows'], 1):.2f} points."
    )


def agreement_fact(versus: dict) -> tuple[str, str]:
    """Return the agreement and how the changed predictions divide."""
    text = f"{count(versus['flips'])} of {count(versus['rows'])} predictions changed ({percent(versus['flip_rate'])})"
    if versus["gained"] is not None and versus["lost"] is not None:
        other = versus["flips"] - versus["gained"] - versus["lost"]
        text += f": {versus['gained']} gained, {versus['lost']} lost" + (f", {other} wrong both times" if other else "")
    return percent(versus["agreement"]), f"{text}. Same label as the full model in PyTorch."


def spread_text(ratios: list[float]) -> str:
    """Return the smallest and largest of some ratios, such as `1.05x to 1.19x`."""
    low, high = ratio(min(ratios)), ratio(max(ratios))
    return low if low == high else f"{low} to {high}"


def speed_fact(comparisons: list[dict], best: dict | None) -> tuple[str, str]:
    """Return the best claimed speed-up and how representative it is of all `comparisons`."""
    if not comparisons:
        return "not measured", "The run holds no latency of the compressed model."
    measured = [row["speedup"] for row in comparisons]
    claimed = sum(row["claimed"] for row in comparisons)
    spread = f"Claimed in {claimed} of {len(comparisons)} comparisons; all measured: {spread_text(measured)}."
    if best is None:
        return "none claimed", f"No speed-up above the noise floor. {spread}"
    where = f"{format_of(best['variant'])}, {best['cell']}, {best['provider']}"
    times = f"p50 {milliseconds(best['against_p50_ms'])} → {milliseconds(best['p50_ms'])}"
    return ratio(best["speedup"]), (
        f"Best claimed{'' if best['complete'] else ' (incomplete: fewer runs than wanted)'}: {where}; {times}, 95 % interval "
        f"{ratio_interval(best['speedup_ci95'])}, against the full model in the same format. {spread}"
    )


def size_fact(full: dict, compressed: dict, flops_at: str) -> tuple[str, str]:
    """Return the change of the parameters and the sentence on FLOPs (`flops_at`: at how many tokens) and bytes."""
    parts = [
        f"{name} {form(full[key])} → {form(compressed[key])} ({change(compressed[key], full[key])})"
        for name, key, form in (
            ("Parameters", "parameters", millions),
            (f"encoder FLOPs{flops_at}", "encoder_flops", gigaflops),
            ("weights", "bytes", megabytes),
        )
    ]
    return change(compressed["parameters"], full["parameters"]), "; ".join(parts) + "."


def goals_fact(goals: dict | None) -> tuple[str, str]:
    """Return whether the goals are met and every miss."""
    if goals is None:
        return "none set", "The recipe sets no goals."
    return ("met", "Every goal of the recipe is met.") if goals["met"] else ("missed", " ".join(goals["misses"]))


def plan_reading(plan: dict) -> str:
    """Return one sentence on how the plan ranked by separability and the chosen plan differ."""
    chosen, ranked, regret = plan["chosen"], plan["ranked"], plan["regret"]
    if plan["search"] == "fixed":
        return f"The recipe fixed the set: {layers_text(plan['skip'])}; no other set was tried to choose it."
    if not chosen or not ranked or not regret:
        return f"The {plan['search']} plan skips {layers_text(plan['skip'])}; its regret against other sets was not measured."
    if sorted(chosen["skip"]) == sorted(ranked["skip"]):
        return (
            f"The plan ranked by lowest gain and the chosen plan are the same ({layers_text(plan['skip'])}): regret "
            f"{100 * regret['agreement']:.2f} points."
        )
    return (
        f"The ranked plan (lowest gain first) skips {layers_text(ranked['skip'])}, the chosen one "
        f"{layers_text(chosen['skip'])}: agreement {percent(ranked['agreement'])} against {percent(chosen['agreement'])}, "
        f"a regret of {100 * regret['agreement']:.2f} points and {number(regret['kl'])} nats of KL on the selection split."
    )
