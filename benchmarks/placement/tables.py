"""The tables and the paragraph of the placement experiment; every figure in them comes from its results."""

from collections.abc import Mapping
from typing import Any

from benchmarks.common import markdown

Json = Mapping[str, Any]
MLM = "mlm_loss"


def improvement_table(analysis: Json) -> str:
    """Return the relative improvement of every placement in every metric."""
    metrics = [verdict["metric"] for verdict in analysis["verdicts"]]
    found = {(each["placement"], each["metric"]): each for each in analysis["improvements"]}
    lines = [
        ["uniform", _widths(analysis["placements"][0]["widths"]), *(_raw(analysis, "uniform", m) for m in metrics)]
    ]
    for placement in analysis["placements"][1:]:
        cells = [_estimate(found[placement["name"], metric]) for metric in metrics]
        lines.append([placement["name"], _widths(placement["widths"]), *cells])
    names = ["masked-language loss" if metric == MLM else f"{metric} accuracy" for metric in metrics]
    return markdown.table(["placement", "widths, layer 1 to the last", *names], lines)


def contest_table(analysis: Json) -> str:
    """Return the candidate against every other placement, in every metric."""
    verdicts = [verdict for verdict in analysis["verdicts"] if verdict["contests"]]
    names = [contest["other"] for contest in verdicts[0]["contests"]] if verdicts else []
    lines = []
    for name in names:
        cells = []
        for verdict in verdicts:
            contest = next((each for each in verdict["contests"] if each["other"] == name), None)
            cells += (
                [_range(contest["difference"], contest["ci95"]), f"{contest['p_holm']:.3f}"] if contest else ["–", "–"]
            )
        lines.append([name, *cells])
    columns = [cell for verdict in verdicts for cell in (_metric(verdict["metric"]), "p (Holm)")]
    candidate = verdicts[0]["candidate"] if verdicts else ""
    return markdown.table([f"{candidate} against", *columns], lines)


def importance_table(analysis: Json) -> str:
    """Return by layer the loss that a missing block causes, by equal shares and by regression."""
    lines = []
    for row in analysis["importances"][0]["layers"]:
        ways = [_range(row[way], row[f"{way}_ci95"]) for way in ("equal", "regression")]
        lines.append([str(row["layer"]), str(row["placements_off"]), *ways, f"{row['determined']:.0%}"])
    columns = ["layer", "placements without its block", "equal share", "regression", "determined"]
    return markdown.table(columns, lines)


def paragraph(results: Json) -> str:
    """Return whether middle-70 holds here, and how far that can be trusted."""
    analysis = results["analysis"]
    verdict, importances = analysis["verdicts"][0], analysis["importances"][0]
    losses = [run["mlm_loss"] for run in analysis["runs"] if run["mlm_loss"] is not None]
    text, pretrain = analysis["text"], analysis["recipe"]["pretrain"]
    unstable = sum(run["status"] != "ok" for run in analysis["runs"])
    halved = sum(run["halvings"] > 0 for run in analysis["runs"])
    own = next((each for each in analysis["improvements"] if each["placement"] == verdict["candidate"]), None)
    figure = f" ({_estimate(own)} against the uniform model)" if own and own["mean"] is not None else ""
    tasks = "; ".join(f"{each['metric']}: {outcome(each)}" for each in analysis["verdicts"][1:])
    alike = "; ".join(", ".join(map(str, group)) for group in importances["alike"]) or "none"
    parameters = analysis["runs"][0]["parameters"]
    explained = importances["explained"]
    foretold = (
        "–"
        if explained is None
        else f"{explained:.0%} (pure noise: up to {max(importances['explained_by_noise'], 0):.0%})"
    )
    runs, passes, million = analysis["runs"], text["epochs"], text["tokens"] / 1e6
    minutes, training = results["seconds"] / 60, results["pretraining_seconds"] / 60
    condition = importances["condition"]
    return (
        f"**Masked-language loss: {outcome(verdict)}**{figure}." + (f" Tasks: {tasks}." if tasks else "") + " "
        f"How far this goes: {analysis['layers']} layers {analysis['hidden']} wide with {parameters:,} parameters, "
        f"{pretrain['steps']:,} steps of {pretrain['batch_size']} x {pretrain['length']} tokens ({passes:.2f} passes over "
        f"{million:.2f} M tokens; text: {results['text']}), {len(analysis['seeds'])} seeds. All models are far from trained "
        f"out: the held-out loss is {min(losses):.3f} to {max(losses):.3f} nats, where knowing only how often each token "
        f"occurs gives {text['unigram_loss']:.3f}. {unstable} of {len(runs)} runs were given up as unstable, {halved} had "
        f"their rate halved. Importance: {importances['placements']} placements give rank {importances['rank']} for "
        f"{analysis['layers']} layers (condition number {condition:.1f}); layers that no placement tells apart: {alike}; the "
        f"sum over layers foretells {foretold} of the squared losses of placements left out of the fit. Measured with "
        f"{results['processes']} processes of one thread in {minutes:.0f} minutes ({training:.0f} minutes of pre-training "
        "in all)."
    )


def outcome(verdict: Json) -> str:
    """Return a verdict in words."""
    candidate, contests = verdict["candidate"], verdict["contests"]
    certain = [each["other"] for each in contests if each["p_holm"] < 0.05 and each["difference"] > 0]
    above = [each["other"] for each in contests if each["p_holm"] < 0.05 and each["difference"] < 0]
    beyond = f"better than {len(certain)} of {len(contests)} others beyond doubt"
    if verdict["outcome"] == "wins":
        return f"{candidate} wins, {beyond}"
    if verdict["outcome"] == "ahead":
        return f"{candidate} has the best mean, {beyond}; the rest is within the noise"
    if verdict["outcome"] == "behind":
        return f"{candidate} does not win: {', '.join(above)} {'is' if len(above) == 1 else 'are'} better beyond doubt"
    if verdict["outcome"] == "undecided":
        return f"undecided: {verdict['best']} has the best mean, {candidate} is {beyond}, worse than none"
    return f"{candidate} could not be compared"


def write(results: Json) -> None:
    """Put paragraph and tables into tables/placement.md."""
    analysis = results["analysis"]
    titled = [
        paragraph(results),
        "Relative improvement on the uniform model of the same seed, 95 % t interval over seeds (uniform: mean value).\n\n"
        + improvement_table(analysis),
        "Differences in shares of the uniform model's value, error pooled over placements and seeds.\n\n"
        + contest_table(analysis),
        "Masked-language loss caused where a layer has no block, in shares of the uniform model's; 95 % of bootstrap draws over "
        "placements and seeds.\n\n" + importance_table(analysis),
    ]
    markdown.put("ffn_placement", "\n\n".join(titled))


def _metric(metric: str) -> str:
    return "masked-language loss" if metric == MLM else f"{metric} accuracy"


def _raw(analysis: Json, name: str, metric: str) -> str:
    runs = [run for run in analysis["runs"] if run["placement"] == name and run["status"] == "ok"]
    values = [run["mlm_loss"] if metric == MLM else run["tasks"][metric]["accuracy"] for run in runs]
    mean = sum(values) / len(values) if values else None
    return "–" if mean is None else f"{mean:.3f} nats" if metric == MLM else f"{mean:.1%}"


def _estimate(each: Json) -> str:
    return _range(each["mean"], each["ci95"])


def _range(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:+.2f} %" + (f" [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]" if interval else "")


def _widths(widths: list[int]) -> str:
    return " ".join(map(str, widths))
