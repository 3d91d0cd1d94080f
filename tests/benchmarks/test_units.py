"""The benchmark of mixes on a tiny model: every kind of units, ever more text, each block alone; what is kept of it."""

import json
import sys

import pytest
from tiny import letter_rows

from benchmarks.units import run as bench
from benchmarks.units import tables
from compressor.recipe.file import load_recipe


@pytest.fixture
def measured(tiny_task, tmp_path, monkeypatch):
    """Return a function: arguments -> the results of a run on the tiny task, in a folder of its own."""
    rows = [text for text, _ in letter_rows(300)][260:]
    test = tmp_path / "test.csv"
    test.write_text("\n".join(["text", *rows]) + "\n", encoding="utf-8")

    def recipe_of(_task, _arguments, _model, *sets):
        own = [f"data.test={test}", "data.calibration.split=test", "separability.labels=teacher"]
        return load_recipe(
            tiny_task / "recipe.yaml", [*sets, *own, "data.selection.size=40", "data.calibration.size=30"]
        )

    monkeypatch.setattr(bench, "recipe_of", recipe_of)
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "units.json")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "units.json")
    monkeypatch.setattr(bench, "TEXTS", (20, 40, 10**6))
    monkeypatch.setattr(bench.units_tables, "write", lambda _results: None)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["run", "--task", "sst2", *arguments])
        bench.main()
        found = json.loads((tmp_path / "units.json").read_text(encoding="utf-8"))
        return found.get("tasks", {}).get("sst2") or found

    return call


def test_every_kind_of_mix_keeps_to_its_budget_and_is_measured_step_by_step(measured):
    made = measured("--part", "mixes", "--sizes", "1", "3")
    unreachable = {"widths 3"}  # neurons alone cannot save half of so small a model
    assert made["mixes"].keys() == {f"{kind} {size}" for kind in bench.KINDS for size in (1, 3)} - unreachable
    for name, entry in made["mixes"].items():
        assert entry["kept"] <= 1 - int(name[-1]) / 6 + 1e-9
        assert all(len(method["predictions"]) == len(made["full"]) for method in entry["methods"].values())
        assert entry["methods"].keys() == {
            "cut",
            "cut + readout",
            "stand-ins",
            "stand-ins + readout",
            "refit",
            "refit + readout",
        }
    parts = {part for name, entry in made["mixes"].items() if name.startswith("heads") for part in entry["units"]}
    assert any("heads:" in part or "ffn:" in part for part in parts)


def test_text_and_single_blocks(measured, tmp_path):
    made = measured("--part", "texts", "--part", "removal")
    assert made["texts"].keys() == {"20", "40"}
    drawn = tables.texts_figure({"sst2": made}, tmp_path / "figures" / "texts.png")
    assert drawn.read_bytes().startswith(b"\x89PNG")
    one = {**made, "texts": {"20": made["texts"]["20"]}}
    assert tables.texts_figure({"sst2": one}, tmp_path / "none.png") is None
    assert {step: layers.keys() for step, layers in made["removal"].items()} == {
        step: {"1", "2", "3"} for step in bench.STEPS
    }


def test_peers_stand_beside_ours():
    # four rows, labels 0, 0, 1, 1; the full model errs on the second
    ours, top = {"predictions": "0111"}, {"predictions": "0011"}
    influence, pruned = {"predictions": "1111"}, {"predictions": "0101", "details": {"heads": 8, "ffn": 960}}
    task = {"labels": "0011", "full": "0111", "mixes": {f"heads {n}": {"methods": {"refit": ours}} for n in (1, 2)}}
    made = {"textpruner": pruned, "top_first": top, "block_influence": influence}
    peers = {f"{name}-{size}/alltokens": entry for name, entry in made.items() for size in (1, 2)}
    rows = [row.split("|") for row in tables.peer_table(task, peers).splitlines()[2:]]
    assert [row[3].split(" [")[0].strip() for row in rows[:4]] == ["0.0 %", "25.0 %", "25.0 %", "25.0 %"]
    assert [row[4].split(" [")[0].strip() for row in rows[:4]] == ["+0.0", "-25.0", "+25.0", "-25.0"]
    assert [row[5].split(" [")[0].strip() for row in rows[:4]] == ["", "+25.0", "+25.0", "+25.0"]
    assert "TextPruner (8 heads, 960 neurons a layer)" in rows[1][2]


def test_every_step_is_timed(measured):
    made = measured("--part", "pace")["pace"]
    assert (made["layers"], made["texts"], made["rows"]) == (3, 30, 40)
    assert made["amounts"] > 0
    assert {"fits", "shifts", "solving, 0.5", "refit, layer by layer"} <= made["seconds"].keys()
    table = tables.pace_table(made)
    assert "30 texts" in table and "| fits |" in table
