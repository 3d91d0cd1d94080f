"""Does a linear probe read the classes better or worse behind a feed-forward block than in front of it?"""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from compressor.measurement.statistics import delta_interval, discordant, holm, mcnemar_p, share_interval
from compressor.progress import Track, silent

FOLDS = 5


@dataclass(frozen=True)
class ProbePair:
    """Cross-validated accuracy of a probe on the [CLS] state before and after one block, and the paired difference.

    Accuracies have Wilson intervals, the difference a paired bootstrap interval and an exact McNemar p, also corrected for
    all layers (Holm). The intervals are those of the rows judged; that the probes were fitted on a sample adds to them.
    """

    rows: int
    folds: int
    before: float
    before_ci95: tuple[float, float]
    after: float
    after_ci95: tuple[float, float]
    difference: float
    difference_ci95: tuple[float, float]
    mcnemar_p: float
    mcnemar_p_holm: float


def probe_pairs(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray, *, seed: int = 0, track: Track = silent
) -> list[ProbePair]:
    """Return the probes around each block: states before and after it, each [L, M, H], labels int64 [M].

    Classes with a single row among these are left out: no fold could hold them out.
    """
    classes, count = np.unique(labels, return_counts=True)
    rows = np.isin(labels, classes[count > 1])
    labels, folds = labels[rows], min(FOLDS, int(count[count > 1].min()))
    found = []
    for one, other in track(zip(before, after, strict=True), "probes", total=len(before)):
        predicted = [probe_predictions(states[rows], labels, folds, seed) for states in (one, other)]
        right = [int((guess == labels).sum()) for guess in predicted]
        gained, lost = discordant(*predicted, labels)
        accuracies = [value for hits in right for value in (hits / len(labels), share_interval(hits, len(labels)))]
        difference = (gained - lost) / len(labels), delta_interval(gained, lost, len(labels))
        found.append((*accuracies, *difference, mcnemar_p(gained, lost)))
    together = holm([p_value for *_, p_value in found])
    return [ProbePair(len(labels), folds, *values, p_value) for values, p_value in zip(found, together, strict=True)]


def probe_predictions(states: np.ndarray, labels: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """Return the class [M] that a logistic regression fitted on the other folds gives each row of states [M, H]."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    # products this small wait longer for each other's threads than they take
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # an upper bound on effort, not on quality
        return cross_val_predict(probe, states, labels, cv=split)
