"""`Classifier` answers as a pipeline of transformers does, from any exported folder, with three packages and no torch."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tiny import LETTERS, letter_rows, save_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TextClassificationPipeline

from compressor.errors import UserError
from compressor.export import onnx as export
from compressor.measurement.machine.libraries import CUDA
from compressor.runtime import Classifier
from compressor.runtime.engine import strict
from compressor.runtime.texts import rows_of

NAMES = {"num_labels": 3, "id2label": {0: "no", 1: "maybe", 2: "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}
ODD = [
    "",
    " ",
    "\n",
    "a \U0001f600 b",
    "\u202ea b",
    "a\x00b\x07 c\x1b[31m",
    "É e\u0301 ﬁ",
    "[SEP] a </s>",
    "a b " * 2**18,
]
TEXTS = [*[text for text, _ in letter_rows(190, seed=5)], " ".join(LETTERS * 3), *ODD]
LENGTH = 24
EXACT = "fp32", "alltokens", "optimized"


@pytest.fixture(
    scope="module", params=["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "distilbert"))]
)
def exported(request, tmp_path_factory):
    """Return (model directory, folder of all its variants), made for single texts of at most 24 tokens."""
    home = tmp_path_factory.mktemp(request.param)
    model_dir = save_model(home / "model", request.param, **NAMES)
    export.export_variants(model_dir, home / "onnx", list(export.VARIANTS), max_length=LENGTH, texts=1)
    return model_dir, home / "onnx"


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """Return a function: texts a row -> folder of a BERT in `optimized`; made once."""
    home = tmp_path_factory.mktemp("variants")
    model_dir, made = save_model(home / "model", **NAMES), {}

    def get(texts):
        if texts not in made:
            export.export_variants(model_dir, home / str(texts), ["optimized"], max_length=LENGTH, texts=texts)
            made[texts] = home / str(texts) / "optimized"
        return made[texts]

    return get


def pipeline_answers(model, folder, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if model.config.model_type == "distilbert":  # it knows no segment ids, and its tokenizer here is a BERT's
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    classify = TextClassificationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    return classify(texts, truncation=True, max_length=LENGTH)


def same_answers(found, expected, within):
    assert [set(answer) for answer in found] == [{"label", "score"}] * len(expected)
    assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
    np.testing.assert_allclose([a["score"] for a in found], [a["score"] for a in expected], atol=within, rtol=0)


def test_it_answers_as_the_pipeline_does(exported):
    model_dir, folder = exported
    assert len(TEXTS) == 200
    expected = pipeline_answers(AutoModelForSequenceClassification.from_pretrained(model_dir).eval(), model_dir, TEXTS)
    assert len({answer["label"] for answer in expected}) > 1
    for name in EXACT:
        classify = Classifier(folder / name)
        same_answers(classify(TEXTS), expected, 1e-5)
        assert (classify.label_names, classify.max_length, classify.threads) == (["no", "maybe", "yes"], LENGTH, None)


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_narrow_files_answer_as_in_a_pipeline(exported, name):
    from optimum.onnxruntime import ORTModelForSequenceClassification

    _, folder = exported
    model = ORTModelForSequenceClassification.from_pretrained(folder / name)
    texts = TEXTS[::7]
    expected = pipeline_answers(model, folder / name, texts)  # one row at a time, as the pipeline does
    same_answers(Classifier(folder / name)(texts, batch_size=1), expected, 1e-5)
    assert any(abs(a["score"] - b["score"]) > 1e-6
               for a, b in zip(expected, Classifier(folder / "optimized")(texts), strict=True))  # fmt: skip


def test_pairs_are_answered_as_in_a_pipeline(variant):
    folder = variant(2)
    pairs = [*zip(TEXTS[:30], TEXTS[30:60], strict=True), ("", "a"), (TEXTS[-1], "a"), ("a", " ".join(LETTERS * 2))]
    model = AutoModelForSequenceClassification.from_pretrained(folder.parents[1] / "model").eval()
    rows = [{"text": one, "text_pair": two} for one, two in pairs]
    expected = pipeline_answers(model, folder, rows)
    classify = Classifier(folder)
    same_answers(classify(pairs), expected, 1e-5)
    # the pipeline drops an empty second text, which training and evaluation do not
    tokens = AutoTokenizer.from_pretrained(folder)(["a b"], [""], return_tensors="pt")
    with torch.inference_mode():
        empty = model(**tokens).logits.softmax(1)[0]
    found = {"label": NAMES["id2label"][int(empty.argmax())], "score": float(empty.max())}
    same_answers(classify([("a b", "")]), [found], 1e-5)
    assert classify(pairs[0]) == classify([list(pairs[0])]) == classify(pairs[:1])
    either = Classifier(variant(None))  # nobody said what a row is
    same_answers(either(pairs), expected, 1e-5)
    assert either(("a b", "c")) == either(["a b", "c"])  # two texts
    assert len(either(["a b", ("a", "c")])) == 2


def test_one_text_none_and_batches(variant):
    classify = Classifier(variant(1))
    assert classify([]) == classify(()) == classify(iter([])) == []
    alone = classify("a b c")
    assert len(alone) == 1
    assert alone == classify(["a b c"]) == classify(iter(["a b c"]))
    whole = classify(TEXTS)
    for size in (1, 7, 1000):
        same_answers(classify(TEXTS, batch_size=size), whole, 1e-5)


@pytest.mark.parametrize(
    ("texts", "columns", "words"),
    [
        (None, 1, "single texts, not None; give a string or a list"),
        (3, 1, "single texts, not 3;"),
        (b"a", 1, "single texts, not b'a';"),
        ({"text": "a"}, 1, "not {'text': 'a'};"),
        (["a", None], 1, "single texts, not None."),
        (["a", 2.5], 1, "not 2.5."),
        (["a", float("nan")], 1, "not nan."),
        ([("a", "b")], 1, r"single texts, not \('a', 'b'\)\."),
        (["a", b"b"], 1, "not b'b'"),
        ("a", 2, "pairs of texts, not 'a'"),
        (["a", "b"], 2, "pairs of texts, not 'a'"),
        ([("a",)], 2, r"not \('a',\)"),
        ([("a", None)], 2, r"pairs of texts, not \('a', None\)"),
        (["ab", ("a", 1)], None, r"texts or pairs of texts, not \('a', 1\)"),
        (["fine", "half \ud83d"], 1, "text 2 holds half a surrogate pair"),
        ([["a" * 10**6]], 1, r"not \['a{20,70}\.\.\.a+'\]\.$"),
    ],
)
def test_what_is_no_text_is_named(texts, columns, words):
    with pytest.raises(UserError, match=words) as raised:
        rows_of(texts, columns, "folder")
    assert str(raised.value).startswith("folder: ")
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"threads": "two"}, "threads is 'two'"),
        ({"providers": ()}, "providers is empty"),
        ({"providers": "CPUExecutionProvider"}, "in a list"),
        ({"providers": ("CPUProvider",)}, "cannot use CPUProvider"),
    ],
)
def test_options_that_are_none_are_named(variant, arguments, words):
    with pytest.raises(UserError, match=words):
        Classifier(variant(1), **arguments)
    with pytest.raises(UserError, match="batch_size: 0"):
        Classifier(variant(1))("a", batch_size=0)


def copied(folder, target, **changes):
    """Return a copy of an exported folder with other settings; a file whose change is None is left out."""
    target.mkdir()
    for file in folder.iterdir():
        if changes.get(file.name, "") is not None:
            (target / file.name).write_bytes(file.read_bytes())
    settings = {name: value for name, value in changes.items() if "." not in name}
    if settings:
        known = json.loads((target / "classifier.json").read_text())
        (target / "classifier.json").write_text(json.dumps(known | settings))
    return target


def test_a_folder_that_is_not_whole_is_refused(variant, tmp_path):
    for number, (name, words) in enumerate(
        {
            "classifier.json": "holds no classifier.json, as exports of earlier versions; export it again",
            "model.onnx": "model.onnx is missing; copy the whole folder",
            "tokenizer.json": "tokenizer.json is missing",
        }.items()
    ):
        with pytest.raises(UserError, match=words):
            Classifier(copied(variant(1), tmp_path / str(number), **{name: None}))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "classifier.json").write_text("{}")
    with pytest.raises(UserError, match="not the settings of a classifier"):
        Classifier(tmp_path / "damaged")
    for name, value in (("max_length", "24"), ("pad_id", None), ("label_names", 3)):
        with pytest.raises(UserError, match=f"not the settings of a classifier .{name} is {value!r}"):
            Classifier(copied(variant(1), tmp_path / name, **{name: value}))
    with pytest.raises(UserError, match="no such folder"):
        Classifier(tmp_path / "none")
    with pytest.raises(UserError, match=r"holds no classifier\.json; name a folder that"):
        Classifier(variant(1).parents[1] / "model")
    (tmp_path / "run" / "onnx").mkdir(parents=True)
    copied(variant(1), tmp_path / "run" / "onnx" / "optimized")
    (tmp_path / "run" / "cascade.json").write_text("{}")
    with pytest.raises(UserError, match=r"a run directory; name one of its folders: .*onnx/optimized\.$"):
        Classifier(tmp_path / "run")


@pytest.fixture
def threads_taken(monkeypatch):
    """Return the threads of every session of ONNX Runtime that is opened, 0 for its own choice."""
    session, taken = ort.InferenceSession, []

    def opened(*arguments, sess_options, **options):
        taken.append(sess_options.intra_op_num_threads)
        return session(*arguments, sess_options=sess_options, **options)

    monkeypatch.setattr("onnxruntime.InferenceSession", opened)
    return taken


def test_threads_are_the_recorded_ones_unless_named(variant, tmp_path, threads_taken):
    recorded = copied(variant(1), tmp_path / "a", threads=3)
    for folder, threads in ((recorded, None), (recorded, 1), (variant(1), None), (variant(1), 2)):
        Classifier(folder, threads=threads)
    assert threads_taken == [3, 1, 0, 2]


@pytest.mark.parametrize(("granted", "taken"), [(2, 2), (8, 0), (None, 0)], ids=["fewer", "all", "nobody knows"])
def test_a_containers_limit_is_obeyed(variant, monkeypatch, threads_taken, granted, taken):
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(8)))
    if granted is None:
        monkeypatch.setitem(sys.modules, "joblib", None)  # importing it raises ImportError
    else:
        monkeypatch.setattr("joblib.cpu_count", lambda: granted)
    Classifier(variant(1))
    assert threads_taken == [taken]


def test_a_gpu_multiplies_as_it_did_when_it_was_measured():
    assert strict((CUDA, "CPUExecutionProvider")) == [(CUDA, {"use_tf32": "0"}), ("CPUExecutionProvider", {})]
    assert strict([(CUDA, {"use_tf32": "1", "device_id": "1"})]) == [(CUDA, {"use_tf32": "1", "device_id": "1"})]


ALLOWED = {"compressor", "numpy", "onnxruntime", "tokenizers"}
WATCHED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in {allowed} and top not in sys.stdlib_module_names:
            raise ImportError(f"{{name}} must not be imported")
sys.meta_path.insert(0, Refuse())
import json
from compressor.runtime import Classifier
print(json.dumps(Classifier(sys.argv[1], threads=1)(json.loads(sys.argv[2]))))
"""


def test_it_imports_nothing_else(exported):
    _, folder = exported
    # numpy and the two others import for themselves what they can do without
    code = WATCHED.format(allowed=sorted(ALLOWED | {"coloredlogs", "huggingface_hub", "google", "flatbuffers"}))
    for name in ("optimized", "int8"):
        given = [sys.executable, "-c", code, str(folder / name), json.dumps(TEXTS[:20])]
        done = subprocess.run(given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        same_answers(json.loads(done.stdout), Classifier(folder / name, threads=1)(TEXTS[:20]), 1e-6)
        found = subprocess.run(
            [sys.executable, "-c", "import sys, compressor.runtime; print(*sys.modules)"],
            capture_output=True,
            text=True,
        )
        heavy = {
            "torch",
            "transformers",
            "onnx",
            "pydantic",
            "yaml",
            "scipy",
            "pandas",
            "huggingface_hub",
            "rich",
            "typer",
        }
        assert heavy & {module.split(".")[0] for module in found.stdout.split()} == set()


@pytest.mark.slow
def test_three_packages_are_enough(variant, tmp_path):
    """An environment with `pip install --no-deps` of the source tree, and links to the three packages, and no more."""
    place, home = tmp_path / "env", Path(sysconfig.get_path("purelib"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python, site = place / "bin" / "python", next(place.glob("lib/python*/site-packages"))
    for name in ("numpy", "numpy.libs", "onnxruntime", "tokenizers"):
        if (home / name).exists():
            (site / name).symlink_to(home / name)
    source = tmp_path / "source"  # setuptools writes into the tree that it builds
    source.mkdir()
    root = Path(__file__).parents[2]
    for name in ("compressor", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(root / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    for command in (
        [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", tmp_path, source],
        [*pip, "--python", python, "install", "--no-deps", "--no-index", "--find-links", tmp_path, "compressor"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    code = "import json, sys; from compressor.runtime import Classifier; print(json.dumps(Classifier('.')(json.loads(sys.argv[1]))))"
    done = subprocess.run(
        [python, "-c", code, json.dumps(TEXTS[:20])],
        cwd=variant(1),
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    same_answers(json.loads(done.stdout), Classifier(variant(1))(TEXTS[:20]), 1e-6)
    without = subprocess.run([python, "-c", "import torch"], env=clean, capture_output=True, text=True, check=False)
    assert "No module named 'torch'" in without.stderr
