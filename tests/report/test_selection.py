"""Audit, frontier, goals on the selection split and predicted latency: in the report and on the terminal."""

import re
from pathlib import Path

import pytest
from choice_cases import audit_of, candidates, timing, undefined
from report_cases import built, check_figures, check_pages, pages, whole_result

from compressor.report.build import OPTIONAL, build_report
from compressor.report.context import report_context
from compressor.report.tables import selection as tables
from compressor.report.wording import selection as wording_selection

LINES = 135
"""Most lines that report.md may have with every part (six layers)."""


def prediction() -> list[dict]:
    measured = [{"variant": "onnx_fp32", "speedup": 1.5, "ci95": [1.45, 1.55], "error": -0.0588},
                {"variant": "compressed", "speedup": 1.4, "ci95": [1.3, 1.45], "error": 0.0084}]  # fmt: skip
    return [
        {"batch": 1, "length": 32, "size": 1, "predicted_speedup": 1.4118, "measured": measured},
        {"batch": 8, "length": 128, "size": 1, "predicted_speedup": 1.4286, "measured": []},
    ]


def audited(labelled: bool = True) -> dict:
    """A whole result with every new part."""
    result = whole_result(3, (2,))
    result["plan"].update(layers_asked="auto", predicted_seconds=10.5, rank_by="separability")
    result["plan"]["trace"] += [
        {"skip": [], "agreement": 1.0, "kl": 4e-5, "raw_agreement": 1.0},
        {"skip": [2, 3], "agreement": 0.80, "kl": 0.25, "raw_agreement": 0.7},
    ]
    if labelled:
        for index, row in enumerate(result["plan"]["trace"]):
            row.update(raw_kl=0.5, gained=index, lost=100 + index, raw_gained=1, raw_lost=2)
    result["goals"]["selection"] = candidates()
    return {**result, "audit": audit_of(labelled=labelled), "timing": timing(), "prediction": prediction()}


def without(result: dict, *parts: str) -> dict:
    """The result with parts of the audit left out."""
    result["audit"].update({part: [] for part in parts})
    return result


def no_intervals(result: dict) -> dict:
    for row in result["audit"]["frontier"]:
        row.update(agreement_ci95=None, accuracy_ci95=None, accuracy_delta=None)
    result["prediction"][0]["measured"][0].update(ci95=None, error=float("nan"))
    return result


SHAPES = {
    "whole": audited,
    "unlabelled": lambda: audited(labelled=False),
    "no timing": lambda: {**audited(), "timing": None},
    "timing only": lambda: {**audited(), "audit": None, "prediction": None, "goals": None},
    "all null": lambda: {**whole_result(), "audit": None, "timing": None, "prediction": None},
    "no prediction": lambda: {**audited(), "prediction": []},
    "no frontier": lambda: without(audited(), "frontier"),
    "no correlations": lambda: without(audited(), "correlations", "hits"),
    "undefined": lambda: undefined(audited()),
    "no intervals": lambda: no_intervals(audited()),
    "no chosen trial": lambda: {
        **audited(),
        "plan": {**audited()["plan"], "chosen": None, "ranked": None, "regret": None},
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_part_may_be_missing_or_null(shape: str) -> None:
    check_pages(*pages(SHAPES[shape]()), lines=LINES)


@pytest.mark.parametrize("shape", ["whole", "no timing", "undefined", "no intervals", "no chosen trial"])
def test_figures_of_every_shape(tmp_path: Path, shape: str) -> None:
    check_figures(tmp_path, *built(tmp_path, SHAPES[shape]()), lines=LINES)
    drawn = {path.name for path in (tmp_path / "figures").glob("*.png")}
    assert {"audit.png", "frontier.png"} <= drawn


def test_a_result_without_the_new_parts_shows_none_of_them(tmp_path: Path) -> None:
    page, markdown = built(tmp_path, whole_result())
    for text in (page, markdown):
        assert not re.search(
            "Audit of the scores|Frontier|Goals on the selection split|Predicted latency|one timed layer", text
        )
    assert 'href="#audit"' not in page
    assert not (tmp_path / "figures" / "audit.png").exists()


def test_same_result_gives_same_bytes_and_old_figures_go(tmp_path: Path) -> None:
    built(tmp_path, audited())
    first = {path.name: path.read_bytes() for path in (tmp_path / "figures").glob("*.png")}
    assert {path.name: path.read_bytes() for path in build_report(tmp_path) if path.suffix == ".png"} == first
    built(tmp_path, whole_result())
    assert set(first) - {path.name for path in (tmp_path / "figures").iterdir()} == {"audit.png", "frontier.png"}


def test_sections_say_the_numbers() -> None:
    page, markdown = pages(audited())
    for link in ("frontier", "goals"):
        assert f'<a href="#{link}">' in page
        assert f'<section id="{link}">' in page
    assert '<section id="audit" class="folded">' in page
    for text in (page, markdown):
        assert "Block influence loses least; trust the trials." in text
        assert "separability (trace ratio)" in text
        assert "98.40 %" in text
        assert "6 sets were judged after the closed-form readout" in text
        assert "on 1,000 rows of the selection split." in text
        assert "taken at 99.1667 % confidence: those of all 6 sets that the search could have taken" in text
        assert (
            "hold together at 95.00 % (Bonferroni). Changed predictions are counted on these rows. The chosen" in text
        )
        assert "−24.00 points" in text
        assert "PyTorch +0.8 %, inside the measured interval in 1 of 1 cells; ONNX fp32 −5.9 %, inside" in text
    assert "layer whose removal does the least damage is layer 2." in page
    assert "full model 12.0 ms, one layer 3.50 ms (n = 50)" in page
    assert "full model 90.0 ms, one layer 27.0 ms (n = 31)" in page
    assert "out of 3 of all sizes (21 layer applications, 12.3 s; predicted 10.5 s). How many layers to skip" in page
    assert "max_drop: a|b, allowed is 2.00%; &lt;script&gt;" in page
    assert "| block influence | 0.88 (0.60 to 0.95) | 0.69 (0.59 to 0.79) | yes | yes | 0.00, 5.00 |" in markdown
    assert "| H-score | – | – | no | yes | 3.40, 3.00 |" in markdown
    assert "| 1 | 66.67 % | 8.50 ms | 98.40 % (97.40 to 99.40 %; 2) | 91.00 % | 98.40 % | 60.00 % |" in markdown
    assert "max\\_drop: a\\|b, allowed is 2.00%" in markdown


def test_markdown_tables_have_as_many_cells_in_every_row() -> None:
    for shape in SHAPES.values():
        widths: list[set[int]] = []
        for line, before in zip((lines := pages(shape())[1].splitlines()), ["", *lines[:-1]], strict=True):
            if line.startswith("|"):
                cells = len(re.split(r"(?<!\\)\|", line))
                widths = widths if before.startswith("|") else [*widths, set()]
                widths[-1].add(cells)
        assert all(len(width) == 1 for width in widths)


def test_unlabelled_says_so_and_has_no_accuracy_columns() -> None:
    page, _ = pages(audited(labelled=False))
    assert "The selection split has no labels" in page
    assert "accuracy lost</th>" not in page
    assert "its accuracy change" not in page
    page, _ = pages(audited())
    assert page.count("accuracy lost</th>") == 4


def test_unmet_goals_are_said() -> None:
    result = audited()
    result["goals"]["selection"] = candidates(met=False)
    assert all("No set meets the goals there; the chosen one comes nearest." in text for text in pages(result))


def test_plan_shows_the_chosen_size_and_the_best_of_the_others() -> None:
    context = report_context({**OPTIONAL, **audited()})
    assert [row["skip"] for row in context["sets"]] == [[3], [2], [1]]
    assert [(row["skip"], row["tried"]) for row in context["best_of_sizes"]] == [([], 1), ([3], 3), ([2, 3], 1)]
    page, _ = pages(audited())
    assert "The best set of every size that was tried" in page
    assert "Gained, lost:" in page
    page, _ = pages(whole_result())
    assert "The best set of every size" not in page
    assert "Gained, lost:" not in page


def test_ranked_plan_names_its_score() -> None:
    result = audited()
    result["plan"]["rank_by"] = "cka"
    page, markdown = pages(result)
    assert all("The ranked plan (by CKA) skips layer 1, the chosen one layer 2" in text for text in (page, markdown))
    assert "ranked by CKA" in page
    result["plan"]["ranked"]["skip"] = [2]
    assert "The plan ranked by CKA and the chosen plan are the same" in pages(result)[1]


def test_rows_of_the_audit() -> None:
    rows = tables.audit_rows(audit_of())
    # highest rho first, the undefined last; trace_ratio stands behind separability, which repeats it
    assert [row["score"] for row in rows] == ["block_influence", "separability", "random", "h_score"]
    assert rows[1]["name"] == "separability (trace ratio)"
    assert tables.row_rho(rows[0])["rho"] == 0.875
    assert tables.row_rho(rows[3]) == {"score": "h_score", "units": "layers", "damage": "kl", "readout": True, "rho": None,
                                       "ci95": None, "n": 3}  # fmt: skip
    assert rows[0]["regret"][2]["agreement"] == pytest.approx(0.05)
    assert tables.regret_sizes(rows) == [1, 2]


def test_separability_of_its_own_keeps_the_row_of_every_score() -> None:
    audit = audit_of()
    audit["importance"]["separability"] = [1.0, 2.0, 3.0]
    names = [row["name"] for row in tables.audit_rows(audit)]
    assert "separability" in names
    assert "trace ratio" in names


def test_rows_of_the_frontier() -> None:
    view = tables.frontier_rows(audit_of()["frontier"], timing())
    assert list(view["series"].items())[:2] == [("exhaustive", "exhaustive search"), ("separability", "separability")]
    assert [(row["size"], row["flops_share"], row["predicted_ms"]) for row in view["rows"]] == [
        (0, 1.0, 12.0), (1, pytest.approx(2 / 3), 8.5), (2, pytest.approx(1 / 3), 5.0),
    ]  # fmt: skip
    assert tables.main_series(view) == ["exhaustive", "separability", "block_influence", "random"]
    assert "h_score" in tables.main_series(view, "h_score")


def test_the_full_model_stands_for_every_series_and_searches_come_first() -> None:
    frontier = [row for row in audit_of()["frontier"] if row["size"] or row["series"] == "random"]
    view = tables.frontier_rows([*frontier[2:], *frontier[:2]], None)
    assert view["searches"] == ["exhaustive"]
    assert next(iter(view["series"])) == "exhaustive"
    assert set(view["rows"][0]["cells"]) == set(view["series"])
    assert view["rows"][1]["predicted_ms"] is None


def test_rows_of_the_prediction() -> None:
    rows = tables.prediction_rows(prediction())
    assert [(row["format"], row["cell"], row["inside"]) for row in rows] == [
        ("PyTorch", "batch 1, 32 tokens", True),
        ("ONNX fp32", "batch 1, 32 tokens", False),
    ]
    assert wording_selection.prediction_reading([]) == "No prediction was measured."


def test_rows_that_the_model_may_have_learned_are_called_out_wherever_they_decide():
    result = whole_result()
    result["data"]["provenance"] = {
        "selection": "cut out of the training file, which the model may have been fine-tuned on"
    }
    page, markdown = pages(result)
    assert page.count("it looks more robust than it is") == 1 + ("Audit of the scores" in page)
    assert markdown.count("it looks more robust than it is") == 1
    result["data"]["provenance"]["selection"] = (
        "cut out of the training file, and kept from the fine-tuning in this run"
    )
    assert not any("more robust" in text for text in pages(result))
