"""Tasks by name: GLUE from a folder and from the hub."""

import socket

import pandas as pd
import pytest
from own_files import load

from compressor.data import named
from compressor.data.named import GLUE
from compressor.errors import UserError
from compressor.recipe.data import DataSpec


def glue_folder(folder, task, validation="validation", test="test"):
    columns = [*GLUE[task].text_columns, "label", "idx"]
    classes = max(2, len(GLUE[task].label_names))
    (folder / task).mkdir()
    for split, rows in (("train", 30), (validation, 6), (test, 10)):
        table = [
            [*(f"{split} {column} {i}" for column in columns[:-2]), -1 if split == test else i % classes, i]
            for i in range(rows)
        ]
        pd.DataFrame(table, columns=columns).to_parquet(folder / task / f"{split}.parquet")
    return str(folder)


@pytest.mark.parametrize("task", list(GLUE))
def test_every_glue_task_reads_from_a_folder(tmp_path, task):
    source = glue_folder(tmp_path, task, GLUE[task].validation, GLUE[task].test)
    data = load(DataSpec(task=task, source=source, calibration={"split": "test", "size": 5}, selection={"size": 6}))
    assert (data.name, data.text_columns, data.label_names) == (task, GLUE[task].text_columns, GLUE[task].label_names)
    assert [len(part) for part in (data.train, data.calibration, data.selection, data.evaluation)] == [24, 5, 6, 6]
    assert data.calibration.labels is None
    assert data.evaluation.labels.tolist() == [i % max(2, len(data.label_names)) for i in range(6)]
    assert data.evaluation.texts[3] == tuple(f"{GLUE[task].validation} {column} 3" for column in data.text_columns)


def test_mnli_folder_with_plain_names(tmp_path):
    data = load(DataSpec(task="mnli", source=glue_folder(tmp_path, "mnli")))
    assert len(data.evaluation) == 6


@pytest.mark.parametrize(
    ("model_labels", "ids"),
    [
        (["LABEL_0", "LABEL_1", "LABEL_2"], [0, 1, 2]),
        (["ENTAILMENT", "Neutral", "contradiction"], [0, 1, 2]),
        (["contradiction", "entailment", "neutral"], [1, 2, 0]),
    ],
)
def test_the_models_order_of_names_is_followed(tmp_path, model_labels, ids):
    data = load(DataSpec(task="mnli", source=glue_folder(tmp_path, "mnli")), model_labels)
    assert data.label_names == tuple(model_labels)
    assert data.evaluation.labels.tolist() == ids * 2


def test_names_written_another_way_are_recognised(tmp_path):
    data = load(DataSpec(task="mrpc", source=glue_folder(tmp_path, "mrpc")), ["Equivalent", "not equivalent"])
    assert data.evaluation.labels.tolist() == [1, 0] * 3


def test_an_empty_text_of_glue_is_read_as_such(tmp_path):
    source = glue_folder(tmp_path, "qqp")
    path = tmp_path / "qqp" / "validation.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "question2"], table.loc[1, "question2"] = "", None
    table.to_parquet(path)
    data = load(DataSpec(task="qqp", source=source))
    assert [texts[1] for texts in data.evaluation.texts[:2]] == ["", ""]


BAD_TASKS = {
    "kind": (
        {"task": "stsb", "kind": "many_labels"},
        None,
        "stsb has labels of the kind score, and the model gives many_labels; choose the model",
    ),
    "typing error": ({"task": "sst-2"}, None, "'sst-2' is not known; did you mean 'sst2'? known are demo, cola"),
    "unlike any": ({"task": "zzz"}, None, "'zzz' is not known; known are demo, cola, sst2"),
    "class count": (
        {"task": "rte"},
        ["a", "b", "c"],
        "rte has the 2 classes 'entailment', 'not_entailment', but the model has 3",
    ),
    "class names": (
        {"task": "rte"},
        ["neutral", "entailment"],
        "do not fit them; correct id2label in the model's config.json",
    ),
    "other task": (
        {"task": "cola"},
        None,
        "cola/train.parquet: no such file; data.source must be a folder that holds cola/",
    ),
}


@pytest.mark.parametrize(("spec", "model_labels", "message"), BAD_TASKS.values(), ids=BAD_TASKS)
def test_bad_tasks_are_refused_in_one_sentence(tmp_path, spec, model_labels, message):
    with pytest.raises(UserError) as error:
        load(DataSpec(**spec, source=glue_folder(tmp_path, "rte")), model_labels)
    assert message in str(error.value)


@pytest.mark.parametrize("source", ["./nowhere", "~/nowhere", "/nowhere/glue"])
def test_what_looks_like_a_folder_is_not_looked_up_on_the_hub(source, monkeypatch):
    monkeypatch.setattr(named, "_hub_reader", None)
    with pytest.raises(UserError, match=r"nowhere.*sst2/train\.parquet: no such file"):
        load(DataSpec(task="sst2", source=source))


def test_an_unlabelled_validation_row_of_glue_is_refused(tmp_path):
    source = glue_folder(tmp_path, "rte")
    (tmp_path / "rte" / "validation.parquet").write_bytes((tmp_path / "rte" / "test.parquet").read_bytes())
    with pytest.raises(UserError, match=r"validation\.parquet: row 1, column 'label': the label '-1' is none of"):
        load(DataSpec(task="rte", source=source))


def test_the_hub_is_read_through_datasets(tmp_path, monkeypatch):
    import datasets

    frames = {"train": 30, "validation": 6}
    splits = {
        split: datasets.Dataset.from_dict(
            {
                "sentence": [f"{split} {i}" for i in range(rows)],
                "label": [i % 2 for i in range(rows)],
                "idx": range(rows),
            },
            features=datasets.Features(
                sentence=datasets.Value("string"),
                label=datasets.ClassLabel(names=["n", "p"]),
                idx=datasets.Value("int32"),
            ),
        )
        for split, rows in frames.items()
    }
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or datasets.DatasetDict(splits))
    data = load(DataSpec(task="sst2"))
    assert asked == [("nyu-mll/glue", "sst2")]
    assert data.evaluation.texts[5] == ("validation 5",)
    assert data.evaluation.labels.tolist() == [0, 1] * 3
    with pytest.raises(UserError, match=r"'nyu-mll/glue' \(sst2\) has no split 'test', only train, validation"):
        load(DataSpec(task="sst2", calibration={"split": "test"}))


@pytest.mark.parametrize(
    "problem", [ConnectionError("no network\nat all"), ValueError("config"), RuntimeError("script"), OSError()]
)
def test_a_hub_that_fails_names_the_remedy(monkeypatch, problem):
    import datasets

    def fail(*names):
        raise problem

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        UserError, match=r"data\.source: 'nyu-mll/glue' \(sst2\).*--set data\.source=<folder with sst2/train"
    ) as error:
        load(DataSpec(task="sst2"))
    assert "\n" not in str(error.value)


def test_offline_mode_is_refused_at_once(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub.constants

    def no_network(*args, **kwargs):
        raise AssertionError("offline mode must not open connections")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(UserError, match=r"cannot be read from the hub .*--set data\.source="):
        load(DataSpec(task="sst2", source="nobody/nothing"))
