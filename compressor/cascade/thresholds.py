"""When a text may leave early: a path of thresholds fixed beforehand, and a certificate for the one that is taken."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from compressor.measurement.statistics import rate_upper_bound

GRID = 80
"""Thresholds tried at each exit: quantiles of its margins on held-out rows."""
COARSE = 30
"""The same at all exits but the last where there are three: the pairs of the others are gone through one by one."""
BETWEEN = 4
"""Steps from one point of the path to the next."""
CAUTIOUS = (8.0, 4.0, 3.0, 2.0, 1.5, 1.25, 1.1)
"""Multiples of the frontier's first thresholds, between `nothing leaves` and the frontier."""

Thresholds = tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """What exits do on N rows. `margins` [E, N] and `wrong` [E, N] for every exit; `wrong_at_end` [N] for the last layer.

    Wrong means: another label than the full model's. `costs` [E + 1, N] is the encoder's work, in any unit, for a row
    that leaves at exit e, or at the end.
    """

    margins: np.ndarray
    wrong: np.ndarray
    wrong_at_end: np.ndarray
    costs: np.ndarray

    def leaves(self, thresholds: Thresholds) -> np.ndarray:
        """Return the index of the exit that each row takes, int64 [N]; E is the end."""
        return leaving(self.margins, thresholds)

    def flips(self, thresholds: Thresholds) -> int:
        """Return the number of rows answered otherwise than the full model does."""
        everywhere = np.vstack([self.wrong, self.wrong_at_end])
        return int(everywhere[self.leaves(thresholds), np.arange(everywhere.shape[1])].sum())

    def cost(self, thresholds: Thresholds) -> float:
        """Return the mean work of a row."""
        return float(self.costs[self.leaves(thresholds), np.arange(self.costs.shape[1])].mean())


@dataclass(frozen=True)
class Certificate:
    """`thresholds` and what is certified of them: with `confidence`, at most `bound` of all predictions change.

    `flips` of `rows` changed on the certification rows; `tested` thresholds of the path were tested in their fixed
    order, and the last that passed is taken. Not `met`: not even the first passed, whose flips and bound these are; nothing
    is certified, and `thresholds` let nothing leave.
    """

    thresholds: Thresholds
    met: bool
    flips: int
    rows: int
    bound: float
    max_flips: float
    confidence: float
    tested: int


def leaving(margins: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Return the first exit whose margin [E, N] reaches its threshold, int64 [N]; E where none does."""
    sure = np.vstack([margins >= np.array(thresholds)[:, None], np.ones(margins.shape[1], dtype=bool)])
    return sure.argmax(0)


def allowed_flips(rows: int, max_flips: float, confidence: float) -> int:
    """Return the largest number of flips among `rows` that still certifies `max_flips`; -1 if there are too few rows."""
    count = -1
    while count < rows and rate_upper_bound(count + 1, rows, confidence) <= max_flips:
        count += 1
    return count


def rows_needed(max_flips: float, confidence: float) -> int:
    """Return the smallest number of rows that can certify `max_flips`, if none of them flips: (1 - m)^n <= 1 - c."""
    rows = max(1, int(np.log(1 - confidence) / np.log1p(-max_flips)))
    # rounding must not promise a certificate that the bound then refuses
    while rate_upper_bound(0, rows, confidence) > max_flips:
        rows += 1
    return rows


def frontier(outcome: Outcome) -> list[tuple[int, float, Thresholds]]:
    """Return (flips, cost, thresholds) of one to three exits, from no flips on, each cheaper than the one before."""
    points = sorted(_sweep(outcome), key=lambda point: point[:2])
    best: list[tuple[int, float, Thresholds]] = []
    for point in points:
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def lowest_cost(outcome: Outcome, rate: float) -> float:
    """Return the least mean work of a row with at most `rate` of the rows flipped; infinite where no thresholds do that."""
    allowed = rate * outcome.margins.shape[1]
    return min((cost for flips, cost, _ in frontier(outcome) if flips <= allowed), default=np.inf)


def choose_exits(costs: Mapping[tuple[int, ...], float]) -> tuple[int, ...]:
    """Return the exits of lowest cost; the fewer where that is the same, since each part is one more session."""
    return min(costs, key=lambda exits: (costs[exits], len(exits)))


def exit_sets(layers: Sequence[int]) -> list[tuple[int, ...]]:
    """Return every single exit and every pair."""
    return [*combinations(layers, 1), *combinations(layers, 2)]


def threshold_path(outcome: Outcome) -> list[Thresholds]:
    """Return thresholds from `nothing leaves` towards ever cheaper and riskier ones, fixed by `outcome` alone."""
    points = [thresholds for _, _, thresholds in frontier(outcome)]
    if outcome.wrong_at_end.any():
        # a compressed model: texts that go to its end may differ as well, so nothing is safest about sending all there
        path = []
    else:
        path = [(np.inf,) * len(points[0])]
        path += [tuple(factor * value for value in points[0]) for factor in CAUTIOUS]
    for here, there in zip(points, [*points[1:], points[-1]], strict=True):
        path.append(here)
        if np.isfinite([*here, *there]).all() and here != there:
            steps = np.linspace(here, there, BETWEEN + 1)[1:-1]
            path += [tuple(map(float, step)) for step in steps]
    return path


def certify(path: Sequence[Thresholds], outcome: Outcome, max_flips: float, confidence: float) -> Certificate:
    """Test the path in its order on rows that had no part in choosing it; stop at the first that fails.

    Each test asks whether the Clopper-Pearson bound of the flips is at most `max_flips`. Stopping at the first failure
    keeps the chance of any false claim at 1 - confidence without a correction (fixed-sequence testing; Angelopoulos et
    al. 2021, "Learn then Test", section 3). It holds for any distribution, if the rows are drawn like those to come.
    """
    rows = len(outcome.wrong_at_end)
    passed, tested = None, 0
    for thresholds in path:
        tested += 1
        flips = outcome.flips(thresholds)
        bound = rate_upper_bound(flips, rows, confidence)
        if bound > max_flips:
            break
        passed = thresholds, flips, bound
    met = passed is not None
    thresholds, flips, bound = passed or ((np.inf,) * len(path[0]), flips, bound)
    return Certificate(thresholds, met, flips, rows, bound, max_flips, confidence, tested)


def _sweep(outcome: Outcome) -> Iterator[tuple[int, float, Thresholds]]:
    """Yield (flips, mean cost, thresholds) for the grid of thresholds of one to three exits."""
    exits, rows = outcome.margins.shape
    counts = [COARSE if exits > 2 else GRID] * (exits - 1) + [GRID]
    grids = [
        np.append(np.unique(np.quantile(margins, np.linspace(0, 1, count))), np.inf)
        for margins, count in zip(outcome.margins, counts, strict=True)
    ]
    # a row leaves at an exit if the index of the threshold is below the number of thresholds that its margin reaches
    reached = [
        np.searchsorted(grid, margins, side="right") for grid, margins in zip(grids, outcome.margins, strict=True)
    ]
    gains_last = outcome.wrong[-1].astype(float) - outcome.wrong_at_end, outcome.costs[-2] - outcome.costs[-1]
    for indices in product(*(range(len(grid)) for grid in grids[:-1])):
        stays, here = np.ones(rows, dtype=bool), [0.0, 0.0]
        for part, index in enumerate(indices):
            leaves = stays & (reached[part] > index)
            here[0] += outcome.wrong[part][leaves].sum()
            here[1] += outcome.costs[part][leaves].sum()
            stays &= ~leaves
        end = outcome.wrong_at_end[stays].sum(), outcome.costs[-1][stays].sum()
        # with threshold index j, the rows of `stays` with more than j thresholds reached leave at the last exit
        saved = [
            np.bincount(reached[-1][stays], weights=gain[stays], minlength=len(grids[-1]) + 1)[::-1].cumsum()[::-1][1:]
            for gain in gains_last
        ]
        earlier = tuple(float(grid[index]) for grid, index in zip(grids, indices, strict=False))
        for index, threshold in enumerate(grids[-1]):
            flips, cost = (here[part] + end[part] + saved[part][index] for part in (0, 1))
            yield round(flips), float(cost) / rows, (*earlier, float(threshold))
