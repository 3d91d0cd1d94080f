"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from compressor.dry_run import StageStatus
from compressor.measurement.cost import layers_saved, predicted_ms, predicted_speedup
from compressor.measurement.statistics import TIERS
from compressor.model.units import Unit, lost_parts, plan_units, unit_words
from compressor.report.formats import short_names, variant_order

LONGEST = 60
"""Characters of a model's name that a table of latencies has room for."""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose first column is text and whose others are numbers."""
    made = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of words: the last column wraps where the terminal is narrow."""
    made = Table(title=title, title_justify="left", show_header=any(columns))
    for index, column in enumerate(columns):
        made.add_column(column, no_wrap=index < len(columns) - 1, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def result_table(result: Mapping[str, Any]) -> Table:
    """Return full against compressed: accuracy with interval, agreement, size, work, latency of the first cell."""
    rows = []
    variants = result["variants"]
    first = next((variant["latency"][0] for variant in variants.values() if variant["latency"]), None)
    for name in sorted(variants, key=variant_order):
        variant = variants[name]
        versus = variant["versus_full"]
        # a cascade is timed on real lengths alone, so it may have no row for the column's cell
        latency = next((row for row in variant["latency"] if first and _cell(row) == _cell(first)), None)
        rows.append(
            (
                name,
                accuracy_text(variant),
                f"{versus['agreement']:.1%}" if versus else "",
                f"{variant['parameters'] / 1e6:.1f} M",
                f"{variant['encoder_flops'] / 1e9:.2f} GF",
                f"{variant['bytes'] / 1e6:.1f} MB",
                f"{latency['p50_ms']:.2f} ms" if latency else "",
                speedup_text(latency),
            )
        )
    cell = f"p50 ({first['batch']} x {first['length']})" if first else "p50"
    columns = [
        "variant",
        "accuracy [95 %]",
        "agreement",
        "parameters",
        "encoder FLOPs",
        "file",
        cell,
        "speed-up [95 %]",
    ]
    units = plan_units(result["plan"])
    layers, which = result["plan"]["layers"], ", ".join(map(str, units))
    gone = f"{len(units)} of {layers} layers skipped (layer {which})"
    if result["plan"].get("mix"):
        gone = f"{unit_words(units)} of {layers} layers left out"
    return table(f"{result['name']}: {gone}", columns, rows)


def _cell(row: Mapping[str, Any]) -> tuple[Any, Any]:
    return row["batch"], row["length"]


def verdict(result: Mapping[str, Any]) -> str:
    """Return one sentence on what the compression costs."""
    versus = result["variants"]["compressed"]["versus_full"]
    text = f"{versus['tier']} ({TIERS[versus['tier']]}): {versus['flips']} of {versus['rows']} predictions changed"
    if versus["accuracy_delta"] is None:
        return text + "."
    low, high = versus["ci95"]
    return f"{text}, accuracy {100 * versus['accuracy_delta']:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]."


def scores_table(scores: Mapping[str, Any], skipped: Sequence[int] = ()) -> Table:
    """Return every score of every state; layers of the plan are marked."""
    rows = [
        (
            f"{entry['layer']}{' (embeddings)' if entry['layer'] == 0 else ''}{' skipped' if entry['layer'] in skipped else ''}",
            *(f"{entry[score]:.4f}" for score in ("trace_ratio", "shrunk_fisher", "h_score", "linear_probe")),
            "" if entry["gain"] is None else f"{entry['gain']:+.4f}",
        )
        for entry in scores["layers"]
    ]
    title = f"separability by {scores['labels']} labels, {scores['rows']} rows; gain is that of {scores['score']}"
    return table(title, ["layer", "trace ratio", "shrunk Fisher", "H-score", "linear probe", "gain"], rows)


def plan_table(plan: Mapping[str, Any]) -> Table:
    """Return the sets tried, best first, with the chosen one on top."""
    units, mix = plan["units"], plan["mix"]
    trials = sorted(
        (trial for trial in plan["trace"] if mix or len(trial["skip"]) == len(units)),
        key=lambda trial: (trial["skip"] != units, -trial["agreement"], trial["kl"]),
    )
    rows = [
        (
            ", ".join(map(str, trial["skip"])) + (" (chosen)" if trial["skip"] == units else ""),
            f"{trial['agreement']:.2%}",
            f"{trial['kl']:.4f}",
            f"{trial['raw_agreement']:.2%}",
        )
        for trial in trials[:20]
    ]
    asked = f"{plan['sets_total']} skip this many layers" if plan["layers_asked"] != "auto" else "of all sizes"
    if mix:
        asked = f"{mix['meeting']} of them within the budget; {mix['kept']:.1%} of the encoder's {mix['of']} remain"
    title = (
        f"{plan['search']} search: {plan['sets_evaluated']} sets tried, {plan['sets_known']} of them known from before; "
        f"{asked}; {plan['seconds']:.1f} s, {plan['predicted_seconds']:.1f} s predicted"
    )
    return table(title, ["skipped layers", "agreement after readout", "KL (nats)", "agreement as is"], rows)


def prediction_table(timing: Mapping[str, Any], units: Sequence[Unit]) -> Table:
    """Return the latency predicted for a plan without `units`, from one timed layer and from its parts."""
    parts = lost_parts(units)
    rows = [
        (
            f"{cell['batch']} x {cell['length']}",
            f"{cell['full_ms']:.2f}",
            f"{cell['layer_ms']:.2f}",
            f"{predicted_ms(cell, layers_saved(cell, parts)):.2f}",
            f"{predicted_speedup(cell, layers_saved(cell, parts)):.2f}x",
        )
        for cell in timing["cells"]
    ]
    title = f"predicted latency without {unit_words(units)}, {timing['provider']}, {timing['threads']} threads"
    return table(title, ["batch x tokens", "full ms", "one layer ms", "predicted ms", "predicted speed-up"], rows)


def stages_table(stages: Sequence[StageStatus]) -> Table:
    """Return the dry run: stages, what is there already, expected work."""
    rows = [(stage.name, "kept" if stage.cached else "to do", stage.cost) for stage in stages]
    return table("stages", ["stage", "result", "work"], rows)


def latency_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Return latency rows: one line per model and cell."""
    short = short_names([*rows], LONGEST)
    lines = [
        (
            short[name],
            row["provider"],
            f"{row['batch']} x {row['length']}",
            f"{row['p50_ms']:.2f}",
            f"{row['p90_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['texts_per_s']:.0f}",
            str(row["runs"]) + ("" if row["complete"] else " (cut)"),
            speedup_text(row),
        )
        for name, cells in rows.items()
        for row in cells
    ]
    columns = ["model", "runs on", "batch x tokens", "p50 ms", "p90", "p99", "texts/s", "runs", "speed-up [95 %]"]
    return table("latency", columns, lines)


def footprint_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return cold start and peak memory: one line per model; blank where the system does not say."""

    def megabytes(size: float | None) -> str:
        return "" if size is None else f"{size / 1e6:.0f} MB"

    short = short_names([*rows], LONGEST)
    lines = [
        (
            short[name],
            f"{row['load_s']:.2f} s",
            f"{1000 * row['first_call_s']:.1f} ms",
            megabytes(row["peak_bytes"]),
            megabytes(row["imported_bytes"]),
            megabytes(row["gpu_bytes"]),
        )
        for name, row in rows.items()
    ]
    first = next(iter(rows.values()))
    title = f"cold start and memory, each in a process of its own (median of {first['children']})"
    columns = ["model", "load", "first call", "peak memory", "of it imports", "GPU memory"]
    return table(title, columns, lines)


def noise_lines(floors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line an opponent: how far its two timings differ over all cells."""
    intervals: dict[str, list[float]] = {}
    for floor in floors:
        intervals.setdefault(floor["model"], []).extend(floor["ci95"])
    return [
        f"noise floor of {name} (timed against itself): {min(bounds):.3f}x to {max(bounds):.3f}x"
        for name, bounds in intervals.items()
    ]


def stats_line(name: str, stats: Mapping[str, Any]) -> str:
    """Return where the rows left a cascade, over all timed runs."""
    shares = ", ".join(f"{entry['share']:.1%} behind layer {entry['layer']}" for entry in stats["exits"])
    return f"{name}: answered {shares}"


def export_table(written: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return one line per ONNX variant: size, parity with PyTorch, fused nodes, path."""
    rows = [
        (
            name,
            f"{entry['bytes'] / 1e6:.1f} MB",
            f"{entry['parity']['max_abs']:.2g}",
            f"{entry['parity']['agreement']:.1%}",
            ", ".join(f"{count} {kind}" for kind, count in entry["fused"].items() if count),
            entry["path"],
        )
        for name, entry in written.items()
    ]
    return table("ONNX", ["variant", "file", "largest logit difference", "same labels", "fused nodes", "path"], rows)


def doctor_tables(diagnosis: Mapping[str, Any]) -> list[Table | str]:
    """Return the diagnosis: providers, CUDA side by side, the processor; then the verdict, and what to do about it."""
    cpu, memory = diagnosis["cpu"], diagnosis["free_memory_bytes"]
    providers = [
        (entry["name"], "yes" if entry["usable"] else "no", entry["reason"] or "") for entry in diagnosis["providers"]
    ]
    driver = [("driver", "", diagnosis["driver"] or "no driver", "")]
    toolkits = [
        (name, entry["version"], entry["cuda"] or "CPU build", entry["cudnn"] or "")
        for name, entry in diagnosis["toolkits"].items()
    ]
    machine = [
        ("processor", cpu["name"]),
        ("GPU", diagnosis["gpu"] or "none in use"),
        ("cores", f"{cpu['physical'] or '?'} physical, {cpu['logical']} logical, {cpu['usable']} usable here"),
        ("threads of PyTorch", str(diagnosis["threads"])),
        ("free memory", f"{memory / 2**30:.1f} GiB" if memory else "unknown"),
        ("instruction sets", ", ".join(cpu["instructions"]) or "unknown"),
        ("int8", diagnosis["int8"]),
    ]
    texts = {
        "execution providers of ONNX Runtime": (["provider", "usable", "why not"], providers),
        "CUDA": (["", "version", "CUDA", "cuDNN"], driver + toolkits),
        "machine": (["", ""], machine),
    }
    found = [
        f"{'problem' if entry['serious'] else 'note'}: {entry['problem']}. Remedy: {entry['remedy']}"
        for entry in diagnosis["findings"]
    ]
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in diagnosis["versions"].items())
    return [
        *(text_table(title, columns, rows) for title, (columns, rows) in texts.items()),
        f"versions: {versions}",
        *found,
        f"{diagnosis['summary']}; the fastest provider that works is {diagnosis['best']}",
    ]


def accuracy_text(variant: Mapping[str, Any]) -> str:
    """Return the accuracy of a variant with its interval."""
    if variant["accuracy"] is None:
        return "no labels"
    low, high = variant["accuracy_ci95"]
    return f"{variant['accuracy']:.1%} [{low:.1%}, {high:.1%}]"


def speedup_text(row: Mapping[str, Any] | None) -> str:
    """Return the speed-up of a latency row with its interval; nothing where the row was compared with none."""
    if not row or not row["speedup_ci95"]:
        return ""
    low, high = row["speedup_ci95"]
    return f"{row['speedup']:.2f}x [{low:.2f}, {high:.2f}]{'' if row['claimed'] else ' (noise)'}"
