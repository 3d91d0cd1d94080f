"""One pass over an archive: sums as those of text in memory, whoever reads it; a run that is fitted to it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import letter_rows, save_model, save_rows

from compressor.compensation.refits.moments import BlockMoments, StoredMoments, text_moments
from compressor.data.batches import encode
from compressor.files import file_sha256
from compressor.measurement.machine.environment import usable_cores
from compressor.model.states.states import class_states
from compressor.pipeline.pipeline import run_recipe
from compressor.progress import silent
from compressor.recipe.file import load_recipe
from compressor.run.archive import archive_moments, archive_states, load_sums
from compressor.run.checks import prepare
from compressor.stages.archive import archive as stage

TEXTS = 3300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model, a small task, an archive of 3,300 texts of which some are known, and a recipe."""
    folder = tmp_path_factory.mktemp("archive")
    save_model(folder / "model", "bert", layers=3, num_labels=2)
    rows = letter_rows(260)
    save_rows(folder, rows, 200)
    texts = [text for text, _ in letter_rows(TEXTS, seed=5)]
    texts[7], texts[1009] = rows[200][0], ""
    pd.DataFrame({"text": texts}).to_parquet(folder / "texts.parquet")
    (folder / "recipe.yaml").write_text(
        f"""name: streamed
model: {{path: {folder}/model}}
data:
  train: {folder}/train.csv
  validation: {folder}/validation.csv
  text: text
  label: label
  calibration: {{split: train, size: 60}}
  selection: {{size: 60}}
  archive: {{files: {folder}/texts.parquet, engine: {{workers: 1, threads: 1}}}}
  max_length: 32
selection: {{units: [heads, ffn], search: beam, budget: {{keep: 0.8}}}}
export: {{variants: []}}
benchmark: {{batch_sizes: [1], lengths: [8], workload: false, min_seconds: 0, min_runs: 5, max_seconds: 5, footprint: false}}
""",
        encoding="utf-8",
    )
    return folder


def gathered(folder, out, *changes):
    """Return the run, and the folder of its archive's sums, read as the `changes` say."""
    run = prepare(load_recipe(folder / "recipe.yaml", changes), out, "cpu", silent)
    out.mkdir()
    stage.compute(run, out)
    return run


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """Return the run whose archive was read by one reader."""
    return gathered(folder, tmp_path_factory.mktemp("one") / "run")


def files(path):
    return sorted(file.name for file in (path / "archive").iterdir())


def check_same(one, other):
    """Check that two runs have the same sums to 1e-9 of the largest entry, counts and samples to the bit."""
    assert files(one.path) == files(other.path)
    for name in (file.removesuffix(".npy") for file in files(one.path)):
        first, second = load_sums(one.path, name), load_sums(other.path, name)
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-9 * max(np.abs(first).max(), 1e-300), err_msg=name)
        if first.dtype.kind in "iu" or "sample" in name:
            np.testing.assert_array_equal(first, second)


def test_sums_are_those_of_the_same_texts_in_memory(folder, alone):
    told = json.loads((alone.path / "archive.json").read_text())
    assert (told["texts"], told["empty"], told["known"]) == (TEXTS - 2, 1, 1)
    texts = pd.read_parquet(folder / "texts.parquet")["text"].tolist()
    kept = [row for row in range(TEXTS) if row not in (7, 1009)]
    encodings = encode([(texts[row],) for row in kept], alone.tokenizer, 32)
    whole = class_states(alone.teacher, alone.family, encodings, None, 2)
    found = archive_states(alone, 7, 2).states(whole.logits).behind_layers()
    for name in ("moments", "pooled"):
        for field in ("count", "mean", "squares"):
            expected = getattr(getattr(whole, name), field)
            np.testing.assert_allclose(getattr(getattr(found, name), field), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.geometry.cls_cosine, whole.geometry.cls_cosine, atol=1e-6)
    assert found.geometry.rows == TEXTS - 2
    # rows are held out by their numbers in the archive: here by those that are left
    blocks = [(2, False), (2, True)]
    expected, found = text_moments(alone.teacher, alone.family, encodings, blocks), archive_moments(alone, blocks)
    for block in blocks:
        one, other = expected[block], found[block]
        both = [sums.fit.gram + sums.held.gram for sums in (one, other)]
        torch.testing.assert_close(*both, rtol=1e-4, atol=1e-3)
        assert other.held.weight / other.fit.weight == pytest.approx(0.25, rel=0.05)
        assert torch.equal(one.output, other.output)
        torch.testing.assert_close(one.cls, other.cls, rtol=0.1, atol=1e-3)


@pytest.mark.skipif(len(usable_cores()) < 2, reason="two processes take two cores")
def test_two_processes_add_up_to_one(folder, alone, tmp_path):
    both = gathered(folder, tmp_path / "run", "data.archive.engine.workers=2")
    told = json.loads((both.path / "archive.json").read_text())
    assert (told["readers"], told["texts"]) == (2, TEXTS - 2)
    assert not (both.path / ".readers").exists()
    check_same(alone, both)


@pytest.mark.slow
def test_ray_tasks_add_up_to_one(folder, alone, tmp_path):
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    both = gathered(
        folder,
        tmp_path / "run",
        "data.archive.engine.kind=ray",
        "data.archive.engine.workers=3",
        "data.archive.size=3300",
    )
    assert json.loads((both.path / "archive.json").read_text())["readers"] == 3
    assert not ray.is_initialized()  # a later stage starts its own: this one's dies with the thread that started it
    check_same(alone, both)


def test_moments_that_need_more_passes_are_the_same(folder, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "compressor.stages.archive.shard.groups_of", lambda _model, _family, blocks: [[each] for each in blocks]
    )
    check_same(alone, gathered(folder, tmp_path / "run"))


def test_a_reader_without_rows_adds_nothing(alone):
    moments = BlockMoments(alone.teacher, alone.family, [(1, True)])
    nothing = moments.arrays()
    assert all(not np.any(value) for value in nothing.values())
    encodings = encode([("a b c",)] * 10, alone.tokenizer, 32)
    some = text_moments(alone.teacher, alone.family, encodings, [(1, True)]).arrays()
    total = {name: some[name] + nothing[name] for name in some}
    stored = StoredMoments(alone.teacher, alone.family, [(1, True)], total.__getitem__)
    assert torch.equal(stored[1, True].fit.gram, torch.from_numpy(some["1-attention-fit-gram"]))


def test_a_run_is_fitted_to_its_archive_and_goes_on_without_reading_it_again(folder, tmp_path, monkeypatch):
    result = run_recipe(folder / "recipe.yaml", tmp_path / "run").result
    assert result["archive"]["texts"] == TEXTS - 2
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "an archive read as a stream: 3,298 texts. Left out: 1 empty rows, 1 whose text" in page
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert (scores["rows"], scores["labels"]) == (TEXTS - 2, "teacher")
    assert json.loads((tmp_path / "run" / "amounts.json").read_text())["texts"] == TEXTS - 2
    (tmp_path / "run" / "model.json").write_text("{}", encoding="utf-8")  # broken: the model is made anew
    monkeypatch.setattr(stage, "gather", None)
    before = file_sha256(tmp_path / "run" / "model" / "model.safetensors")
    again = run_recipe(folder / "recipe.yaml", tmp_path / "run").result
    assert {each["name"] for each in again["stages"] if not each["cached"]} >= {"model"}
    assert file_sha256(tmp_path / "run" / "model" / "model.safetensors") == before


def test_what_an_archive_cannot_be_is_said_before_work(folder, tmp_path, command):
    for changes, said in (
        (["data.archive.files=nowhere.parquet"], "no such file"),
        (["data.archive.text=[text,other]"], "data.archive.text: 2 columns, and the rest of the data has 1"),
        (["data.archive.engine.workers=64", "data.archive.engine.threads=64"], "64 workers of 64 threads take"),
        (["data.archive.hub=a/b"], "files or hub"),
    ):
        sets = [part for change in changes for part in ("--set", change)]
        code, _, error = command("run", folder / "recipe.yaml", "--out", tmp_path / "out", *sets)
        assert (code, said in error) == (2, True), error
        assert not Path(tmp_path / "out").exists()
