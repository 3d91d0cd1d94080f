"""The placement benchmark: its text, its recipe, one tiny experiment, and tables that hold its figures."""

import json
import sys

import pandas as pd
import pytest
from tiny import letter_rows

from benchmarks.common import markdown
from benchmarks.common.glue import TASKS
from benchmarks.placement import run as ffn_placement
from benchmarks.placement import tables as ffn_placement_tables
from compressor.data.named import GLUE

RECIPE = """name: small
seeds: [0, 1]
text: {files: replaced}
encoder: {layers: 6, hidden: 8, heads: 2, ffn: 16, vocab_size: 64, positions: 24, dropout: 0.0}
placements: {ratios: [70], explicit: [{name: ends, layers: [1, 6]}]}
pretrain: {steps: 2, batch_size: 4, length: 16}
tasks: [{task: cola, max_length: 16, train_rows: 16}]
finetune: {epochs: 1, batch_size: 16}
"""


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """Return a folder in the shape of GLUE whose sentences are letters."""
    folder = tmp_path_factory.mktemp("glue")
    for number, task in enumerate(TASKS):
        (folder / task).mkdir()
        for split, seed in (("train", number), ("validation", 10 + number), ("test", 20 + number)):
            rows = letter_rows(120, seed)
            columns = {column: [text for text, _ in rows] for column in GLUE[task].text_columns}
            pd.DataFrame({**columns, "label": [label for _, label in rows]}).to_parquet(
                folder / task / f"{split}.parquet"
            )
    return folder


@pytest.fixture(scope="module")
def results(glue, tmp_path_factory):
    """Return the results of a tiny experiment, made by the script itself."""
    folder = tmp_path_factory.mktemp("placement")
    (folder / "results").mkdir()
    (folder / "small.yaml").write_text(RECIPE, encoding="utf-8")
    patch = pytest.MonkeyPatch()
    patch.setattr(ffn_placement, "HERE", folder)
    options = ["--recipe", folder / "small.yaml", "--data", glue, "--out", folder / "out", "--processes", "1"]
    patch.setattr(sys, "argv", ["ffn_placement.py", *map(str, options)])
    ffn_placement.main()
    patch.undo()
    return json.loads((folder / "results" / "ffn_placement_small.json").read_text(encoding="utf-8"))


def test_the_text_is_every_training_and_test_sentence_once(glue):
    found = ffn_placement.sentences(glue)
    assert len(found) == len(set(found))
    wanted = {text for number in range(5) for seed in (number, 20 + number) for text, _ in letter_rows(120, seed)}
    assert set(found) == wanted


def test_without_a_folder_the_script_makes_text(monkeypatch):
    monkeypatch.setattr(ffn_placement, "DEMO_SENTENCES", 50)
    found = ffn_placement.sentences(None)
    assert len(set(found)) == 50
    assert found == ffn_placement.sentences(None)


def test_results_keep_every_run_and_no_path(results, glue):
    assert len(results["analysis"]["runs"]) == 2 * 5
    assert results["processes"] == 1
    assert "torch" in results["environment"]
    assert str(glue.parent) not in json.dumps(results)


def test_tables_and_paragraph_hold_the_figures(results, tmp_path, monkeypatch):
    page = tmp_path / "placement.md"
    page.write_text("# B\n<!-- ffn_placement: begin -->\nold\n<!-- ffn_placement: end -->\nlast\n", encoding="utf-8")
    monkeypatch.setattr(markdown, "TABLES", tmp_path)
    ffn_placement_tables.write(results)
    text, analysis = page.read_text(encoding="utf-8"), results["analysis"]
    assert "old" not in text
    assert text.endswith("last\n")
    for each in analysis["improvements"]:
        low, high = each["ci95"]
        assert f"{100 * each['mean']:+.2f} % [{100 * low:+.2f}, {100 * high:+.2f}]" in text
    assert "| middle-70 | 0 24 24 24 24 0 |" in text
    assert "| layer | placements without its block |" in text
    assert ffn_placement_tables.outcome(analysis["verdicts"][0]) in text


def contest(other, difference, p):
    return {"other": other, "difference": difference, "ci95": [difference - 0.01, difference + 0.01], "p_holm": p}


@pytest.mark.parametrize(
    ("outcome", "contests", "words"),
    [
        ("wins", [contest("a", 0.1, 0.001), contest("b", 0.1, 0.01)], "wins, better than 2 of 2 others"),
        ("ahead", [contest("a", 0.1, 0.001), contest("b", 0.1, 0.2)], "best mean, better than 1 of 2 others"),
        ("behind", [contest("a", -0.1, 0.001), contest("b", 0.1, 0.2)], "does not win: a is better beyond doubt"),
        (
            "undecided",
            [contest("a", -0.1, 0.3), contest("b", 0.1, 0.2)],
            "undecided: a has the best mean, x is better than 0 of 2",
        ),
        ("untested", [], "x could not be compared"),
    ],
)
def test_the_paragraph_says_what_the_verdict_says(outcome, contests, words):
    verdict = {"candidate": "x", "outcome": outcome, "best": "a", "contests": contests}
    assert words in ffn_placement_tables.outcome(verdict)
