"""All sets of a model's layers, walked in pieces; and what one layer less changes, worked by hand."""

import argparse

import numpy as np
import pytest

from benchmarks.frontier import twelve, twelve_tables
from compressor.files import read_json, write_json
from compressor.progress import silent
from compressor.recipe.file import load_recipe
from compressor.run.checks import prepare


@pytest.fixture
def run(tiny_task, tmp_path, monkeypatch):
    monkeypatch.setattr(twelve, "PIECE_SETS", 3)
    monkeypatch.setattr(twelve, "NAIVE_SETS", 4)
    return prepare(load_recipe(tiny_task / "recipe.yaml"), tmp_path, "cpu", silent)


def test_a_walk_that_is_stopped_goes_on_and_its_pieces_add_up(run, monkeypatch):
    begun, whole = twelve.walk(run, until=0.0)  # what is tried one by one, and no set yet
    assert (whole, begun["walk"]["pieces"], len(begun["naive"]["seconds"])) == (False, [], 2)
    assert read_json(run.path / "pace.json")["pieces"] == []
    with monkeypatch.context() as patch:
        patch.setattr(twelve, "write_json", lambda path, done: (write_json(path, done), _stop_after(1, done)))
        with pytest.raises(KeyboardInterrupt):
            twelve.walk(run, until=np.inf)
    found, whole = twelve.walk(run, until=np.inf)
    pieces = read_json(run.path / "pace.json")["pieces"]
    assert [piece["sets"] for piece in pieces] == [3, 3, 1]
    walked, naive = found["walk"], found["naive"]
    assert (whole, walked["sets"], walked["layer_applications"]) == (True, 7, 7)  # of three layers, one at least stays
    # kept prefixes: 1, 12, 123 and 13 | 1 and, without layer 1, 2, 23 | 3
    assert [piece["applications"] for piece in pieces] == [4, 3, 1]
    assert naive["layer_applications"] == 3 + 3 * 2 + 3
    assert len(naive["seconds"]) == len(naive["sample"]) == 4
    assert twelve.walk(run, until=0.0) == (found, True)  # nothing is left to try


def test_searches_and_one_layer_of_a_small_model(tiny_task, tmp_path, monkeypatch):
    def recipe_of(_model, _arguments, _name, *sets):
        sets = [text.replace("=500", "=60").replace("layers=11", "layers=2") for text in sets]
        return load_recipe(tiny_task / "recipe.yaml", sets)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(twelve, "NAIVE_SETS", 2)
    monkeypatch.setattr(twelve, "GUIDED", [1])
    monkeypatch.setattr(twelve, "recipe_of", recipe_of)
    arguments = argparse.Namespace(until=np.inf)
    entry = twelve.measure_walk("sst2-12layers", arguments)
    best = {name: search["best"]["1"]["agreement"] for name, search in entry["searches"].items()}
    assert best["exhaustive"] == best["beam of 8"] >= best["separability"]
    assert entry["searches"]["exhaustive"]["sets_evaluated"] == 7
    assert entry["searches"]["guided"]["tried"] == {"1": 3}  # so few that all are tried
    assert best["guided"] == best["exhaustive"]
    lines = twelve_tables.walk_table(entry).splitlines()
    assert "greedy (beam of 1)" in lines[0] and len(lines) == 2 + 2 + 2
    one = twelve.measure_one("sst2-12layers", arguments)["one"]
    assert set(one["selection_agreement"]) == {"1", "2", "3"}
    assert {str(layer) for layer in one["chosen"].values()} == set(one["predictions"])
    assert all(len(ways) == 3 for ways in one["predictions"].values())
    assert len(twelve_tables.one_table({"a": one}).splitlines()) == 2 + 3 * len(one["predictions"])


def test_one_layer_less_is_judged_by_the_rows_it_changes():
    full = "0" * 100
    one = {
        "full": full,
        "labels": "1" + "0" * 99,
        "chosen": {"trials, as it is": 3, "trials, after a readout": 2, "separability": 2},
        "predictions": {"3": {"as it is": "1" + "0" * 99}, "2": {"as it is": "0" * 90 + "1" * 10, "refit": full}},
    }
    best, worst, same = (line.split(" | ") for line in twelve_tables.one_table({"a": one}).splitlines()[2:])
    assert best[2:4] == ["3 (trials, as it is)", "as it is"]
    assert (best[4].split()[0], best[5].split()[0], best[7]) == ("1.0", "+1.0", "near |")  # 100 rows show no more
    assert worst[2] == "2 (trials, after a readout; separability)"
    assert (worst[4].split()[0], worst[5].split()[0], worst[7]) == ("10.0", "-10.0", "lossy |")
    assert (same[3], same[4].split()[0], same[5].split()[0]) == ("refit", "0.0", "+0.0")


def test_the_pace_of_the_pieces_is_held_against_a_sample_one_by_one():
    pieces = [{"sets": 4, "applications": 5, "seconds": 10.0}, {"sets": 6, "applications": 6, "seconds": 10.0}]
    found = {"sets": 30, "layer_applications": 30, "predicted_seconds": 120.0, "pieces": pieces}
    entry = {"rows": 5, "walk": found, "naive": {"seconds": [6.0, 6.0, 6.0], "layer_applications": 90}}
    assert twelve_tables.times_as_long(entry) == (3.0, 3.0, 3.0)
    assert "by the pace of 10 of them, 1 minutes of one processor (2 predicted" in twelve_tables.walk_reading(entry)


def _stop_after(pieces, done):
    if len(done["pieces"]) == pieces:
        raise KeyboardInterrupt
