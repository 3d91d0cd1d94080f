"""What a run measured of its model, for the model card: a section of text, and the hub's metadata."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult

from compressor.data.answers.kinds import BY_WORD, MANY_LABELS, RANKING, SCORE, SINGLE_LABEL, TOKENS
from compressor.recipe.data import DataSpec
from compressor.report.formats import count, percent, points, with_interval
from compressor.report.wording.kinds import counted_of, headed, is_share, kind_in, metric_of, rows_of

HUB = DataSpec.model_fields["source"].default
METRICS = {
    SINGLE_LABEL: {"accuracy": ("accuracy", "Accuracy"), "f1": ("f1", "F1"), "mcc": ("matthews_correlation", "MCC")},
    SCORE: {
        "accuracy": ("spearmanr", "Spearman correlation"),
        "pearson": ("pearsonr", "Pearson correlation"),
        "mae": ("mae", "Mean absolute error"),
    },
    RANKING: {
        "accuracy": ("ndcg_at_10", "NDCG@10"),
        "mrr": ("mrr_at_10", "MRR@10"),
        "top": ("hit_rate_at_1", "Best on top"),
    },
    MANY_LABELS: {"accuracy": ("accuracy", "Subset accuracy"), "f1": ("f1", "Macro F1")},
    TOKENS: {
        "accuracy": ("f1", "Entity F1"),
        "precision": ("precision", "Entity precision"),
        "recall": ("recall", "Entity recall"),
        "token_accuracy": ("accuracy", "Token accuracy"),
    },
    BY_WORD: {"accuracy": ("accuracy", "Token accuracy")},
}
"""Kind of task (of words whose labels are no entities: the metric) -> name in result.json -> what the hub and we call it."""


def results_section(result: Mapping[str, Any]) -> str:
    """Return the section on what was measured on the evaluation rows, beside the full model."""
    full, own = (result["variants"][name] for name in ("full", "compressed"))
    versus, metric = own["versus_full"], metric_of(own["versus_full"])
    rows = [
        f"| {word} | {_value(name, full, metric)} | {_value(name, own, metric)} |"
        for name, (_, word) in _named(result).items()
        if _measured(own, name) is not None
    ]
    rows.append(
        f"| Changed {counted_of(versus)} | | {count(versus['flips'])} of {count(versus['rows'])} ({versus['tier']}) |"
    )
    if versus["accuracy_delta"] is not None:
        delta = with_interval(points, versus["accuracy_delta"], versus["ci95"], " points")
        rows.append(f"| {headed(metric)} against the full model | | {delta} |")
    intervals = "" if own["accuracy"] is None else "; with 95 % intervals"
    return "\n".join([
        "## Results", "",
        f"On {count(versus['rows'])} evaluation {rows_of(versus)}, which nothing was chosen by{intervals}.", "",
        "| | full model | this model |", "| --- | --- | --- |", *rows,
    ])  # fmt: skip


def eval_results(result: Mapping[str, Any]) -> list[EvalResult]:
    """Return the metrics of the model as the hub's metadata has them; none where the evaluation rows have no labels."""
    own, data = result["variants"]["compressed"], result["recipe"]["data"]
    name = result["data"]["task"]
    # a folder is whatever its owner put there: only the hub's name is that of a data set
    hub = data["task"] not in (None, "demo") and data["source"] == HUB
    dataset = (
        {"dataset_type": data["source"], "dataset_config": name, "dataset_split": "validation"}
        if hub
        else {"dataset_type": name}
    )
    task_type = f"{'token' if kind_in(result) == TOKENS else 'text'}-classification"
    return [
        EvalResult(task_type=task_type, dataset_name=name, metric_type=kind, metric_value=value, **dataset)
        for key, (kind, _) in _named(result).items()
        if (value := _measured(own, key)) is not None
    ]


def other_measures(result: Mapping[str, Any], judged: str) -> list[tuple[str, str, str]]:
    """Return name, value of the full model and value of the variant that the run is judged by, of what is measured beside.

    The last may be how alike the two are, without a value of the full model.
    """
    full, own = (result["variants"][name] for name in ("full", judged))
    rows = [
        (word, _value(name, full, ""), _value(name, own, ""))
        for name, (_, word) in _named(result).items()
        if name != "accuracy" and _measured(full, name) is not None and _measured(own, name) is not None
    ]
    tau = ((own["versus_full"] or {}).get("more") or {}).get("kendall_tau")
    return rows if tau is None else [*rows, ("Kendall's tau between the orders", "", f"{tau:.3f}")]


def _named(result: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    by_word = (result["data"].get("answers") or {}).get("metric") == BY_WORD
    return METRICS[BY_WORD if by_word else kind_in(result)]


def _measured(entry: Mapping[str, Any], name: str) -> float | None:
    return entry[name] if name in entry else (entry.get("metrics") or {}).get(name)


def _value(name: str, entry: Mapping[str, Any], metric: str) -> str:
    if name == "accuracy" and not is_share(metric):
        low, high = entry["accuracy_ci95"]
        return f"{entry[name]:.3f} ({low:.3f} to {high:.3f})"
    if name == "accuracy":
        return with_interval(percent, entry[name], entry["accuracy_ci95"], " %")
    return f"{_measured(entry, name):.3f}"
