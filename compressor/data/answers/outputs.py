"""How far two outputs of a model are apart, to second order and as losses: functions of outputs [N, C]."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # figures of finished runs are compared without waiting for torch
    from torch import Tensor


def softmax_divergences(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || student) of the softmax of logits [N, C]: nats [N]."""
    from torch import nn

    log_q, log_p = student.log_softmax(1), teacher.log_softmax(1)
    return nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def squared(student: Tensor, teacher: Tensor) -> Tensor:
    """Return half the squared distance of outputs [N, C]: the KL of unit normals around them, nats [N]."""
    return (student - teacher).square().sum(1) / 2


def sigmoid_divergences(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the KL of the C independent probabilities of logits [N, C], summed: nats [N]."""
    from torch import nn

    logsigmoid, kl = nn.functional.logsigmoid, nn.functional.kl_div
    given = kl(logsigmoid(student), logsigmoid(teacher), reduction="none", log_target=True)
    not_given = kl(logsigmoid(-student), logsigmoid(-teacher), reduction="none", log_target=True)
    return (given + not_given).sum(1)


def softmax_directions(outputs: Tensor, most: int) -> Tensor:
    """Return A [N, C, K] with A A' = diag(p) - p p' for p = softmax of outputs [N, C], the `most` largest directions."""
    import torch

    shares = outputs.double().softmax(-1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(shares) - shares[:, :, None] * shares[:, None, :])
    count = min(outputs.shape[-1] - 1, most)
    return (vectors * values.clamp_min(0).sqrt()[:, None, :])[..., -count:].to(outputs.dtype)


def sigmoid_directions(outputs: Tensor, most: int) -> Tensor:
    """Return A [N, C, K] = diag(sqrt(p (1 - p))) for p = sigmoid of outputs [N, C], the `most` largest columns."""
    import torch

    shares = outputs.double().sigmoid()
    spread = (shares * (1 - shares)).sqrt()
    kept = spread.topk(min(outputs.shape[-1], most), dim=-1)
    made = torch.zeros(*outputs.shape, kept.indices.shape[-1], dtype=torch.float64, device=outputs.device)
    return made.scatter_(1, kept.indices[:, None, :], kept.values[:, None, :]).to(outputs.dtype)


def one_direction(outputs: Tensor, _most: int) -> Tensor:
    """Return A = 1 as [N, C, 1]."""
    import torch

    return torch.ones(*outputs.shape, 1, dtype=outputs.dtype, device=outputs.device)


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits [N, C] with classes [N]."""
    from torch import nn

    return nn.functional.cross_entropy(outputs, labels.long())


def half_square(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return half the mean squared error of outputs [N, 1] with numbers [N]."""
    return (outputs[:, 0] - labels).square().mean() / 2


def binary_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of logits [N, C] with labels [N, C] in 0..1."""
    from torch import nn

    return nn.functional.binary_cross_entropy_with_logits(outputs, labels.to(outputs))
