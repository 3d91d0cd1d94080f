"""Goals on the evaluation split: any variant may pass, and still no more runs are signed off wrongly than stated."""

import numpy as np
import pytest

from compressor.pipeline.goals import judge_goals
from compressor.recipe.compression import GoalsSpec

ROWS, RUNS = 872, 800


def answers(right: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return logits [N, 2] that are right where `right` [N] says so."""
    return np.eye(2)[np.where(right, labels, 1 - labels)]


@pytest.mark.parametrize("variants", [1, 4])
def test_false_sign_offs_stay_at_the_stated_level_however_many_variants_may_pass(variants):
    # each variant truly loses 3 % of the rows and gains 2 %: a drop of just the goal, so a sign-off is wrong
    generator, goals, signed = np.random.default_rng(variants), GoalsSpec(max_drop=0.01, confidence=0.95), 0
    for _ in range(RUNS):
        labels, full = generator.integers(2, size=ROWS), generator.random(ROWS) < 0.9
        logits = {"full": answers(full, labels)}
        for number in range(variants):
            draw = generator.random(ROWS)
            own = np.where(full, draw >= 0.03 / 0.9, draw < 0.02 / 0.1)
            logits[f"onnx_{number}"] = answers(own, labels)
        entries = {name: {"latency": []} for name in logits}
        signed += judge_goals(goals, logits, labels, entries)["met"]
    # 5 % of 800 is 40; three standard deviations above are 58. Uncorrected, four variants were signed off in 9.7 %
    assert signed <= 58


def test_a_miss_says_that_the_bound_is_corrected():
    labels, full = np.zeros(100, int), np.ones(100, bool)
    logits = {"full": answers(full, labels), "compressed": answers(full, labels), "onnx_int8": answers(full, labels)}
    entries = {name: {"latency": []} for name in logits}
    (miss,) = judge_goals(GoalsSpec(max_drop=0.03), logits, labels, entries)["misses"]
    # no row of 100 changed: Tango's bound is z**2 / (100 + z**2), z = 1.96 in place of 1.645 with its 2.95 %
    assert miss == (
        "compressed: max_drop: at 95% confidence (corrected for 2 variants, of which the best may pass) the accuracy may "
        "drop by 3.70%, allowed is 3.00%."
    )
    one = {name: entry for name, entry in entries.items() if name != "onnx_int8"}
    assert judge_goals(GoalsSpec(max_drop=0.03), logits, labels, one)["met"]
