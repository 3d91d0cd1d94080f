"""The report: right numbers and words, safe and offline, whole with every part missing, the same bytes each time."""

import html
import json
import re
from pathlib import Path

import pytest
from report_cases import bare, built, check_figures, check_pages, no_speedup, pages, unlabelled, whole_result

from compressor.errors import UserError
from compressor.report.build import build_report


def without_optional_parts(result: dict) -> dict:
    return {
        key: result[key]
        for key in ("schema", "name", "recipe", "environment", "data", "layers", "plan", "variants", "stages")
    }


def many_classes(result: dict) -> dict:
    result["flipped"] = [
        {**result["flipped"][0], "id": f"row:{i}", "full": {"label": f"class {i} $x_1$", "confidence": 0.2}}
        for i in range(50)
    ]
    return result


def not_finite(result: dict) -> dict:
    result["layers"][3].update(separability=float("nan"), gain=None)
    result["head"]["fold_error"] = float("nan")
    return result


SHAPES = {
    "whole": whole_result,
    "unlabelled": lambda: unlabelled(whole_result()),
    "bare": lambda: bare(whole_result(2, (2,))),
    "without optional parts": lambda: without_optional_parts(whole_result()),
    "24 layers, exhaustive": lambda: whole_result(24, (5, 6, 7, 20)),
    "many classes": lambda: many_classes(whole_result()),
    "no speed-up": lambda: no_speedup(whole_result()),
    "not finite": lambda: not_finite(whole_result()),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_report_is_whole_and_safe(shape: str) -> None:
    check_pages(*pages(SHAPES[shape]()))


@pytest.mark.parametrize("shape", ["unlabelled", "bare", "24 layers, exhaustive", "not finite"])
def test_report_with_figures_is_offline(tmp_path: Path, shape: str) -> None:
    check_figures(tmp_path, *built(tmp_path, SHAPES[shape]()))


def test_same_result_gives_same_bytes(tmp_path: Path) -> None:
    check_figures(tmp_path, *built(tmp_path, whole_result()))
    first = {
        path.name: path.read_bytes()
        for path in (*tmp_path.iterdir(), *(tmp_path / "figures").glob("*.png"))
        if path.is_file()
    }
    again = {path.name: path.read_bytes() for path in build_report(tmp_path)}
    assert list(again) == [
        *("report.html", "report.md", "separability.png", "accuracy.png", "latency.png", "speedup.png", "head.png")
    ]
    assert again == {name: data for name, data in first.items() if name != "result.json"}


def test_figures_of_an_earlier_build_do_not_stay(tmp_path: Path) -> None:
    built(tmp_path, whole_result())
    assert (tmp_path / "figures" / "head.png").is_file()
    for name in ("mine.png", "ffn_mine.png"):  # no build wrote these
        (tmp_path / "figures" / name).write_bytes(b"mine")
    built(tmp_path, bare(whole_result()))
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.png")) == [
        *("accuracy.png", "ffn_mine.png", "mine.png", "separability.png")
    ]


def test_a_link_in_place_of_the_report_is_refused(tmp_path: Path) -> None:
    built(tmp_path, whole_result())
    (tmp_path / "elsewhere.html").write_text("mine")
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").symlink_to(tmp_path / "elsewhere.html")
    with pytest.raises(UserError, match="report.html: this is a link"):
        build_report(tmp_path)
    assert (tmp_path / "elsewhere.html").read_text() == "mine"


def test_summary_says_the_numbers() -> None:
    page, markdown = pages(whole_result())
    for text in (page, markdown):
        assert (
            "Near: 1 of 6 layers removed, accuracy not distinguishable from the full model, 26 of 872 predictions changed, "
            "1.19x to 1.21x as fast in 8 of 12 comparisons." in text
        )
        assert (
            "Full 90.00 %, compressed 89.77 %; paired 95 % interval −1.20 to +0.80 points: not distinguishable." in text
        )
        assert "The interval leaves room for a loss of 1.20 points. n = 872, one example is 0.11 points." in text
        assert "26 of 872 predictions changed (2.98 %): 10 gained, 12 lost, 4 wrong both times." in text
        # the fastest cell is incomplete, the next not claimed: the best is the first
        assert (
            "Best claimed: PyTorch, batch 1, 32 tokens, PyTorch CPU; p50 9.00 ms → 7.56 ms, 95 % interval 1.17x to 1.21x"
            in text
        )
        assert "22,713,986" in text
        assert "90.9 MB" in text
        assert "2.33 GF" in text
        assert "batch 1, 32 tokens: 1.19x, wanted 1.5x." in text
        assert (
            "skips layer 1, the chosen one layer 4: agreement 94.00 % against 97.00 %, a regret of 3.00 points" in text
        )
    assert "1 of 26 changed predictions are shown" in page
    assert "above -2 points" in page
    assert "Selection split only; evaluation data was not used" in page
    assert 'AutoModelForSequenceClassification.from_pretrained("model")' in html.unescape(page)
    assert "5 × Attention" not in page  # `optimized` has no parity row in this result
    assert page.count("incomplete</span>") == 8
    assert "threads: 2, instructions: avx2, fma" in page
    assert "all measured: 1.19x to 1.21x. Fewer runs than wanted in 4 of them." in page
    assert "200.0 s" not in page
    assert "3 min 20 s" in page


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"tier": "exact", "flips": 0, "flip_rate": 0.0, "ci95": [0.0, 0.0]},
            "Exact: 1 of 6 layers removed, every prediction as in",
        ),
        ({"tier": "lossless"}, "Lossless: "),
        (
            {"tier": "lossy", "accuracy_delta": -0.031, "ci95": [-0.05, -0.01]},
            "accuracy −3.10 points (worse than the full model)",
        ),
        ({"accuracy_delta": 0.02, "ci95": [0.001, 0.04]}, "accuracy +2.00 points (better than the full model)"),
        ({"accuracy_delta": 0.02, "ci95": [0.0, 0.04]}, "accuracy not distinguishable from the full model"),
        ({"tier": "lossy"}, "the accuracy measured is more than 2 points below"),
        (
            {"tier": "undecided", "rows_to_decide": 1234},
            "its bound is not; about 1,200 rows with the same shares would be",
        ),
        ({"rows": 277}, "Small sample: n = 277, one example is 0.36 points."),
    ],
)
def test_headline_claims_no_more_than_the_interval(changes: dict, sentence: str) -> None:
    result = whole_result()
    result["variants"]["compressed"]["versus_full"].update(changes)
    assert all(sentence in text for text in pages(result))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no result here"),
        ("{", "not a JSON file"),
        ("[]", "schema None is not 1"),
        ('{"schema": 2}', "schema 2 is not 1"),
        ('{"schema": 1, "name": "x"}', "recipe, environment, data, layers, plan, variants, stages is missing"),
    ],
)
def test_bad_result_is_one_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        build_report(tmp_path)
    assert "result.json: " in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("change", [{"layers": [3]}, {"goals": [1]}, {"environment": []}, {"stages": [{"name": "x"}]}])
def test_a_part_of_the_wrong_kind_is_one_sentence(tmp_path: Path, command, change: dict) -> None:
    (tmp_path / "result.json").write_text(json.dumps({**whole_result(), **change}))
    code, _, stderr = command("report", tmp_path)
    assert (code, stderr.count("\n")) == (2, 1), stderr
    assert "result.json: a part is missing or of the wrong kind" in stderr


def test_result_without_a_compressed_model_or_not_text(tmp_path: Path) -> None:
    result = whole_result()
    del result["variants"]["compressed"]
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"variants\.compressed is missing"):
        build_report(tmp_path)
    for content in (b"\xff\xfe\x00", b"[" * 100_000):
        (tmp_path / "result.json").write_bytes(content)
        with pytest.raises(UserError, match="not a JSON file"):
            build_report(tmp_path)
