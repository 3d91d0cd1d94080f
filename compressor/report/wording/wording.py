"""The sentences of a report. None claims more than the interval behind it allows."""

from collections.abc import Mapping
from typing import Any

from compressor.measurement.statistics import TIERS
from compressor.report.formats import (
    CASCADE,
    change,
    count,
    format_of,
    gigaflops,
    layers_text,
    megabytes,
    millions,
    milliseconds,
    number,
    percent,
    points,
    points_interval,
    ratio,
    ratio_interval,
    score_name,
    slower_text,
    span,
)
from compressor.report.tables.selection import OWN
from compressor.report.wording.answer import answer_line
from compressor.report.wording.kinds import ACCURACY, COUNTED, counted_of, headed, metric_of, quality

SMALL_ROWS = 500
"""Below this many evaluation rows the report warns: one example then weighs 0.2 points or more."""


def judged_variant(result: Mapping[str, Any]) -> str:
    """Return the variant that a run is judged by: its cascade where it has one, whatever else came of it."""
    if result.get("answer"):
        return result["answer"]["key"] if result["answer"]["path"] else "compressed"
    return CASCADE if result.get("cascade") else "compressed"


def tier_meaning(versus: Mapping[str, Any]) -> str:
    """Return the definition of a comparison's tier; for too few rows also how many would do."""
    enough = versus.get("rows_to_decide")
    return TIERS[versus["tier"]] + (
        f"; about {count(round(enough, 2 - len(str(enough))))} rows with the same shares would be" if enough else ""
    )


def verdict(versus: dict) -> str:
    """Return what the paired interval allows to say of the accuracy: a verdict only where 0 is outside of it."""
    if versus["flips"] == 0:
        return "identical predictions"
    if versus["ci95"] is None:
        return "not measured"
    low, high = versus["ci95"]
    return "worse" if high < 0 else "better" if low > 0 else "not distinguishable"


def headline(result: dict, comparisons: list[dict]) -> str:
    """Return the one sentence above everything else.

    Speed is the whole range of the claimed rows of `comparisons`, which are those of the variant that the run is judged by.
    """
    if result.get("answer"):
        return answer_line(result["answer"])
    judged, plan = judged_variant(result), result["plan"]
    versus = result["variants"][judged]["versus_full"]
    metric = metric_of(versus)
    accuracy = {
        "identical predictions": "every prediction as in the full model",
        "not measured": f"{metric} not measured (no labels)",
        "not distinguishable": f"{metric} not distinguishable from the full model",
    }.get(verdict(versus), f"{metric} {points(versus['accuracy_delta'])} ({verdict(versus)} than the full model)")
    changed = (
        f", {count(versus['flips'])} of {count(versus['rows'])} {counted_of(versus)} changed" if versus["flips"] else ""
    )
    claimed = [row["speedup"] for row in comparisons if row["claimed"]]
    speed = "no speed-up above the noise floor" if comparisons else "speed not measured"
    if claimed:
        speed = f"{span(ratio, claimed)} as fast in {len(claimed)} of {len(comparisons)} comparisons"
    speed += slower_text(comparisons)
    removed = f"{len(plan['skip'])} of {plan['layers']} layers removed"
    if plan.get("mix"):
        cost = {"flops": "FLOPs", "latency": "predicted time"}[plan["mix"]["of"]]
        removed = f"{percent(plan['mix']['kept'])} of the encoder's {cost} kept"
    if result.get("cascade"):
        kept = f"all {plan['layers']} layers kept" if result["cascade"]["model"] == "full" else removed
        removed = f"guarded early exit, {kept}"
    return f"{versus['tier'].capitalize()}: {removed}, {accuracy}{changed}, {speed}."


def accuracy_fact(full: dict, compressed: dict) -> tuple[str, str]:
    """Return the number and the sentence on accuracy, with what the interval leaves open."""
    versus = compressed["versus_full"]
    if full["accuracy"] is None:
        return (
            "not measured",
            "The evaluation data has no labels; agreement with the full model is all that can be said.",
        )
    metric = metric_of(versus)
    values = [quality(side["accuracy"], metric) for side in (full, compressed)]
    text = f"{'' if metric == ACCURACY else f'{headed(metric)}: '}Full {values[0]}, compressed {values[1]}; "
    if versus["flips"] == 0:
        text += "identical predictions."
    else:
        text += f"paired 95 % interval {points_interval(versus['ci95'])}: {verdict(versus)}."
        if verdict(versus) == "not distinguishable" and versus["ci95"][0] < 0:
            text += f" The interval leaves room for a loss of {-100 * versus['ci95'][0]:.2f} points."
    small = "Small sample: n" if versus["rows"] < SMALL_ROWS else "n"
    one = (
        f", one example is {100 / max(versus['rows'], 1):.2f} points"
        if counted_of(versus) == COUNTED and versus["gained"] is not None
        else ""
    )
    return points(versus["accuracy_delta"]), f"{text} {small} = {count(versus['rows'])}{one}."


def agreement_fact(versus: dict) -> tuple[str, str]:
    """Return the agreement and how the changed predictions divide."""
    text = f"{count(versus['flips'])} of {count(versus['rows'])} {counted_of(versus)} changed ({percent(versus['flip_rate'])})"
    if versus["gained"] is not None and versus["lost"] is not None:
        both = "wrong both times" if counted_of(versus) == COUNTED else "neither"
        other = versus["flips"] - versus["gained"] - versus["lost"]
        text += f": {versus['gained']} gained, {versus['lost']} lost" + (f", {other} {both}" if other else "")
    return percent(versus["agreement"]), f"{text}. Held against the full model in PyTorch."


def speed_fact(comparisons: list[dict], best: dict | None) -> tuple[str, str]:
    """Return the best claimed speed-up and how representative it is of all `comparisons`."""
    if not comparisons:
        return "not measured", "The run holds no latency of the compressed model."
    measured = [row["speedup"] for row in comparisons]
    claimed = sum(row["claimed"] for row in comparisons)
    spread = f"Claimed in {claimed} of {len(comparisons)} comparisons{slower_text(comparisons)}; all measured: "
    spread += f"{span(ratio, measured)}."
    incomplete = sum(not row["complete"] for row in comparisons)
    if incomplete:
        spread += f" Fewer runs than wanted in {incomplete} of them."
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
    """Return one sentence on how the plan ranked by a score and the chosen plan differ."""
    chosen, ranked, regret = plan["chosen"], plan["ranked"], plan["regret"]
    by = plan.get("rank_by") or OWN
    if plan["search"] == "fixed":
        return f"The recipe fixed the set: {layers_text(plan['skip'])}; no other set was tried to choose it."
    if plan.get("mix"):
        return mix_reading(plan)
    if not chosen or not ranked or not regret:
        return f"The {plan['search']} plan skips {layers_text(plan['skip'])}; its regret against other sets was not measured."
    if sorted(chosen["skip"]) == sorted(ranked["skip"]):
        return (
            f"The plan ranked by {'lowest gain' if by == OWN else score_name(by)} and the chosen plan are the same "
            f"({layers_text(plan['skip'])}): regret {100 * regret['agreement']:.2f} points."
        )
    return (
        f"The ranked plan ({'lowest gain first' if by == OWN else f'by {score_name(by)}'}) skips "
        f"{layers_text(ranked['skip'])}, the chosen one {layers_text(chosen['skip'])}: agreement "
        f"{percent(ranked['agreement'])} against {percent(chosen['agreement'])}, "
        f"a regret of {100 * regret['agreement']:.2f} points and {number(regret['kl'])} of KL divergence on the selection split."
    )


def mix_reading(plan: dict) -> str:
    """Return what a budget allowed and which mix of units was chosen for it."""
    mix = plan["mix"]
    cost = {"flops": "floating-point operations", "latency": "predicted time"}[mix["of"]]
    kinds = {
        "layer": "layers", "ffn": "feed-forward blocks", "attention": "attention blocks", "width": "FFN neurons",
        "heads": "attention heads",
    }  # fmt: skip
    text = (
        f"Of {count(mix['meeting'])} mixes of {', '.join(kinds[unit] for unit in mix['units'])} tried within the budget of "
        f"{percent(mix['keep'])} of the encoder's {cost}, the chosen one leaves out {layers_text(plan['units'])} and keeps "
        f"{percent(mix['kept'])}."
    )
    if "expected" in mix:  # runs of earlier versions expected nothing
        text += (
            f" One pass over unlabelled text expected it to be {number(mix['expected'])} nats from the full model; on the "
            f"selection split it is {number(plan['chosen']['raw_kl'])}."
        )
    chosen, ranked = plan["chosen"], plan["ranked"]
    if ranked and list(ranked["skip"]) == list(plan["units"]):
        text += " Lowest gain first names the same mix."
    elif ranked:
        text += (
            f" Lowest gain first would leave out {layers_text(ranked['skip'])}: agreement {percent(ranked['agreement'])} "
            f"against {percent(chosen['agreement'])} on the selection split."
        )
    return text


def distillation_reading(distill: dict) -> str:
    """Return what the distillation learned from, with which weights, which step was kept, and what the selection split says."""
    weights = ", ".join(f"{name} {number(weight)}" for name, weight in distill["weights"].items() if weight)
    labels = f", {count(distill['labelled'])} of them with labels" if distill["labelled"] else ""
    epochs = len(distill["losses"])
    softened = f", at temperature {number(distill['temperature'])}" if distill["weights"]["logits"] else ""
    return (
        f"The whole model was trained towards the full model's outputs for {epochs} epoch{'s' * (epochs != 1)} on "
        f"{count(distill['rows'])} texts ({' and '.join(distill['text'])}{labels}) in {distill['precision']}{softened}. "
        f"Weights of the loss: {weights}. {_kept_step(distill)}On the selection split: KL to "
        f"the full model {number(distill['kl_before'])} → {number(distill['kl_after'])}, which decides; agreement "
        f"{percent(distill['agreement_before'])} → {percent(distill['agreement_after'])}. Losses are means over each epoch, "
        "times their weights; those of the states are in units of their variance."
    )


def _kept_step(distill: dict) -> str:
    """Return which step the held-out text found, with a space behind; nothing where none was held out."""
    if not distill["curve"]:
        return ""
    kept, steps = distill["kept_step"], count(distill["steps"])
    best = number(min(value for _, value in distill["curve"]))
    found = f"the KL was lowest after step {count(kept)} of {steps}, {best}, and those weights were taken"
    if not kept:
        found = f"no step of {steps} lowered the KL beyond chance, and the weights stayed as they were"
    return (
        f"On {count(distill['held'])} texts held out of it, looked at {count(len(distill['curve']))} times "
        f"(KL {number(distill['curve'][0][1])} before it), {found}. "
    )
