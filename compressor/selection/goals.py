"""As many layers as the goals allow: non-inferiority on the selection split, corrected for the number of sets tried."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

from compressor.measurement.statistics import Comparison, paired_lower_bound, rate_upper_bound
from compressor.recipe.compression import GoalsSpec
from compressor.selection.trials import Trial
from compressor.selection.trie import SkipSet


@dataclass(frozen=True)
class Candidate:
    """One size's set against the goals: the best that meets them, else the one that comes nearest.

    `lower_bound` of the accuracy delta is one-sided at the corrected confidence, `flip_rate` the share on these rows.
    `misses` has one sentence a missed goal; `excess` is how far beyond the goals it lies, in multiples of them.
    """

    size: int
    skip: SkipSet
    accuracy_delta: float | None
    lower_bound: float
    flip_rate: float
    misses: tuple[str, ...]
    excess: float
    chosen: bool = False


@dataclass(frozen=True)
class Choice:
    """What `layers: auto` took and why: the candidates, the chosen one first, then by how nearly they meet the goals.

    `tried` sets were judged on `rows` rows, after the closed-form readout or (`readout` False) with the stock head as it
    is. `corrected` is the confidence of each bound, so that those of all `choices` sets hold together at `confidence`.
    """

    skip: SkipSet
    met: bool
    tried: int
    choices: int
    rows: int
    readout: bool
    confidence: float
    corrected: float
    candidates: tuple[Candidate, ...]


def corrected_confidence(confidence: float, choices: int) -> float:
    """Return the confidence of each of `choices` bounds so that all hold together at `confidence` (Bonferroni).

    The best of many sets looks better than it is; with the corrected level the chance that any bound is wrong, and so
    that of the one picked because of it, stays within `1 - confidence`, however the sets depend on each other.
    """
    return 1 - (1 - confidence) / max(choices, 1)


def accuracy_misses(goals: GoalsSpec, versus: Comparison, choices: int = 1) -> list[str]:
    """Return a sentence for each accuracy goal that a comparison with the full model misses.

    The bound of `versus` must be one at `goals.confidence`, corrected for the `choices` models of which any may pass.
    """
    found = []
    if goals.max_drop is not None and versus.lower_bound < -goals.max_drop:
        corrected = f" (corrected for {choices} variants, of which the best may pass)" if choices > 1 else ""
        found.append(
            f"max_drop: at {goals.confidence:.0%} confidence{corrected} the {getattr(versus, 'metric', 'accuracy')} may drop by "
            f"{-versus.lower_bound:.2%}, allowed is {goals.max_drop:.2%}."
        )
    if goals.max_flips is not None and versus.flip_rate > goals.max_flips:
        found.append(
            f"max_flips: {versus.flip_rate:.2%} of the {getattr(versus, 'counted', 'predictions')} changed ({versus.flips} of "
            f"{versus.rows}), allowed are {goals.max_flips:.2%}."
        )
    return found


def choose(trials: Iterable[Trial], goals: GoalsSpec, *, choices: int, rows: int, readout: bool = True) -> Choice:
    """Return the set of the largest size of which one meets `max_drop` and `max_flips`; where none does, the nearest miss.

    `trials` are those of sets of one layer or more over `rows` rows. `choices` counts the sets that the search could have
    taken, not only those it tried: a beam goes where these same rows look kind, so the sets that it never tried were
    looked at as well. Speed goals do not enter: each further layer makes a model faster, so they cannot forbid the
    largest saving; they are measured at the end.
    """
    corrected, trials = corrected_confidence(goals.confidence, choices), list(trials)
    by_size = groupby(sorted(trials, key=lambda trial: -len(trial.skip)), key=lambda trial: len(trial.skip))
    candidates = (_best_of(list(same), goals, corrected, rows, readout) for _, same in by_size)
    # the sort is stable and what meets the goals has no distance to them, so the largest size that does comes first
    first, *others = sorted(candidates, key=_distance)
    marked = replace(first, chosen=True), *others
    met = not first.misses
    return Choice(first.skip, met, len(trials), choices, rows, readout, goals.confidence, corrected, marked)


def _distance(candidate: Candidate) -> tuple[int, float]:
    return len(candidate.misses), candidate.excess


def _best_of(trials: list[Trial], goals: GoalsSpec, corrected: float, rows: int, readout: bool) -> Candidate:
    """Return the set with the best agreement of those that meet the goals, else the nearest miss."""

    def cost(trial: Trial) -> tuple[float, float, SkipSet]:
        return trial.cost if readout else (-trial.raw_agreement, trial.raw_kl, trial.skip)

    judged = []
    for trial in sorted(trials, key=cost):
        judged.append(_judge(trial, goals, corrected, rows, readout))
        if not judged[-1].misses:
            break
    return min(judged, key=_distance)


def trial_bound(trial: Trial, rows: int, confidence: float, *, readout: bool = True) -> tuple[int, float | None, float]:
    """Return the changed predictions of a trial over `rows` rows, its accuracy delta, and the one-sided lower bound of that.

    They hold after the readout, or with the stock head. Without labels the delta is None and each change counts as lost.
    """
    gained, lost = (trial.gained, trial.lost) if readout else (trial.raw_gained, trial.raw_lost)
    flips = round(rows * (1 - (trial.agreement if readout else trial.raw_agreement)))
    if gained is None or lost is None:
        return flips, None, -rate_upper_bound(flips, rows, confidence)
    return flips, (gained - lost) / rows, paired_lower_bound(gained, lost, rows, confidence)


def _judge(trial: Trial, goals: GoalsSpec, corrected: float, rows: int, readout: bool) -> Candidate:
    flips, delta, bound = trial_bound(trial, rows, corrected, readout=readout)
    misses, excess = [], 0.0
    if goals.max_drop is not None and bound < -goals.max_drop:
        misses.append(
            f"max_drop: accuracy may drop by {-bound:.2%} on the selection split (bound at {goals.confidence:.0%} "
            f"confidence, corrected to {corrected:.4%}), allowed is {goals.max_drop:.2%}"
        )
        excess += -bound / max(goals.max_drop, 1 / rows) - 1
    # the margin is for rounding: 3 of 24 rows are not more than 0.125 of them
    if goals.max_flips is not None and flips > goals.max_flips * rows + 1e-9:
        misses.append(
            f"max_flips: {flips / rows:.2%} of the predictions change on the selection split, allowed are {goals.max_flips:.2%}"
        )
        excess += flips / rows / max(goals.max_flips, 1 / rows) - 1
    return Candidate(len(trial.skip), trial.skip, delta, bound, flips / rows, tuple(misses), excess)
