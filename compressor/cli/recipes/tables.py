"""Tables of what a recipe gives: its stages, scores, plan, predicted latency and result."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from compressor.cli.tables import accuracy_text, speedup_text, table
from compressor.measurement.cost import layers_saved, predicted_ms, predicted_speedup
from compressor.model.units import Unit, lost_parts, plan_units, unit_words
from compressor.pipeline.dry_run import StageStatus, expected_seconds
from compressor.report.formats import score_name, variant_order
from compressor.report.tables.selection import OWN_SCORES
from compressor.report.wording.answer import answer_details, answer_line
from compressor.report.wording.wording import judged_variant, tier_meaning


def result_table(result: Mapping[str, Any]) -> Table:
    """Return full against compressed: accuracy with interval, agreement, size, work, latency of the first cell."""
    rows = []
    variants = result["variants"]
    first = next((variant["latency"][0] for variant in variants.values() if variant["latency"]), None)
    cell = f"p50 ({first['batch']} x {first['length']})" if first else "p50"
    for name in sorted(variants, key=variant_order):
        variant = variants[name]
        versus = variant["versus_full"]
        # a cascade is timed on real lengths alone, so it may have no row for the column's cell
        timed = {(row["batch"], row["length"]): row for row in reversed(variant["latency"])}
        latency = timed.get((first["batch"], first["length"])) if first else None
        rows.append(
            {
                "variant": name,
                "accuracy [95 %]": accuracy_text(variant),
                "agreement": f"{versus['agreement']:.1%}" if versus else "",
                "parameters": f"{variant['parameters'] / 1e6:.1f} M",
                "encoder FLOPs": f"{variant['encoder_flops'] / 1e9:.2f} GF",
                "file": f"{variant['bytes'] / 1e6:.1f} MB",
                cell: f"{latency['p50_ms']:.2f} ms" if latency else "",
                "speed-up [95 %]": speedup_text(latency),
            }
        )
    units = plan_units(result["plan"])
    layers, which = result["plan"]["layers"], ", ".join(map(str, units))
    gone = f"{len(units)} of {layers} layers skipped (layer {which})"
    if result["plan"].get("mix"):
        gone = f"{unit_words(units)} of {layers} layers left out"
    return table(f"{result['name']}: {gone}", [*rows[0]], [[*row.values()] for row in rows])


def answer_lines(answer: Mapping[str, Any]) -> list[Table | str]:
    """Return the answer of a run: the line last, above it what speaks for it and what else was built, best first."""
    rows = [
        (
            entry["variant"],
            f"{entry['speedup']:.2f}x",
            f"{entry['flips']:,} of {entry['rows']:,}",
            f"{entry['bytes'] / 1e6:.1f} MB",
            entry["why_not"],
        )
        for entry in answer["alternatives"]
    ]
    others = table(
        "what else was built, on the rows that decide", ["file", "speed-up", "changed", "size", "why not"], rows
    )
    return [*([others] if rows else []), *answer_details(answer), answer_line(answer)]


def verdict(result: Mapping[str, Any]) -> str:
    """Return one sentence on what the compression costs."""
    name = judged_variant(result)
    versus = result["variants"][name]["versus_full"]
    of = "" if name == "compressed" else f"{name}: "
    text = f"{of}{versus['tier']} ({tier_meaning(versus)}): {versus['flips']} of {versus['rows']} predictions changed"
    if versus["accuracy_delta"] is None:
        return text + "."
    low, high = versus["ci95"]
    return f"{text}, accuracy {100 * versus['accuracy_delta']:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]."


def scores_table(scores: Mapping[str, Any], skipped: Sequence[int] = ()) -> Table:
    """Return every score of every state; layers of the plan are marked."""
    rows = [
        (
            f"{entry['layer']}{' (embeddings)' if entry['layer'] == 0 else ''}{' skipped' if entry['layer'] in skipped else ''}",
            *(f"{entry[score]:.4f}" for score in OWN_SCORES),
            "" if entry["gain"] is None else f"{entry['gain']:+.4f}",
        )
        for entry in scores["layers"]
    ]
    title = f"separability by {scores['labels']} labels, {scores['rows']} rows; gain is that of {scores['score']}"
    return table(title, ["layer", *map(score_name, OWN_SCORES), "gain"], rows)


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
    """Return the dry run: stages, what is there already, expected work and seconds; in the title the sum of what is to do."""

    def span(low: float, high: float) -> str:
        return f"{low:,.0f} to {high:,.0f} s"

    rows = [
        (stage.name, "kept" if stage.cached else "to do", stage.cost, span(*stage.seconds) if stage.seconds else "")
        for stage in stages
    ]
    total = expected_seconds(stages)
    beside = f", beside {', '.join(total['unknown'])}" if total["unknown"] else ""
    title = f"stages: {span(total['low'], total['high'])} to go{beside}"
    return table(title, ["stage", "result", "work", "time"], rows)
