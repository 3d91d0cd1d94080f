"""The line: what to ship, how much faster it is than what runs today, what it cost. The same words wherever it stands."""

from collections.abc import Mapping
from typing import Any

from compressor.report.formats import change, count, milliseconds, points, points_interval
from compressor.report.wording.kinds import counted_of, headed, metric_of


def answer_line(answer: Mapping[str, Any]) -> str:
    """Return the answer of a run in one line."""
    low, high = answer["speedup_ci95"]
    today = milliseconds(answer["baseline_mean_ms"])
    if answer["path"] is None:
        return f"Keep what runs today ({today}): {answer['why'][0].lower()}{answer['why'][1:]}"
    met = {False: f", goal {answer['goal']} missed", None: f", too few rows to show {answer['goal']}"}
    tier = f"{answer['tier']}{met.get(answer['met'], '')}"
    return (
        f"Ship {answer['path']}: {milliseconds(answer['mean_ms'])} instead of {today} ({speed_words(answer['speedup'])} "
        f"[{low:.1f}, {high:.1f}]), {size_words(answer['bytes'])} instead of {size_words(answer['baseline_bytes'])}, "
        f"{count(answer['flips'])} of {count(answer['rows'])} {counted_of(answer)} changed ({tier})."
    )


def answer_details(answer: Mapping[str, Any]) -> list[str]:
    """Return what stands below the line, a sentence each: the factors, the accuracy, the reason, what was missed."""
    found = []
    if answer["factors"]:
        product = " x ".join(f"{factor['name']} {factor['ratio']:.2f}" for factor in answer["factors"])
        found.append(
            f"{answer['speedup']:.2f}x = {product}; against {baseline_words(answer['baseline'])}, {cell_words(answer)}."
        )
    if answer["engine"] == "onnx" and answer["threads"] is not None:
        found.append(
            f"ONNX Runtime with {answer['threads']} thread{'s' * (answer['threads'] > 1)} (intra_op_num_threads)."
        )
    if answer["accuracy_delta"] is not None:
        found.append(
            f"{headed(metric_of(answer))} {points(answer['accuracy_delta'])} ({points_interval(answer['ci95'])} at 95 %)."
        )
    return [*found, *([answer["why"]] if answer["path"] else []), *answer["misses"]]


def answer_facts(answer: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return number and sentence of the facts that the answer of a run decides: speed, size, goal."""
    low, high = answer["speedup_ci95"]
    steps = " x ".join(f"{factor['name']} {factor['ratio']:.2f}" for factor in answer["factors"])
    speed = (
        f"95 % interval {speed_words(low)} to {speed_words(high)}, against {baseline_words(answer['baseline'])}, "
        + (f"{cell_words(answer)}{': ' if steps else ''}{steps}. {answer['why']}")
    )
    met = {True: "met", False: "missed", None: "undecided"}[answer["met"]]
    size = f"Weights {size_words(answer['baseline_bytes'])} → {size_words(answer['bytes'])}, as they lie on disk."
    return {
        "Speed": (speed_words(answer["speedup"]), speed),
        "Size": (change(answer["bytes"], answer["baseline_bytes"]), size),
        "Goals": (met, " ".join([f"Goal: {answer['goal']}.", *answer["misses"]])),
    }


def speed_words(ratio: float) -> str:
    """Return a speed-up as the line says it, such as `3.7x`."""
    return f"{ratio:.1f}x"


def cell_words(answer: Mapping[str, Any]) -> str:
    """Return where the times were taken: `one text at a time at its real length`."""
    batch, length = answer["cell"]["batch"], answer["cell"]["length"]
    texts = "one text at a time" if batch == 1 else f"{batch} texts at a time"
    return f"{texts}, {'real lengths' if length == 'workload' else f'{length} tokens'}"


def baseline_words(baseline: Mapping[str, Any]) -> str:
    """Return what runs today in words, such as `PyTorch float32, padded to the longest text`."""
    padding = {"dynamic": "padded to the longest text", "max_length": "padded to data.max_length"}[baseline["padding"]]
    return f"PyTorch {baseline['dtype']}{', compiled' if baseline['compile'] else ''}, {padding}"


def size_words(size: float) -> str:
    """Return bytes as the line says them, such as `25 MB`."""
    megabytes = size / 1e6
    return f"{megabytes:.0f} MB" if megabytes >= 9.95 else f"{megabytes:.1f} MB"
