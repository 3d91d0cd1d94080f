"""What really happens without a feed-forward block: forward passes of the layers behind it, with and without its mean."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor, nn

from compressor.analysis.ffn.states import recorded_blocks
from compressor.data.answers.kinds import SINGLE
from compressor.data.batches import Encodings, padded_batches
from compressor.measurement.statistics import compare, delta_interval, discordant, holm, share_interval
from compressor.model.capture import LayerCall, apply_layer, capture_call
from compressor.model.cls_row import cls_row, relative_positions
from compressor.model.families import Family, layer_list
from compressor.model.states.reading import head_logits, read_state
from compressor.model.sublayers import attends, heads_of
from compressor.progress import Track, silent


@dataclass(frozen=True)
class Removal:
    """What replacing one block does to the predictions on the evaluation rows, against the whole model.

    By `kind`, the block gives 0 (`removed`), its mean output over all tokens at every token (`mean_kept`), or two means, over
    the first tokens and over the others (`means_kept`).

    Shares and deltas are fractions, `kl` and entropies nats. `flips_saved` is how much lower the share of changed
    predictions is than where the block gives 0, paired. `entropy_shift` is the change of the attention entropy (mean over
    heads and tokens) of those of the `later_layers` that attend; None where none does. Without labels the accuracies are
    None.
    """

    kind: str
    rows: int
    flips: int
    flip_rate: float
    flip_ci95: tuple[float, float]
    flips_saved: float | None
    flips_saved_ci95: tuple[float, float] | None
    kl: float
    gained: int | None
    lost: int | None
    accuracy_delta: float | None
    accuracy_ci95: tuple[float, float] | None
    mcnemar_p: float | None
    mcnemar_p_holm: float | None
    later_layers: int
    entropy_shift: float | None
    entropy_ci95: tuple[float, float] | None


@dataclass(frozen=True)
class RemovalRun:
    """Raw results: `full` [N, C] and `logits` kind -> [L, N, C]; `entropy` kind -> [L, N] mean shift of later layers.

    There is no entropy for models whose attention also reads relative positions: it is not only q and k that counts there.
    """

    full: np.ndarray
    logits: dict[str, np.ndarray]
    entropy: dict[str, np.ndarray] | None


def run_removals(
    model: nn.Module,
    family: Family,
    encodings: Encodings,
    stand_ins: Mapping[str, np.ndarray],
    *,
    batch_size: int = 32,
    track: Track = silent,
) -> RemovalRun:
    """Run the model with each block replaced in turn; `stand_ins`: kind -> [L, 2, H] for the first and the other tokens.

    The states in front of a block are those of the whole model, so only the layers behind it run again, batch by batch.
    """
    layers = list(layer_list(model, family))
    full = np.zeros((len(encodings), model.config.num_labels), dtype=np.float32)
    logits = {kind: np.zeros((len(layers), *full.shape), dtype=np.float32) for kind in stand_ins}
    entropy = {kind: np.zeros((len(layers), len(encodings))) for kind in stand_ins}
    fixed = {kind: torch.from_numpy(vectors).float().to(model.device) for kind, vectors in stand_ins.items()}
    absolute = not relative_positions(model.config.to_dict())
    with torch.inference_mode():
        for rows, inputs in padded_batches(encodings, batch_size, track, "removal"):
            with recorded_blocks(model, family) as taken:
                call, batch_logits = capture_call(model, family, rows, inputs)
                blocks = taken()
            full[rows] = batch_logits.float().cpu().numpy()
            states = [call.hidden, *(block.after for block in blocks)]
            pairs = zip(layers, states, strict=False) if absolute else ()
            usual = [attention_entropy(*pair, family, call.mask) for pair in pairs]
            for kind, vectors in fixed.items():
                for index, block in enumerate(blocks):
                    hidden = replaced(layers[index], family, block.before, vectors[index])
                    hidden, shift = _later(layers[index + 1 :], family, call, hidden, usual[index + 1 :])
                    read = read_state(model, family, hidden, call.mask)
                    logits[kind][index, rows] = head_logits(model, family, read).float().cpu().numpy()
                    entropy[kind][index, rows] = shift.cpu().numpy()
    return RemovalRun(full, logits, entropy if absolute else None)


def replaced(layer: nn.Module, family: Family, before: Tensor, vectors: Tensor) -> Tensor:
    """Return the layer's output [B, S, H] where its feed-forward block gives `vectors` [2, H] to the first and other tokens."""
    summed = before + vectors[1]
    summed[:, 0] = before[:, 0] + vectors[0]
    return summed if family.final_norm else layer.get_submodule(family.ffn_norm)(summed)


def attention_entropy(layer: nn.Module, hidden: Tensor, family: Family, mask: Tensor) -> Tensor:
    """Return the entropy of the layer's attention on the states [B, S, H], mean over heads and tokens of each row, nats [B].

    `-sum p ln p` of p = softmax(q k / sqrt(size)) over the tokens that `mask` [B, S] keeps; absolute positions. NaN where
    the layer does not attend.
    """
    if not attends(layer, family):
        return torch.full((len(hidden),), torch.nan, dtype=torch.float64, device=hidden.device)
    query, key = (
        layer.get_submodule(name)(hidden).unflatten(-1, (heads_of(layer, family), -1)).transpose(1, 2)
        for name in (family.query, family.key)
    )
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~mask.bool()[:, None, None], float("-inf"))
    logs = scores.log_softmax(-1)
    each = -(logs.exp() * logs.masked_fill(~mask.bool()[:, None, None], 0.0)).sum(-1).mean(1)
    return (each * mask).sum(1, dtype=torch.float64) / mask.sum(1)


def summarise(run: RemovalRun, gold: np.ndarray | None) -> list[list[Removal]]:
    """Return the removals of each layer, in the order of the kinds; p-values are Holm-corrected over layers, kind by kind."""
    by_kind = []
    for kind, logits in run.logits.items():
        rows = [_removal(run, kind, layer, gold) for layer in range(len(logits))]
        if gold is not None:
            together = holm([row.mcnemar_p for row in rows])
            rows = [replace(row, mcnemar_p_holm=p_value) for row, p_value in zip(rows, together, strict=True)]
        by_kind.append(rows)
    return [list(kinds) for kinds in zip(*by_kind, strict=True)]


def _removal(run: RemovalRun, kind: str, layer: int, gold: np.ndarray | None) -> Removal:
    logits, target = run.logits[kind][layer], run.full.argmax(1)
    found = compare(run.full, logits, gold)
    saved = interval = None
    if kind != "removed":
        gained, lost = discordant(run.logits["removed"][layer].argmax(1), logits.argmax(1), target)
        saved, interval = (gained - lost) / found.rows, delta_interval(gained, lost, found.rows)
    known = run.entropy is not None and np.isfinite(run.entropy[kind][layer]).all()
    shift, entropy_ci95 = _mean_interval(run.entropy[kind][layer]) if known else (None, None)
    return Removal(
        kind=kind,
        rows=found.rows,
        flips=found.flips,
        flip_rate=found.flip_rate,
        flip_ci95=share_interval(found.flips, found.rows),
        flips_saved=saved,
        flips_saved_ci95=interval,
        kl=SINGLE.divergence(run.full, logits),
        gained=found.gained,
        lost=found.lost,
        accuracy_delta=found.accuracy_delta,
        accuracy_ci95=found.ci95,
        mcnemar_p=found.mcnemar_p,
        mcnemar_p_holm=found.mcnemar_p,
        later_layers=len(run.logits[kind]) - layer - 1,
        entropy_shift=shift,
        entropy_ci95=entropy_ci95,
    )


def _later(
    layers: list[nn.Module], family: Family, call: LayerCall, hidden: Tensor, usual: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the final states [B, S, H] behind `layers`, and the mean shift of their attention entropies [B].

    Without `usual` (relative positions) no entropy is taken; with it, the last layer computes its [CLS] row alone: S is 1. The
    shift is NaN where none of the layers attends.
    """
    shifts = [torch.full((len(hidden),), torch.nan, dtype=torch.float64, device=hidden.device)]
    for number, layer in enumerate(layers):
        if usual:
            shifts.append(attention_entropy(layer, hidden, family, call.mask) - usual[number])
        if usual and number == len(layers) - 1:
            hidden = cls_row(layer, family, hidden, call.mask)
        else:
            hidden = apply_layer(layer, [call], [hidden])[0]
    return hidden, torch.stack(shifts).nanmean(0)


def _mean_interval(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the mean and its 95 % interval by Student's t over rows."""
    mean, rows = float(values.mean()), len(values)
    reach = float(student.ppf(0.975, rows - 1) * values.std(ddof=1) / rows**0.5) if rows > 1 else 0.0
    return mean, (mean - reach, mean + reach)
