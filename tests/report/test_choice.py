"""Titles, figures, numbers and the terminal, for what a search chose and an audit found."""

import pytest
from choice_cases import audit_of, candidates, timing

from compressor.cli.recipes.choice import audit_tables, candidates_table, frontier_table
from compressor.cli.tables import Grid
from compressor.report import formats
from compressor.report.figures import selection as figures_selection
from compressor.report.figures import style
from compressor.report.tables import selection as tables
from compressor.report.wording import selection as wording_selection


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
