"""What a run measured, for the model card; by hand."""

import pytest
from huggingface_hub import ModelCardData

from compressor.report.wording.card import eval_results, results_section


def result(*, labelled=True, task="sst2", source="nyu-mll/glue"):
    own = {"accuracy": 0.9, "accuracy_ci95": [0.88, 0.92], "f1": 0.875, "mcc": 0.8} if labelled else dict.fromkeys(
        ("accuracy", "accuracy_ci95", "f1", "mcc")
    )  # fmt: skip
    versus = {
        "flips": 3,
        "rows": 1200,
        "tier": "lossless",
        "accuracy_delta": -0.001 if labelled else None,
        "ci95": [-0.004, 0.002],
    }
    variants = {"full": {**own, "versus_full": None}, "compressed": {**own, "versus_full": versus}}
    data = {"task": task, "source": source}
    return {"name": "x", "variants": variants, "recipe": {"data": data}, "data": {"task": task or "reviews"}}


def test_the_section_has_intervals():
    lines = results_section(result()).splitlines()
    assert lines[2] == "On 1,200 evaluation texts, which nothing was chosen by; with 95 % intervals."
    assert sum(line.count("|") == 4 for line in lines) == 7
    accuracy, f1, mcc, changed, delta = lines[-5:]
    assert accuracy.count("90.00") == accuracy.count("88.00") == accuracy.count("92.00") == 2
    assert (f1, mcc) == ("| F1 | 0.875 | 0.875 |", "| MCC | 0.800 | 0.800 |")
    assert changed.endswith("| 3 of 1,200 (lossless) |")
    assert all(number in delta for number in ("0.10 points", "0.40", "0.20"))


def test_without_labels_only_the_changes_are_said():
    lines = results_section(result(labelled=False)).splitlines()
    assert lines[2] == "On 1,200 evaluation texts, which nothing was chosen by."
    assert lines[4:] == [
        "| | full model | this model |",
        "| --- | --- | --- |",
        "| Changed predictions | | 3 of 1,200 (lossless) |",
    ]
    assert eval_results(result(labelled=False)) == []


@pytest.mark.parametrize(
    ("task", "source", "dataset"),
    [
        ("sst2", "nyu-mll/glue", {"name": "sst2", "type": "nyu-mll/glue", "config": "sst2", "split": "validation"}),
        ("sst2", "/home/me/glue", {"name": "sst2", "type": "sst2"}),
        ("demo", "nyu-mll/glue", {"name": "demo", "type": "demo"}),
        (None, "nyu-mll/glue", {"name": "reviews", "type": "reviews"}),
    ],
)
def test_a_data_set_has_the_hub_s_name_only_where_it_is_the_hub_s(task, source, dataset):
    found = ModelCardData(model_name="x", eval_results=eval_results(result(task=task, source=source))).to_dict()
    (entry,) = found["model-index"][0]["results"]
    assert entry["dataset"] == dataset
    assert entry["metrics"] == [
        {"type": "accuracy", "value": 0.9}, {"type": "f1", "value": 0.875}, {"type": "matthews_correlation", "value": 0.8}
    ]  # fmt: skip
