"""Markdown that others read: no text of a recipe, a model or its labels becomes markup in the card, the page beside a file, or the report."""

import re

import pytest
from markdown_it import MarkdownIt
from report_cases import pages, whole_result

from compressor.export.beside import words_beside
from compressor.model.card import model_card

PAYLOAD = (
    "</code><script>alert(1)</script> ![x](javascript:alert(1)) [y](javascript:alert(1)) <img src=x onerror=alert(1)>"
)
FENCE = "a\n```\n<script>alert(1)</script>\n\n````yaml\n# heading\n" + "`" * 9 + "\n"


def markup(text: str) -> list[str]:
    """Return what a reader of Markdown takes for HTML of its own, links and pictures, our own comments left out."""
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    found = []
    for token in MarkdownIt().parse(body):
        for part in [token, *(token.children or [])]:
            if part.type in {"html_block", "html_inline"} and not part.content.lstrip().startswith("<!--"):
                found.append(part.content)
            found += [str(value) for name, value in part.attrs.items() if name in {"href", "src"}]
    return found


def card(**changes) -> str:
    made = {
        **{
            "name": "sst2",
            "base": "bert",
            "model_class": "BertForSequenceClassification",
            "units": [2],
            "padded": False,
        },
        **{"layers": 4, "nodes": 4, "refitted": (), "distilled": False, "recipe": "name: sst2\n", "max_length": 64},
        **{"base_id": None, "source": {}, **changes},
    }
    return model_card(**made)


def test_a_plain_card_has_no_markup_and_a_poisoned_one_would_be_seen():
    assert markup(card()) == []
    assert markup(card().replace("## Recipe", PAYLOAD)) != []


@pytest.mark.parametrize("recipe", [PAYLOAD, FENCE, f"text: '{FENCE}'\n", "x ```` y\n"])
def test_a_recipe_stays_within_its_block(recipe):
    made = card(recipe=recipe if recipe.endswith("\n") else f"{recipe}\n")
    assert markup(made) == []
    block = next(token for token in reversed(MarkdownIt().parse(made)) if token.type == "fence")
    assert block.content.rstrip("\n") == recipe.rstrip("\n")
    headings = [token for token in MarkdownIt().parse(made.split("---\n", 2)[2]) if token.type == "heading_open"]
    assert len(headings) == 2


@pytest.mark.parametrize("base", [PAYLOAD, FENCE, "# a", "<b>", "a|b"])
def test_the_name_of_a_source_is_no_markup(base):
    assert markup(card(base=base)) == []


def test_labels_beside_a_file_are_no_markup(tmp_path):
    settings = {
        "label_names": [PAYLOAD, FENCE], "texts": 1, "max_length": 32, "pad_id": 0, "truncation_side": "right",
        "token_types": True, "threads": None,
    }  # fmt: skip
    page = words_beside(tmp_path, "optimized", settings)["README.md"]
    assert all(not found.startswith("javascript:") for found in markup(page))
    assert not any("<script" in found or "<img" in found for found in markup(page))


@pytest.mark.parametrize("payload", [PAYLOAD, FENCE])
def test_texts_and_labels_in_the_summary_are_no_markup(payload):
    result = whole_result()
    row = {**result["flipped"][0], "texts": [payload], "gold": payload, "full": {"label": payload, "confidence": 0.9}}
    result["flipped"] = [{**row, "compressed": {"label": payload, "confidence": 0.6}}]
    result["data"]["warnings"], result["goals"]["misses"] = [payload], [payload]
    _, text = pages(result)
    assert not any("<script" in found or "<img" in found or "javascript" in found for found in markup(text))


def test_no_module_writes_csv_that_a_spreadsheet_would_compute():
    """Whoever adds one is to put an apostrophe before values that begin with =, +, - or @, and to test it here."""
    from pathlib import Path

    import compressor

    texts = [path.read_text("utf-8") for path in Path(compressor.__file__).parent.rglob("*.py")]
    assert not any(re.search(r"\.to_csv\(|csv\.writer|DictWriter|to_excel", text) for text in texts)
