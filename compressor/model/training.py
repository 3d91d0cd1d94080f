"""Fine-tune a sequence classifier: one explicit loop."""

import math

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from compressor.data.batches import Encodings, pad, shuffled_rows
from compressor.errors import UserError
from compressor.model.families import Family
from compressor.progress import Track, silent
from compressor.recipe_training import FinetuneSpec


def finetune(
    model: PreTrainedModel,
    family: Family,
    encodings: Encodings,
    labels: np.ndarray,
    spec: FinetuneSpec,
    *,
    seed: int = 0,
    track: Track = silent,
) -> list[float]:
    """Train `model` in place on labels int64 [N]; return the mean loss (nats) of every epoch.

    AdamW with linear warm-up and decay (Devlin et al. 2019, appendix A.3), gradients clipped to norm 1. The same seed
    gives the same weights on the same machine and thread count. Raises UserError when the loss diverges.
    """
    if spec.freeze_embeddings:
        model.get_submodule(family.encoder).embeddings.requires_grad_(False)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decays = [parameter for name, parameter in trained if parameter.ndim > 1]
    plain = [parameter for name, parameter in trained if parameter.ndim == 1]  # biases and LayerNorm
    groups = [{"params": decays, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=spec.lr)
    generator = np.random.default_rng(seed)
    steps = spec.epochs * -(-len(encodings) // spec.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, int(spec.warmup * steps), steps)
    targets = torch.from_numpy(labels)
    losses: list[float] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.train()
        for epoch in range(1, spec.epochs + 1):
            batches = shuffled_rows(encodings.lengths, spec.batch_size, generator)
            total = 0.0
            for rows in track(batches, f"fine-tuning, epoch {epoch} of {spec.epochs}", total=len(batches)):
                inputs = {
                    name: torch.from_numpy(value).to(model.device) for name, value in pad(encodings, rows).items()
                }
                loss = nn.functional.cross_entropy(model(**inputs).logits, targets[rows].to(model.device))
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_((parameter for _, parameter in trained), 1.0)
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(rows)
                if not math.isfinite(total):
                    raise UserError(f"finetune: training diverged in epoch {epoch}; lower finetune.lr ({spec.lr:g}).")
            losses.append(total / len(encodings))
    model.eval()
    return losses
