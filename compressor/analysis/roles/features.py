"""What the weights of a layer tell about it: ranks, profiles over FFN positions, energies, heads, norms.

A matrix is read, reduced to a few vectors (one number a row or position) and let go. Features are then functions of these
vectors, of all their entries or of entries drawn with replacement, so that hundreds of draws cost next to nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compressor.analysis.roles.weights import NAMINGS, LayerNames, Weights
from compressor.compensation.refits.neurons import co_magnitude, saturated_positions
from compressor.errors import UserError
from compressor.measurement.machine.environment import torch_threads

TOP_SHARE = 0.01
"""Share of the positions of a norm whose part of its energy is its concentration."""
RANK_ROWS = 128
"""Rows of the attention output whose rank one draw measures."""
ONE_THREAD = 2048
"""Width up to which one thread does the work: more gain little there, and where other programs keep the cores busy they
wait for each other so much that two take ten times as long as one."""
RESAMPLED: dict[str, str] = {
    "attention_rank": f"rows of the attention output (at most {RANK_ROWS} of them)",
    "energy_balance": "rows of the attention matrices and FFN positions",
    "write_ratio": "FFN positions",
    "total_write": "rows of the attention output and FFN positions",
    "magnitude_cv": "FFN positions",
    "saturated": "FFN positions",
    "head_diversity": "heads",
    "momentum_cosine": "steps of the trace",
    "write_on_text": "texts",
    "alignment": "texts",
}
"""Feature -> what is drawn with replacement to see how stable it is; features that are no evidence for a role are not."""


@dataclass(frozen=True)
class LayerMeasure:
    """What is kept of one layer's weights: F FFN positions, H rows of the attention output, n heads.

    `magnitude` [F] is the co-magnitude; `ffn_reads`, `ffn_writes` [F] the energy (sum of squares) of each position's rows
    of the input maps and of its column of the output map; `attention_reads` [R] that of the rows of all query, key and
    value maps, `attention_writes` [H] of the rows of the attention output; `sizes` the numbers of weights of attention
    and FFN; `input_maps` is 2 for a gated FFN. `overlap` [n, n] says how alike what two heads write is; `rank_draws` [D]
    are ranks of resampled rows. `spectral` is the largest singular value by matrix, NaN where it holds NaN or infinity;
    `broken` names such matrices.
    """

    magnitude: np.ndarray
    ffn_reads: np.ndarray
    ffn_writes: np.ndarray
    attention_reads: np.ndarray
    attention_writes: np.ndarray
    sizes: tuple[int, int]
    input_maps: int
    overlap: np.ndarray
    attention_rank: float
    rank_draws: np.ndarray
    ffn_rank: float
    norm_concentration: float
    spectral: dict[str, float]
    broken: tuple[str, ...]


def measure_layer(weights: Weights, names: LayerNames, draws: int, rng: np.random.Generator) -> LayerMeasure:
    """Read the tensors of one layer, one at a time, and keep what features are made of.

    Raises UserError where matrices do not fit each other or the number of heads.
    """
    spectral: dict[str, float] = {}
    ranks: dict[str, float] = {}
    rows: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    columns = overlap = rank_draws = np.empty(0)
    for name in names.matrices:
        matrix = weights.matrix(name)
        with torch_threads(1 if min(matrix.shape) <= ONE_THREAD else torch.get_num_threads()):
            sizes[name] = matrix.numel()
            rows[name] = matrix.double().square().sum(1).numpy()
            values = singular_values(matrix)
            spectral[name], ranks[name] = float(values[0]), float(effective_rank(values))
            if name == names.ffn_out:
                columns = matrix.double().square().sum(0).numpy()
            elif name == names.attention_out:
                if matrix.shape[1] % weights.heads:
                    raise UserError(
                        f"{weights.source}: tensor {name} has {matrix.shape[1]} inputs, which {weights.heads} attention heads "
                        "cannot share; check config.json."
                    )
                overlap = head_overlap(matrix, weights.heads)
                rank_draws = resampled_ranks(matrix, ranks[name], draws, rng)
        del matrix  # before the next one is read
    reads = by_neuron(weights, [rows[name] for name in names.ffn_in])
    if any(len(part) != len(columns) for part in reads):
        raise UserError(
            f"{weights.source}: tensors {names.ffn_in[0]} and {names.ffn_out} do not share the width of one feed-forward "
            "block; the checkpoint does not fit together."
        )
    norms = [norm_concentration(weights.scale(name)) for name in names.norms]
    return LayerMeasure(
        magnitude=co_magnitude(reads, columns),
        ffn_reads=np.mean(reads, axis=0),
        ffn_writes=columns,
        attention_reads=np.concatenate([rows[name] for name in names.attention_in]),
        attention_writes=rows[names.attention_out],
        sizes=(
            sum(sizes[name] for name in (*names.attention_in, names.attention_out)),
            sum(sizes[name] for name in (*names.ffn_in, names.ffn_out)),
        ),
        input_maps=len(reads),
        overlap=overlap,
        attention_rank=ranks[names.attention_out],
        rank_draws=rank_draws,
        ffn_rank=float(np.mean([ranks[name] for name in (*names.ffn_in, names.ffn_out)])),
        norm_concentration=float(np.mean(norms)) if norms else float("nan"),
        spectral=spectral,
        broken=tuple(name for name in names.matrices if not np.isfinite(spectral[name])),
    )


def by_neuron(weights: Weights, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return numbers [F] by neuron, of those by row of each map into the block: two arrays where the block is gated."""
    return [part for own in rows for part in np.array_split(own, NAMINGS[weights.naming].gates)]


def singular_values(matrix: Tensor) -> np.ndarray:
    """Return the singular values of a float32 matrix, largest first; NaN where it is not finite.

    They are the roots of the eigenvalues of the smaller Gram matrix in float64: up to six times faster than
    `torch.linalg.svdvals` on the matrices of an FFN, and exact down to 1e-6 of the largest; smaller ones count as 0.
    """
    if not torch.isfinite(matrix).all():
        return np.full(min(matrix.shape), np.nan)
    tall = (matrix if len(matrix) >= matrix.shape[1] else matrix.T).double()
    return _roots(tall.T @ tall)


def _roots(gram: Tensor) -> np.ndarray:
    """Return the roots of the eigenvalues of Gram matrices [..., k, k], largest first; what rounding leaves of 0 is 0."""
    values = torch.linalg.eigvalsh(gram).flip(-1)
    return torch.where(values > 1e-12 * values[..., :1], values, 0.0).sqrt().numpy()


def effective_rank(values: np.ndarray) -> np.ndarray:
    """Return exp(H(p)) [...], p = values / sum, of singular values [..., k] (Roy and Vetterli 2007); 0 where all are 0."""
    total = values.sum(axis=-1, keepdims=True)
    share = np.divide(values, total, out=np.zeros_like(values, dtype=float), where=total != 0)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=-1)
    return np.where(total[..., 0] == 0, 0.0, np.exp(entropy))


def resampled_ranks(matrix: Tensor, rank: float, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return `draws` effective ranks that resampling the rows of `matrix` [H, K] gives, around its own `rank`.

    Rows drawn twice lower the rank and a draw of all rows costs a decomposition of the whole matrix. So each draw takes
    m = 128 rows at most, and its relative deviation from the draws' mean, times sqrt(m / H), is that of the rank (m out
    of n bootstrap: Bickel, Goetze and van Zwet 1997).
    """
    if not draws or not torch.isfinite(matrix).all():
        return np.full(draws, np.nan)
    size = min(len(matrix), RANK_ROWS)
    chosen = torch.from_numpy(rng.integers(len(matrix), size=(draws, size)))
    gram = matrix.double() @ matrix.double().T
    ranks = effective_rank(_roots(gram[chosen[:, :, None], chosen[:, None, :]]))
    mean = ranks.mean()
    return rank * (1 + np.sqrt(size / len(matrix)) * (ranks / mean - 1)) if mean > 0 else np.full(draws, rank)


def head_overlap(matrix: Tensor, heads: int) -> np.ndarray:
    """Return how alike the directions are that two heads write to: [n, n], 1 for the same, 0 for orthogonal ones.

    |A^T B|_F^2 / (|A^T A|_F |B^T B|_F) for the heads' columns A, B of the attention output [H, n d]: the RV coefficient
    (Robert and Escoufier 1976), which does not change when a head's inner dimensions are rotated. NaN for heads that
    write nothing.
    """
    gram = (matrix.T @ matrix).double()
    width = len(gram) // heads
    inner = gram.reshape(heads, width, heads, width).square().sum(dim=(1, 3)).numpy()
    scale = np.sqrt(np.outer(np.diag(inner), np.diag(inner)))
    return np.divide(inner, scale, out=np.full_like(inner, np.nan), where=scale > 0)


def norm_concentration(scale: Tensor) -> float:
    """Return the share of the energy of a norm's scale [H] that its largest 1 % of positions hold (0.01 where all are equal)."""
    energy = scale.double().square().sort(descending=True).values
    if not torch.isfinite(energy).all():
        return float("nan")
    top, total = max(1, round(TOP_SHARE * len(energy))), float(energy.sum())
    return float(energy[:top].sum()) / total if total else 0.0


def layer_features(
    measure: LayerMeasure, traced: Mapping[str, np.ndarray], draws: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return every feature of one layer as [1 + draws]: of the weights as they are, then of resampled ones.

    `traced` maps features of a trace to their values by step or text [K], whose mean counts. NaN where undefined.
    """
    positions = _drawn(len(measure.magnitude), draws, rng)
    magnitude = measure.magnitude[positions]
    mean, spread = magnitude.mean(axis=1), magnitude.std(axis=1)
    ffn_reads, ffn_writes = (part[positions].sum(axis=1) for part in (measure.ffn_reads, measure.ffn_writes))
    reads, writes = (
        part[_drawn(len(part), draws, rng)].sum(axis=1) for part in (measure.attention_reads, measure.attention_writes)
    )
    # a gated block has two input maps: their mean energy is in ffn_reads, both count as energy of the block
    attention, ffn = reads + writes, measure.input_maps * ffn_reads + ffn_writes
    density = attention / measure.sizes[0], ffn / measure.sizes[1]
    fixed = {
        "ffn_rank": measure.ffn_rank,
        "attention_share": float(_share(attention[0], ffn[0])),
        "norm_concentration": measure.norm_concentration,
    }
    silent_block = np.where(ffn_writes == 0, 0.0, np.nan)
    found = {
        "attention_rank": np.concatenate([[measure.attention_rank], measure.rank_draws]),
        "energy_balance": 1 - np.abs(2 * _share(*density) - 1),
        "write_ratio": np.sqrt(np.divide(ffn_writes, ffn_reads, out=silent_block, where=ffn_reads != 0)),
        "total_write": np.sqrt(writes + ffn_writes),
        # where every position is 0, none stands out
        "magnitude_cv": np.divide(spread, mean, out=np.zeros_like(spread), where=mean != 0),
        "saturated": saturated_positions(magnitude).sum(axis=1) + 0 * mean,
        "head_diversity": _diversity(measure.overlap, draws, rng),
        **{name: values[_drawn(len(values), draws, rng)].mean(axis=1) for name, values in traced.items()},
        **{name: np.full(1 + draws, value) for name, value in fixed.items()},
    }
    return {name: np.where(np.isfinite(values), values, np.nan) for name, values in found.items()}


def _share(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    total = first + second
    return np.divide(first, total, out=np.full_like(total, np.nan), where=total != 0)


def _drawn(count: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return indices [1 + draws, count]: all in order, then drawn with replacement."""
    return np.concatenate([np.arange(count)[None], rng.integers(count, size=(draws, count))])


def _diversity(overlap: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mean of 1 - overlap over pairs of different heads, [1 + draws]; NaN where fewer than two heads write."""
    heads = len(overlap)
    times = np.stack([np.bincount(chosen, minlength=heads) for chosen in _drawn(heads, draws, rng)]).astype(float)
    pairs = np.isfinite(overlap) & ~np.eye(heads, dtype=bool)
    apart = np.einsum("di,ij,dj->d", times, np.where(pairs, 1 - overlap, 0.0), times)
    counted = np.einsum("di,ij,dj->d", times, pairs.astype(float), times)
    return np.divide(apart, counted, out=np.full(1 + draws, np.nan), where=counted > 0)
