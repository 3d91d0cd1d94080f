"""FFN placement as a section: which placement improves on the uniform model, and which layers' blocks matter."""

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.report.figures.placement import importance_figure, metric_name, ratio_figure
from compressor.report.formats import count, interval, layers_text, number, p_value, percent, points, seconds
from compressor.report.sections.section import Section, SectionTable

Json = Mapping[str, Any]
MLM = "mlm_loss"
OUTCOMES = {
    "wins": "{candidate} is better than each of the {others} other placements",
    "ahead": "{candidate} has the best mean of {all} placements, but not each difference is beyond doubt",
    "behind": "{candidate} is not the best placement: {better} is better",
    "undecided": "{best} has the best mean, not {candidate}, and the runs do not tell the two apart",
    "untested": "{candidate} could not be compared with the others",
}
"""What a verdict says; keys = `Verdict.outcome`."""


def placement_section(analysis: Json) -> Section:
    """Return the section of `PlacementAnalysis` as JSON."""
    figures = {}
    if any(placement["place"] for placement in analysis["placements"]):
        figures["placement_ratio"] = ratio_figure(analysis, outcome_text(analysis["verdicts"][0]))
    if analysis["importances"][0]["placements"]:
        figures["placement_importance"] = importance_figure(analysis, importance_finding(analysis["importances"][0]))
    tables = [improvement_table(analysis), verdict_table(analysis), importance_table(analysis), run_table(analysis)]
    return Section("placement", "Where feed-forward blocks belong", reading(analysis), figures, tables, notes(analysis))


def share(value: float | None) -> str:
    """Return a relative improvement of 0.0129 as `+1.29 %`."""
    return points(value).replace(" points", " %")


def share_interval(bounds: Sequence[float] | None) -> str:
    """Return [-0.01, 0.02] as `−1.00 to +2.00 %`."""
    return interval(share, bounds, " %")


def reading(analysis: Json) -> str:
    """Return two sentences: whether the candidate wins in the masked-language loss, and how far that can be trusted."""
    verdict = analysis["verdicts"][0]
    said = outcome_text(verdict)
    own = _improvements(analysis).get((verdict["candidate"], MLM))
    if own and own["mean"] is not None:
        said += f" ({verdict['candidate']}: {share(own['mean'])} against the uniform model, "
        said += f"95 % interval {share_interval(own['ci95'])})"
    return f"In the masked-language loss {said}. {trust(analysis)}"


def _improvements(analysis: Json) -> dict[tuple[str, str], Json]:
    return {(each["placement"], each["metric"]): each for each in analysis["improvements"]}


def outcome_text(verdict: Json) -> str:
    """Return what a verdict says, in words."""
    better = [c["other"] for c in verdict["contests"] if c["difference"] < 0 and c["p_holm"] < 0.05]
    return OUTCOMES[verdict["outcome"]].format(
        candidate=verdict["candidate"], others=len(verdict["contests"]), all=len(verdict["contests"]) + 1,
        best=verdict["best"], better=" and ".join(better[:3]) + (f" and {len(better) - 3} more" if len(better) > 3 else ""),
    )  # fmt: skip


def trust(analysis: Json) -> str:
    """Return one sentence on the size of the experiment, which is how far its result goes."""
    ok = [run for run in analysis["runs"] if run["status"] == "ok"]
    unstable = len(analysis["runs"]) - len(ok)
    lost = f"; {unstable} of {len(analysis['runs'])} runs were unstable and left out" if unstable else ""
    steps = analysis["recipe"]["pretrain"]["steps"]
    return (
        f"That holds for {analysis['layers']} layers {analysis['hidden']} wide, {count(ok[0]['parameters'] if ok else None)} "
        f"parameters, {count(steps)} steps ({analysis['text']['epochs']:.1f} passes over the text) and "
        f"{len(analysis['seeds'])} seeds{lost}; it need not hold for larger models or longer training."
    )


def importance_finding(importances: Json) -> str:
    """Return which layer's block matters most by the regression, or that none can be told from nothing."""
    known = [row for row in importances["layers"] if row["regression"] is not None]
    if not known:
        return "Too few placements to tell what each layer's feed-forward block is worth"
    certain = [row["layer"] for row in known if row["regression_ci95"] and row["regression_ci95"][0] > 0]
    if not certain:
        return "No single layer's feed-forward block is needed beyond doubt"
    return f"Beyond doubt needed by the regression: the feed-forward block of {layers_text(certain)}"


def improvement_table(analysis: Json) -> SectionTable:
    """Return the relative improvement of each placement in each metric, with its interval over seeds."""
    metrics = [verdict["metric"] for verdict in analysis["verdicts"]]
    found = _improvements(analysis)
    rows = []
    for placement in analysis["placements"][1:]:
        cells = []
        for metric in metrics:
            each = found[placement["name"], metric]
            cells += [share(each["mean"]), share_interval(each["ci95"])]
            cells += [share_interval(each["rows_ci95"])] if metric != MLM else []
        rows.append([placement["name"], widths_text(placement["widths"]), *cells])
    columns = ["placement", "layers with a block: width"]
    for metric in metrics:
        columns += [metric_name(metric), "95 % over seeds", *(["95 % over rows"] if metric != MLM else [])]
    note = (
        "Relative improvement on the uniform model of the same seed; positive is better. Over seeds: t interval; over rows: "
        "these models, other evaluation texts."
    )
    return SectionTable("Relative improvement", columns, rows, note, text_columns=(0, 1))


def widths_text(widths: Sequence[int]) -> str:
    """Return which layers (from 1) have a block of which width, such as `3-10: 384`; the others have none."""
    parts = []
    for width in dict.fromkeys(width for width in widths if width):
        layers = [layer for layer, each in enumerate(widths, start=1) if each == width]
        begins = [layer for layer in layers if layer - 1 not in layers]
        ends = [layer for layer in layers if layer + 1 not in layers]
        runs = [f"{begin}-{end}" if end > begin else str(begin) for begin, end in zip(begins, ends, strict=True)]
        parts.append(f"{', '.join(runs)}: {width}")
    return "; ".join(parts)


def verdict_table(analysis: Json) -> SectionTable:
    """Return the candidate against every other placement, in every metric."""
    rows = [
        [metric_name(verdict["metric"]), f"{verdict['candidate']} − {contest['other']}", share(contest["difference"]),
         share_interval(contest["ci95"]), p_value(contest["p_holm"])]
        for verdict in analysis["verdicts"]
        for contest in verdict["contests"]
    ]  # fmt: skip
    note = (
        "Difference of the means in shares of the uniform model's value; error pooled over placements once the seeds' own "
        "differences are taken out; p corrected for the number of comparisons (Holm), intervals not."
    )
    columns = ["metric", "difference", "mean", "95 % interval", "p (Holm)"]
    return SectionTable("Does it win?", columns, rows, note, text_columns=(0, 1))


def importance_table(analysis: Json) -> SectionTable:
    """Return each layer's importance in the masked-language loss, both ways."""
    importances = analysis["importances"][0]
    rows = [
        [str(row["layer"]), str(row["placements_off"]), share(row["equal"]), share_interval(row["equal_ci95"]),
         share(row["regression"]), share_interval(row["regression_ci95"]), f"{100 * row['determined']:.0f} %"]
        for row in importances["layers"]
    ]  # fmt: skip
    columns = [
        "layer", "placements without", "equal share", "95 % interval", "regression", "95 % interval", "determined",
    ]  # fmt: skip
    return SectionTable(
        "What a layer's block is worth (loss caused without it)", columns, rows, _importance_note(importances)
    )


def _importance_note(importances: Json) -> str:
    groups = [layers_text(group) for group in importances["alike"]]
    alike = f" No placement tells {'; '.join(groups)} apart, so that they share one value." if groups else ""
    explained, noise = importances["explained"], importances.get("explained_by_noise")
    fit = ""
    if explained is not None:
        fit = (
            f" The sum over layers foretells {percent(explained) if explained > 0 else 'nothing'} of the squared losses of "
            "placements left out of the fit."
        )
        if noise is not None and explained > 0:
            more = "more" if explained > noise else "no more"
            fit = f"{fit[:-1]}, {more} than pure noise may show ({percent(max(noise, 0.0))} in one case of twenty)."
    return (
        f"{importances['placements']} placements, {importances['seeds']} seeds. Regression: ridge without intercept of the loss "
        f"on which blocks are missing (strength {number(importances['strength'])}, chosen on placements left out); condition "
        f"number {number(importances['condition'])}, rank {importances['rank']} of {len(importances['layers'])} layers."
        f"{fit}{alike} Where a block is missing others are wider, so values hold at equal parameters."
    )


def run_table(analysis: Json) -> SectionTable:
    """Return every run: losses, accuracies, halvings of the rate, seconds."""
    tasks = [verdict["metric"] for verdict in analysis["verdicts"][1:]]
    rows = [
        [f"{run['placement']}, seed {run['seed']}", run["status"], number(run["mlm_loss"]), percent(run["mlm_accuracy"]),
         *(percent(run["tasks"].get(task, {}).get("accuracy")) for task in tasks), str(run["halvings"]),
         count(run["parameters"]), seconds(run["seconds"])]
        for run in analysis["runs"]
    ]  # fmt: skip
    columns = ["run", "status", "loss (cross-entropy)", "right words", *tasks, "halvings", "parameters", "pre-training"]
    return SectionTable("All runs", columns, rows, events_text(analysis), text_columns=(0, 1), folded=True)


def events_text(analysis: Json) -> str:
    """Return every time that a learning rate was halved or a run given up, as sentences."""
    said = [
        f"{run['placement']}, seed {run['seed']}: {event['reason']} in step {event['step']}, "
        + ("given up" if event["back_to"] is None else f"back to step {event['back_to']} with half the rate")
        for run in analysis["runs"]
        for event in run["events"]
    ]
    return "; ".join(said) + "." if said else "No run was unstable."


def notes(analysis: Json) -> list[str]:
    """Return how it was measured, and what it does not say."""
    text, recipe, rows = analysis["text"], analysis["recipe"], analysis["rows"]
    pretrain, guard = recipe["pretrain"], recipe["pretrain"]["guard"]
    tasks = ", ".join(f"{name} ({count(rows[name])} rows)" for name in rows if name != MLM)
    losses = [run["mlm_loss"] for run in analysis["runs"] if run["mlm_loss"] is not None]
    reached = f"the models reach {min(losses):.2f} to {max(losses):.2f}" if losses else "no model ended well"
    return [
        f"{count(text['texts'])} texts, {count(text['sequences'])} sequences of {pretrain['length']} tokens, vocabulary "
        f"{count(text['vocabulary'])}; {pretrain['mask']:.0%} of the words masked. The loss is that of {count(rows[MLM])} masked "
        f"tokens of {count(text['held_out_sequences'])} held-out sequences, under one mask for all models; one that knows only "
        f"how often tokens occur has a loss of {text['unigram_loss']:.2f} (cross-entropy in nats, units of the natural "
        f"logarithm), {reached}." + (f" Fine-tuned on: {tasks}." if tasks else ""),
        f"Runs of a seed start from the same embeddings and attention weights and see the same text, masks and order. A step "
        f"is unstable where loss or gradient are not finite, or the loss is above the mean of the last {guard['window']} by "
        f"{guard['deviations']:g} deviations and {guard['rise']:g}: back to the last checkpoint, half the rate, at most "
        f"{guard['halvings']} times. {events_text(analysis)}",
    ]
