"""The one answer of a run, from parts made by hand: its numbers, its verdict, its line."""

import pytest

from compressor.pipeline.answer import answer_of
from compressor.recipe.ship import BaselineSpec, ShipSpec
from compressor.report.wording.answer import answer_details, answer_line, baseline_words, cell_words


def candidate(variant, speedup, flips=2, why_not=None, **changes):
    return {
        "variant": variant, "key": variant.replace("/", "_"), "path": variant, "engine": "onnx", "precision": "int8",
        "threads": 1, "whole": True, "exits": False, "rows": 1750, "flips": flips, "flip_bound": 0.0036,
        "confidence": 0.975, "why_not": why_not, "bytes": 22_000_000,
        "latency": {"speedup": speedup, "speedup_ci95": [speedup - 0.2, speedup + 0.2]}, **changes,
    }  # fmt: skip


def versus(flips=2, delta=-0.001, bound=-0.004, tier="lossless"):
    return {
        "rows": 1000, "flips": flips, "flip_rate": flips / 1000, "accuracy_delta": delta, "ci95": [-0.005, 0.003],
        "lower_bound": bound, "tier": tier,
    }  # fmt: skip


TIMES = {
    "batch": 1, "length": "workload", "p50_ms": 2.35, "mean_ms": 2.4, "baseline_p50_ms": 11.0, "baseline_mean_ms": 11.1,
    "speedup": 4.625, "speedup_ci95": [4.5, 4.9], "rounds": 100,
    "factors": [{"name": "runtime", "ratio": 2.0, "ci95": [1.9, 2.1]}, {"name": "8 bits", "ratio": 2.3125, "ci95": [2.2, 2.4]}],
}  # fmt: skip
SHIP = {
    "chosen": "onnx/int8", "part": "guard", "rows": 1750,
    "candidates": [
        candidate("onnx/int8", 4.6),
        candidate("onnx/optimized", 2.1, 0),
        candidate("onnx/cascade", 5.0, 40, "40 of 1,750 predictions change"),
    ],
}  # fmt: skip


def answer(spec=None, compared=None, ship=SHIP, times=TIMES):
    variants = {
        "full": {"bytes": 91_000_000, "versus_full": None},
        "onnx_int8": {"bytes": 22_000_000, "versus_full": compared or versus()},
    }
    return answer_of(spec or ShipSpec(), BaselineSpec(), ship, times, variants, 1000)


def test_the_line():
    found = answer()
    assert found["met"] is True
    assert answer_line(found) == (
        "Ship onnx/int8: 2.40 ms instead of 11.1 ms (4.6x [4.5, 4.9]), 22 MB instead of 91 MB, 2 of 1,000 predictions changed "
        "(lossless)."
    )
    assert found["flip_bound"] == pytest.approx(0.00628, abs=1e-5)  # Clopper-Pearson, one-sided 95 %, 2 of 1000
    assert (
        "4.62x = runtime 2.00 x 8 bits 2.31; against PyTorch float32, padded to the longest text"
        in answer_details(found)[0]
    )


def test_what_else_was_built_stands_beside_it_fastest_first():
    others = answer()["alternatives"]
    assert [entry["variant"] for entry in others] == ["onnx/cascade", "onnx/optimized"]
    assert [entry["why_not"] for entry in others] == [
        "40 of 1,750 predictions change",
        "meets the goal, and is not as fast",
    ]
    assert answer()["why"] == (
        "Of 3 compositions built, 2 keep to lossless, and this is the fastest of them: 2 of 1,750 texts that nothing was fitted "
        "to changed, at most 0.36% at 97.5% confidence."
    )
    passing = [*SHIP["candidates"][:2], candidate("onnx/cascade", 5.0, 5, exits=True)]
    assert (
        "and this is within a tenth of the fastest, plainer or nearer"
        in answer(ship={**SHIP, "candidates": passing})["why"]
    )


@pytest.mark.parametrize(
    ("compared", "met", "words"),
    [
        (versus(11, -0.002, -0.006, "near"), False, "near, goal lossless missed"),
        (versus(4, -0.004, -0.012, "near"), None, "near, too few rows to show lossless"),  # 0.4 points fewer, up to 1.2
        (versus(9, -0.011, -0.016, "near"), False, "near, goal lossless missed"),
        (versus(0, 0.0, -0.03, "exact"), True, "exact"),  # what computes the same needs no number of rows
    ],
)
def test_missed_is_not_the_same_as_too_few_rows(compared, met, words):
    found = answer(compared=compared)
    assert found["met"] is met
    assert answer_line(found).endswith(f"({words}).")


def test_a_wanted_speed_up_is_held_against_the_lower_end():
    assert answer(ShipSpec(min_speedup=4.4))["met"] is True
    missed = answer(ShipSpec(min_speedup=4.6))
    assert missed["met"] is False
    assert missed["misses"] == [
        "ship.min_speedup: 4.50x is the lower end of the speed-up over what runs today, wanted are 4.60x."
    ]


def test_where_nothing_is_faster_today_s_model_stays():
    ship = {**SHIP, "chosen": "today"}
    times = {**TIMES, "speedup": 1.0, "speedup_ci95": [1.0, 1.0], "factors": [], "mean_ms": 11.1}
    found = answer(ship=ship, times=times)
    assert (found["path"], found["flips"], found["met"], found["key"]) == (None, 0, True, "full")
    assert answer_line(found) == (
        "Keep what runs today (11.1 ms): none of 3 compositions is both faster than what runs today and lossless on texts that "
        "nothing was fitted to."
    )


def test_what_runs_today_and_the_cell_in_words():
    words = baseline_words(BaselineSpec(padding="max_length", compile=True, dtype="bfloat16").model_dump())
    assert words == "PyTorch bfloat16, compiled, padded to data.max_length"
    assert cell_words({"cell": {"batch": 1, "length": "workload"}}) == "one text at a time, real lengths"
    assert cell_words({"cell": {"batch": 8, "length": 32}}) == "8 texts at a time, 32 tokens"


def test_where_size_is_preferred_the_words_say_so():
    found = answer(ShipSpec(prefer="size"))
    assert "and this is the smallest of them: 2 of 1,750" in found["why"]
    assert found["alternatives"][1]["why_not"] == "meets the goal, and is not as small"
    assert found["prefer"] == "size"
