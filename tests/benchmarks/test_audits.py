"""The audits of several models, pooled and as tables."""

import pytest

from benchmarks.frontier.audits import MODELS, _audit_model_table, _audit_table, pool_audits
from compressor.selection.audit import DAMAGES


def audit_of(kl, picks, losses):
    """Return an audit of three layers by two scores; `picks` are orders, `losses` by score what sets of 1 and 2 layers lose."""
    damage = [
        {"skip": [layer], "predicted": {"good": value, "level": 1.0}}
        | {f"{prefix}{kind}": value for prefix in ("", "raw_") for kind in DAMAGES}
        for layer, value in enumerate(kl, 1)
    ]
    best = min(range(3), key=kl.__getitem__) + 1
    hits = [
        {"score": name, "order": order, "best": best, "top1": order[0] == best, "top3": True}
        for name, order in picks.items()
    ]
    frontier = [
        {"series": name, "size": size, "regret": {"agreement": loss} if size else None}
        for name, values in losses.items()
        for size, loss in enumerate((0.0, *values))
    ]
    correlations = [
        {"score": "good", "units": "layers", "damage": "kl", "readout": True, "rho": 1.0, "ci95": [0.5, 1.0]},
        {"score": "level", "units": "layers", "damage": "kl", "readout": True, "rho": None, "ci95": None},
    ]
    kept = {"scores": ["good", "level"], "damage": damage, "hits": hits, "frontier": frontier}
    return kept | {"correlations": correlations}


@pytest.fixture
def audits():
    picks = {"good": [3, 2, 1], "level": [2, 1, 3]}
    one = audit_of([0.3, 0.2, 0.1], picks, {"good": [0.0, 0.02], "level": [0.04, 0.08]})
    other = audit_of([0.9, 0.1, 0.5], picks, {"good": [0.02, 0.0], "level": [0.0, 0.0]})
    return {"one": one, "other": other}


def test_pooled_by_hand(audits):
    good, level = pool_audits(list(audits.values()))
    assert good["rho_layers_kl"]["value"] == 1
    assert level["rho_layers_kl"] is None  # one value for all layers ranks nothing
    assert (good["top1"], level["top1"], good["top3"]) == (1, 1, 2)
    assert good["first"] == pytest.approx(0.01)
    assert good["regret"] == pytest.approx((0.01 + 0.01) / 2)
    assert level["regret"] == pytest.approx((0.06 + 0.0) / 2)


def test_tables_name_every_score_once_the_one_that_loses_least_first(audits):
    lines = _audit_table(list(audits.values())).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| good", "| level"]
    assert "1 of 2 | 2 of 2 | 1.0 | 1.0" in lines[2]
    by_model = _audit_model_table(audits).splitlines()
    assert by_model[0] == "| score | one | other |"
    assert by_model[2] == "| good | +1.00 [+0.50, +1.00], layer 3, 1.0 | +1.00 [+0.50, +1.00], layer 3, 1.0 |"
    assert by_model[-1] == "| least damaging layer | 3 | 2 |"


def test_models_are_named_by_their_task():
    assert {name.split("-")[0] for name in MODELS} == {"sst2", "cola", "rte", "mrpc", "qnli"}
