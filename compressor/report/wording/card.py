"""What a run measured of its model, for the model card: a section of text, and the hub's metadata."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult

from compressor.recipe.data import DataSpec
from compressor.report.formats import count, percent, points, with_interval

HUB = DataSpec.model_fields["source"].default
METRICS = {"accuracy": ("accuracy", "Accuracy"), "f1": ("f1", "F1"), "mcc": ("matthews_correlation", "MCC")}
"""Name in result.json -> what the hub calls it, what we call it."""


def results_section(result: Mapping[str, Any]) -> str:
    """Return the section on what was measured on the evaluation rows, beside the full model."""
    full, own = (result["variants"][name] for name in ("full", "compressed"))
    versus = own["versus_full"]
    rows = [
        f"| {word} | {_value(name, full)} | {_value(name, own)} |"
        for name, (_, word) in METRICS.items()
        if own[name] is not None
    ]
    rows.append(f"| Changed predictions | | {count(versus['flips'])} of {count(versus['rows'])} ({versus['tier']}) |")
    if versus["accuracy_delta"] is not None:
        delta = with_interval(points, versus["accuracy_delta"], versus["ci95"], " points")
        rows.append(f"| Accuracy against the full model | | {delta} |")
    intervals = "" if own["accuracy"] is None else "; with 95 % intervals"
    return "\n".join([
        "## Results", "",
        f"On {count(versus['rows'])} evaluation rows, which nothing was chosen by{intervals}.", "",
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
    return [
        EvalResult(
            task_type="text-classification", dataset_name=name, metric_type=kind, metric_value=own[key], **dataset
        )
        for key, (kind, _) in METRICS.items()
        if own[key] is not None
    ]


def _value(name: str, entry: Mapping[str, Any]) -> str:
    if name == "accuracy":
        return with_interval(percent, entry[name], entry["accuracy_ci95"], " %")
    return f"{entry[name]:.3f}"
