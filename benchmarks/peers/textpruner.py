"""TextPruner at the latency of a given file: heads and FFN pruned by its own scores, to a size found by timing files.

Needs `textpruner` (requirements-peers.txt), imported only where something is pruned. The package runs as it is published;
the one thing changed is the number format of the copy that gives it the full model's answers (see `prune`).
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from compressor.data.batches import Encodings, padded_batches
from compressor.measurement.timing.latency import Subject, measure, workload_batches

PACKAGE = "textpruner"
ITERATIONS = 8
"""Steps of pruning; its authors found more accurate models with more of them, and little beyond 8."""
STEP = 16
"""FFN widths that are tried are multiples of this."""
ROUNDS = {1: 192, 8: 64}
"""Batch size -> rounds in which a size is timed against the file to equal."""


@dataclass(frozen=True)
class Size:
    """What is left of every layer: attention heads (their mean where layers differ) and FFN width."""

    heads: int
    ffn: int


@dataclass(frozen=True)
class Mix:
    """What is pruned: `heads` too or the FFN alone, each layer by as many heads (`even`) or not."""

    heads: bool
    even: bool = True


MIXES = {
    "heads and FFN": Mix(heads=True),
    "heads and FFN, uneven heads": Mix(heads=True, even=False),
    "FFN": Mix(heads=False),
}


def installed() -> str | None:
    """Return the version of TextPruner, None where it is not installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return None


def sizes_of(heads: int, ffn: int, mix: Mix) -> list[Size]:
    """Return the sizes to try for a model of `heads` heads and FFN width `ffn`, small to large.

    Heads and FFN keep the same share, as in TextPruner's own examples, as nearly as whole heads allow.
    """
    widths = range(STEP, ffn + 1, STEP)
    return [Size(max(1, round(heads * width / ffn)) if mix.heads else heads, width) for width in widths]


def bisect(sizes: Sequence[Size], ratio_of: Callable[[Size], float]) -> tuple[Size, dict[Size, float]]:
    """Return the size whose latency is nearest to the target's, and the ratios of all sizes that were timed.

    `ratio_of` gives the latency of a size over that of the target; it grows along `sizes`, but for noise, and about
    log2(len(sizes)) of them are timed. Raises ValueError for no sizes.
    """
    if not sizes:
        raise ValueError("no sizes to choose from")
    timed: dict[Size, float] = {}
    low, high = 0, len(sizes) - 1
    while low <= high:
        middle = (low + high) // 2
        timed[sizes[middle]] = ratio_of(sizes[middle])
        low, high = (low, middle - 1) if timed[sizes[middle]] > 1 else (middle + 1, high)
    return min(timed, key=lambda size: abs(math.log(timed[size]))), timed


def latency_ratio(other: Subject, target: Subject, texts: Encodings, clock: Callable[[], int] | None = None) -> float:
    """Return the latency of `other` over that of `target` on `texts` at their real lengths, batches of 1 and of 8.

    The median over rounds of the ratio within a round, in which both take the same batch; the geometric mean of both
    batch sizes. A busy machine slows single rounds, which the median does not see.
    """
    logs = []
    for batch, rounds in ROUNDS.items():
        values = measure(
            {"other": other, "target": target},
            workload_batches(texts, batch),
            min_seconds=0, min_runs=rounds, max_seconds=60, **({"clock": clock} if clock else {}),
        )  # fmt: skip
        logs.append(np.median(np.log(values["other"]) - np.log(values["target"])))
    return float(np.exp(np.mean(logs)))


def prune(model: PreTrainedModel, size: Size, folder: Path, texts: Encodings | None, mix: Mix) -> Path:
    """Prune a copy of `model` to `size` and save it below `folder`; return the Hugging Face directory, without tokenizer.

    The scores are TextPruner's own for unlabelled text (`use_logits`): gradients of the cross-entropy with the full
    model's probabilities on `texts`. Without texts any heads and positions go: such a model has the shape, and the speed,
    of a pruned one, and nothing else.
    """
    from textpruner import GeneralConfig, TransformerPruner, TransformerPruningConfig

    pruned, general = copy.deepcopy(model), GeneralConfig(use_device="cpu", output_dir=str(folder))
    if texts is None:
        config, layers = model.config, model.config.num_hidden_layers
        pruner = TransformerPruner(pruned, TransformerPruningConfig(pruning_method="masks"), general)
        masks = {
            "head_mask": _first(layers, config.num_attention_heads, size.heads),
            "ffn_mask": _first(layers, config.intermediate_size, size.ffn),
        }
        return Path(pruner.prune(**masks, save_model=True))
    settings = TransformerPruningConfig(
        target_ffn_size=size.ffn,
        target_num_of_heads=size.heads,
        head_even_masking=mix.even,
        pruning_method="iterative",
        n_iters=ITERATIONS,
        use_logits=True,
    )
    pruner = TransformerPruner(pruned, settings, general)
    pruner.model_rep.float()  # it makes this copy of the full model float16, which a CPU computes several times slower
    return Path(pruner.prune(dataloader=_batches(texts), save_model=True))


def as_details(size: Size, timed: dict[Size, float]) -> dict[str, object]:
    """Return a size and the timed ratios as plain values for JSON."""
    return {**asdict(size), "timed": [{**asdict(other), "ratio": ratio} for other, ratio in timed.items()]}


def _first(rows: int, columns: int, kept: int) -> torch.Tensor:
    mask = torch.zeros(rows, columns)
    mask[:, :kept] = 1
    return mask


def _batches(texts: Encodings) -> Sequence[dict[str, torch.Tensor]]:
    batches: Iterable[tuple[np.ndarray, dict[str, np.ndarray]]] = padded_batches(texts, 32)
    return [{name: torch.from_numpy(values) for name, values in inputs.items()} for _, inputs in batches]
