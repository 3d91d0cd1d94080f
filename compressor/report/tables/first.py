"""What the first screen of a report shows: three numbers beside today's, the steps between them, what changed, the file."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from compressor.export.deploy import example, snippet, torch_lines
from compressor.report import formats
from compressor.report.formats import count, milliseconds, percent
from compressor.report.wording.answer import cell_words, size_words, speed_words
from compressor.report.wording.kinds import counted_of, metric_of, rows_of

TEXTS_SHOWN, LONGEST_TEXT = 5, 140
Json = Mapping[str, Any]


def numbers(result: Json, subject: Json, own: Sequence[Json]) -> list[dict[str, Any]]:
    """Return speed, changed predictions and size, each {name, value, text, bars}; none where nothing is shipped.

    `subject` is the variant that the run is judged by, `own` its comparisons. A bar is {who, kind, share, rest, text}: `share`
    of the longer one of the two from 0 to 1, `rest` the part of it that is not as today. Without a measurement no bars.
    """
    answer, full = result["answer"], result["variants"]["full"]
    if answer and answer["path"] is None:
        return []
    if answer:
        shown = [_speed(answer), _changed(answer), _size(answer["baseline_bytes"], answer["bytes"])]
    else:
        shown = [_claimed_speed(own), _changed(subject["versus_full"]), _size(full["bytes"], subject["bytes"])]
    names = ("today", "shipped") if answer else ("full", "compressed")
    return [
        {**one, "bars": [{**bar, "who": name} for name, bar in zip(names, one["bars"], strict=False)]} for one in shown
    ]


def _bars(before: float, after: float, texts: tuple[str, str], rest: float = 0.0) -> list[dict[str, Any]]:
    longest = max(before, after) or 1
    return [
        {"kind": kind, "share": value / longest, "rest": left, "text": text}
        for kind, value, text, left in zip(("before", "after"), (before, after), texts, (0.0, rest), strict=True)
    ]


def _speed(answer: Json) -> dict[str, Any]:
    low, high = answer["speedup_ci95"]
    before, after = answer["baseline_mean_ms"], answer["mean_ms"]
    return {
        "name": "Speed",
        "value": speed_words(answer["speedup"]),
        "text": f"95 % interval {speed_words(low)} to {speed_words(high)}; {cell_words(answer)}",
        "bars": _bars(before, after, (milliseconds(before), milliseconds(after))),
    }


def _claimed_speed(own: Sequence[Json]) -> dict[str, Any]:
    """Return the speed of a run that names no one file: the range that its headline says, and bars of the least."""
    claimed = [row for row in own if row["claimed"]]
    if not claimed:
        text = "No speed-up is above the noise floor." if own else "The run holds no latency of the compressed model."
        return {"name": "Speed", "value": "none claimed" if own else "not measured", "text": text, "bars": []}
    least = min(claimed, key=lambda row: row["speedup"])
    before, after = least["against_p50_ms"], least["p50_ms"]
    where = f"bars: the least, {formats.format_of(least['variant'])}, {least['cell']}"
    return {
        "name": "Speed",
        "value": formats.span(formats.ratio, [row["speedup"] for row in claimed]),
        "text": f"in {len(claimed)} of {len(own)} comparisons with the same format; {where}",
        "bars": _bars(before, after, (milliseconds(before), milliseconds(after))) if before else [],
    }


def _changed(versus: Json) -> dict[str, Any]:
    rows, flips = versus["rows"], versus["flips"]
    share = flips / rows if rows else 0.0
    what = rows_of(versus)
    text = f"{percent(share)} of the evaluation {what}"
    if versus["ci95"] is not None:
        loss = formats.with_interval(formats.points, versus["accuracy_delta"], versus["ci95"], " points")
        text += f"; {metric_of(versus)} {loss} at 95 %"
    return {
        "name": "Changed predictions",
        "value": f"{count(flips)} of {count(rows)}",
        "text": text,
        "bars": _bars(1, 1, (f"{count(rows)} {what}", f"{count(rows - flips)} as today"), share),
    }


def _size(before: float, after: float) -> dict[str, Any]:
    return {
        "name": "Size",
        "value": formats.change(after, before),
        "text": "of the weights on disk",
        "bars": _bars(before, after, (size_words(before), size_words(after))),
    }


def steps(answer: Json | None) -> list[dict[str, Any]]:
    """Return {name, ratio, ci95, to_ms} from what runs today (no ratio) to what is shipped, a row for each factor.

    Empty where nothing is shipped. The factors multiply to the speed-up, so each time is today's over those so far.
    """
    if not answer or answer["path"] is None or not answer["factors"]:
        return []
    # on fixed lengths the factors are ratios of medians
    today = answer["baseline_mean_ms" if answer["cell"]["length"] == "workload" else "baseline_p50_ms"]
    found, done = [{"name": "today", "ratio": None, "ci95": None, "to_ms": today}], 1.0
    for factor in answer["factors"]:
        done *= factor["ratio"]
        found.append({**factor, "to_ms": today / done})
    return found


def changed_rows(flipped: Sequence[Json]) -> list[dict[str, Any]]:
    """Return the first five changed predictions, each text cut to a few lines."""
    return [
        {**row, "texts": [formats.cut(text, LONGEST_TEXT // len(row["texts"])) for text in row["texts"]]}
        for row in flipped[:TEXTS_SHOWN]
    ]


def deploy(result: Json, latency: Sequence[Json], max_length: int) -> dict[str, str] | None:
    """Return {path, code, note}: the folder to deploy and the lines that use it; None where nothing is shipped.

    The note says how it answers where the run is judged by another. The folder is that of the answer, else
    the file that the recipe's goals chose, the early exit, the fastest file that was timed, or without files the model.
    """
    answer = result["answer"]
    if answer and answer["path"] is None:
        return None
    path = answer["path"] if answer else _folder(result, latency)
    onnx = answer["engine"] == "onnx" if answer else path != "model"
    precision = answer["precision"] if answer else "float32"
    data = result.get("data") or {}
    lines = snippet if onnx else partial(torch_lines, precision=precision, max_length=max_length)
    code = lines(path, example=example(data.get("texts")), answers=data.get("answers"))
    return {"path": path, "code": code, "note": "" if answer or result["cascade"] else _own_numbers(result, path)}


def _own_numbers(result: Json, path: str) -> str:
    """Return what was measured of a file, since the run is judged by the model in PyTorch that it was made of."""
    entry = result["variants"].get(path.replace("onnx/", "onnx_"))
    if not entry:
        return ""
    versus = entry["versus_full"]
    return (
        f"The numbers above are of the model in PyTorch. This file: {count(versus['flips'])} of {count(versus['rows'])} "
        f"{counted_of(versus)} changed ({versus['tier']}), {size_words(entry['bytes'])}."
    )


def _folder(result: Json, latency: Sequence[Json]) -> str:
    if result["shipped"]:
        return f"onnx/{result['shipped']['variant']}"
    if result["cascade"]:
        return "onnx/cascade"
    files = [name for name in result["variants"] if name.startswith("onnx_")]
    if not files:
        return "model"
    times = {name: [row["p50_ms"] for row in latency if row["variant"] == name] for name in files}
    timed = [name for name in files if times[name]]
    return f"onnx/{min(timed, key=lambda name: sum(times[name]), default=files[0]).removeprefix('onnx_')}"


def built_rows(result: Json) -> list[dict[str, Any]]:
    """Return everything that the run built and could have shipped, the shipped one first, then the fastest.

    A row is {path, speedup, speedup_ci95, flips, rows, flip_bound, bytes, why_not, shipped}, as timed and judged on the
    texts that decide.
    """
    answer = result["answer"]
    if not answer:
        return []
    taken = [
        {**entry, **{key: entry["latency"][key] for key in ("speedup", "speedup_ci95")}, "why_not": "shipped"}
        for entry in result["ship"]["candidates"]
        if entry["variant"] == answer["variant"]
    ]
    rows = [{**row, "shipped": row["variant"] == answer["variant"]} for row in [*taken, *answer["alternatives"]]]
    return sorted(rows, key=lambda row: (not row["shipped"], -row["speedup"]))
