"""How a run that decides what to ship ends in the terminal."""

import pytest
from rich.cells import cell_len

from compressor.cli.recipes.tables import answer_lines
from compressor.console import show

SLOW = "meets the goal, and is not as fast"
MISSED = "12 of 1,821 predictions change; at 97.5% confidence up to 1.15% may, allowed are 1.00%"


def alternative(variant, speedup, why_not):
    bounds = [speedup - 0.1, speedup + 0.1]
    timed = {"speedup": speedup, "speedup_ci95": bounds, "flips": 3, "rows": 1821, "bytes": 90_900_000}
    return {"variant": variant, **timed, "why_not": why_not}


ANSWER = {
    "variant": "onnx/cascade", "path": "onnx/cascade", "engine": "onnx", "threads": 1, "goal": "lossless", "met": True,
    "baseline": {"engine": "pytorch", "padding": "dynamic", "compile": False, "dtype": "float32"}, "misses": [],
    "cell": {"batch": 1, "length": "workload"}, "mean_ms": 2.69, "baseline_mean_ms": 13.07, "speedup": 4.86,
    "speedup_ci95": [4.66, 5.09], "flips": 4, "rows": 872, "tier": "lossless", "accuracy_delta": None,
    "factors": [{"name": "runtime", "ratio": 1.85}, {"name": "8 bits", "ratio": 2.63}], "bytes": 118_400_000,
    "baseline_bytes": 90_900_000, "why": "Of 4 compositions built, 2 keep to lossless, and this is the fastest of them.",
    "alternatives": [alternative("pytorch/bfloat16", 0.5, SLOW), alternative("onnx/int8", 4.38, MISSED)],
}  # fmt: skip


def test_what_else_was_built_is_the_fastest_first_and_the_line_comes_last():
    table, *_, line = answer_lines(ANSWER)
    assert [row[:2] for row in table.rows] == [
        ("onnx/int8", "4.38x [4.28, 4.48]"),
        ("pytorch/bfloat16", "0.50x [0.40, 0.60]"),
    ]
    assert table.title.endswith("speed-up over PyTorch float32, padded to the longest text")
    assert line.startswith("Ship onnx/cascade: ")
    assert not [part for part in answer_lines({**ANSWER, "alternatives": []}) if not isinstance(part, str)]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_reasons_are_whole_at_every_width(monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    show(*answer_lines(ANSWER))
    text = capsys.readouterr().out
    assert max(map(cell_len, text.splitlines())) <= width
    assert all(number in text for number in ("4.38x", "[4.28, 4.48]", "3 of 1,821", "90.9 MB", "1.15%", "1.00%"))
    below = " ".join(text.split())
    assert (f"onnx/int8: {MISSED}" in below) == (width == 60)
