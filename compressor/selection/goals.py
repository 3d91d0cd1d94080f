"""As many layers as the goals allow: non-inferiority on the selection split, corrected for the number of sets tried."""

from collections.abc import Mapping
from dataclasses import dataclass

from compressor.measurement.statistics import paired_lower_bound, rate_upper_bound
from compressor.recipe import GoalsSpec
from compressor.selection.trials import Trial
from compressor.selection.trie import SkipSet


@dataclass(frozen=True)
class Candidate:
    """The best set of one size against the goals. `lower_bound` is one-sided at the corrected confidence.

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
    """What `layers: auto` took and why: the candidates, the chosen one first, then by how nearly they meet the goals."""

    skip: SkipSet
    met: bool
    tried: int
    rows: int
    confidence: float
    corrected: float
    candidates: tuple[Candidate, ...]


def corrected_confidence(confidence: float, tried: int) -> float:
    """Return the confidence of each of `tried` bounds so that all hold together at `confidence` (Bonferroni).

    The best of many sets looks better than it is; with the corrected level the chance that any bound is wrong, and so
    that of the one picked because of it, stays within `1 - confidence`, however the sets depend on each other.
    """
    return 1 - (1 - confidence) / max(tried, 1)


def choose(best: Mapping[int, Trial], goals: GoalsSpec, *, tried: int, rows: int, readout: bool = True) -> Choice:
    """Return the largest size whose best set meets `max_drop` and `max_flips`; where none does, the nearest miss.

    `best` maps sizes (from 1) to their best trials out of `tried` sets over `rows` rows. Speed goals do not enter:
    each further layer makes a model faster, so they cannot forbid the largest saving; they are measured at the end.
    """
    corrected = corrected_confidence(goals.confidence, tried)
    candidates = [_judge(trial, goals, corrected, rows, readout) for _, trial in sorted(best.items(), reverse=True)]
    met = [candidate for candidate in candidates if not candidate.misses]
    ranking = sorted(candidates, key=lambda candidate: (len(candidate.misses), candidate.excess))
    first = met[0] if met else ranking[0]
    ordered = [first, *(candidate for candidate in ranking if candidate is not first)]
    marked = tuple(Candidate(**{**vars(candidate), "chosen": candidate is first}) for candidate in ordered)
    return Choice(first.skip, bool(met), tried, rows, goals.confidence, corrected, marked)


def _judge(trial: Trial, goals: GoalsSpec, corrected: float, rows: int, readout: bool) -> Candidate:
    gained, lost = (trial.gained, trial.lost) if readout else (trial.raw_gained, trial.raw_lost)
    flips = round(rows * (1 - (trial.agreement if readout else trial.raw_agreement)))
    if gained is None or lost is None:
        delta, bound = None, -rate_upper_bound(flips, rows, corrected)
    else:
        delta, bound = (gained - lost) / rows, paired_lower_bound(gained, lost, rows, corrected)
    misses, excess = [], 0.0
    if goals.max_drop is not None and bound < -goals.max_drop:
        misses.append(
            f"max_drop: accuracy may drop by {-bound:.2%} on the selection split (bound at {goals.confidence:.0%} "
            f"confidence, corrected to {corrected:.4%}), allowed is {goals.max_drop:.2%}"
        )
        excess += -bound / max(goals.max_drop, 1 / rows) - 1
    if (
        goals.max_flips is not None and flips > goals.max_flips * rows + 1e-9
    ):  # 3 of 24 rows are not more than 0.125 of them
        misses.append(
            f"max_flips: {flips / rows:.2%} of the predictions change on the selection split, allowed are {goals.max_flips:.2%}"
        )
        excess += flips / rows / max(goals.max_flips, 1 / rows) - 1
    return Candidate(len(trial.skip), trial.skip, delta, bound, flips / rows, tuple(misses), excess)
