"""The benchmark of parity: its cuts, its answers from every place, and its tables by hand."""

import json

import numpy as np
import pytest

from benchmarks.parity import run as parity
from compressor.model.families import family_of
from compressor.model.load import load_model
from compressor.model.sublayers import shape_of


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    return parity.tiny_model(tmp_path_factory.mktemp("tiny") / "bert", "bert, pruned by transformers 4")


def test_every_layer_is_cut_by_the_pattern_with_heads_in_a_drawn_order(pruned):
    model, family = load_model(pruned), family_of("bert")
    assert shape_of(model, family).heads == (7, 8, 8, 6, 8, 8)
    parity.cut(model, family, np.random.default_rng(0))
    left = shape_of(model, family)
    assert left.heads == (4, 0, 2, 6, 6, 3)
    assert left.ffn_widths == (64, 96, 128, 32, 0, 77)


def test_the_model_answers_alike_wherever_it_is_opened(pruned):
    found = parity.measure(pruned, None)
    json.dumps(found)
    answers = found["answers"]
    assert set(answers) == {"ours", "stock", "fp32", "alltokens", "int8, reassociated"} | {
        f"optimized, {form}" for form in parity.FORMS
    }
    assert all(
        answer["max_abs"] < 1e-4 and answer["changed"] == 0 for name, answer in answers.items() if "int8" not in name
    )
    assert found["stock version"].startswith("4.")
    assert all(count == expected for file in found["fused"].values() for count, expected in file.values())
    assert found["fused"]["alltokens"]["Attention"] == [5, 5]


def test_tables_by_hand():
    answers = {"ours": {"max_abs": 0.0, "changed": 0}, "int8, reassociated": {"max_abs": 0.123, "changed": 2}}
    nodes = {"Attention": [1, 1], "SkipLayerNormalization": [3, 3], "BiasGelu": [2, 2]}
    found = {"full_heads": 4, "heads": [2, 0], "rows": 64, "largest_logit": 2.34, "answers": answers}
    models = {"m": {**found, "fused": {"alltokens": nodes, "optimized, reassociated": {**nodes, "Attention": [0, 0]}}}}
    row = [cell.strip() for cell in parity.table(models).splitlines()[-1].strip("| ").split("|")]
    assert row[:4] == ["m", "2, 0 of 4", "2.3", "0"]
    assert row[4:-1] == ["not tried"] * 6
    assert row[-1] == "0.1 (2 of 64 changed)"
    fused = parity.fused_table(models).splitlines()[-1]
    assert fused == "| m | 1 of 1 | 3 of 3 | 2 of 2 | 0 of 0 | 3 of 3 | 2 of 2 |"


def test_apart():
    assert parity.apart(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[0.5, 0.75], [0.0, 2.0]])) == {
        "max_abs": 0.75,
        "changed": 1,
    }
