"""The benchmark of families trained here: its texts, its untrained models, its runs, and its table by hand."""

import pandas as pd
import pytest

from benchmarks.families import run as families
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.recipe.file import load_recipe


@pytest.mark.parametrize("family", families.KINDS)
def test_an_untrained_model_knows_every_word_and_its_runs_are_recipes(tmp_path, family):
    files = families.texts(tmp_path, 40)
    parts = {name: pd.read_parquet(file) for name, file in files.items()}
    assert {name: len(part) for name, part in parts.items()} == {"train": 40, **families.ROWS}
    assert not {*parts["train"]["text"]} & {*parts["validation"]["text"]}
    source = find_model(str(families.untrained(tmp_path / "model", family, files["train"])))
    model, tokenizer = load_classifier(source, new_labels=["no", "yes"]), load_tokenizer(source)
    assert model.config.vocab_size == len(tokenizer)
    ids = tokenizer([*parts["train"]["text"]])["input_ids"]
    assert all(tokenizer.unk_token_id not in row for row in ids)
    data = {**files, "text": "text", "label": "label"}
    for more in families.runs_of(family).values():
        recipe = load_recipe({"name": "a", "model": {"path": str(source.path)}, "data": data, **more})
        assert (recipe.compensation.refit is None) == (family == "albert")


def test_a_row_by_hand():
    def entry(accuracy, flips):
        versus = {
            "accuracy_delta": accuracy - 0.9,
            "ci95": [-0.02, 0.01],
            "flip_rate": flips / 100,
            "flips": flips,
            "rows": 100,
        }
        return {"accuracy": accuracy, "versus_full": versus}

    run = {
        "plan": [6],
        "parity": {"fp32": {"max_abs": 2.2e-6}},
        "variants": {"full": {"accuracy": 0.9}, "compressed": entry(0.89, 3), "onnx_int8": entry(0.88, 4)},
    }
    (row,) = families.rows_of("albert", {"runs": {"1 of 6 layers less": run}})
    assert len(row) == len(families.COLUMNS)
    assert row[:5] == ["albert", "1 of 6 layers less", "layer 6", "90.0 %", "89.0 %"]
    assert row[5] == "-1.0 [-2.0, +1.0]"
    assert row[6].startswith("3.0 % [")
    assert row[7] == "2e-06"
    assert row[8].startswith("4.0 % [")
