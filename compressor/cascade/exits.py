"""Exit heads: what an early layer already knows of the full model's logits, fitted in closed form without labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compressor.data.batches import Encodings, padded_batches
from compressor.model.cls_row import cls_row
from compressor.model.families import Family, layer_list
from compressor.progress import Track, silent

LEAST_ROWS = 40
"""Fewer texts than these fit nothing: three of four are fitted, and the rest decides ridge strengths and exits."""
HELD_OUT = 4
"""Every fourth row is held out of the fit: it chooses ridge strengths, exits and the path of thresholds."""
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Ridge strengths tried, in multiples of the variance of a standardised feature."""


Reader = Callable[[dict[str, np.ndarray]], tuple[Mapping[int, Tensor], Tensor]]
"""From the inputs of a batch to what the exit behind each layer reads [B, 3H], by layer, and the logits [B, C]."""


@dataclass(frozen=True)
class ExitHead:
    """Linear map from the features behind layer `layer` to centred logits: weight [3H, C], bias [C], float64."""

    layer: int
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class ExitFit:
    """A fitted exit: its head, the ridge strength, and how it does on held-out rows.

    `explained` is the share of the variance of the full model's centred logits; `logits` [M, C] are the exit's own.
    """

    head: ExitHead
    strength: float
    explained: float
    logits: np.ndarray


@dataclass(frozen=True)
class HeldOut:
    """The rows held out of the fit: their places in the text, the logits to foretell [M, C], and the model's own."""

    rows: np.ndarray
    wanted: np.ndarray
    own: np.ndarray


class ExitFeatures(nn.Module):
    """What the exit behind `layer` reads: hidden [B, S, H] and attention mask [B, S] to features [B, 3H]."""

    def __init__(self, model: nn.Module, family: Family, layer: int) -> None:
        super().__init__()
        self.layer, self.family = layer_list(model, family)[layer], family

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the features [B, 3H]."""
        return exit_features(self.layer, self.family, hidden, attention_mask)


def model_reader(model: nn.Module, family: Family, layers: Sequence[int]) -> Reader:
    """Return the reader of the model as PyTorch computes it, in float32."""
    exits = {layer: ExitFeatures(model, family, layer) for layer in layers}

    def read(inputs: dict[str, np.ndarray]) -> tuple[Mapping[int, Tensor], Tensor]:
        tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
        output = model(**tensors, output_hidden_states=True)
        mask = tensors["attention_mask"]
        return {layer: module(output.hidden_states[layer], mask) for layer, module in exits.items()}, output.logits

    return read


def exit_features(following: nn.Module, family: Family, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return what an exit reads [B, 3H]: [CLS], the mean of the tokens, and [CLS] behind the `following` layer.

    The last is exact and costs about one token of that layer: it is worth nearly a whole layer of exit quality.
    """
    kept = mask[:, :, None].to(hidden.dtype)
    mean = (hidden * kept).sum(1) / kept.sum(1)
    return torch.cat([hidden[:, 0], mean, cls_row(following, family, hidden, mask)[:, 0]], dim=1)


class RidgeSums:
    """Sums over rows for the ridge regression of Y [N, C] on X [N, D], float64: one pass, any N."""

    def __init__(self, features: int, classes: int) -> None:
        self.rows = 0
        self.x, self.y = torch.zeros(features, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
        self.gram = torch.zeros(features, features, dtype=torch.float64)
        self.cross = torch.zeros(features, classes, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows: x [B, D], y [B, C]."""
        x, y = x.double().cpu(), y.double().cpu()
        self.rows += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.gram += x.T @ x
        self.cross += x.T @ y

    def solve(self, strength: float) -> tuple[Tensor, Tensor]:
        """Return (weight [D, C], bias [C]) of the ridge on standardised X (Hoerl and Kennard 1970).

        A feature that hardly varies is divided by a tenth of the root mean square deviation, not by its own: its weight
        would magnify the rounding of exported files.
        """
        mean, offset = self.x / self.rows, self.y / self.rows
        covariance = self.gram / self.rows - torch.outer(mean, mean)
        variance = covariance.diagonal().clamp_min(0)
        deviation = variance.sqrt().clamp_min(0.1 * float(variance.mean().sqrt().clamp_min(1e-6)))
        scaled = covariance / torch.outer(deviation, deviation)
        penalty = strength * torch.eye(len(mean), dtype=torch.float64)
        wanted = (self.cross / self.rows - torch.outer(mean, offset)) / deviation[:, None]
        weight = torch.linalg.solve(scaled + penalty, wanted) / deviation[:, None]
        return weight, offset - mean @ weight


def centred(logits: Tensor) -> Tensor:
    """Return logits [N, C] less their mean over the classes: the part that decides."""
    return logits - logits.mean(1, keepdim=True)


@torch.inference_mode()
def fit_exits(
    model: nn.Module,
    family: Family,
    encodings: Encodings,
    layers: Sequence[int],
    targets: np.ndarray | None = None,
    *,
    reader: Reader | None = None,
    batch_size: int = 32,
    track: Track = silent,
) -> tuple[list[ExitFit], HeldOut]:
    """Fit an exit behind each of `layers` (from 1, below the number of layers) in one pass over unlabelled text.

    `targets` [N, C] are the logits to foretell; None takes the model's own. `reader` gives what the exits are to see and the
    model's own logits, such as those of its 8-bit file; None reads `model` itself. Three of four rows are fitted, the others
    held out. Memory: the sums of each exit, and the features of the held-out rows.
    """
    read = reader or model_reader(model, family, layers)
    width, classes = model.config.hidden_size, model.config.num_labels
    sums = {layer: RidgeSums(3 * width, classes) for layer in layers}
    held = np.arange(HELD_OUT - 1, len(encodings), HELD_OUT)
    place = np.full(len(encodings), -1)
    place[held] = np.arange(len(held))
    features = {layer: torch.zeros(len(held), 3 * width) for layer in layers}
    wanted, own = (np.zeros((len(held), classes), dtype=np.float32) for _ in range(2))
    for rows, inputs in padded_batches(encodings, batch_size, track, "exit heads"):
        seen, logits = read(inputs)
        final = logits.float().cpu()
        logits = final if targets is None else torch.from_numpy(targets[rows]).float()
        inside = torch.from_numpy(place[rows] < 0)
        places = place[rows][~inside.numpy()]
        wanted[places], own[places] = logits[~inside].numpy(), final[~inside].numpy()
        for layer in layers:
            x = seen[layer].float().cpu()
            sums[layer].add(x[inside], centred(logits[inside]))
            features[layer][places] = x[~inside]
    fits = [_best(layer, sums[layer], features[layer], torch.from_numpy(wanted)) for layer in layers]
    return fits, HeldOut(held, wanted, own)


def _best(layer: int, sums: RidgeSums, features: Tensor, logits: Tensor) -> ExitFit:
    """Return the exit of `layer` with the ridge strength that explains most of the held-out rows."""
    wanted, features = centred(logits.double()), features.double()
    total = float((wanted - wanted.mean(0)).square().sum())
    found = []
    for strength in STRENGTHS:
        weight, bias = sums.solve(strength)
        logits = features @ weight + bias
        found.append((float((logits - wanted).square().sum()), strength, weight, bias, logits))
    error, strength, weight, bias, logits = min(found, key=lambda entry: entry[0])
    return ExitFit(ExitHead(layer, weight, bias), strength, 1 - error / max(total, 1e-12), logits.numpy())
