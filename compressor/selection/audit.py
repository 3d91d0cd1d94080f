"""How far a score deserves trust: its ranking against the damage that real forward passes measure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from compressor.measurement.statistics import delta_interval, share_interval
from compressor.recipe.compression import SelectionSpec
from compressor.selection.allowed import Kinds, may_go
from compressor.selection.baselines import RANKINGS, Evidence, drop_order, importances, ranked_set
from compressor.selection.search import MOST_SETS, SEARCHES, best_by_size, sets_total, wanted_sizes
from compressor.selection.trials import Trial, Trials
from compressor.selection.trie import SkipSet

DRAWS = 2000
DAMAGES = ("kl", "flips", "accuracy_lost")
TOP = 3
CHEAPER = {"exhaustive": ("beam", "greedy"), "beam": ("greedy",), "greedy": ()}
"""Search -> those that try fewer sets; what they would have found stands beside it, mostly at no further trial."""


@dataclass(frozen=True)
class Audit:
    """Every score against the trials of one model on one selection split, as plain values for JSON.

    `importance`: predicted damage of every single layer, by score. `damage`: what skipping every contiguous block cost,
    after a closed-form readout and (`raw_`) as it is, and what every score `predicted`. `correlations`: Spearman's rho of
    the two with a 95 % bootstrap interval over the blocks. `hits`: whether the least damaging layer is a score's first
    pick, or among its first three. `frontier`: the set of every size that the search found and that each score would
    skip, and its regret against the best found. `roles`: the role of every layer, where it is known. `reading`: what that
    says, in words.
    """

    search: str
    layers: int
    rows: int
    labelled: bool
    labels: str
    scores: tuple[str, ...]
    importance: dict[str, list[float]]
    damage: list[dict[str, Any]]
    correlations: list[dict[str, Any]]
    hits: list[dict[str, Any]]
    frontier: list[dict[str, Any]]
    reading: str
    roles: list[dict[str, Any]]


def audit_scores(
    trials: Trials,
    evidence: Evidence,
    spec: SelectionSpec,
    *,
    labels: str,
    flops: Callable[[SkipSet], int],
    roles: Sequence[dict[str, Any]] = (),
    seed: int = 0,
) -> Audit:
    """Try every contiguous block, every score's set of every size and the search's own sets; compare.

    Blocks judge the scores whether or not a model can be made without them (`selection/allowed.py`); the best set of a size is
    one that can. `labels` says which labels the separability is that of; `flops(skip set)` gives the encoder's FLOPs; `roles` are
    kept beside the damage as they are.
    """
    layers, kinds = len(trials.layers), trials.kinds
    search = spec_of_all_sizes(spec, layers, kinds)
    sizes = wanted_sizes(search, layers, kinds)
    found: dict[str, dict[SkipSet, Trial]] = {}
    for name in (search.search, *CHEAPER[search.search]):
        tried = found[name] = {}

        def evaluate(sets: Sequence[SkipSet], description: str, tried: dict[SkipSet, Trial] = tried) -> list[Trial]:
            made = trials(sets, f"audit, {description}")
            tried.update({trial.skip: trial for trial in made})
            return made

        SEARCHES[name](evaluate, layers, sizes, lambda _size: (), search, kinds)
    blocks, scores = contiguous_blocks(layers), list(RANKINGS.items())
    planned = {
        (name, size): ranked_set(name, evidence, size, spec.protect, kinds) for name in RANKINGS for size in sizes
    }
    known = {trial.skip: trial for trial in trials([*blocks, *planned.values()], "audit of the scores")}
    known |= {skip: trial for tried in found.values() for skip, trial in tried.items()}
    # the full model has its own head, so no readout stands between it and its predictions
    full = Trial((), 1.0, 0.0, 1.0, 0.0, *([0] * 4 if trials.labelled else [None] * 4))
    for tried in (known, *found.values()):
        tried[()] = full
    able = (skip for skip in known if not set(skip) & set(spec.protect) and may_go(skip, kinds))
    best = best_by_size(known[skip] for skip in able)
    by_search = {name: best_by_size(tried.values()) for name, tried in found.items()}
    series = {(name, "search", size): sets[size] for name, sets in by_search.items() for size in sizes}
    series |= {(name, "score", size): known[skip] for (name, size), skip in planned.items()}
    frontier = [
        {"series": name, "kind": kind, "size": size, **_point(trial, best[size], trials.counted)}
        | {"encoder_flops": flops(trial.skip)}
        for (name, kind, size), trial in series.items()
    ]
    damage = [
        {
            **_damage(known[skip], trials.counted),
            "predicted": {name: score(evidence, skip[0], skip[-1]) for name, score in scores},
        }
        for skip in blocks
    ]
    return Audit(
        search=search.search,
        layers=layers,
        rows=trials.counted,
        labelled=trials.labelled,
        labels=labels,
        scores=tuple(RANKINGS),
        importance={name: importances(name, evidence) for name in RANKINGS},
        damage=damage,
        correlations=correlations(damage, seed),
        hits=_hits(evidence, spec.protect, {skip[0]: known[skip] for skip in blocks if len(skip) == 1}),
        frontier=frontier,
        reading=reading(frontier, trials.counted),
        roles=list(roles),
    )


def spec_of_all_sizes(spec: SelectionSpec, layers: int, kinds: Kinds = None) -> SelectionSpec:
    """Return the search that an audit makes of the recipe's: over all sizes, by a beam where exhaustive means too many.

    A search of one set only has nothing to say about the other sizes, and one that a score leads cannot judge scores, so a
    beam replaces them, too.
    """
    every = spec.model_copy(update={"layers": "auto", "skip": None})
    narrow = spec.search in {"ranked", "guided", "fixed"} or (
        spec.search == "exhaustive" and sets_total(every, layers, kinds) > MOST_SETS
    )
    return every.model_copy(update={"search": "beam"}) if narrow else every


def contiguous_blocks(layers: int) -> list[SkipSet]:
    """Return every run of neighbouring layers but the whole stack, single layers first."""
    return [
        tuple(range(first, first + size)) for size in range(1, layers) for first in range(1, layers - size + 2)
    ]  # fmt: skip


def correlations(damage: Sequence[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Return Spearman's rho of every score with every kind of damage, over single layers and over all blocks.

    The interval resamples the blocks (2,000 draws). Blocks overlap and layers are few, so it is a rough guide. None where
    a side is constant or was not measured.
    """
    made = []
    for name in damage[0]["predicted"]:
        for units, wanted in (("layers", [row for row in damage if len(row["skip"]) == 1]), ("blocks", list(damage))):
            predicted = np.array([row["predicted"][name] for row in wanted])
            for kind in DAMAGES:
                for readout in (True, False):
                    values = [row[kind if readout else f"raw_{kind}"] for row in wanted]
                    rho, interval = (None, None) if None in values else spearman(predicted, np.array(values), seed)
                    made.append({"score": name, "units": units, "damage": kind, "readout": readout}
                                | {"rho": rho, "ci95": interval, "n": len(wanted)})  # fmt: skip
    return made


def spearman(
    predicted: np.ndarray, measured: np.ndarray, seed: int = 0
) -> tuple[float | None, tuple[float, float] | None]:
    """Return Spearman's rank correlation of two arrays [n] and its 95 % bootstrap interval over the n units."""
    draws = np.random.default_rng(seed).integers(len(predicted), size=(DRAWS, len(predicted)))
    whole = rank_correlation(predicted[None], measured[None])[0]
    if np.isnan(whole):
        return None, None
    values = rank_correlation(predicted[draws], measured[draws])
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(whole), (float(low), float(high))


def reading(frontier: Sequence[dict[str, Any]], rows: int) -> str:
    """Return in words which score loses least against the best sets found, and what separability loses.

    Two scores are told apart only where their mean regrets differ by more than the error of two shares of `rows` rows
    allows at 95 %, corrected for the number of scores that separability is compared with. Their rows are the same, which
    this ignores: it errs on the side of saying less.
    """
    points = {(point["series"], point["size"]): point for point in frontier if point["size"]}
    sizes = sorted({size for _, size in points})
    names = list(dict.fromkeys(point["series"] for point in frontier if point["kind"] == "score"))
    search = next(point["series"] for point in frontier if point["kind"] == "search")

    def regret(name: str) -> float:
        return float(np.mean([points[name, size]["regret"]["agreement"] for size in sizes]))

    def error(name: str) -> float:
        shares = np.array([points[name, size]["agreement"] for size in sizes])
        return float(np.mean(np.sqrt(shares * (1 - shares) / rows)))

    least = min(names, key=regret)
    over = f"on average over {'1' if len(sizes) == 1 else f'1 to {sizes[-1]}'} skipped layers"
    own, rival = regret("separability"), regret(least)
    margin = norm.ppf(1 - 0.025 / max(len(names) - 1, 1)) * np.hypot(error("separability"), error(least))
    found = f"the {search} search by real forward passes loses {100 * regret(search):.1f}"
    lost = f"The sets that separability ranks first lose {100 * own:.1f} points of agreement against the best found, {over}"
    if own <= rival + 1e-12:
        return f"{lost}: no score loses less; {found}."
    if own - rival <= margin:
        return (
            f"{lost}; the score {least} loses {100 * rival:.1f}, which cannot be told apart on {rows:,} rows; {found}."
        )
    return (
        f"Separability is not the best guide here. {lost}; the score {least} loses {100 * rival:.1f}, the least of all "
        f"scores; {found}."
    )


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation of the ranks (ties share one) of each row of two arrays [D, n]; NaN where one is constant."""
    first, second = rankdata(first, axis=1), rankdata(second, axis=1)
    first, second = first - first.mean(axis=1, keepdims=True), second - second.mean(axis=1, keepdims=True)
    scale = np.sqrt(np.square(first).sum(axis=1) * np.square(second).sum(axis=1))
    return np.divide((first * second).sum(axis=1), scale, out=np.full(len(first), np.nan), where=scale > 0)


def _damage(trial: Trial, rows: int) -> dict[str, Any]:
    measured: dict[str, Any] = {"skip": trial.skip}
    for prefix in ("", "raw_"):
        gained, lost = getattr(trial, f"{prefix}gained"), getattr(trial, f"{prefix}lost")
        measured[f"{prefix}kl"] = getattr(trial, f"{prefix}kl")
        measured[f"{prefix}flips"] = 1 - getattr(trial, f"{prefix}agreement")
        measured[f"{prefix}accuracy_lost"] = None if lost is None or gained is None else (lost - gained) / rows
    return measured


def _point(trial: Trial, best: Trial, rows: int) -> dict[str, Any]:
    delta = spread = None
    if trial.gained is not None and trial.lost is not None:
        delta = (trial.gained - trial.lost) / rows
        spread = delta_interval(trial.gained, trial.lost, rows)
    return {
        "skip": trial.skip,
        "agreement": trial.agreement,
        "agreement_ci95": share_interval(round(trial.agreement * rows), rows),
        "raw_agreement": trial.raw_agreement,
        "kl": trial.kl,
        "accuracy_delta": delta,
        "accuracy_ci95": spread,
        "regret": {"agreement": best.agreement - trial.agreement, "kl": trial.kl - best.kl},
    }


def _hits(evidence: Evidence, protect: Sequence[int], singles: dict[int, Trial]) -> list[dict[str, Any]]:
    free = [layer for layer in singles if layer not in protect]
    least = min(free, key=lambda layer: singles[layer].cost)
    orders = {name: drop_order(name, evidence, protect) for name in RANKINGS}
    return [
        {"score": name, "order": order, "best": least, "top1": order[0] == least, "top3": least in order[:TOP]}
        for name, order in orders.items()
    ]
