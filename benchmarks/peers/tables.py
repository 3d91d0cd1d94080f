"""The tables of peers.py, computed from its results; every interval of a prediction comes from the predictions there."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.common.digits import classes_of
from compressor.measurement.statistics import Comparison, compare, share_interval

PLAIN, BASE = "full/fp32", "full/alltokens"
"""The two opponents of every latency: the full model as exported, and its fused graph."""
ROWS: dict[str, str] = {
    PLAIN: "full model, plain ONNX",
    BASE: "full model, fused",
    "full/optimized": "full model, fused, [CLS]-only tail",
    "full/int8": "full model, fused, tail, int8",
    "optimum/O2": "full model, optimum-onnx O2",
    "optimum/int8": "full model, optimum-onnx int8 ({int8})",
    "skip-1/alltokens": "**1 layer skipped** ({skip}), fused",
    "skip-1/optimized": "1 layer skipped, fused, tail",
    "skip-1/int8": "1 layer skipped, fused, tail, int8",
    "skip-2/alltokens": "**2 layers skipped** ({skip}), fused",
    "skip-2/optimized": "2 layers skipped, fused, tail",
    "skip-2/int8": "2 layers skipped, fused, tail, int8",
    "exit/cascade": "**guarded early exit**, at most 1 % flips (exits {exits})",
    "textpruner-1/alltokens": "TextPruner, latency of 1 skip ({mix}: {heads} heads, FFN {ffn}), fused",
    "textpruner-1/int8": "TextPruner, latency of 1 skip, fused, int8",
    "textpruner-2/alltokens": "TextPruner, latency of 2 skips ({mix}: {heads} heads, FFN {ffn}), fused",
    "textpruner-2/int8": "TextPruner, latency of 2 skips, fused, int8",
    "block_influence-1/alltokens": "block influence, 1 layer ({skip}), fused",
    "block_influence-2/alltokens": "block influence, 2 layers ({skip}), fused",
    "top_first-1/alltokens": "top layer dropped ({skip}), fused",
    "top_first-2/alltokens": "2 top layers dropped ({skip}), fused",
}
"""Row (model/format) -> its name in the tables; braces are filled from the details of the model."""
PAIRS = {
    f"skip-{size}/{variant}": [f"{peer}-{size}/{variant}" for peer in peers]
    for variant, peers in (("alltokens", ("textpruner", "block_influence", "top_first")), ("int8", ("textpruner",)))
    for size in (1, 2)
}
"""Our row -> the peers' rows that it is set against one to one."""
PAIRS["full/int8"] = ["optimum/int8"]
PAIRS["full/alltokens"] = ["optimum/O2"]


def versus(results: Mapping[str, Any], key: str, other: str) -> Comparison:
    """Return the predictions of row `key` held against those of row `other`, with the gold labels."""
    return _compare(_predicted(results, other), _predicted(results, key), classes_of(results["labels"]))


def agreement_gap(results: Mapping[str, Any], key: str, other: str) -> Comparison:
    """Return the same with the full model's predictions in place of the labels: a gain in accuracy is one in agreement."""
    return _compare(_predicted(results, other), _predicted(results, key), _predicted(results, PLAIN))


def quality_table(results: Mapping[str, Any]) -> str:
    """Return the table of what each row predicts, how large it is, and its speed-up at one real text a call."""
    labels, lines = classes_of(results["labels"]), []
    for key, name in _names(results).items():
        row, versus_full = results["rows"][key], versus(results, key, PLAIN)
        right = classes_of(row["predictions"]) == labels
        lines.append([
            name,
            markdown.share(right.mean(), *share_interval(int(right.sum()), len(labels))),
            "" if key == PLAIN else f"{100 * versus_full.agreement:.1f} %",
            "" if key == PLAIN else markdown.points(versus_full.accuracy_delta, *versus_full.ci95, 2),
            f"{row['bytes'] / 1e6:.0f}",
            *(_speed(row["latency"][0], base) for base in ("plain", "fused")),
        ])  # fmt: skip
    columns = (
        "model", "accuracy [95 %]", "same predictions", "accuracy delta, points [95 %]", "MB",
        "speed-up over plain, one text [95 %]", "over fused [95 %]",
    )  # fmt: skip
    return markdown.table(columns, lines)


def speed_table(results: Mapping[str, Any]) -> str:
    """Return the table of speed-ups in every cell over the full model's fused graph, and its own over the plain one."""
    cells, lines = _places(results), []
    for key, name in _names(results).items():
        found = {(cell["batch"], cell["length"]): cell for cell in results["rows"][key]["latency"]}
        lines.append([name, *(text for cell in cells for text in _cells(found.get(cell)))])
    columns = ["model"]
    for batch, length in cells:
        columns += [f"{_place(batch, length)}: ms", "over plain", "over fused"]
    floors = [
        f"{'plain' if floor['model'] == PLAIN else 'fused'}, batch {floor['batch']}, {floor['length']}: "
        f"{floor['ratio']:.3f} [{floor['ci95'][0]:.3f}, {floor['ci95'][1]:.3f}]"
        for floor in results["noise_floor"]
    ]
    noise = (
        f"Noise floor (a model against itself, 95 %): {'; '.join(floors)}. Speed-ups that do not clear it are marked ~."
    )
    return f"{markdown.table(columns, lines)}\n\n{noise}"


def pair_table(results: Mapping[str, Any]) -> str:
    """Return the table of our rows less the peers' (PAIRS): agreement, accuracy, and the latency of the peer over ours."""
    lines, names, cells = [], _names(results), _places(results)
    for ours, peer in ((ours, peer) for ours, peers in PAIRS.items() for peer in peers):
        if ours not in names or peer not in names:
            continue
        closer, better = agreement_gap(results, ours, peer), versus(results, ours, peer)
        times = {
            (pair["batch"], pair["length"]): f"{pair['ratio']:.2f} [{pair['ci95'][0]:.2f}, {pair['ci95'][1]:.2f}]"
            for pair in results["pairs"]
            if (pair["ours"], pair["peer"]) == (ours, peer)
        }
        gaps = (markdown.points(gap.accuracy_delta, *gap.ci95) for gap in (closer, better))
        lines.append(
            [*(names[key].replace("**", "") for key in (ours, peer)), *gaps, *(times.get(cell, "") for cell in cells)]
        )
    latencies = [f"latency of the peer over ours, {_place(*cell)}" for cell in cells]
    columns = "ours", "peer", "same predictions as the full model, points", "accuracy, points"
    return markdown.table([*columns, *latencies], lines) if lines else ""


def notes(results: Mapping[str, Any]) -> str:
    """Return what was left out, and the versions and machine of the run."""
    environment = results["environment"]
    packages = {
        **{name: environment[name] for name in ("onnxruntime", "optimum_onnx", "transformers", "torch")},
        **results["versions"],
    }
    made = ", ".join(f"{name} {release}" for name, release in packages.items() if release)
    left = " ".join(f"Left out: {name} ({reason})." for name, reason in results["left_out"].items())
    where = f"{environment['device']['name']}, {results['threads']} thread(s) of ONNX Runtime"
    return f"{len(results['labels'])} texts; {where}; {made}. {left}".strip()


def tables(results: Mapping[str, Any]) -> str:
    """Return everything that stands between the marks in tables/peers.md."""
    parts = pair_table(results), quality_table(results), speed_table(results), notes(results)
    return "\n\n".join(part for part in parts if part)


def _names(results: Mapping[str, Any]) -> dict[str, str]:
    found = {key: name for key, name in ROWS.items() if key in results["rows"]}
    return {key: name.format_map(_Words(results["rows"][key]["details"])) for key, name in found.items()}


class _Words(dict):
    """Details of a model as words."""

    def __getitem__(self, key: str) -> str:
        value = super().__getitem__(key)
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _places(results: Mapping[str, Any]) -> list[tuple[int, int | str]]:
    return [(cell["batch"], cell["length"]) for cell in results["rows"][BASE]["latency"]]


def _place(batch: int, length: int | str) -> str:
    return (
        f"{batch} {'text' if batch == 1 else 'texts'}, {'real lengths' if length == 'workload' else f'{length} tokens'}"
    )


def _speed(cell: Mapping[str, Any], base: str) -> str:
    gain = cell[base]
    if gain is None:
        return ""
    low, high = gain["ci95"]
    return f"{gain['ratio']:.2f}x [{low:.2f}, {high:.2f}]" + ("" if gain["claimed"] else " ~")


def _cells(cell: Mapping[str, Any] | None) -> list[str]:
    return ["", "", ""] if cell is None else [f"{cell['p50_ms']:.2f}", _speed(cell, "plain"), _speed(cell, "fused")]


def _predicted(results: Mapping[str, Any], key: str) -> np.ndarray:
    return classes_of(results["rows"][key]["predictions"])


def _compare(full: np.ndarray, other: np.ndarray, labels: np.ndarray) -> Comparison:
    classes = np.eye(1 + max(full.max(), other.max(), labels.max()))
    return compare(classes[full], classes[other], labels)  # predictions stand for logits: 1 for the class, 0 elsewhere
