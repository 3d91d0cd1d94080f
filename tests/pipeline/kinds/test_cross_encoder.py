"""Cross-encoders of sentence-transformers: their directory goes in as it is, and the result opens with `CrossEncoder` again."""

import json

import numpy as np
import pytest
from tiny import letter_rows, save_model

from compressor.runtime import Classifier

sentence_transformers = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
ACTIVATIONS = {"Sigmoid": "torch.nn.modules.activation.Sigmoid", "Identity": "torch.nn.modules.linear.Identity"}


@pytest.fixture(scope="module", params=list(ACTIVATIONS))
def encoder(request, tmp_path_factory):
    """Return the name of an activation and the directory of a cross-encoder with it, saved by sentence-transformers."""
    import torch

    folder = tmp_path_factory.mktemp("cross")
    plain = save_model(folder / "plain", "bert", layers=3, num_labels=1)
    model = sentence_transformers.CrossEncoder(
        str(plain), activation_fn=getattr(torch.nn, request.param)(), max_length=32
    )
    with torch.no_grad():  # scores that differ
        model.model.classifier.weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(str(folder / "model"))
    rows = letter_rows(260)
    pairs = [(text, other, label) for (text, label), (other, _) in zip(rows[:130], rows[130:], strict=True)]
    for name, part in (("train", pairs[:100]), ("validation", pairs[100:])):
        lines = ["query,document,score", *(",".join(map(str, row)) for row in part)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        f"""name: cross
model: {{path: {folder}/model}}
data:
  train: {folder}/train.csv
  validation: {folder}/validation.csv
  text: [query, document]
  label: score
  calibration: {{split: train, size: 30}}
  selection: {{size: 30}}
  max_length: 32
selection: {{search: exhaustive, layers: 1}}
compensation: {{refit: closed_form, head: null}}
export: {{variants: [fp32]}}
benchmark: {{batch_sizes: [1], lengths: [8], workload: false, min_seconds: 0, min_runs: 5, max_seconds: 5, footprint: false}}
""",
        encoding="utf-8",
    )
    return request.param, folder


def test_the_result_opens_with_sentence_transformers_and_gives_the_same_scores(encoder, command, tmp_path):
    activation, folder = encoder
    code, stdout, stderr = command("run", folder / "recipe.yaml", "--out", tmp_path / "run", "--json")
    assert code == 0, stderr
    result = json.loads(stdout)
    assert (result["data"]["answers"]["kind"], result["data"]["answers"]["sigmoid"]) == (
        "score",
        activation == "Sigmoid",
    )
    pairs = [("a b c", "d e"), ("z y x", "w"), ("m n", "o p q r s t")]
    made = sentence_transformers.CrossEncoder(str(tmp_path / "run" / "model"), max_length=32)
    assert type(made.activation_fn).__name__ == activation
    assert made.config.num_hidden_layers == 2
    scores = made.predict(pairs)
    assert np.ptp(scores) > 1e-4
    found = [answer["score"] for answer in Classifier(tmp_path / "run" / "onnx" / "fp32")(pairs)]
    assert found == pytest.approx(scores.tolist(), abs=1e-4)


def test_scores_rank_the_documents_of_a_query(encoder, command, tmp_path):
    _, folder = encoder
    for name in ("train", "validation"):
        lines = (folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()[1:]
        texts = [line.split(",") for line in lines]
        rows = [f"{texts[row // 5 * 5][0]},{text[1]},{row % 5 % 3}" for row, text in enumerate(texts)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["query,document,score", *rows]) + "\n", encoding="utf-8")
    files = [f"data.{name}={tmp_path / name}.csv" for name in ("train", "validation")]
    more = [part for value in (*files, "data.kind=ranking") for part in ("--set", value)]
    code, stdout, stderr = command("run", folder / "recipe.yaml", "--out", tmp_path / "run", "--json", *more)
    assert code == 0, stderr
    result = json.loads(stdout)
    versus = result["variants"]["compressed"]["versus_full"]
    assert (versus["rows"], versus["counted"], result["data"]["splits"]["evaluation"]["rows"]) == (6, "queries", 30)
    classify, documents = Classifier(tmp_path / "run" / "onnx" / "fp32"), ["d e", "w", "o p q r s t"]
    ranked = sentence_transformers.CrossEncoder(str(tmp_path / "run" / "model"), max_length=32).rank("a b c", documents)
    found = classify.rank("a b c", documents)
    assert [entry["index"] for entry in found] == [entry["corpus_id"] for entry in ranked]
    assert [entry["score"] for entry in found] == pytest.approx([float(entry["score"]) for entry in ranked], abs=1e-4)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("data.threshold=0.4", "data.threshold: it is for any number of labels a row, and"),
        ("data.kind=many_labels", "data.kind: many_labels, but"),
        ("cascade={max_flips: 0.05}", "cascade: a text leaves early where one class is far ahead"),
    ],
)
def test_what_a_score_does_not_have_is_refused_before_any_work(encoder, command, tmp_path, value, words):
    _, folder = encoder
    code, _, stderr = command("run", folder / "recipe.yaml", "--out", tmp_path / "run", "--set", value)
    assert (code, words in stderr) == (2, True), stderr
    assert not (tmp_path / "run").exists()


def test_an_activation_that_is_not_known_is_refused(encoder, command, tmp_path):
    _, folder = encoder
    name = "config_sentence_transformers.json"
    config = json.loads((folder / "model" / name).read_text()) | {"activation_fn": "somewhere.Unknown"}
    broken = tmp_path / "model"
    broken.mkdir()
    for file in (folder / "model").iterdir():
        if file.is_file():
            (broken / file.name).write_bytes(file.read_bytes())
    (broken / name).write_text(json.dumps(config))
    values = "--set", f"model.path={broken}", "--out", tmp_path / "run"
    code, _, stderr = command("run", folder / "recipe.yaml", *values)
    assert (code, "activation is somewhere.Unknown" in stderr) == (2, True)
