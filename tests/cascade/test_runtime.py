"""The runtime: without torch, the same answers whatever the batch, the tokens of training, and honest counts."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from cascades import TEXTS, said
from homes import files_left, fresh_home
from tiny import LETTERS

from compressor.cascade.runtime import CascadeClassifier, margin
from compressor.data.batches import encode, pad
from compressor.errors import UserError
from compressor.measurement.machine.libraries import CUDA
from compressor.measurement.machine.providers import provider_works
from compressor.model.load import find_model, load_classifier

PAIRS = [(one, " ".join([two] * 3)) for one, two in itertools.pairwise(TEXTS)]
WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "scipy", "pydantic", "onnx", "sklearn", "pandas"}:
            raise ImportError(f"{name} must not be imported")
sys.meta_path.insert(0, Refuse())
import json
from compressor.cascade.runtime import CascadeClassifier
classify = CascadeClassifier(sys.argv[1], threads=1)
answers = classify(json.loads(sys.argv[2]))
print(json.dumps([[a.label, a.layer, a.score] for a in answers]))
"""


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_it_needs_no_torch_and_says_the_same(exported, precision):
    folder, _ = exported(precision=precision)
    given = [sys.executable, "-c", WITHOUT, str(folder), json.dumps(TEXTS[:40])]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here = CascadeClassifier(folder)(TEXTS[:40])
    assert [tuple(answer[:2]) for answer in json.loads(done.stdout)] == said(here)
    np.testing.assert_allclose([answer[2] for answer in json.loads(done.stdout)], [a.score for a in here], atol=1e-5)


def test_it_leaves_no_file_in_a_fresh_home(exported, tmp_path):
    folder, _ = exported()
    waits = WITHOUT + "import time; time.sleep(1.5)  # what reports in the background has time to"
    command = [sys.executable, "-c", waits, str(folder), json.dumps(TEXTS[:4])]
    done = subprocess.run(command, env=fresh_home(tmp_path), capture_output=True, text=True, check=False)
    assert (done.returncode, len(json.loads(done.stdout)), files_left(tmp_path)) == (0, 4, []), done.stderr


@pytest.mark.skipif(provider_works(CUDA), reason="CUDA works here")
def test_it_refuses_cuda_where_there_is_none_and_needs_no_torch_for_it(exported):
    folder, _ = exported()
    asked = WITHOUT.replace("threads=1", f"providers=[('{CUDA}', {{}}), 'CPUExecutionProvider']")
    done = subprocess.run([sys.executable, "-c", asked, str(folder), "[]"], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert f"UserError: {folder}: ONNX Runtime cannot use {CUDA} (" in done.stderr
    with pytest.raises(UserError, match="providers is empty"):
        CascadeClassifier(folder, providers=())


def test_no_rows_have_no_answers(exported):
    folder = exported("bert")[0]
    classifier = CascadeClassifier(folder)
    empty = {"input_ids": np.zeros((0, 5), np.int64), "attention_mask": np.zeros((0, 5), np.int64)}
    logits, exits = classifier.run(empty)
    assert (logits.shape, exits.shape, classifier([])) == ((0, 3), (0,), [])
    assert [part.shape for part in classifier.every_logit(empty)] == [(0, 3)] * 3
    assert classifier.stats()["rows"] == 0


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_answers_do_not_depend_on_the_batch(exported, model_type):
    folder, tokenizer = exported(model_type)
    classify = CascadeClassifier(folder)
    whole = said(classify(TEXTS, batch_size=len(TEXTS)))
    assert {layer for _, layer in whole} == {1, 2, 3}
    assert said(classify(TEXTS, batch_size=1)) == whole
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = said(classify([TEXTS[row] for row in order], batch_size=7))
    assert [shuffled[place] for place in np.argsort(order)] == whole
    assert said(classify(TEXTS[0])) == whole[:1]
    assert classify([]) == []
    batch = pad(encode([(text,) for text in TEXTS], tokenizer, 24), np.arange(len(TEXTS)))
    wide = {name: np.pad(values, ((0, 0), (0, 13)), constant_values=tokenizer.pad_token_id * (name == "input_ids"))
            for name, values in batch.items()}  # fmt: skip
    logits, exits = classify.run(wide)
    assert [("abc"[row.argmax()], part + 1) for row, part in zip(logits, exits, strict=True)] == whole
    parts = classify.every_logit(batch)
    np.testing.assert_allclose(logits, np.stack(parts)[exits, np.arange(len(TEXTS))], atol=1e-5)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("texts", [TEXTS, PAIRS, [" ".join(LETTERS * 3), "", "a ö [SEP] b"]])
def test_inputs_are_those_of_training(exported, model_type, texts):
    folder, tokenizer = exported(model_type)
    classify = CascadeClassifier(folder)
    rows = [(text,) if isinstance(text, str) else text for text in texts]
    expected, found = encode(rows, tokenizer, 24), classify.tokenize(texts)
    assert [row.ids for row in found] == expected.input_ids
    assert max(expected.lengths) == 24 or texts is TEXTS
    batch, wanted = classify.padded(found), pad(expected, np.arange(len(rows)))
    assert {name: value.tolist() for name, value in batch.items()} == {name: v.tolist() for name, v in wanted.items()}
    if texts is not PAIRS:
        assert len(classify(texts)) == len(texts)


def test_pairs_and_texts_are_not_mixed_up(exported, tmp_path):
    folder, _ = exported()
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    settings = json.loads((folder / "cascade.json").read_text())
    (tmp_path / "cascade.json").unlink()
    (tmp_path / "cascade.json").write_text(json.dumps({**settings, "texts": 2, "certified": False}))
    single, paired = CascadeClassifier(folder), CascadeClassifier(tmp_path)
    assert (single.certified, paired.certified) == (True, False)
    assert said(single(("a b", "c d"))) == said(single(["a b", "c d"]))  # two texts, not a pair
    assert len(paired(("a b", "c d"))) == 1
    assert said(paired([("a b", "c d"), ["e", "f"]])) == said(paired((("a b", "c d"), ("e", "f"))))
    with pytest.raises(UserError, match="single texts, not"):
        single([("a b", "c d")])
    with pytest.raises(UserError, match="pairs of texts, not 'a b'"):
        paired("a b")
    with pytest.raises(UserError, match="batch_size: 0"):
        single(["a b"], batch_size=0)


def test_a_run_directory_names_its_cascade(exported, tmp_path):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "cascade").symlink_to(exported()[0])
    (tmp_path / "cascade.json").write_text("{}")
    with pytest.raises(UserError, match="its cascade is .*onnx/cascade"):
        CascadeClassifier(tmp_path)


def test_left_truncation_is_kept(exported, tmp_path):
    folder, tokenizer = exported()
    side, tokenizer.truncation_side = tokenizer.truncation_side, "left"
    try:
        expected = encode([(" ".join(LETTERS * 2),)], tokenizer, 24)
    finally:
        tokenizer.truncation_side = side
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    settings = json.loads((folder / "cascade.json").read_text())
    (tmp_path / "cascade.json").unlink()
    (tmp_path / "cascade.json").write_text(json.dumps({**settings, "truncation_side": "left"}))
    assert [row.ids for row in CascadeClassifier(tmp_path).tokenize([" ".join(LETTERS * 2)])] == expected.input_ids


def test_stats_count_the_rows_and_thresholds_decide(exported):
    classify = CascadeClassifier(exported()[0])
    assert classify.stats() == {"rows": 0, "exits": [{"layer": n, "rows": 0, "share": 0.0} for n in (1, 2, 3)]}
    answers = classify(TEXTS)
    stats = classify.stats()
    layers = [answer.layer for answer in answers]
    assert stats["rows"] == len(TEXTS)
    assert [entry["rows"] for entry in stats["exits"]] == [layers.count(layer) for layer in (1, 2, 3)]
    assert sum(entry["share"] for entry in stats["exits"]) == pytest.approx(1)
    batch = classify.padded(classify.tokenize(TEXTS))
    every = classify.every_logit(batch)
    for thresholds, part in (((0.0, 0.0), 0), ((np.inf, 0.0), 1), ((np.inf, np.inf), 2)):
        logits, exits = classify.compute(batch, thresholds)
        assert set(exits.tolist()) == {part}
        np.testing.assert_allclose(logits, every[part], atol=1e-5)
    assert classify.stats() == stats  # compute does not count
    assert all(0 < answer.score <= 1 for answer in answers)


def test_the_end_is_the_full_model(exported):
    folder, tokenizer = exported()
    model = load_classifier(find_model(str(folder.parent / "model")))
    batch = pad(encode([(text,) for text in TEXTS], tokenizer, 24), np.arange(len(TEXTS)))
    with torch.inference_mode():
        wanted = model(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits.numpy()
    np.testing.assert_allclose(CascadeClassifier(folder).compute(batch, (np.inf, np.inf))[0], wanted, atol=1e-4)


INF = float("inf")


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_what_eight_bits_are_unsure_of_is_answered_by_the_full_model_in_float32(exported, model_type):
    folder, tokenizer = exported(model_type, "int8")
    model = load_classifier(find_model(str(folder.parent / "model")))
    batch = pad(encode([(text,) for text in TEXTS], tokenizer, 24), np.arange(len(TEXTS)))
    with torch.inference_mode():
        wanted = model(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits.numpy()
    classify = CascadeClassifier(folder)
    logits, exits = classify.compute(batch, (INF, INF, INF))
    assert set(exits.tolist()) == {3}
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
    eight, exits = classify.compute(batch, (INF, INF, 0.0))
    assert set(exits.tolist()) == {2}
    assert not np.allclose(eight, wanted, atol=1e-4)
    every = classify.every_logit(batch)
    np.testing.assert_array_equal(every[2], eight)
    np.testing.assert_allclose(every[3], wanted, atol=1e-4)
    # by the margin of each text: half of them stay, the others start again, beside which nothing is left of the 8 bits
    split = float(np.median(margin(eight)))
    mixed, exits = classify.compute(batch, (INF, INF, split))
    np.testing.assert_array_equal(exits == 3, margin(eight) < split)
    np.testing.assert_allclose(mixed[exits == 3], wanted[exits == 3], atol=1e-4)
    np.testing.assert_array_equal(mixed[exits == 2], eight[exits == 2])
