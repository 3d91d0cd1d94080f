"""Confident errors: planted data whose answer is known, what earlier layers knew, the section of the report."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from error_cases import calibrated, planted_texts

from compressor.analysis.errors.calibration import fit_temperature, margins
from compressor.analysis.errors.confidence import ModelOutputs
from compressor.analysis.errors.errors import analyze_errors
from compressor.analysis.errors.readers import DepthStates, cls_states, depth_states, read_states, sample_rows
from compressor.analysis.errors.recovery import matched_rows, recovery
from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.families import FAMILIES
from compressor.model.states.states import class_states
from compressor.report.figures.style import png
from compressor.report.sections.errors import errors_section


def planted_depth(known_at, classes=2, rows=600, fit_rows=500, seed=0, layers=4, error_rate=0.25):
    """Return (depth, logits, gold): every state tells what the model says, and only state `known_at` the label as well."""
    generator = np.random.default_rng(seed)
    gold, fit_gold = generator.integers(classes, size=rows), generator.integers(classes, size=fit_rows)

    def model_says(labels):
        wrong = generator.random(len(labels)) < error_rate
        return np.where(wrong, (labels + generator.integers(1, classes, size=len(labels))) % classes, labels)

    def states(labels, said):
        made = generator.normal(size=(layers + 1, len(labels), 8)).astype(np.float32)
        made[1:, np.arange(len(labels)), said] += 3
        if known_at is not None:
            made[known_at] = generator.normal(size=(len(labels), 8), scale=0.1)
            made[known_at, np.arange(len(labels)), labels] += 3
        return made

    said = model_says(gold)
    logits = generator.uniform(0.2, 3, size=(rows, 1)) * np.eye(classes)[said]
    depth = DepthStates(
        states(fit_gold, model_says(fit_gold)), fit_gold, "selection", states(gold, said), np.arange(rows)
    )
    return depth, logits, gold


@pytest.mark.parametrize("classes", [2, 3])
def test_errors_whose_label_stands_in_layer_2_are_recoverable_there(classes):
    depth, logits, gold = planted_depth(known_at=2, classes=classes)
    predictions = read_states(depth, classes)
    found = recovery(depth, predictions, logits, gold)
    readers = {(row.kind, row.number): row for row in found.readers}
    for kind in ("probe", "knn"):
        assert readers[kind, 2].fixed_share == 1
        assert readers[kind, 2].broken == 0
        assert readers[kind, 2].net == found.errors
        assert readers[kind, 2].p_holm < 1e-9
        assert readers[kind, 2].beyond_chance_ci95[0] > 0.9
        assert readers[kind, 4].beyond_chance_ci95[0] < 0.05
    assert found.unfixed == 0
    assert found.groups[-1].kind == "any reader"
    assert all(2 in row["probe"] for row in found.by_error)
    assert len(found.by_error) == found.errors == (logits.argmax(1) != gold).sum()


@pytest.mark.parametrize(("classes", "seed"), [(2, 1), (2, 2), (3, 1), (3, 2)])
def test_nothing_is_recoverable_beyond_chance_where_no_state_holds_the_label(classes, seed):
    depth, logits, gold = planted_depth(known_at=None, classes=classes, seed=seed)
    found = recovery(depth, read_states(depth, classes), logits, gold)
    for row in (*found.readers, *found.groups):
        assert row.beyond_chance_ci95[0] <= 0.02, row
        assert row.beyond_chance < 0.08, row
    assert found.unfixed_share > 0.5
    assert all(row.net < 0 or row.p_holm > 0.05 for row in found.readers)


def test_readers_that_guess_fix_errors_by_luck_alone():
    generator, rows = np.random.default_rng(0), 2000
    gold, said = generator.integers(2, size=rows), generator.integers(2, size=rows)
    logits = generator.uniform(0.2, 3, size=(rows, 1)) * np.eye(2)[said]
    depth = DepthStates(np.zeros((5, 4, 2)), np.arange(4) % 2, "selection", np.zeros((5, rows, 2)), np.arange(rows))
    guesses = {("probe", layer): generator.integers(2, size=rows) for layer in range(1, 5)}
    found = recovery(depth, guesses, logits, gold)
    union = found.groups[-1]
    assert union.fixed_share == pytest.approx(15 / 16, abs=0.02)  # looks like a cure,
    assert union.chance_share == pytest.approx(15 / 16, abs=0.02)  # and is none
    assert union.beyond_chance_ci95[0] < 0 < union.beyond_chance_ci95[1]
    assert union.broken_share == pytest.approx(15 / 16, abs=0.02)
    assert found.groups[2].fixed == 0  # no head was asked


def test_matched_rows_are_predicted_alike_and_nearest_in_margin():
    logits = np.array([[2.0, 0], [1.9, 0], [0.1, 0], [0, 2.0], [0, 1.0]])
    rows, mask = matched_rows(logits, np.array([1, 0, 0, 1, 0]))  # rows 0 and 4 are errors
    assert rows[0][mask[0]].tolist() == [1, 2]
    assert rows[1][mask[1]].tolist() == [3]


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_cls_states_are_those_of_the_one_pass_scores(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    states, logits = cls_states(model, family, encodings, batch_size=5)
    known = class_states(model, family, encodings, None, 3, batch_size=24)
    assert states.shape == (5, len(encodings), 32)
    np.testing.assert_allclose(logits, known.logits, atol=1e-5)
    order = [int(np.abs(known.sample[-1] - state).sum(1).argmin()) for state in states[-1]]
    np.testing.assert_allclose(states, known.sample[:, order], atol=1e-4)


def test_states_of_many_rows_are_those_of_a_sample(tiny, monkeypatch):
    monkeypatch.setattr("compressor.analysis.errors.readers.MOST_EVALUATION_ROWS", 7)
    model, family, encodings, _ = tiny("bert")
    depth, *passes = depth_states(model, family, encodings, np.arange(24) % 3, encodings, fit_source="selection")
    assert depth.evaluation.shape == (5, 7, 32)
    for logits in passes:  # all rows have logits, whatever rows have states
        np.testing.assert_array_equal(logits, predict(model, encodings))
    np.testing.assert_allclose(depth.fit[:, depth.evaluation_rows], depth.evaluation, atol=1e-4)
    assert sample_rows(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
    _, logits = cls_states(model, family, encodings)
    assert depth.fit_accuracy == (logits.argmax(1) == np.arange(24) % 3).mean()


def planted_analysis(classes=2, **changes):
    depth, logits, gold = planted_depth(known_at=2, classes=classes)
    generator = np.random.default_rng(9)
    other = logits + generator.normal(size=logits.shape)
    selection, selection_gold = calibrated(300, scale=3, classes=classes)
    given = {
        "models": {"full": ModelOutputs(logits, selection), "compressed": ModelOutputs(other, selection)},
        "gold": gold,
        "selection_gold": selection_gold,
        "texts": planted_texts(len(gold)),
        "ids": [f"validation:{row}" for row in range(len(gold))],
        "label_names": [f"class {number}" for number in range(classes)],
        "depth": depth,
        "activation": torch.tanh,
        **changes,
    }
    return analyze_errors(**given), given


@pytest.fixture(scope="module", params=[2, 3])
def planted(request):
    return planted_analysis(request.param)


def test_the_matrix_counts_every_row_once(planted):
    analysis, given = planted
    full, other = (given["models"][name].evaluation.argmax(1) for name in ("full", "compressed"))
    gold, matrix = given["gold"], analysis.matrix
    assert matrix.gained == ((full != gold) & (other == gold)).sum()
    assert matrix.lost == ((full == gold) & (other != gold)).sum()
    parts = (matrix.both_right, matrix.gained, matrix.lost, matrix.both_wrong_alike, matrix.both_wrong_differently)
    assert sum(parts) == analysis.rows
    assert matrix.both_wrong_differently == ((full != other) & (full != gold) & (other != gold)).sum()
    assert analysis.models["full"].errors == matrix.gained + matrix.both_wrong_alike + matrix.both_wrong_differently
    assert matrix.changes["ece"].value == pytest.approx(
        analysis.models["compressed"].before.ece.value - analysis.models["full"].before.ece.value
    )


def test_matrix_by_hand():
    gold = np.array([0, 0, 0, 0, 1, 1])
    full = 2 * np.eye(3)[[0, 0, 1, 1, 2, 0]]
    other = 2 * np.eye(3)[[0, 2, 0, 1, 0, 1]]
    outputs = {"full": ModelOutputs(full, full), "compressed": ModelOutputs(other, other)}
    texts, ids = [(f"text {row}",) for row in range(6)], [str(row) for row in range(6)]
    found = analyze_errors(outputs, gold, gold, texts, ids, list("abc"))
    matrix = found.matrix
    assert (matrix.both_right, matrix.lost, matrix.gained) == (1, 1, 2)
    assert (matrix.both_wrong_alike, matrix.both_wrong_differently) == (1, 1)
    assert {row["id"]: row["outcome"] for row in found.examples} == {
        "1": "lost", "2": "gained", "5": "gained", "3": "both wrong", "4": "both wrong",
    }  # fmt: skip
    assert found.examples[0]["full"]["label"] == "a"
    assert found.examples[0]["compressed"]["margin"] == pytest.approx((np.exp(2) - 1) / (np.exp(2) + 2))
    assert found.recovery is None


def test_the_seeds_table_and_the_temperature_of_one_analysis(planted):
    analysis, given = planted
    full, outputs = analysis.models["full"], given["models"]["full"]
    margin = margins(outputs.evaluation, given["gold"])
    assert full.errors == (margin > 0).sum()
    assert full.high_confidence == (margin > 0.3).sum()
    assert full.mean_margin.value == pytest.approx(margin[margin > 0].mean())
    assert full.mean_margin.ci95[0] < full.mean_margin.value < full.mean_margin.ci95[1]
    assert full.before.ece.ci95[0] <= full.before.ece.value <= full.before.ece.ci95[1]
    fit = full.temperature
    assert fit.temperature == pytest.approx(fit_temperature(outputs.selection, given["selection_gold"]))
    assert 2 < fit.temperature < 4
    assert fit.changes["nll"].value == pytest.approx(full.after.nll.value - full.before.nll.value)
    assert fit.changes["high_confidence_share"].value < 0  # softened margins are smaller
    assert fit.fitted


def test_examples_are_bounded_and_the_most_confident_come_first(planted):
    analysis, _ = planted
    both = [row for row in analysis.examples if row["outcome"] == "both wrong"]
    assert len(both) == 12
    largest = [max(row["full"]["margin"], row["compressed"]["margin"]) for row in both]
    assert largest == sorted(largest, reverse=True)
    assert all(2 in row["fixed_by"]["probe"] for row in both)
    assert all(row["fixed_by"] is None for row in analysis.examples if row["outcome"] == "lost")


def test_flips_have_slices_too_and_json_holds_it_all(planted):
    analysis, _ = planted
    assert {row.outcome for row in analysis.slices} == {"full errors", "compressed errors", "flips"}
    json.dumps(asdict(analysis), allow_nan=False)


def test_section_says_what_was_found(planted):
    analysis = json.loads(json.dumps(asdict(planted[0])))
    section = errors_section(analysis)
    full = analysis["models"]["full"]
    assert section.reading.count(". ") == 1
    assert f"{full['errors']} of {analysis['rows']}" in section.reading
    assert set(section.figures) == {"errors_margins", "errors_reliability", "errors_recovery"}
    for figure in section.figures.values():
        assert figure.get_suptitle()
        assert png(figure).startswith(b"\x89PNG")
    for table in section.tables:
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
        assert all(isinstance(cell, str) for row in table.rows for cell in row), table.title
    assert any(table.folded for table in section.tables)


def test_section_names_luck_where_readers_have_no_more():
    depth, logits, gold = planted_depth(known_at=None, seed=1)
    depth = replace(depth, fit_accuracy=0.99)
    selection = 4 * np.eye(2)[gold]
    selection[0] = selection[0, ::-1]  # one error: the model knows this split nearly by heart
    outputs = {"full": ModelOutputs(logits, selection)}
    texts = planted_texts(len(gold))
    found = analyze_errors(outputs, gold, gold, texts, ["x"] * len(gold), ["a", "b"], depth=depth)
    section = errors_section(json.loads(json.dumps(asdict(found))))
    assert "no more often than by luck" in section.reading
    assert section.reading.count(". ") == 1
    notes = " ".join(section.notes)
    assert "a temperature fitted there is too low" in notes
    assert "99.00 % of the rows that the readers are fitted on" in notes


def test_section_of_the_full_model_alone_and_without_states():
    _, given = planted_analysis(depth=None)
    alone = analyze_errors(**{**given, "models": {"full": given["models"]["full"]}})
    assert alone.matrix is None
    assert {row["outcome"] for row in alone.examples} == {"wrong"}
    section = errors_section(json.loads(json.dumps(asdict(alone))))
    assert "errors_recovery" not in section.figures
    assert "compressed" not in section.reading


def test_a_model_without_errors_is_described():
    gold = np.arange(100) % 2
    outputs = {"full": ModelOutputs(5 * np.eye(2)[gold], 5 * np.eye(2)[gold])}
    depth = planted_depth(known_at=2, rows=100)[0]
    found = analyze_errors(outputs, gold, gold, planted_texts(100), ["x"] * 100, ["a", "b"], depth=depth)
    assert found.models["full"].high_confidence_share.value is None
    assert not found.models["full"].temperature.fitted
    assert found.models["full"].temperature.temperature == 1
    assert found.recovery is None
    section = errors_section(json.loads(json.dumps(asdict(found), allow_nan=False)))
    assert "no error" in section.reading
    for figure in section.figures.values():
        png(figure)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gold": None}, "evaluation"),
        ({"selection_gold": None}, "selection"),
        ({"selection_gold": np.full(300, -1)}, "selection"),
        ({"column": ["a"]}, "column 'column' has 1 values"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(changes, named):
    with pytest.raises(UserError, match=named) as raised:
        planted_analysis(**changes)
    assert str(raised.value).count(".") - str(raised.value).count("data.label") == 1


def test_probes_need_rows_of_two_classes():
    depth = planted_depth(known_at=2)[0]
    with pytest.raises(UserError, match="two classes"):
        read_states(replace(depth, fit_labels=np.zeros_like(depth.fit_labels)), 2)
