"""The model card: metadata that the hub's library reads, nothing invented, blocks that are replaced and not piled up."""

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from compressor.model.card import model_card, source_metadata, with_line, with_results

MADE = {
    **{"base": "bert", "model_class": "BertForSequenceClassification", "units": [2], "padded": False, "layers": 4},
    **{"nodes": 4, "refitted": [1], "distilled": False, "recipe": "name: x\nseed: 0\n", "max_length": 64},
}


def result(value=0.9):
    return EvalResult(
        "text-classification", "nyu-mll/glue", "nyu-mll/glue sst2", "accuracy", value, dataset_split="validation"
    )


def test_the_hub_s_library_reads_the_metadata():
    source = {"license": "apache-2.0", "language": ["en", "de"]}
    card = ModelCard(model_card(name="sst2: a # b", base_id="owner/name", source=source, **MADE))
    assert isinstance(card.data, ModelCardData)
    assert (card.data.license, card.data.language, card.data.base_model) == ("apache-2.0", ["en", "de"], "owner/name")
    assert card.data.tags == ["compressor", "layer-skipping"]
    assert card.data.eval_results is None
    assert card.text.startswith("\n# sst2: a # b\n")
    assert "cut to 64 tokens" in card.text
    bare = ModelCard(model_card(name="x", base_id=None, source={}, **MADE)).data.to_dict()
    assert {"license", "language", "base_model", "metrics"}.isdisjoint(bare)


def test_results_and_line_take_the_place_of_earlier_ones():
    card = model_card(name="sst2", base_id=None, source={}, **MADE)
    body = ModelCard(card).text
    for value in (0.8, 0.9, 0.9):
        card = with_line(with_results(card, f"## Results\n\n| Accuracy | {value} |", [result(value)]), f"Ship {value}.")
        found = ModelCard(card)
        assert [entry.metric_value for entry in found.data.eval_results] == [value]
        assert (found.data.metrics, found.data.model_name) == (["accuracy"], "sst2")
        assert (found.text.count("## Results"), found.text.count("Ship")) == (1, 1)
        assert f"Ship {value}." in found.text.partition("of 4 encoder layers")[0]
        assert found.text.index("## Results") < found.text.index("## Recipe")
    assert with_line(with_results(card, "## Results\n\n| Accuracy | 0.9 |", [result()]), "Ship 0.9.") == card
    # without labels there are no metrics, and the rest is as it was written
    plain = ModelCard(with_results(card, "none", []))
    assert (plain.data.eval_results, plain.data.metrics) == (None, None)
    without = plain.text.replace("\n<!-- answer -->\nShip 0.9.\n<!-- /answer -->\n", "")
    assert without.replace("\n<!-- results -->\nnone\n<!-- /results -->\n", "") == body


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "---\nlicense: mit\nlanguage:\n- en\ntags: [x]\nmodel-index: 3\n---\n# A\n",
            {"license": "mit", "language": ["en"]},
        ),
        ("---\r\nlicense: other\r\nlicense_name: own\r\n---\r\n", {"license": "other", "license_name": "own"}),
        ("---\nlanguage: no\nlicense: 3\n---\n", {}),  # YAML's no is false
        ("---\nlicense: []\nlanguage: [en, 1]\n---\n", {}),
        ("---\nlicense: !!python/object/apply:os.system ['exit 1']\n---\n", {}),
        ("---\n- license\n---\n", {}),
        ("---\nlicense: 'mit\n---\n", {}),
        ("---\n" + "[" * 5000 + "\n---\n", {}),
        ("# A\n\nlicense: mit\n", {}),
        ("", {}),
        (b"---\nlicense: \xff\n---\n", {}),
        (None, {}),
    ],
)
def test_only_what_the_source_says_is_said_of_it(tmp_path, text, found):
    if text is not None:
        (tmp_path / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert source_metadata(tmp_path) == found
    assert (
        yaml.safe_load(model_card(name="x", base_id=None, source=found, **MADE).split("---\n")[1]).items()
        >= found.items()
    )
