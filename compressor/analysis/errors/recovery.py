"""Where the answer to an error still was: readers of the [CLS] state behind every layer, and of the last one with a head.

A reader that knows nothing also gets errors right by luck: with two classes, whenever it disagrees. So every reader is held
against right rows: how many it would break, and how often it says an error's gold label on right rows that the model
predicted alike and was about as sure of (`matched_rows`). What lies above that is what the state knows and the model lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compressor.analysis.errors.readers import NEIGHBOURS, DepthStates, ReaderKey
from compressor.measurement.statistics import delta_interval, holm, mcnemar_p, percentile_interval, share_interval

MATCHES, DRAWS = 20, 1000
KINDS = "probe", "knn", "head"
GROUPS = {"any probe": ("probe",), "any kNN": ("knn",), "any head": ("head",), "any reader": KINDS}


@dataclass(frozen=True)
class Reader:
    """What one reader, or `any` of several, would have said where the model erred (`fixed`) and where it was right (`broken`).

    Shares are of the errors and of the right rows. `chance_share` is what luck would fix of the errors, and `beyond_chance`
    the share fixed less that. `p` (exact McNemar: does the reader alone beat the model, or lose to it?) is corrected by
    Holm over the readers; a union has no accuracy and no p. `number` is the layer, or the nodes of a head.
    """

    kind: str
    number: int | None
    accuracy: float | None
    fixed: int
    fixed_share: float
    fixed_ci95: tuple[float, float]
    broken: int
    broken_share: float | None
    net: int
    net_ci95: tuple[float, float]
    chance_share: float | None
    beyond_chance: float | None
    beyond_chance_ci95: tuple[float, float] | None
    p_holm: float | None


@dataclass(frozen=True)
class Recovery:
    """Recoverable upstream: `rows` of the evaluation split with `errors`, readers fitted on `fit_rows` of `fit_source`.

    `unfixed` errors are those that no reader gets right; `matched` are those with right rows to compare with. `by_error`:
    {row, probe, knn, head} of every error: its row of the evaluation split, and the layers or nodes that get it right.
    """

    rows: int
    errors: int
    fit_rows: int
    fit_source: str
    fit_accuracy: float | None
    neighbours: int
    head_nodes: tuple[int, ...]
    matched: int
    readers: tuple[Reader, ...]
    groups: tuple[Reader, ...]
    unfixed: int
    unfixed_share: float
    unfixed_ci95: tuple[float, float]
    by_error: list[dict[str, int | list[int]]]


def recovery(
    depth: DepthStates,
    predictions: Mapping[ReaderKey, np.ndarray],
    logits: np.ndarray,
    gold: np.ndarray,
    *,
    seed: int = 0,
) -> Recovery | None:
    """Hold what the readers predict [K] against the model's logits [K, C] on the same rows; None where there is no error."""
    wrong = logits.argmax(1) != gold
    errors, rights = np.flatnonzero(wrong), np.flatnonzero(~wrong)
    if not len(errors):
        return None
    keys = list(predictions)
    members = [[place] for place in range(len(keys))]
    members += [[place for place, (kind, _) in enumerate(keys) if kind in kinds] for kinds in GROUPS.values()]
    names: list[tuple[str, int | None]] = [*keys, *((name, None) for name in GROUPS)]
    hits = np.stack([predictions[key] == gold for key in keys])
    fixed = np.stack([hits[own].any(0)[errors] for own in members])
    broken = np.stack([(~hits[own]).any(0)[rights] for own in members])
    matches = matched_rows(logits, gold)
    chance = _chance(np.stack([predictions[key] for key in keys]), members, matches, wrong, gold, fixed, seed)
    counts = list(zip(fixed.sum(1).tolist(), broken.sum(1).tolist(), strict=True))
    p_values = [*holm([mcnemar_p(*gain_loss) for gain_loss in counts[: len(keys)]]), *[None] * len(GROUPS)]
    made = []
    for place, ((kind, number), (gain, loss)) in enumerate(zip(names, counts, strict=True)):
        made.append(
            Reader(
                kind=kind,
                number=number,
                accuracy=float(hits[place].mean()) if place < len(keys) else None,
                fixed=gain,
                fixed_share=gain / len(errors),
                fixed_ci95=share_interval(gain, len(errors)),
                broken=loss,
                broken_share=loss / len(rights) if len(rights) else None,
                net=gain - loss,
                net_ci95=tuple(bound * len(gold) for bound in delta_interval(gain, loss, len(gold))),
                **chance[place],
                p_holm=p_values[place],
            )
        )
    unfixed = len(errors) - made[-1].fixed
    return Recovery(
        rows=len(gold),
        errors=len(errors),
        fit_rows=len(depth.fit_labels),
        fit_source=depth.fit_source,
        fit_accuracy=depth.fit_accuracy,
        neighbours=NEIGHBOURS,
        head_nodes=tuple(nodes for kind, nodes in keys if kind == "head"),
        matched=int(matches[1].any(1).sum()),
        readers=tuple(made[: len(keys)]),
        groups=tuple(made[len(keys) :]),
        unfixed=unfixed,
        unfixed_share=unfixed / len(errors),
        unfixed_ci95=share_interval(unfixed, len(errors)),
        by_error=[
            {"row": int(depth.evaluation_rows[error])}
            | {
                kind: [own for place, (name, own) in enumerate(keys) if name == kind and hits[place, error]]
                for kind in KINDS
            }
            for error in errors
        ],
    )


def matched_rows(logits: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for every error, right rows predicted alike and nearest in logit margin: rows int64 [E, m], mask bool [E, m].

    The margin is that of the largest logit over the second; m is at most MATCHES, and the mask is False where a class has
    fewer right rows.
    """
    predicted = logits.argmax(1)
    top = np.sort(logits, axis=1)
    margin, wrong = top[:, -1] - top[:, -2], predicted != gold
    errors = np.flatnonzero(wrong)
    rows, mask = np.zeros((len(errors), MATCHES), np.int64), np.zeros((len(errors), MATCHES), bool)
    for place, error in enumerate(errors):
        alike = np.flatnonzero(~wrong & (predicted == predicted[error]))
        nearest = alike[np.argsort(np.abs(margin[alike] - margin[error]), kind="stable")[:MATCHES]]
        rows[place, : len(nearest)], mask[place, : len(nearest)] = nearest, True
    return rows, mask


def _chance(
    predicted: np.ndarray,
    members: Sequence[Sequence[int]],
    matches: tuple[np.ndarray, np.ndarray],
    wrong: np.ndarray,
    gold: np.ndarray,
    fixed: np.ndarray,
    seed: int,
) -> list[dict[str, float | tuple[float, float] | None]]:
    """Return chance_share, beyond_chance and its interval of every reader or union, over the errors that have matches.

    The bootstrap draws errors and right rows anew: an error's matches are rows of the split as much as the error is.
    """
    (rows, mask), errors = matches, np.flatnonzero(wrong)
    matched = mask.any(1)
    if not matched.any():
        return [{"chance_share": None, "beyond_chance": None, "beyond_chance_ci95": None} for _ in members]
    rows, mask, fixed = rows[matched], mask[matched], fixed[:, matched]
    says_gold = predicted[:, rows] == gold[errors[matched]][None, :, None]
    hits = np.stack([says_gold[own].any(0) for own in members]).astype(float)

    def luck(weights: np.ndarray) -> np.ndarray:
        inside = weights[rows] * mask
        # an error none of whose matches was drawn keeps them all
        inside = np.where(inside.any(1, keepdims=True), inside, mask)
        return np.einsum("rem,em->re", hits, inside / inside.sum(1, keepdims=True))

    chance = luck(np.ones(len(gold)))
    generator, count = np.random.default_rng(seed), len(fixed[0])
    right = np.flatnonzero(~wrong)
    drawn = np.empty((DRAWS, len(members)))
    for draw in range(DRAWS):
        of_errors = np.bincount(generator.integers(count, size=count), minlength=count) / count
        weights = np.bincount(right[generator.integers(len(right), size=len(right))], minlength=len(gold))
        drawn[draw] = (fixed - luck(weights.astype(float))) @ of_errors
    return [
        {
            "chance_share": float(chance[place].mean()),
            "beyond_chance": float((fixed[place] - chance[place]).mean()),
            "beyond_chance_ci95": percentile_interval(drawn[:, place]),
        }
        for place in range(len(members))
    ]
