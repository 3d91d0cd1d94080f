"""`Classifier` answers as a pipeline of transformers does, from any exported folder; what is no text or no folder is named."""

import pytest
import torch
from folders import LENGTH, NAMES, TEXTS, copied, same_answers
from tiny import LETTERS
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TextClassificationPipeline

from compressor.errors import UserError
from compressor.runtime import Classifier
from compressor.runtime.texts import rows_of

EXACT = "fp32", "alltokens", "optimized"


def pipeline_answers(model, folder, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if model.config.model_type == "distilbert":  # it knows no segment ids, and its tokenizer here is a BERT's
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    classify = TextClassificationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    return classify(texts, truncation=True, max_length=LENGTH)


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
