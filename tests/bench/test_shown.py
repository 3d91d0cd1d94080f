"""Latencies as figure and tables: what was found, opponents, names."""

import pytest
from bench_cases import floor, row

from compressor.cli.tables import filled
from compressor.cli.timing.tables import footprint_table, latency_tables, noise_lines
from compressor.report.figures.bench import bench_figure, finding
from compressor.report.formats import short_names


def test_the_figure_says_what_was_found():
    latency = {
        "runs/a/full": [row(1.0, None, False)],
        "runs/a/small": [row(2.0, [1.9, 2.1], True)],
        "runs/a/same": [row(1.01, [0.99, 1.03], False)],
        "runs/a/large": [row(0.8, [0.7, 0.9], False)],
    }
    figure = bench_figure(latency, [floor("runs/a/full", 0.97, 1.01)])
    assert figure.get_suptitle() == "Claimed speed-up: 2.00x, in 1 of 3 comparisons; slower in 1"
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["large", "same", "small"]
    assert axes.get_title(loc="left") == "batch 1, 32 tokens"
    assert "over full" in figure.legends[0].get_title().get_text()
    # the band reaches as far as a claim must: 1/0.97 above 1, since the noise may be seen either way round
    low, high = axes.collections[0].get_paths()[0].get_extents().intervalx
    assert (low, high) == pytest.approx((0.97, 1 / 0.97))
    filled = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert filled == ["#0072b2", "white", "white"]


def test_opponents_are_named_where_there_are_several_and_wide_spreads_are_logarithmic():
    latency = {
        "a/x": [row(1.1, [1.05, 1.2], True, "a/full")],
        "b/x": [row(9.0, [8.0, 10.0], True, "b/full", length="workload")],
    }
    figure = bench_figure(latency, [floor("a/full", 0.99, 1.01), floor("b/full", 0.99, 1.01, "workload")])
    assert figure.get_suptitle() == "Claimed speed-up: 1.10x to 9.00x, in 2 of 2 comparisons"
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["b/x\nover b/full", "a/x\nover a/full"]
    assert figure.axes[0].get_xscale() == "log"
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["batch 1, 32 tokens", "batch 1, real lengths"]
    with pytest.raises(ValueError, match="needs a comparison"):
        bench_figure({"alone": [row(1.0, None, False)]}, [])
    assert finding([{**latency["a/x"][0], "claimed": False, "band": (0.9, 1.1)}]).startswith("No speed-up")


def test_names_lose_the_folders_that_all_share():
    assert short_names(["runs/a/onnx/int8", "runs/a/model"]) == {
        "runs/a/onnx/int8": "onnx/int8",
        "runs/a/model": "model",
    }
    assert short_names(["runs/a/model"]) == {"runs/a/model": "runs/a/model"}
    assert short_names(["a/m", "b/m"]) == {"a/m": "a/m", "b/m": "b/m"}
    assert short_names(["x" * 50], longest=10) == {"x" * 50: "…" + "x" * 9}


def test_tables_of_the_terminal():
    lines = noise_lines([floor("a", 0.98, 1.01), floor("b", 0.9, 1.0), floor("a", 0.99, 1.04)])
    assert lines == [
        "noise floor of a (timed against itself): 0.980x to 1.040x",
        "noise floor of b (timed against itself): 0.900x to 1.000x",
    ]
    measured = {"load_s": 0.5, "first_call_s": 0.01, "peak_bytes": None, "imported_bytes": None, "gpu_bytes": 3e9}
    made = footprint_table({"a": {**measured, "children": 3}}, {"a"})
    assert made.rows == [("a (ships)", "0.50 s", "10.0 ms", "", "3000 MB", "")]
    assert filled(made.rows, made.columns) == [0, 1, 2, 4]  # what nobody measured has no column


def test_a_table_of_latencies_is_the_fastest_first_and_names_its_opponent_once():
    def row(p50, against, **more):
        timed = {
            "batch": 1,
            "length": 8,
            "p50_ms": p50,
            "p90_ms": p50,
            "p99_ms": p50,
            "texts_per_s": 1e3 / p50,
            "runs": 5,
        }
        return {**timed, "complete": True, "provider": "CPU", "against": against, "claimed": False, **more}

    full, itself = "runs/a/full", {"speedup": 1.0, "speedup_ci95": None}
    claimed = {"speedup": 2.0, "speedup_ci95": [1.9, 2.1], "claimed": True}
    noise = {"speedup": 1.01, "speedup_ci95": [0.97, 1.05]}
    slower = {"speedup": 0.5, "speedup_ci95": [0.48, 0.51], "slower": True}
    rows = {
        full: [row(10.0, full, **itself)], "runs/a/fast": [row(5.0, full, **claimed)],
        "runs/a/same": [row(9.9, full, **noise)], "runs/a/slow": [row(20.0, full, **slower)],
    }  # fmt: skip
    (made,) = latency_tables(rows, {"runs/a/fast"})
    assert made.title == "latency, batch 1, 8 tokens; speed-up over full"
    assert [line[0] for line in made.rows] == ["fast (ships)", "same", "full", "slow"]
    assert [line[4] for line in made.rows] == ["2.00x [1.90, 2.10]", "", "", "0.50x [0.48, 0.51] (slower)"]
    assert made.notes == ["1 of 3 ratios within the noise of the opponent, so not claimed and left blank"]
    other = {
        **rows,
        "runs/b/full": [row(8.0, "runs/b/full", **itself)],
        "runs/b/fast": [row(4.0, "runs/b/full", **claimed)],
    }
    (made,) = latency_tables(other)
    assert made.title.endswith("over the full model of the same run in the same format")
    assert {line[5] for line in made.rows} == {"", "a/full", "b/full"}
