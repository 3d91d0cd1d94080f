"""The dual role of feed-forward blocks: how much of what they do is the same for all texts, and what goes without them."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from compressor.analysis.ffn.energy import (
    MIN_ROWS,
    Split,
    Variance,
    cluster_variance,
    mean_share,
    row_groups,
    row_variance,
    split,
    split_half,
)
from compressor.analysis.ffn.null import PermutationNull, permutation_nulls
from compressor.analysis.ffn.probe import ProbePair, probe_pairs
from compressor.analysis.ffn.removal import Removal, run_removals, summarise
from compressor.analysis.ffn.states import FIELDS, PARTS, Position, ffn_pass
from compressor.data.batches import Encodings
from compressor.errors import UserError
from compressor.measurement.statistics import share_interval
from compressor.model.families import Family, layer_list
from compressor.progress import Track, silent

GROUPS = 40
"""Groups of rows that the jackknife leaves out in turn; fewer where their class means would take too much memory."""
GROUPS_BYTES, MIN_GROUPS = 2**28, 10
POST_NORM = "post-norm: before = output of the attention LayerNorm, after = output of the feed-forward LayerNorm"
PRE_NORM = "pre-norm: before = the stream behind attention, after = the same with what the block adds"


@dataclass(frozen=True)
class BlockChange:
    """What one block does to one kind of token (`count` of them): Delta = state after minus state before, E|Delta|^2 = `energy`.

    `change`, `raw` and `norm` split the energies of Delta, of the block's own output, and of what the closing LayerNorm
    does to the sum; Delta is the sum of the latter two. `raw_share` and `norm_share` are their parts along Delta,
    E<part, Delta> / E|Delta|^2, and add up to 1. `radial_share` of Delta's energy lies along the state before,
    `tangential_share` across it; `radial_mean` is the mean step along it. `length_*` are mean |state| before, of the sum
    and after the LayerNorm, `variation_*` their standard deviation over their mean. Shares without energy are None.
    """

    count: int
    energy: float
    change: Split
    raw: Split
    norm: Split
    raw_share: float | None
    norm_share: float | None
    radial_share: float | None
    tangential_share: float | None
    radial_mean: float
    length_before: float
    length_sum: float
    length_after: float
    variation_before: float
    variation_sum: float
    variation_after: float


@dataclass(frozen=True)
class FfnLayer:
    """One layer, numbered from 1. `split_half_class` is the class energy of [CLS] from independent halves of the rows."""

    layer: int
    cls: BlockChange
    tokens: BlockChange
    split_half_class: float | None
    null: PermutationNull
    probe: ProbePair
    removal: list[Removal]


@dataclass(frozen=True)
class FfnAnalysis:
    """The analysis of all feed-forward blocks. `labels` says whose the classes of the calibration rows are.

    `class_rows` [C]; `left_out_rows` are those of classes with fewer than 4 rows. `mean_share*` average the corrected
    share of [CLS] and of all tokens over the layers, with 95 % jackknife intervals over `groups` groups of rows.
    `evaluation_rows` were run without each block; `accuracy` is the whole model's on them, None without labels.
    """

    states: str
    labels: str
    classes: int
    rows: int
    tokens: int
    class_rows: list[int]
    left_out_rows: int
    sample_rows: int
    groups: int
    permutations: int
    seed: int
    mean_share_cls: float | None
    mean_share_cls_ci95: tuple[float, float] | None
    mean_share_tokens: float | None
    mean_share_tokens_ci95: tuple[float, float] | None
    evaluation_rows: int
    evaluation_labelled: bool
    accuracy: float | None
    accuracy_ci95: tuple[float, float] | None
    layers: list[FfnLayer]


def analyze_ffn(
    model: PreTrainedModel,
    family: Family,
    calibration: Encodings,
    classes_of: np.ndarray,
    evaluation: Encodings,
    gold: np.ndarray | None,
    *,
    classes: int,
    labels: str = "gold",
    seed: int = 0,
    sample_rows: int = 2000,
    removal_rows: int = 2000,
    permutations: int = 1000,
    batch_size: int = 32,
    track: Track = silent,
) -> FfnAnalysis:
    """Analyse every feed-forward block of a classifier: energies, null, probes, and real removal.

    `classes_of` int64 [N] gives the class of each calibration row, gold or the model's own prediction as `labels` says;
    `gold` int64 [M] the labels of the evaluation rows, if any. Energies and means come from one pass over all calibration
    rows; probes and shuffles from a random `sample_rows` of them (4 of each class at least), removal from a random
    `removal_rows` of evaluation.
    Raises UserError where rows and classes do not fit, or fewer than two classes have 4 rows.
    """
    _check(calibration, classes_of, evaluation, gold, classes)
    class_rows = np.bincount(classes_of, minlength=classes)
    kept = np.flatnonzero(class_rows[classes_of] >= MIN_ROWS)
    calibration, classes_of = calibration.take(kept), classes_of[kept]
    used = np.unique(classes_of)
    if len(used) < 2:
        raise UserError(
            f"data.calibration: its classes (by {labels} labels) have {', '.join(map(str, class_rows))} rows, and the class "
            f"part of a change needs two classes of {MIN_ROWS} rows or more; use more or other calibration text."
        )
    index = np.searchsorted(used, classes_of)  # classes that are there, numbered without gaps
    generator = np.random.default_rng(seed)
    sample = _sample(generator, index, sample_rows)
    layers = len(layer_list(model, family))
    # float64 sums of the two kinds of token, group by group
    group_bytes = 2 * 8 * layers * len(PARTS) * len(used) * model.config.hidden_size
    groups = int(np.clip(GROUPS_BYTES // group_bytes, MIN_GROUPS, GROUPS))
    found = ffn_pass(
        model, family, calibration, index, row_groups(index, groups, seed), len(used), sample,
        batch_size=batch_size, track=track,
    )  # fmt: skip
    cls, cls_share, cls_interval = _changes(found.cls, row_variance)
    tokens, tokens_share, tokens_interval = _changes(found.tokens, cluster_variance)
    halves = split_half(found.cls.moments.series(slice(PARTS.index("change"), None, len(PARTS))), seed=seed)
    nulls = permutation_nulls(found.after - found.before, index[sample], permutations=permutations, seed=seed)
    probes = probe_pairs(found.before, found.after, index[sample], seed=seed, track=track)

    rows = np.sort(generator.permutation(len(evaluation))[:removal_rows])
    gold = None if gold is None else gold[rows]
    first, others, everything = found.raw_means()
    stand_ins = {
        "removed": np.zeros((layers, 2, first.shape[1])),
        "mean_kept": np.stack([everything, everything], axis=1),
        "means_kept": np.stack([first, others], axis=1),
    }
    run = run_removals(model, family, evaluation.take(rows), stand_ins, batch_size=batch_size, track=track)
    right = None if gold is None else int((run.full.argmax(1) == gold).sum())
    parts = zip(cls, tokens, nulls, probes, summarise(run, gold), strict=True)
    made = [
        FfnLayer(layer, one, every, None if halves is None else float(halves[layer - 1]), null, probe, removal)
        for layer, (one, every, null, probe, removal) in enumerate(parts, 1)
    ]
    return FfnAnalysis(
        states=PRE_NORM if family.final_norm else POST_NORM,
        labels=labels,
        classes=classes,
        rows=len(calibration),
        tokens=found.tokens.count,
        class_rows=class_rows.tolist(),
        left_out_rows=int(class_rows.sum()) - len(calibration),
        sample_rows=len(sample),
        groups=groups,
        permutations=permutations,
        seed=seed,
        mean_share_cls=cls_share,
        mean_share_cls_ci95=cls_interval,
        mean_share_tokens=tokens_share,
        mean_share_tokens_ci95=tokens_interval,
        evaluation_rows=len(rows),
        evaluation_labelled=gold is not None,
        accuracy=None if right is None else right / len(rows),
        accuracy_ci95=None if right is None else share_interval(right, len(rows)),
        layers=made,
    )


def _changes(
    position: Position, variance: Variance
) -> tuple[list[BlockChange], float | None, tuple[float, float] | None]:
    """Return the change of each layer, and the mean over layers of the corrected share of Delta with its interval."""
    splits, left_out = split(position.moments, variance)
    count, change = len(PARTS), slice(PARTS.index("change"), None, len(PARTS))
    made = [
        _block_change(position.count, fields, splits[count * layer : count * (layer + 1)])
        for layer, fields in enumerate(position.fields)
    ]
    return made, *mean_share(splits[change], left_out[:, change])


def _block_change(count: int, fields: np.ndarray, splits: list[Split]) -> BlockChange:
    means = dict(zip(FIELDS, fields.tolist(), strict=True))

    def share(name: str) -> float | None:
        return means[name] / means["change"] if means["change"] > 0 else None

    def variation(name: str) -> float:
        variance = max(0.0, means[f"{name}_squared"] - means[name] ** 2)
        return variance**0.5 / means[name] if means[name] > 0 else 0.0

    radial = share("radial_squared")
    return BlockChange(
        count=count,
        energy=means["change"],
        **dict(zip(PARTS, splits, strict=True)),
        raw_share=share("raw_change"),
        norm_share=share("norm_change"),
        radial_share=radial,
        tangential_share=None if radial is None else 1 - radial,
        radial_mean=means["radial"],
        **{f"length_{name}": means[name] for name in ("before", "sum", "after")},
        **{f"variation_{name}": variation(name) for name in ("before", "sum", "after")},
    )


def _sample(generator: np.random.Generator, labels: np.ndarray, most: int) -> np.ndarray:
    """Return the indices of at most `most` rows, and of more where a class would have fewer than MIN_ROWS among them."""
    order = generator.permutation(len(labels))
    chosen = [order[:most]]
    for label, count in enumerate(np.bincount(labels[order[:most]], minlength=labels.max() + 1)):
        rest = order[most:]
        chosen.append(rest[labels[rest] == label][: max(0, MIN_ROWS - count)])
    return np.sort(np.concatenate(chosen))


def _check(
    calibration: Encodings, classes_of: np.ndarray, evaluation: Encodings, gold: np.ndarray | None, classes: int
) -> None:
    for field, encodings, labels in (("calibration", calibration, classes_of), ("evaluation", evaluation, gold)):
        if len(encodings) == 0:
            raise UserError(f"data.{field}: there is no row to analyse; give it some text.")
        if labels is None:
            continue
        if len(labels) != len(encodings):
            raise UserError(f"data.{field}: {len(labels)} labels for {len(encodings)} rows; give each row one label.")
        if labels.min() < 0 or labels.max() >= classes:
            row = int(np.flatnonzero((labels < 0) | (labels >= classes))[0])
            raise UserError(
                f"data.{field}, row {row}: class {labels[row]} is none of the model's {classes} (0 to {classes - 1}); use labels "
                "that the model knows."
            )
