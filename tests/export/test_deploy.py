"""Lines to copy for every kind of answers: they are Python, and ask for what the kind gives."""

import pytest

from compressor.data.answers.kinds import KINDS
from compressor.export.deploy import (
    PAIR,
    USES,
    example,
    optimum_lines,
    page,
    pipeline_call,
    snippet,
    tokenizer_texts,
    torch_lines,
)

SETTINGS = {"texts": 2, "max_length": 24, "label_names": ["a", "b"], "threads": 1, "pad_id": 0}


def test_every_kind_has_lines():
    assert list(USES) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [1, 2, None])
def test_the_lines_are_python(kind, texts):
    answers = {"kind": kind, "sigmoid": kind == "score"}
    row = example(texts)
    for code in (snippet("here", row, answers=answers), torch_lines("model", "float32", 24, row, answers=answers)):
        compile(code, "lines", "exec")
    compile(optimum_lines('"."', row, 24, answers), "lines", "exec")
    compile(pipeline_call(row, 24, answers), "call", "eval")
    compile(f"f({tokenizer_texts(row, answers)})", "texts", "eval")


def test_scores_are_no_classes():
    logistic = {"kind": "score", "sigmoid": True}
    assert 'function_to_apply="sigmoid"' in pipeline_call("a", 24, logistic)
    assert 'function_to_apply="none"' in pipeline_call("a", 24, {"kind": "ranking", "sigmoid": False})
    assert "logits[:, 0].sigmoid().tolist()" in torch_lines("model", "float32", 24, answers=logistic)
    assert "argmax" not in torch_lines("model", "float32", 24, answers={"kind": "many_labels"})
    assert "argmax" in torch_lines("model", "float32", 24)
    assert "classify.rank(" in snippet("here", PAIR, answers={"kind": "ranking"})
    assert "classify.rank(" not in snippet("here", answers={"kind": "ranking"})  # no pair: nothing to rank for


def test_words_go_as_lists_to_classes_for_tokens():
    answers = {"kind": "tokens"}
    assert 'classify([["a", "film"]])' in snippet("here", "a film", answers=answers)
    code = torch_lines("model", "float32", 24, "a film", answers=answers)
    assert "AutoModelForTokenClassification" in code
    assert 'tokenizer([["a", "film"]], is_split_into_words=True, truncation=True' in code
    assert "Sequence" not in code
    text = page("fp32", {**SETTINGS, "texts": 1, "answers": answers})
    assert "It gives one of these labels for each word, and cuts texts to 24 tokens" in text
    assert (
        'ORTModelForTokenClassification.from_pretrained("."), AutoTokenizer.from_pretrained(".", model_max_length=24)'
        in text
    )
    assert 'pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")' in text
    assert "Sequence" not in text


def test_the_page_says_what_the_folder_gives():
    text = page("fp32", {**SETTINGS, "answers": {"kind": "many_labels"}})
    assert "It gives any of these labels, and cuts pairs of texts to 24 tokens" in text
    assert "top_k=None" in text
    assert "one of these labels" in page("fp32", SETTINGS)
