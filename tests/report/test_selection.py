"""Audit, frontier, goals on the selection split and predicted latency: in the report and on the terminal."""

import re
from pathlib import Path

import pytest
from report_cases import HOSTILE, built, check_figures, check_pages, pages, whole_result

from compressor.cli.recipes.choice import audit_tables, candidates_table, frontier_table
from compressor.cli.tables import Grid
from compressor.report import formats
from compressor.report.build import OPTIONAL, build_report
from compressor.report.context import report_context
from compressor.report.figures import selection as figures_selection
from compressor.report.figures import style
from compressor.report.tables import selection as tables
from compressor.report.wording import selection as wording_selection

SCORES = {
    "separability": ([0.3, 0.2, 0.1], 0.5, [-0.4, 1.0]),
    "trace_ratio": ([0.3, 0.2, 0.1], 0.5, [-0.4, 1.0]),
    "block_influence": ([0.1, 0.02, 0.3], 0.875, [0.6, 0.95]),
    "h_score": ([5.0, 5.0, 5.0], None, None),
    "random": ([1.0, 3.0, 2.0], -0.5, [-1.0, 0.4]),
}
"""Score -> importance of layers 1..3, rho over single layers, its interval. The least damaging layer is 2."""
LINES = 135
"""Most lines that report.md may have with every part (six layers)."""


def audit_of(layers: int = 3, labelled: bool = True) -> dict:
    """An audit worked by hand: the search keeps 98.4 % at one layer, separability 91 %, and both 80 % at two."""
    agreement = {
        "exhaustive": [1.0, 0.984, 0.80],
        "separability": [1.0, 0.91, 0.80],
        "trace_ratio": [1.0, 0.91, 0.80],
        "block_influence": [1.0, 0.984, 0.75],
        "h_score": [1.0, 0.95, 0.77],
        "random": [1.0, 0.6, 0.5],
    }
    skips = {"exhaustive": [(), (2,), (2, 3)], "separability": [(), (3,), (2, 3)]}

    def point(series: str, size: int) -> dict:
        share = agreement[series][size]
        return {
            "series": series, "kind": "search" if series == "exhaustive" else "score", "size": size,
            "skip": list(skips.get(series, skips["separability"])[size]), "agreement": share,
            "agreement_ci95": [share - 0.01, min(1.0, share + 0.01)], "raw_agreement": share - 0.02, "kl": 0.125 * size,
            "accuracy_delta": -0.5 * (1 - share) if labelled else None,
            "accuracy_ci95": [-0.0123, 0.0034] if labelled else None,
            "regret": {"agreement": agreement["exhaustive"][size] - share, "kl": 0.25 * size},
            "encoder_flops": 300 - 100 * size,
        }  # fmt: skip

    def correlation(score: str, units: str, damage: str, readout: bool) -> dict:
        _, rho, interval = SCORES[score]
        if damage == "accuracy_lost" and not labelled:
            rho = interval = None
        if units == "blocks" and rho is not None:
            rho, interval = 0.6875, [0.59, 0.79]
        return {"score": score, "units": units, "damage": damage, "readout": readout, "rho": rho, "ci95": interval,
                "n": 3 if units == "layers" else 5}  # fmt: skip

    blocks = [[1], [2], [3], [1, 2], [2, 3]]
    return {
        "search": "exhaustive", "layers": layers, "rows": 1000, "labelled": labelled, "labels": "teacher",
        "scores": list(SCORES), "importance": {score: values for score, (values, _, _) in SCORES.items()},
        "damage": [
            {"skip": skip, "kl": 0.31 * skip[0], "flips": 0.016, "accuracy_lost": -0.002 if labelled else None,
             "raw_kl": 0.4, "raw_flips": 0.05, "raw_accuracy_lost": 0.03 if labelled else None}
            for skip in blocks
        ],
        "correlations": [
            correlation(score, units, damage, readout)
            for score in SCORES for units in ("layers", "blocks") for damage in ("kl", "flips", "accuracy_lost")
            for readout in (True, False)
        ],
        "hits": [{"score": score, "order": [3, 2, 1], "best": 2, "top1": score == "block_influence", "top3": True}
                 for score in SCORES],
        "frontier": [point(series, size) for series in agreement for size in range(3)],
        "reading": "Block influence loses least; trust the trials.",
    }  # fmt: skip


def timing() -> dict:
    cells = [{"batch": 1, "length": 32, "full_ms": 12.0, "layer_ms": 3.5, "runs": 50},
             {"batch": 8, "length": 128, "full_ms": 90.0, "layer_ms": 27.0, "runs": 31}]  # fmt: skip
    return {"provider": "PyTorch CPU", "threads": 2, "cells": cells}


def prediction() -> list[dict]:
    measured = [{"variant": "onnx_fp32", "speedup": 1.5, "ci95": [1.45, 1.55], "error": -0.0588},
                {"variant": "compressed", "speedup": 1.4, "ci95": [1.3, 1.45], "error": 0.0084}]  # fmt: skip
    return [
        {"batch": 1, "length": 32, "size": 1, "predicted_speedup": 1.4118, "measured": measured},
        {"batch": 8, "length": 128, "size": 1, "predicted_speedup": 1.4286, "measured": []},
    ]


def candidates(met: bool = True) -> dict:
    chosen = {"size": 1, "skip": [2], "accuracy_delta": -0.004, "lower_bound": -0.0117, "flip_rate": 0.016,
              "predicted_speedup": 1.4118, "misses": [], "chosen": True}  # fmt: skip
    missed = {"size": 2, "skip": [2, 3], "accuracy_delta": None, "lower_bound": -0.24, "flip_rate": 0.2,
              "predicted_speedup": None, "misses": ["max_drop: a|b, allowed is 2.00%", HOSTILE], "chosen": False}  # fmt: skip
    return {"met": met, "tried": 6, "choices": 6, "readout": True, "confidence": 0.95, "corrected": 1 - 0.05 / 6, "rows": 1000,
            "candidates": [chosen, missed]}  # fmt: skip


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


def undefined(result: dict) -> dict:
    for row in result["audit"]["correlations"]:
        row.update(rho=None, ci95=None)
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


def shown(made: Grid) -> str:
    """A table's title, names and rows, with bars between the cells."""
    names = [column.name for column in made.columns]
    return "\n".join([made.title, *(f"| {' | '.join(cells)} |" for cells in (names, *made.rows))])


def correlated(**scores: tuple) -> list[dict]:
    """Rows of an audit of the given (rho, interval) over single layers."""
    keyed = {key: {"rho": rho, "ci95": interval, "n": 6} for key, (rho, interval) in scores.items()}
    audit = {"scores": list(scores), "correlations": [
        {"score": key, "units": "layers", "damage": "kl", "readout": True, **value} for key, value in keyed.items()]}  # fmt: skip
    return tables.audit_rows(audit)


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


@pytest.mark.parametrize(
    ("scores", "title"),
    [
        ({"separability": (0.1, [-0.5, 0.7]), "cka": (0.8, [0.6, 0.9])},
         "CKA 0.80 (0.60 to 0.90), separability 0.10 (−0.50 to 0.70): intervals overlap"),
        ({"separability": (0.1, [-0.5, 0.5]), "cka": (0.8, [0.6, 0.9])}, "(−0.50 to 0.50): intervals apart"),
        # six layers in the very order that was measured: the bootstrap cannot say how sure that is
        ({"separability": (0.1, [-0.5, 0.5]), "cka": (1.0, [1.0, 1.0])}, ": too few layers to tell apart"),
        ({"separability": (0.1, None), "cka": (1.0, [0.9, 1.0])}, "separability 0.10 (no interval): too few layers to tell"),
        ({"separability": (0.9, [0.7, 0.95]), "cka": (0.8, [0.6, 0.9]), "random": (0.0, [-0.3, 0.3])},
         "separability 0.90 (0.70 to 0.95); not told apart from 1 of 2 other scores"),
        ({"separability": (0.9, [0.7, 0.95]), "random": (0.0, [-0.3, 0.3])}, "separability 0.90 (0.70 to 0.95)"),
        ({"cka": (0.8, [0.6, 0.9]), "random": (0.8, [0.6, 0.9]), "separability": (None, None)}, "CKA and 1 more 0.80 (0.60"),
        ({"separability": (None, None)}, "No score's rank correlation with the damage of one layer is defined"),
    ],
)  # fmt: skip
def test_audit_title_claims_no_more_than_the_intervals(scores: dict, title: str) -> None:
    found = wording_selection.audit_finding(correlated(**scores))
    assert title in found
    assert "best" not in found


@pytest.mark.parametrize(
    ("agreements", "title"),
    [
        ((0.995, 0.97), "up to 1 of 3 layers at 99 % agreement or more (99.50 %, 95 % interval 98.50 to 100.00 %); separability none"),
        ((0.984, 0.98), "skips up to 2 of 3 layers at 98 % agreement or more (98.00 %, 95 % interval 97.00 to 99.00 %)"),
        ((0.7, 0.6), "No set that was found skips a layer at 90 % agreement or more"),
    ],
)  # fmt: skip
def test_frontier_title_says_the_interval(agreements: tuple, title: str) -> None:
    frontier = audit_of()["frontier"]
    for row in frontier:
        if row["series"] == "exhaustive" and row["size"]:
            share = agreements[row["size"] - 1]
            row.update(agreement=share, agreement_ci95=[share - 0.01, min(1.0, share + 0.01)])
    assert title in wording_selection.frontier_finding(tables.frontier_rows(frontier, None), 3)


def test_figures_can_be_read_alone() -> None:
    figure = figures_selection.audit_figure(tables.audit_rows(audit_of()))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "single layers (n = 3)",
        "all blocks of neighbouring layers (n = 5)",
    ]
    assert "95 % bootstrap interval" in figure.get_supxlabel()
    assert "undefined" in [text.get_text() for text in figure.axes[0].texts]
    view = tables.frontier_rows(audit_of()["frontier"], timing())
    figure = figures_selection.frontier_figure(
        view, tables.main_series(view), 3, 1000, {"skip": [2], "agreement": 0.984}
    )
    assert "n = 1,000" in figure.axes[0].get_ylabel()
    assert figure.axes[1].get_xlabel() == "predicted latency, ms (batch 1, 32 tokens)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "exhaustive search", "its 95 % interval", "separability", "block influence", "random order", "chosen plan",
    ]  # fmt: skip
    # the scale is the root of the changed share: 96 % lies twice as far below 100 % as 99 %
    places = figure.axes[0].transData.transform([(0, 100), (0, 99), (0, 96)])[:, 1]
    assert places[0] - places[2] == pytest.approx(2 * (places[0] - places[1]))
    without_time = tables.frontier_rows(audit_of()["frontier"], None)
    assert len(figures_selection.frontier_figure(without_time, ["exhaustive"], 3, 1000, None).axes) == 1
    assert style.png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (formats.bare_points(0.121), "12.10"),
        (formats.bare_points(-0.001), "−0.10"),
        (formats.relative(0.017), "+1.7 %"),
        (formats.correlation(-0.891), "−0.89"),
        (formats.correlation(-0.001), "0.00"),
        (formats.correlation_interval([-1.0, 0.2]), "−1.00 to 0.20"),
        (formats.correlation_interval(None), "–"),
        (formats.score_name("h_score"), "H-score"),
        (formats.score_name("block_influence"), "block influence"),
        (formats.series_name({"series": "beam", "kind": "search"}), "beam search"),
        (formats.series_name({"series": "cka", "kind": "score"}), "CKA"),
    ],
)
def test_formats(said: str, text: str) -> None:
    assert said == text


def test_terminal_audit() -> None:
    ranks, regret = map(shown, audit_tables(audit_of()))
    assert "| block influence | 0.88 [0.60, 0.95] | 0.69 [0.59, 0.79] | yes | yes |" in ranks
    assert "| H-score | – | – | no | yes |" in ranks
    assert "is layer 2, which does least, the first pick" in ranks
    assert "| separability (trace ratio) | 7.40 | 0.00 |" in regret
    (only,) = audit_tables({**audit_of(), "frontier": [], "hits": [], "correlations": []})
    assert "| random order | – | – | – | – |" in shown(only)


def test_terminal_audit_of_many_layers_shows_the_first_and_the_last_size() -> None:
    audit = audit_of()
    template = audit["frontier"][4]
    audit["frontier"] = [{**template, "size": size} for size in range(24)]
    columns = audit_tables(audit)[1].columns
    assert [column.name for column in columns] == [
        "score",
        "1",
        "3",
        "5",
        "7",
        "9",
        "11",
        "13",
        "15",
        "17",
        "19",
        "21",
        "23",
    ]
    assert [column.name for column in columns if not column.rank] == [
        "score",
        "1",
        "9",
        "15",
        "23",
    ]  # where it is narrow


def test_terminal_frontier() -> None:
    frontier = audit_of()["frontier"]
    assert "| 1 | 66.67 % | 8.50 ms | 98.40 % | 91.00 % | 98.40 % | 60.00 % |" in shown(
        frontier_table(frontier, timing())
    )
    text = shown(frontier_table(frontier, None))
    assert "| 1 | 66.67 % | 98.40 % | 91.00 % | 98.40 % | 60.00 % |" in text
    assert "predicted" not in text


def test_terminal_candidates() -> None:
    text = shown(candidates_table(candidates()))
    assert "6 sets tried on 1,000 rows (after the readout); bound at 99.1667%, so that 6 sets hold" in text
    assert "| 2 (chosen) | −0.40 points | −1.17 points | 1.60 % | 1.41x | met |" in text
    assert "| 2, 3 | – | −24.00 points | 20.00 % | – | max_drop: a|b, allowed is 2.00%\n<script>" in text
    many = {**candidates(), "candidates": [{**candidates()["candidates"][1], "size": size} for size in range(23)]}
    made = candidates_table(many)
    assert len(made.rows) == 12
    assert "12 of 23 sizes" in made.title


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
