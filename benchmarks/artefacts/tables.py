"""The tables of artefacts.py, computed from the predictions and raw times in its results."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.common.digits import classes_of
from compressor.measurement.cost import cls_row_flops, shape_flops
from compressor.measurement.statistics import delta_interval, discordant
from compressor.measurement.timing.ratios import Ratio, claimed, drawn_rounds, ratio
from compressor.model.units import Shape

DRAWS = 2000
FORMS = "reassociated", "single_row"
WITHIN = 0.05
"""How near to the limit set by the layers a compressed file should come."""


def exact_table(tasks: Mapping[str, Any]) -> str:
    """Return what the tail changes: predictions and logits against the file that computes all rows, and PyTorch."""
    columns = ["task", "model", "rows", *(f"changed, {form}" for form in FORMS), *(f"logits, {form}" for form in FORMS)]
    lines = []
    for task, entry in tasks.items():
        for side, files in entry["sides"].items():
            all_rows = files["alltokens"]["predictions"]
            spared = [files[f"optimized, {form}"] for form in FORMS]
            lines.append([
                task, side, str(len(all_rows)),
                *(str(_changed(file["predictions"], all_rows)) for file in spared),
                *(f"{file['max_abs_alltokens']:.1e} ({file['max_abs']:.1e})" for file in spared),
            ])  # fmt: skip
    return markdown.table(columns, lines)


def precision_table(tasks: Mapping[str, Any]) -> str:
    """Return what 8 bits change against float32 of the same model, with the paired difference in accuracy."""
    columns = [
        "task",
        "model",
        "rows",
        "8 bits: agreement",
        "delta, points [95 %]",
        "with the tail: agreement",
        "delta",
    ]
    lines = []
    for task, entry in tasks.items():
        labels = classes_of(entry["labels"])
        for side, files in entry["sides"].items():
            own = classes_of(files["pytorch"]["predictions"])
            line = [task, side, str(len(own))]
            for name in ("int8, all rows", "int8, reassociated"):
                other = classes_of(files[name]["predictions"])
                gained, lost = discordant(own, other, labels)
                low, high = delta_interval(gained, lost, len(own))
                delta = f"{100 * (gained - lost) / len(own):+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
                line += [f"{(other == own).mean():.2%}", delta]
            lines.append(line)
    return markdown.table(columns, lines)


def speed_table(models: Mapping[str, Any]) -> str:
    """Return speed-ups of the full model's files: fused over plain, tail over fused, 8 bits over plain, and the noise."""
    columns = [
        "model", "batch x tokens", "plain fp32", "fused / plain", *(f"tail, {form} / fused" for form in FORMS),
        "operations left out", "8 bits with tail / plain", "noise floor (fused twice)",
    ]  # fmt: skip
    lines = []
    for name, model in models.items():
        for cell in model["cells"]:
            values = cell["values_ms"]
            noise = ratio(values["0: alltokens"], values["twin"], 0)

            def gain(base: str, other: str, values: dict = values, noise: Ratio = noise) -> str:
                found = ratio(values[base], values[other], 0)
                return _interval(found) + ("" if claimed(found, noise) else " (not claimed)")

            lines.append([
                name, f"{cell['batch']} x {cell['length']}", f"{np.median(values['0: fp32']):.1f} ms",
                gain("0: fp32", "0: alltokens"),
                *(gain("0: alltokens", f"0: optimized, {form}") for form in FORMS),
                " / ".join(f"{saved_share(model, cell['length'], form):.1%}" for form in FORMS),
                gain("0: fp32", "0: int8, reassociated"), _interval(noise),
            ])  # fmt: skip
    return markdown.table(columns, lines)


def limit_table(models: Mapping[str, Any]) -> str:
    """Return the speed-up of fewer layers beside the most that leaving them out can give."""
    columns = [
        "model",
        "layers left out",
        "batch x tokens",
        "embeddings and head",
        "files",
        "speed-up",
        "limit",
        "reached",
    ]
    lines = []
    for name, model in models.items():
        for size in model["skips"]:
            for cell in model["cells"]:
                for kind in ("alltokens", "optimized, reassociated"):
                    speed, limit, reached = against_limit(cell["values_ms"], model["layers"], int(size), kind)
                    share = np.median(cell["values_ms"]["none"]) / np.median(cell["values_ms"]["0: alltokens"])
                    lines.append([
                        name, f"{size} of {model['layers']}", f"{cell['batch']} x {cell['length']}", f"{share:.1%}",
                        "all rows" if kind == "alltokens" else "with tail", _interval(speed), f"{limit:.2f}x",
                        f"{reached.value:.1%} [{reached.lo:.1%}, {reached.hi:.1%}]",
                    ])  # fmt: skip
    return markdown.table(columns, lines)


def against_limit(
    values: Mapping[str, Sequence[float]], layers: int, left_out: int, kind: str
) -> tuple[Ratio, float, Ratio]:
    """Return the speed-up of a file without `left_out` layers, its limit, and the share of the limit that it reaches.

    What stays whatever the layers is timed as a file of its own: embeddings and head, in files with a tail also the one
    CLS-only layer. The rest of the full file's time is divided by its whole layers, and the limit is what is left when
    `left_out` of them take no time. Interval from 2,000 block draws of rounds, the same rounds for all files.
    """
    rest = "none" if kind == "alltokens" else f"one: {kind}"
    whole = layers if kind == "alltokens" else layers - 1
    full, few, fixed = (np.asarray(values[name]) for name in (f"0: {kind}", f"{left_out}: {kind}", rest))

    def figures(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total, left, stays = (np.median(part[rows], axis=-1) for part in (full, few, fixed))
        most = total / (stays + (total - stays) * (whole - left_out) / whole)
        return total / left, most

    speed, limit = figures(np.arange(len(full)))
    share = np.divide(*figures(drawn_rounds(len(full), DRAWS, np.random.default_rng(0))))
    low, high = np.percentile(share, [2.5, 97.5])
    return ratio(full, few, 0), float(limit), Ratio(float(speed / limit), float(low), float(high))


def saved_share(model: Mapping[str, Any], tokens: int, form: str) -> float:
    """Return the share of the encoder's FLOPs that the tail leaves out at so many tokens."""
    own = Shape.even(1, model["ffn"], model["heads"])
    layer = shape_flops(own, model["width"], tokens)
    row = cls_row_flops(own, model["width"], tokens, form)
    return (layer - row) / (model["layers"] * layer)


def write(results: Mapping[str, Any]) -> None:
    """Put every table whose figures are there into tables/artefacts.md."""
    tables: tuple[tuple[str, Callable[[Any], str], str], ...] = (
        ("tail_exact", exact_table, "tasks"), ("precision", precision_table, "tasks"),
        ("files_speed", speed_table, "latency"), ("layer_limit", limit_table, "latency"),
    )  # fmt: skip
    for mark, table, part in tables:
        if results.get(part):
            markdown.put(mark, table(results[part]))


def _interval(found: Ratio) -> str:
    return f"{found.value:.2f}x [{found.lo:.2f}, {found.hi:.2f}]"


def _changed(one: str, other: str) -> int:
    return sum(left != right for left, right in zip(one, other, strict=True))
