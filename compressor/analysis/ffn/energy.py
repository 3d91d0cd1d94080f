"""How the energy of a change divides: common to all texts, specific to a class, of the single text.

With Delta the change, d_c its mean over class c, pi_c the class shares and d = sum pi_c d_c, exactly
`E|Delta|^2 = |d|^2 + sum pi_c |d_c - d|^2 + E|Delta - d_c|^2`. Means of few rows differ by chance alone, so the class term
is too large: by `sum pi_c (1 - pi_c) V_c`, V_c the variance of the mean of class c, and the common term by
`sum pi_c^2 V_c`. What is taken from these two belongs to the third, so that corrected energies add up as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

ZERO = 1e-12
"""Below this share of the whole energy a term is rounding: means of equal float32 rows differ by about 1e-7."""
MIN_ROWS = 4
"""Rows a class needs: its covariance has to be known also where a group of rows is left out."""


@dataclass
class GroupMoments:
    """Running weight, mean and centred square sum of K series of vectors for G groups of rows in C classes, float64.

    `count` [G, C] counts vectors; `mean` [K, G, C, H]; `squares` [K, G, C] = sum of |x - mean|^2. Rows merge by the update
    of Chan, Golub and LeVeque (1983), each with a weight and a scatter of its own: a row may be one vector or many tokens.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def empty(cls, series: int, groups: int, classes: int, width: int) -> "GroupMoments":
        """Return the moments of no rows."""
        shape = groups, classes
        return cls(np.zeros(shape), np.zeros((series, *shape, width)), np.zeros((series, *shape)))

    def add(
        self, mean: np.ndarray, squares: np.ndarray, count: np.ndarray, groups: np.ndarray, labels: np.ndarray
    ) -> None:
        """Merge rows: mean [K, B, H], squares [K, B] and count [B] of each row's vectors; its group and class, int [B]."""
        for group, label in np.unique(np.stack([groups, labels]), axis=1).T:
            rows = (groups == group) & (labels == label)
            weight, place = count[rows], (slice(None), group, label)
            added, total = weight.sum(), self.count[group, label] + weight.sum()
            centre = np.einsum("b,kbh->kh", weight / added, mean[:, rows])
            apart = np.square(mean[:, rows] - centre[:, None]).sum(axis=2)
            shift = centre - self.mean[place]
            self.squares[place] += squares[:, rows].sum(axis=1) + apart @ weight
            self.squares[place] += np.square(shift).sum(axis=1) * self.count[group, label] * added / total
            self.mean[place] += shift * added / total
            self.count[group, label] = total

    def take(self, groups: np.ndarray) -> "GroupMoments":
        """Return the moments of `groups` (indices or a mask) alone."""
        return GroupMoments(self.count[groups], self.mean[:, groups], self.squares[:, groups])

    def series(self, chosen: np.ndarray | slice) -> "GroupMoments":
        """Return the moments of some of the series."""
        return GroupMoments(self.count, self.mean[chosen], self.squares[chosen])

    def merged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return count [C], mean [K, C, H] and squares [K, C] of all groups together."""
        count = self.count.sum(axis=0)
        mean = np.einsum("gc,kgch->kch", self.count / np.maximum(count, 1), self.mean)
        apart = np.square(self.mean - mean[:, None]).sum(axis=3)
        return count, mean, self.squares.sum(axis=1) + np.einsum("gc,kgc->kc", self.count, apart)


@dataclass(frozen=True)
class Split:
    """The energies of one change, as measured and corrected for sampling; the three of either kind have the same sum.

    `ratio` R = |d| / sqrt(class-specific energy) and `share` R / (1 + R). A ratio of None is infinite where the share is 1
    (`class_clipped`: the corrected class term is not above 0), undefined where the share is None as well. The 95 %
    intervals are those of the corrected ones; an upper end of None is infinity.
    """

    common: float
    class_specific: float
    instance: float
    common_corrected: float
    class_corrected: float
    instance_corrected: float
    class_clipped: bool
    ratio: float | None
    share: float | None
    ratio_corrected: float | None
    share_corrected: float | None
    ratio_ci95: tuple[float | None, float | None]
    share_ci95: tuple[float | None, float | None]


Variance = Callable[[GroupMoments], np.ndarray]
"""Moments -> the sampling variance of each class mean, [K, C]."""


def row_variance(moments: GroupMoments) -> np.ndarray:
    """Return tr(Cov_c) / n_c [K, C] with the unbiased covariance: the variance of the mean of n_c independent vectors."""
    count, _, squares = moments.merged()
    return squares / np.maximum(count - 1, 1) / np.maximum(count, 1)


def cluster_variance(moments: GroupMoments) -> np.ndarray:
    """Return the variance of the class means [K, C] from how far the groups' means are apart.

    For vectors that are not independent, as tokens of one text: each text is in one group, and the groups are.
    `sum_g (m_g / m)^2 |mean_g - mean|^2 * G / (G - 1)`, the ratio estimator over clusters (Cochran 1977, ch. 6).
    """
    count, mean, _ = moments.merged()
    weight = moments.count / np.maximum(count, 1)
    apart = np.square(moments.mean - mean[:, None]).sum(axis=3)
    groups = (moments.count > 0).sum(axis=0)
    return np.einsum("gc,kgc->kc", np.square(weight), apart) * groups / np.maximum(groups - 1, 1)


def energies(moments: GroupMoments) -> np.ndarray:
    """Return the common, class-specific and instance energies, [3, K]; they add up to E|x|^2."""
    count, mean, squares = moments.merged()
    share = count / count.sum()
    overall = np.einsum("c,kch->kh", share, mean)
    apart = np.square(mean - overall[:, None]).sum(axis=2)
    return np.stack([np.square(overall).sum(axis=1), apart @ share, squares.sum(axis=1) / count.sum()])


def corrected(moments: GroupMoments, variance: Variance) -> np.ndarray:
    """Return the energies [3, K] without what chance adds to the first two; these may come out below 0.

    The mean of n_c rows has E|d_c^|^2 = |d_c|^2 + V_c, and d^ = sum pi_c d_c^ has the variance sum pi_c^2 V_c; the class
    shares count as given. Hence `E sum pi_c |d_c^ - d^|^2 = sum pi_c |d_c - d|^2 + sum pi_c (1 - pi_c) V_c`.
    """
    spread = variance(moments)
    share = moments.count.sum(axis=0) / moments.count.sum()
    chance = np.stack([spread @ np.square(share), spread @ (share * (1 - share))])
    return energies(moments) + np.stack([-chance[0], -chance[1], chance.sum(axis=0)])


def split(moments: GroupMoments, variance: Variance) -> tuple[list[Split], np.ndarray]:
    """Return the split of each of the K series and, for means over series, the corrected shares with each group left out.

    The shares are [G, K], NaN where undefined. Intervals are a delete-a-group jackknife of class over common energy, which
    is 1 / R^2 and stays finite where the class term vanishes; a bootstrap would bring back the bias that is taken out.
    """
    plain, unbiased = energies(moments), corrected(moments, variance)
    total = plain.sum(axis=0)
    groups = len(moments.count)
    parts = [corrected(moments.take(np.arange(groups) != group), variance) for group in range(groups)]
    left_out = np.stack([_inverse(part[0], part[1], total) for part in parts])
    inverse = _inverse(unbiased[0], unbiased[1], total)
    reach = student.ppf(0.975, groups - 1) * jackknife_error(left_out)
    made = []
    for k, whole in enumerate(total):
        ratio, share = ratio_and_share(plain[0, k], plain[1, k], whole)
        ratio_corrected, share_corrected = ratio_and_share(unbiased[0, k], unbiased[1, k], whole)
        bounds = [_plain_root(inverse[k] + sign * reach[k]) for sign in (1, -1)]
        made.append(
            Split(
                *(float(value) for value in (*plain[:, k], *unbiased[:, k])),
                class_clipped=bool(unbiased[1, k] <= 0 < plain[1, k]),
                ratio=ratio,
                share=share,
                ratio_corrected=ratio_corrected,
                share_corrected=share_corrected,
                ratio_ci95=(bounds[0][0], bounds[1][0]),
                share_ci95=(bounds[0][1], bounds[1][1]),
            )
        )
    return made, 1 / (1 + np.sqrt(np.maximum(left_out, 0)))


def ratio_and_share(common: float, class_specific: float, total: float) -> tuple[float | None, float | None]:
    """Return R = sqrt(common / class) and R / (1 + R): (None, 1.0) without a class term, (None, None) with neither."""
    common, class_specific = (
        max(0.0, float(value)) if value > ZERO * total else 0.0 for value in (common, class_specific)
    )
    if class_specific == 0:
        return None, (1.0 if common > 0 else None)
    ratio = (common / class_specific) ** 0.5
    return ratio, ratio / (1 + ratio)


def jackknife_error(left_out: np.ndarray) -> np.ndarray:
    """Return the standard error of a statistic from its values with each of G groups left out, [G, ...] -> [...].

    The delete-a-group jackknife (Kott 2001); NaN where a value is not finite.
    """
    groups = len(left_out)
    with np.errstate(invalid="ignore"):
        return np.sqrt((groups - 1) / groups * np.square(left_out - left_out.mean(axis=0)).sum(axis=0))


def mean_share(splits: list[Split], left_out: np.ndarray) -> tuple[float | None, tuple[float, float] | None]:
    """Return the mean over series of the corrected share and its 95 % jackknife interval; None where one is undefined."""
    shares = [entry.share_corrected for entry in splits]
    if None in shares or not np.isfinite(left_out).all():
        return None, None
    mean = float(np.mean(shares))
    reach = float(student.ppf(0.975, len(left_out) - 1) * jackknife_error(left_out.mean(axis=1)))
    return mean, (max(0.0, mean - reach), min(1.0, mean + reach))


def split_half(moments: GroupMoments, *, splits: int = 50, seed: int = 0) -> np.ndarray | None:
    """Return the class-specific energy of each series [K] from pairs of halves of the groups, averaged over `splits`.

    `sum pi_c <d_c^A - d^A, d_c^B - d^B>`: the errors of the two halves are independent, so their product is unbiased
    without any correction. None where no split leaves every class in both halves.
    """
    generator, groups = np.random.default_rng(seed), len(moments.count)
    share = moments.count.sum(axis=0) / moments.count.sum()
    products = []
    for _ in range(splits):
        order = generator.permutation(groups)
        halves = []
        for chosen in (order[: groups // 2], order[groups // 2 :]):
            count, mean, _ = moments.take(chosen).merged()
            halves.append((count, mean - np.einsum("c,kch->kh", share, mean)[:, None]))
        if all((count[share > 0] > 0).all() for count, _ in halves):
            products.append(np.einsum("c,kch,kch->k", share, halves[0][1], halves[1][1]))
    return np.mean(products, axis=0) if products else None


def row_groups(labels: np.ndarray, groups: int, seed: int) -> np.ndarray:
    """Return the group of each row, int64 [N]: the rows of each class in random order, dealt out one by one."""
    generator, made = np.random.default_rng(seed), np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        made[rows] = (np.arange(len(rows)) + generator.integers(groups)) % groups
    return made


def _inverse(common: np.ndarray, class_specific: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return 1 / R^2 [K], possibly below 0; infinite where nothing is common, NaN where nothing is class-specific either."""
    common, class_specific = (np.where(np.abs(part) > ZERO * total, part, 0.0) for part in (common, class_specific))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((common <= 0) & (class_specific <= 0), np.nan, class_specific / np.maximum(common, 0))


def _plain_root(inverse: float) -> tuple[float | None, float | None]:
    """Return R and R / (1 + R) from 1 / R^2; values below 0 are clipped: R is infinite, the share 1."""
    if np.isnan(inverse):
        return None, None
    if inverse <= 0:
        return None, 1.0
    ratio = float(inverse**-0.5)
    return ratio, ratio / (1 + ratio)
