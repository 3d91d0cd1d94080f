"""The peers benchmark without its models: sizes of equal latency under a fake clock, files kept or left out, tables."""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common.digits import digits
from benchmarks.peers import make as peers_make
from benchmarks.peers import run as peers
from benchmarks.peers import tables as peers_tables
from benchmarks.peers import textpruner as peers_textpruner
from benchmarks.peers.make import Bench, LeftOut, Maker
from benchmarks.peers.tables import BASE, PAIRS, PLAIN, ROWS
from benchmarks.peers.textpruner import MIXES, Size
from compressor.data.batches import Encodings
from compressor.measurement.timing.latency import Benchmark
from compressor.recipe.file import load_recipe


def entry(predictions, **details):
    gain = {"ratio": 2.0, "ci95": [1.9, 2.1], "claimed": True}
    noise = {"ratio": 1.01, "ci95": [0.99, 1.03], "claimed": False}
    place = {"p50_ms": 1.5, "p90_ms": 2.0, "p99_ms": 3.0, "runs": 6, "complete": True}
    cells = [{"batch": b, "length": s, **place, "plain": gain, "fused": noise} for b, s in ((1, "workload"), (1, 128))]
    return {"predictions": predictions, "bytes": 12_345_678, "details": details, "latency": cells}


def results(**rows):
    base = entry("1100110011")
    base["latency"] = [{**cell, "fused": None} for cell in base["latency"]]
    plain = entry("1100110011")
    plain["latency"] = [{**cell, "plain": None} for cell in plain["latency"]]
    return {
        "rows": {PLAIN: plain, BASE: base, **rows},
        "pairs": [
            {"ours": "skip-1/alltokens", "peer": "textpruner-1/alltokens", "batch": 1, "length": "workload",
             "ratio": 1.004, "ci95": [0.99, 1.02]}
        ],
        "noise_floor": [{"batch": 1, "length": "workload", "model": BASE, "ratio": 1.0, "ci95": [0.98, 1.02]}],
        "labels": "1100110000",
        "left_out": {"optimum-onnx O4": "fp16 for GPUs"},
        "threads": 1,
        "versions": {"textpruner": "1.1.post2"},
        "environment": {"onnxruntime": "1", "optimum_onnx": "2", "transformers": "3", "torch": "4", "device": {"name": "CPU"}},
    }  # fmt: skip


def bench(folder, **arguments):
    return Bench(argparse.Namespace(models=None, data=None, prune_texts=10, **arguments), folder, 1)


@pytest.mark.parametrize("wanted", [16, 400, 752, 1536])
def test_bisection_finds_the_size_of_equal_latency_in_few_timings(wanted):
    sizes = peers_textpruner.sizes_of(12, 1536, MIXES["FFN"])
    found, timed = peers_textpruner.bisect(sizes, lambda size: size.ffn / wanted)
    assert found == Size(12, wanted)
    assert len(timed) <= math.ceil(math.log2(len(sizes) + 1))
    assert timed[found] == 1


def test_bisection_takes_the_nearest_timed_size_where_none_is_equal():
    sizes = [Size(1, width) for width in (10, 20, 40, 80)]
    found, _ = peers_textpruner.bisect(sizes, lambda size: size.ffn / 36)
    assert found == Size(1, 40)
    assert peers_textpruner.bisect(sizes, lambda _size: 3.0)[0] == Size(1, 20)  # all too slow: all timed are alike
    with pytest.raises(ValueError, match="no sizes"):
        peers_textpruner.bisect([], float)


def test_heads_and_ffn_keep_the_same_share():
    sizes = peers_textpruner.sizes_of(12, 1536, MIXES["heads and FFN"])
    assert (sizes[0], sizes[-1]) == (Size(1, 16), Size(12, 1536))
    assert Size(8, 1024) in sizes
    assert all(size.heads == 12 for size in peers_textpruner.sizes_of(12, 1536, MIXES["FFN"]))


def test_latency_ratio_is_that_within_rounds_over_both_batch_sizes():
    now = [0]

    def subject(milliseconds):
        def run(batch):
            rows = len(batch["input_ids"])
            now[0] += int(1e6 * milliseconds[rows])

        return run

    texts = Encodings([[2, 5, 3]] * 16, None, 0)
    other, target = subject({1: 2.0, 8: 9.0}), subject({1: 1.0, 8: 8.0})
    found = peers_textpruner.latency_ratio(other, target, texts, clock=lambda: now[0])
    assert found == pytest.approx(math.sqrt(2.0 * 9 / 8))


def test_textpruner_that_is_not_installed_is_left_out_and_the_rest_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers_textpruner, "PACKAGE", "no-such-distribution")
    assert peers_textpruner.installed() is None
    with pytest.raises(LeftOut, match="requirements-peers.txt"):
        peers_make.make_pruned(1)(bench(tmp_path), tmp_path)
    made = []

    def full(_bench, folder):
        made.append(folder)
        return {"skip": [3]}

    monkeypatch.setattr(
        peers_make,
        "MAKERS",
        {"textpruner-1": Maker(peers_make.make_pruned(1)), "full": Maker(full, lambda _: {"a": 1})},
    )
    monkeypatch.setattr(Bench, "run", argparse.Namespace(source=argparse.Namespace(sha256="x")))
    peers_make.make_all(bench(tmp_path), ["textpruner-1", "full"])
    assert "textpruner-1: left out, TextPruner is not installed" in capsys.readouterr().out
    assert not (tmp_path / "files" / "textpruner-1" / "details.json").exists()
    peers_make.make_all(bench(tmp_path), ["full"])
    assert "full: kept from before" in capsys.readouterr().out
    monkeypatch.setattr(peers_make, "MAKERS", {"full": Maker(full, lambda _: {"a": 2})})
    peers_make.make_all(bench(tmp_path), ["full"])  # made from something else now
    assert len(made) == 2


def test_sizes_that_wait_for_our_file_say_so(tmp_path):
    with pytest.raises(LeftOut, match="skip-2, which is not made"):
        peers_make.MAKERS["textpruner-2"].inputs(bench(tmp_path))


def test_rows_that_were_not_made_are_left_out_and_stale_sizes_refused(tmp_path):
    for model in ("full", "skip-1", "textpruner-1"):
        file = tmp_path / "files" / model / "alltokens" / "model.onnx"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"abc")
        inputs = {"equal_to": "0" * 64, "threads": 1} if model == "textpruner-1" else {}
        (tmp_path / "files" / model / "details.json").write_text(json.dumps({"inputs": inputs}))
    with pytest.raises(SystemExit, match="textpruner-1/alltokens: its size was found"):
        peers.find_rows(bench(tmp_path))
    (tmp_path / "files" / "textpruner-1" / "details.json").unlink()
    places, details, left_out = peers.find_rows(bench(tmp_path))
    assert set(places) == set(details) == {BASE, "skip-1/alltokens"}
    assert left_out["textpruner-1/alltokens"] == "not made"
    assert "CPU" in left_out["optimum-onnx O4"]
    with pytest.raises(SystemExit, match="full model's files are missing"):
        peers.measure(bench(tmp_path), draft=True)


def test_names_of_rows_and_models_belong_together():
    assert {key.partition("/")[0] for key in ROWS} == set(peers_make.MAKERS)
    assert {key for ours, others in PAIRS.items() for key in (ours, *others)} <= set(ROWS)


@pytest.mark.parametrize("task", ["sst2", "sst2_refit", "sst2_cascade"])
def test_overrides_that_only_make_a_model_are_valid(task):
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / f"{task}.yaml", list(peers_make.UNTIMED))
    assert (recipe.benchmark.lengths, recipe.benchmark.workload) == ([], False)


@pytest.mark.parametrize("named", [True, False])
def test_speed_ups_over_both_full_models_come_from_one_run(named):
    values = {PLAIN: [4.0] * 5, BASE: [2.0] * 5, "skip-1/alltokens": [1.0] * 5, "textpruner-1/alltokens": [1.1] * 5}
    place = {"batch": 1, "length": 128}
    floors = [
        {**place, "ratio": 1.0, "ci95": [0.9, 1.2], **({"model": name} if named else {})} for name in (PLAIN, BASE)
    ]
    shown = {"p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": 1.0, "runs": 5, "complete": True}
    part = Benchmark({name: [{**place, **shown}] for name in values}, floors, [{**place, "values_ms": values}])
    (cell,) = peers.latency_of([part], "skip-1/alltokens")
    assert cell["plain"] == {"ratio": 4.0, "ci95": [4.0, 4.0], "claimed": True}
    assert cell["fused"]["ratio"] == 2.0
    assert peers.latency_of([part], BASE)[0]["fused"] is None
    (pair,) = peers.pair_ratios([part])
    assert (pair["ours"], pair["peer"]) == ("skip-1/alltokens", "textpruner-1/alltokens")
    assert pair["ratio"] == pytest.approx(1.1)


def test_tables_hold_what_the_predictions_say():
    skip = entry("1100110000", skip=[5])
    pruned = entry("1100110001", mix="FFN", heads=12, ffn=800)
    text = peers_tables.tables(results(**{"skip-1/alltokens": skip, "textpruner-1/alltokens": pruned}))
    (row,) = [line for line in text.splitlines() if line.startswith("| **1 layer skipped** (5), fused | 100.0 %")]
    # 8 of 10 as the full model, both changed rows right where the full model was wrong
    assert "| 80.0 % | +20.00 [-13.30, +50.98] | 12 | 2.00x [1.90, 2.10] | 1.01x [0.99, 1.03] ~ |" in row
    assert "TextPruner, latency of 1 skip (FFN: 12 heads, FFN 800), fused | 90.0 %" in text
    (pair,) = [line for line in text.splitlines() if line.startswith("| 1 layer skipped (5), fused | TextPruner")]
    assert pair.endswith("| -10.0 [-40.4, +20.5] | +10.0 [-20.5, +40.4] | 1.00 [0.99, 1.02] |  |")
    assert "Left out: optimum-onnx O4 (fp16 for GPUs)." in text
    assert "textpruner 1.1.post2" in text


def test_a_row_that_was_not_timed_in_a_cell_has_empty_places_there():
    guarded = entry("1100110011", exits=[2, 3])
    del guarded["latency"][1]
    text = peers_tables.speed_table(results(**{"exit/cascade": guarded}))
    (row,) = [line for line in text.splitlines() if "exits 2, 3" in line]
    assert row.endswith("| 1.50 | 2.00x [1.90, 2.10] | 1.01x [0.99, 1.03] ~ |  |  |  |")
    assert peers_tables.pair_table(results()) == ""


def test_digits_are_the_predicted_classes():
    assert digits(np.array([[0.1, 0.9], [2.0, -1.0], [0.0, 0.5]])) == "101"
