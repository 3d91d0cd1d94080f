"""What to ship: of the compositions that were built and measured, the fastest that keeps to the goal. No files, no models."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compressor.data.answers.kinds import SINGLE, Task
from compressor.measurement.statistics import EXACT_LOGITS, Comparison, compare, rate_upper_bound
from compressor.recipe.ship import ShipSpec
from compressor.selection.goals import corrected_confidence, trial_bound
from compressor.selection.trials import Trial

ALIKE = 0.1
"""Share of the speed-up that is not worth a file in parts, nor a changed prediction."""
TODAY = "today"
"""The candidate that changes nothing: what runs already."""


@dataclass(frozen=True)
class Judgement:
    """What a composition changes on the rows that decide, against the full model, and why it does not meet the goal.

    `flip_bound` is the largest share of changed predictions, `lower_bound` the accuracy delta, that these rows leave room
    for, each one-sided at `confidence`; without labels the latter is minus the former. `why_not` is None where the goal is
    met, and `few_rows` says that only the number of rows stands in the way: what was observed would meet it.
    """

    rows: int
    flips: int
    flip_bound: float
    accuracy_delta: float | None
    lower_bound: float
    max_abs_logit: float
    confidence: float
    why_not: str | None
    few_rows: bool = False


def judge(
    spec: ShipSpec,
    full: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray | None,
    branches: int = 1,
    task: Task = SINGLE,
) -> Judgement:
    """Hold logits [N, C] of a composition against those of the full model; one of so many `branches` it belongs to.

    Every bound is one at a level corrected for the branches (`corrected_confidence`), since what is taken looks better than
    it is; within a branch see `in_order`. The bound of the changed predictions is that of Clopper and Pearson, that of the
    accuracy `paired_lower_bound`.
    """
    level = corrected_confidence(spec.confidence, branches)
    if not np.isfinite(other).all():
        broken = int((~np.isfinite(other).all(1)).sum())
        rows = task.count(len(full))
        return Judgement(rows, rows, 1.0, None, -1.0, np.inf, level, f"no finite logits for {broken} rows")
    versus = compare(full, other, labels, task=task, confidence=level)
    bound = rate_upper_bound(versus.flips, versus.rows, level)
    why, few = _why_not(spec, versus, bound, level)
    return Judgement(
        versus.rows,
        versus.flips,
        bound,
        versus.accuracy_delta,
        versus.lower_bound,
        versus.max_abs_logit,
        level,
        why,
        few,
    )


def _why_not(spec: ShipSpec, versus: Comparison, bound: float, level: float) -> tuple[str | None, bool]:
    """Return why the goal is not met, None where it is, and whether more rows with the same shares would meet it."""
    max_flips, max_drop = spec.limits["max_flips"], spec.limits["max_drop"]
    changed = f"{versus.flips:,} of {versus.rows:,} {versus.counted} change"
    if versus.flips == 0 and versus.max_abs_logit <= EXACT_LOGITS:  # what computes the same, few rows can show
        return None, False
    if max_flips == 0:
        return changed if versus.flips else f"logits move by up to {versus.max_abs_logit:.2g}", False
    if max_flips is not None and bound > max_flips:
        few = versus.flip_rate < max_flips
        return f"{changed}; at {level:.1%} confidence up to {bound:.2%} may, allowed are {max_flips:.2%}", few
    if max_drop is not None and -versus.lower_bound > max_drop:
        observed = versus.flip_rate if versus.accuracy_delta is None else -versus.accuracy_delta
        few = observed < max_drop
        return (
            f"{changed}; at {level:.1%} confidence the {versus.metric} may fall by {-versus.lower_bound:.2%}, allowed are "
            f"{max_drop:.2%}"
        ), few
    return None, False


def in_order(judged: Mapping[str, Judgement]) -> dict[str, Judgement]:
    """Return the judgements of one branch, tested in their order, which is fixed beforehand: after a miss none passes.

    That keeps the chance that any of them passes wrongly at the level of one, without a correction for their number
    (fixed-sequence testing; Angelopoulos et al. 2021, "Learn then Test", section 3).
    """
    found, missed = {}, None
    for name, own in judged.items():
        late = missed is not None and own.why_not is None
        found[name] = replace(own, why_not=f"not tested, since {missed} before it missed the goal") if late else own
        missed = missed or (name if own.why_not is not None else None)
    return found


def keeps_to(spec: ShipSpec, trial: Trial, rows: int) -> bool:
    """Return whether a trial on the selection split (`rows` rows) leaves room for the goal, before anything is built."""
    limits, (flips, _, bound) = spec.limits, trial_bound(trial, rows, spec.confidence)
    if limits["max_flips"] is not None and rate_upper_bound(flips, rows, spec.confidence) > limits["max_flips"]:
        return False
    return limits["max_drop"] is None or -bound <= limits["max_drop"]


def decide(
    judged: Mapping[str, Judgement],
    speedups: Mapping[str, Sequence[float]],
    parted: Collection[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> str:
    """Return the composition to ship: the fastest of those that meet the goal; TODAY where none of them is faster.

    Speed is the lower end of the interval of `speedups` over the baseline, so that a lucky measurement is not taken for it.
    Of those within `ALIKE` of the fastest one that is a single file (not `parted`) is taken, and of these the one that
    changes least: nothing is cut into parts, or changed, for a speed-up that hardly is one. Given `sizes` in bytes, it is
    the smallest instead, and of equal ones the fastest.
    """
    faster = [name for name, found in judged.items() if found.why_not is None and speedups[name][0] > 1]
    if sizes is not None:
        return min(faster, key=lambda name: (sizes[name], -speedups[name][0]), default=TODAY)
    best = max((speedups[name][0] for name in faster), default=1.0)
    alike = [name for name in faster if speedups[name][0] >= (1 - ALIKE) * best]
    return min(alike, key=lambda name: (name in parted, judged[name].flips), default=TODAY)
