"""Tables of what a recipe gives: its stages, scores, plan, predicted latency and result."""

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.cli.tables import (
    SHIPS,
    Column,
    Grid,
    accuracy_text,
    noise_note,
    numbers,
    ratio_text,
    speedup_text,
    words,
)
from compressor.measurement.cost import layers_saved, predicted_ms, predicted_speedup
from compressor.model.units import Unit, plan_units, unit_words
from compressor.pipeline.dry_run import StageStatus, expected_seconds
from compressor.report.formats import cell_name, is_full, score_name, variant_order
from compressor.report.tables.selection import DOWNSTREAM, OWN_SCORES
from compressor.report.wording.answer import answer_details, answer_line, baseline_words
from compressor.report.wording.kinds import counted_of, metric_of
from compressor.report.wording.wording import judged_variant, tier_meaning


def result_table(result: Mapping[str, Any]) -> Grid:
    """Return every variant, the fastest first: accuracy with interval, agreement, latency of the first cell, size, work."""
    variants = result["variants"]
    first = next((variant["latency"][0] for variant in variants.values() if variant["latency"]), None)
    # a cascade is timed on real lengths alone, so it may have no row for the column's cell
    timed = {name: _timed(variant, first) for name, variant in variants.items()}
    rows, metric = [], metric_of(variants["compressed"]["versus_full"])
    # models of equal speed, and those without a time, in the order of their formats
    order = sorted(
        variants, key=lambda name: ((timed[name] or {"p50_ms": float("inf")})["p50_ms"], variant_order(name))
    )
    ships = f"onnx_{result['shipped']['variant']}" if result["shipped"] else None
    for name in order:
        variant, versus, latency = variants[name], variants[name]["versus_full"], timed[name]
        rows.append(
            (
                name + (" (ships)" if name == ships else ""),
                accuracy_text(variant, metric),
                f"{versus['agreement']:.1%}" if versus else "",
                f"{latency['p50_ms']:.2f} ms" if latency else "",
                speedup_text(latency),
                f"{variant['bytes'] / 1e6:.1f} MB",
                f"{variant['parameters'] / 1e6:.1f} M",
                f"{variant['encoder_flops'] / 1e9:.2f} GF",
            )
        )
    columns = [*words("variant"), *numbers(f"{metric} [95 %]", "agreement", "p50", "speed-up [95 %]")]
    columns += [*numbers("file", rank=1), *numbers("parameters", rank=2), *numbers("encoder FLOPs", rank=3)]
    units, layers = plan_units(result["plan"]), result["plan"]["layers"]
    gone = f"{len(units)} of {layers} layers skipped (layer {', '.join(map(str, units))})"
    if result["plan"].get("mix"):
        gone = f"{unit_words(units)} of {layers} layers left out"
    at = (
        f"; {cell_name(first['batch'], first['length'])}; speed-up over the full model in the same format"
        if first
        else ""
    )
    notes = noise_note([latency for name, latency in timed.items() if not is_full(name)])
    return Grid(f"{result['name']}: {gone}{at}", columns, rows, notes, {order.index(ships): SHIPS} if ships else {})


def _timed(variant: Mapping[str, Any], first: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the variant's latency row of the same cell as `first`, or None."""
    cell = first and (first["batch"], first["length"])
    return next((row for row in variant["latency"] if (row["batch"], row["length"]) == cell), None)


def answer_lines(answer: Mapping[str, Any]) -> list[Grid | str]:
    """Return the answer of a run: the line last, above it what speaks for it and what else was built, fastest first."""
    rows = [
        (
            entry["variant"],
            ratio_text(entry["speedup"], entry.get("speedup_ci95")),
            f"{entry['flips']:,} of {entry['rows']:,}",
            f"{entry['bytes'] / 1e6:.1f} MB",
            entry["why_not"],
        )
        for entry in sorted(answer["alternatives"], key=lambda entry: -entry["speedup"])
    ]
    title = f"what else was built, on the rows that decide; speed-up over {baseline_words(answer['baseline'])}"
    columns = [
        *words("file"),
        *numbers("speed-up [95 %]", "changed", "size"),
        Column("why not", words=True, below=True),
    ]
    others = [Grid(title, columns, rows)] if rows else []
    return [*others, *answer_details(answer), answer_line(answer)]


def verdict(result: Mapping[str, Any]) -> str:
    """Return one sentence on what the compression costs."""
    name = judged_variant(result)
    versus = result["variants"][name]["versus_full"]
    of = "" if name == "compressed" else f"{name}: "
    text = f"{of}{versus['tier']} ({tier_meaning(versus)}): {versus['flips']} of {versus['rows']} {counted_of(versus)} changed"
    if versus["accuracy_delta"] is None:
        return text + "."
    low, high = versus["ci95"]
    return f"{text}, {metric_of(versus)} {100 * versus['accuracy_delta']:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]."


def scores_table(scores: Mapping[str, Any], skipped: Sequence[int] = ()) -> Grid:
    """Return every score of every state; layers of the plan are marked.

    `downstream` is what the last state's separability could lose without the layer, where gradients were taken.
    """
    downstream = scores.get("gradients", {}).get(DOWNSTREAM)
    rows = [
        (
            f"{entry['layer']}{' (embeddings)' if entry['layer'] == 0 else ''}{' skipped' if entry['layer'] in skipped else ''}",
            *(f"{entry[score]:.4f}" for score in OWN_SCORES),
            "" if entry["gain"] is None else f"{entry['gain']:+.4f}",
            *([f"{downstream[entry['layer'] - 1]:.4g}" if entry["layer"] else ""] if downstream else []),
        )
        for entry in scores["layers"]
    ]
    title = f"separability by {scores['labels']} labels, {scores['rows']} rows; gain is that of {score_name(scores['score'])}"
    # where there is little room, the score that the recipe goes by stays
    others = (Column(score_name(score), rank=int(score != scores["score"])) for score in OWN_SCORES)
    last = numbers("gain", "downstream") if downstream else numbers("gain")
    return Grid(title, [*words("layer"), *others, *last], rows)


def plan_table(plan: Mapping[str, Any]) -> Grid:
    """Return the sets tried, best first, with the chosen one on top."""
    units, mix = plan["units"], plan["mix"]
    trials = sorted(
        (trial for trial in plan["trace"] if mix or len(trial["skip"]) == len(units)),
        key=lambda trial: (trial["skip"] != units, -trial["agreement"], trial["kl"]),
    )
    rows = [
        (
            (", ".join(map(str, trial["skip"])) or "none") + (" (chosen)" if trial["skip"] == units else ""),
            f"{trial['agreement']:.2%}",
            f"{trial['kl']:.4f}",
            f"{trial['raw_agreement']:.2%}",
        )
        for trial in trials[:20]
    ]
    columns = [*words("skipped layers"), *numbers("agreement after readout", "KL (nats)", "agreement as is")]
    return Grid(_plan_words(plan), columns, rows, styles={0: SHIPS})


def _plan_words(plan: Mapping[str, Any]) -> str:
    """Return how the plan came about: what was searched, how much of it was tried, and what that took."""
    mix, took = plan["mix"], f"{plan['seconds']:.1f} s, {plan['predicted_seconds']:.1f} s predicted"
    if plan["layers_asked"] == "ship" and plan["sets_evaluated"] == 1:  # whatever an older plan calls its search
        return f"nothing was searched, all {plan['layers']} layers stay; {took}"
    asked = f"{plan['sets_total']} skip this many layers" if plan["layers_asked"] != "auto" else "of all sizes"
    if plan["layers_asked"] == "ship":
        asked = "none that leaves out a part keeps to the goal"
    if mix:
        asked = f"{mix['meeting']} of them within the budget; {mix['kept']:.1%} of the encoder's {mix['of']} remain"
    return (
        f"{plan['search']} search: {plan['sets_evaluated']} sets tried, {plan['sets_known']} of them known from before; "
        f"{asked}; {took}"
    )


def prediction_table(timing: Mapping[str, Any], units: Sequence[Unit], layers: int) -> Grid:
    """Return the latency predicted for a plan without `units` of `layers`, from the time of one layer and of its parts."""
    rows = [
        (
            f"{cell['batch']} x {cell['length']}",
            f"{cell['full_ms']:.2f}",
            f"{cell['layer_ms']:.2f}",
            f"{predicted_ms(cell, saved):.2f}",
            f"{predicted_speedup(cell, saved):.2f}x",
        )
        for cell in timing["cells"]
        for saved in [layers_saved(cell, units, layers)]
    ]
    threads = f"{timing['threads']} thread{'s' * (timing['threads'] > 1)}"
    title = f"predicted latency without {unit_words(units)}, {timing['provider']}, {threads}"
    columns = [*words("batch x tokens"), *numbers("full ms", "one layer ms", "predicted ms", "predicted speed-up")]
    return Grid(title, columns, rows)


def stages_table(stages: Sequence[StageStatus]) -> Grid:
    """Return the dry run: stages, what is there already, expected work and seconds; in the title the sum of what is to do."""

    def span(low: float, high: float) -> str:
        return f"{low:,.0f} to {high:,.0f} s"

    rows = [
        (stage.name, "kept" if stage.cached else "to do", stage.cost, span(*stage.seconds) if stage.seconds else "")
        for stage in stages
    ]
    total = expected_seconds(stages)
    beside = f", beside {', '.join(total['unknown'])}" if total["unknown"] else ""
    todo = any(not stage.cached for stage in stages)
    title = (
        f"stages: {span(total['low'], total['high'])} to go{beside}" if todo else "stages: all are kept, none is to do"
    )
    return Grid(title, [*words("stage", "result", "work"), *numbers("time")], rows)
