"""Kinds of texts on which a model errs, or two models differ, more often than on the rest: corrected for looking often."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import fisher_exact

from compressor.measurement.statistics import holm, share_interval

LEAST_ROWS, MOST_VALUES = 20, 30
"""Rows a slice needs to be tested, and values of a column that are tested, the most frequent ones."""
NEGATIONS = (
    "no", "not", "n't", "cannot", "never", "none", "nobody", "nothing", "nowhere", "neither", "nor", "without",
    "hardly", "barely", "scarcely", "rarely", "seldom",
)  # fmt: skip
"""English words that negate; a contraction such as `isn't` or `is n't` counts as n't."""
_WHOLE = "|".join(word for word in NEGATIONS if word.isalpha())
NEGATION = re.compile(rf"\b(?:{_WHOLE})\b|n['’]t\b", re.IGNORECASE)


@dataclass(frozen=True)
class Slice:
    """A kind of texts against all others: how often `outcome` holds; shares with 95 % intervals.

    `p` is Fisher's exact test, two-sided; `p_holm` is corrected for all slices of this outcome. `difference` is the share
    minus that of the rest.
    """

    outcome: str
    feature: str
    value: str
    rows: int
    count: int
    share: float
    share_ci95: tuple[float, float]
    rest_rows: int
    rest_count: int
    rest_share: float
    difference: float
    difference_ci95: tuple[float, float]
    p: float
    p_holm: float


def features(
    texts: Sequence[tuple[str, ...]],
    gold: np.ndarray,
    label_names: Sequence[str],
    column: Sequence[str] | None = None,
    column_name: str = "column",
) -> dict[str, np.ndarray]:
    """Return feature name -> value of every row (object array [N]).

    Text length in words by quartile, gold label, whether a word of NEGATIONS occurs, and the caller's own column.
    """
    words = np.array([sum(len(text.split()) for text in row) for row in texts])
    made = {
        "text length": quartiles(words),
        "gold label": np.array(label_names, dtype=object)[gold],
        "negation word": np.array(["yes" if any(map(NEGATION.search, row)) else "no" for row in texts], dtype=object),
    }
    if column is not None:
        made[column_name] = np.array([str(value) for value in column], dtype=object)
    return made


def quartiles(words: np.ndarray) -> np.ndarray:
    """Return the quartile of every row as `5 to 9 words` (object array [N]); equal lengths share one."""
    edges = np.unique(np.quantile(words, [0.25, 0.5, 0.75], method="lower"))
    part = np.searchsorted(edges, words, side="left")
    names = np.empty(len(words), dtype=object)
    for number in np.unique(part):
        inside = part == number
        low, high = words[inside].min(), words[inside].max()
        names[inside] = f"{low} to {high} words" if low < high else f"{low} {'word' if low == 1 else 'words'}"
    return names


def compared_values(values: np.ndarray) -> list[str]:
    """Return the values of a feature that are compared with the rest: LEAST_ROWS rows or more, and as many beside them.

    A feature of two values is one question, so only its rarer value stands for it. Numbers in front set the order.
    """
    found, counts = np.unique(values.astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    if len(found) == 2:
        order = order[1:]
    fit = [found[place] for place in order[:MOST_VALUES] if LEAST_ROWS <= counts[place] <= len(values) - LEAST_ROWS]
    return sorted(map(str, fit), key=lambda value: (float(re.match(r"\d*", value)[0] or 0), value))


def compare_slices(outcomes: Mapping[str, np.ndarray], by_feature: Mapping[str, np.ndarray]) -> list[Slice]:
    """Return every slice of every outcome (bool [N] by name) against the rest of the rows."""
    made = []
    for outcome, holds in outcomes.items():
        found = []
        for feature, values in by_feature.items():
            for value in compared_values(values):
                inside = values == value
                k, n = int(holds[inside].sum()), int(inside.sum())
                found.append((feature, value, k, n, int(holds.sum()) - k, len(holds) - n))
        p_values = [float(fisher_exact([[k, n - k], [m, r - m]]).pvalue) for *_, k, n, m, r in found]
        for (feature, value, k, n, m, r), p, p_holm in zip(found, p_values, holm(p_values), strict=True):
            made.append(
                Slice(
                    outcome=outcome,
                    feature=feature,
                    value=value,
                    rows=n,
                    count=k,
                    share=k / n,
                    share_ci95=share_interval(k, n),
                    rest_rows=r,
                    rest_count=m,
                    rest_share=m / r,
                    difference=k / n - m / r,
                    difference_ci95=share_difference_interval(k, n, m, r),
                    p=p,
                    p_holm=p_holm,
                )
            )
    return made


def share_difference_interval(count: int, rows: int, rest_count: int, rest_rows: int) -> tuple[float, float]:
    """Return the 95 % interval of count/rows - rest_count/rest_rows, of different rows (Newcombe 1998, method 10)."""
    share, rest = count / rows, rest_count / rest_rows
    (low, high), (rest_low, rest_high) = share_interval(count, rows), share_interval(rest_count, rest_rows)
    below, above = np.hypot(share - low, rest_high - rest), np.hypot(high - share, rest - rest_low)
    return float(share - rest - below), float(share - rest + above)
