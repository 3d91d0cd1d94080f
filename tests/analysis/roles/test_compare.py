"""Two checkpoints side by side, several in order, and the section that shows roles."""

import json
import re
from dataclasses import asdict, replace

import pytest
from role_cases import FFN, encoder, name, weights

from compressor.analysis.roles.compare import compare_roles, role_trajectory
from compressor.analysis.roles.roles import CONTEXT, ROUTING, roles_of
from compressor.errors import UserError
from compressor.report.figures import style
from compressor.report.sections.roles import SAID, change_finding, finding, roles_section
from compressor.report.tables.roles import FEATURES


def saturate(tensors, layer, *positions):
    for position in positions:
        tensors[name(layer, "ffn_in")][position] *= 12


def roles(tensors, model="before", **settings):
    return replace(roles_of(weights(tensors), **{"draws": 30, **settings}), model=model)


@pytest.fixture(scope="module")
def pair():
    """Two checkpoints: in layer 2 saturated positions moved and the profile became flatter, layer 6 became a damper."""
    before, after = encoder(6), encoder(6)
    saturate(before, 2, 3, 7)
    saturate(after, 2, 7, 9)
    after[name(2, "ffn_in")][[7, 9]] /= 2
    after[name(6, "ffn_out")] *= 4
    return roles(before), roles(after, "after")


def test_changes_by_hand(pair):
    before, after = pair
    change = compare_roles(before, after)
    second = change.layers[1]
    assert (second.saturated_before, second.saturated_after) == (2, 2)
    assert (second.kept, second.gained, second.lost) == (1, 1, 1)
    assert second.kept_by_chance == 4 / FFN
    spread = [side.features["magnitude_cv"][1] for side in pair]
    assert second.flattening == pytest.approx(spread[0] / spread[1])
    assert second.flattening > 1.2
    low, high = second.flattening_ci95
    assert low < second.flattening < high
    assert change.layers[0].flattening_ci95 == (1.0, 1.0)  # nothing changed, and both drew the same positions
    assert change.layers[0].rank_change == change.layers[0].ffn_rank_change == 0
    last = change.layers[5]
    assert (last.role_before, last.role_after) == ("hub", "damper")
    assert last.features["write_ratio"] == (before.features["write_ratio"][5], after.features["write_ratio"][5])
    assert change.same_roles == sum(a.role == b.role for a, b in zip(before.roles, after.roles, strict=True)) < 6


def test_other_draws_give_no_interval(pair):
    other = replace(pair[1], seed=5)
    assert compare_roles(pair[0], other).layers[0].flattening_ci95 is None
    assert compare_roles(pair[0], other).draws == 0


def test_trajectories_keep_the_order(pair):
    steps = role_trajectory([pair[0], pair[0], pair[1]])
    assert steps.models == ("before", "before", "after")
    assert steps.same_roles[0] == 6
    assert steps.same_roles[1] == compare_roles(*pair).same_roles
    assert steps.features["saturated"][2] == pair[1].features["saturated"]


def test_checkpoints_of_another_shape_are_refused(pair):
    with pytest.raises(UserError, match="it has 4 layers, before has 6"):
        compare_roles(pair[0], roles(encoder(4), "smaller"))
    with pytest.raises(UserError, match="needs two checkpoints"):
        role_trajectory(pair[:1])


def text_of(section):
    for table in section.tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert all(isinstance(cell, str) for row in table.rows for cell in row)
    return " ".join(
        [section.reading, *section.notes, *(cell for table in section.tables for row in table.rows for cell in row)]
    )


def as_json(analysis):
    return json.loads(json.dumps(asdict(analysis), allow_nan=False))


def test_every_feature_and_role_has_words():
    routed = {feature for features in ROUTING.values() for feature in features}
    assert set(FEATURES) == routed | set(CONTEXT)
    assert set(SAID) == set(ROUTING)


def test_the_section_of_one_checkpoint(pair):
    analysis = as_json(pair[1])
    section = roles_section(analysis)
    assert section.id == "roles"
    assert list(section.figures) == ["roles_layers"]
    assert "damper" in finding(analysis)
    assert " ".join(section.figures["roles_layers"].get_suptitle().split()) == finding(analysis)
    assert len(re.findall(r"\.(?: |$)", section.reading)) == 2
    assert "95 % interval" in section.reading
    assert [table.title for table in section.tables] == [
        "Roles",
        "Features by layer",
        "Which feature is evidence for which role",
    ]
    assert "nan" not in text_of(section).lower().split()
    assert style.png(section.figures["roles_layers"]).startswith(b"\x89PNG")


def test_the_section_with_a_comparison_and_a_trajectory(pair):
    both = replace(pair[1], against=compare_roles(*pair), steps=role_trajectory(pair))
    section = roles_section(as_json(both))
    assert list(section.figures) == ["roles_layers", "roles_change"]
    assert "66.67 % of 3 saturated FFN positions stay so" in change_finding(as_json(both)["against"])
    assert {"Change by layer", "Trajectory"} <= {table.title for table in section.tables}
    assert "2 → 2" in text_of(section)
    assert style.png(section.figures["roles_change"]).startswith(b"\x89PNG")


def test_alarms_come_first(pair):
    tensors = encoder(6)
    tensors[name(3, "ffn_in")][0, 0] = float("nan")
    tensors[name(5, "key")] *= 100
    section = roles_section(as_json(roles(tensors)))
    assert section.tables[0].title == "Findings"
    assert [row[:2] for row in section.tables[0].rows] == [("3", "nonfinite"), ("5", "spectral")]
    assert "Something is wrong with this checkpoint" in section.reading
    assert "and 1 more finding." in section.reading
    assert "unknown" in text_of(section)


@pytest.mark.parametrize(("layers", "draws"), [(2, 0), (50, 3)])
def test_sections_of_few_and_of_many_layers(layers, draws):
    section = roles_section(as_json(roles(encoder(layers), draws=draws)))
    assert text_of(section)
    assert max(len(table.columns) for table in section.tables) <= 42
    assert style.png(section.figures["roles_layers"]).startswith(b"\x89PNG")
