"""What skipping a layer would do to the answer and to the separability of the final state, from gradients: no trial.

Without layer l the state behind it is the one in front, so all that follows starts from a state that is moved by -u, with the
layer's update u = leaving - entering at every token. To first order in u this moves a direction k of the answer by -<g_k, u>,
summed over the tokens, and g is known from one forward pass and a backward pass a direction (`model.states.gradients`).
"""

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.data.batches import Encodings
from compressor.model.families import Family, layer_list
from compressor.model.states.gradients import ATTENDED, ENTERING, LEAVING, AnswerGradients, answer_gradients
from compressor.model.states.sums import Moments
from compressor.progress import Track, silent
from compressor.selection.separability import trace_ratio_gradient

TOKENS = 2048
"""Tokens of a batch, padding included: the activations of all layers wait for the way back."""
MOST_ROWS = 512
"""Texts that the gradients are taken on; more hardly move what they say of a layer."""


SENSITIVITIES = (
    "downstream_separability",
    "downstream_gain",
    "token_gradient",
    "gauss_newton",
    "gauss_newton_attention",
)
"""Names of the scores that gradients give."""


def sensitivity(
    model: PreTrainedModel,
    family: Family,
    encodings: Encodings,
    labels: np.ndarray | None,
    final: Moments,
    *,
    track: Track = silent,
) -> dict[str, list[float]]:
    """Return by score what each of the layers 1..L costs, from one forward pass and C backward passes for C classes.

    - `downstream_separability`: what removing the updates could move the separability J of the final [CLS] state (its trace
      ratio over all texts). A text moves it by at most the sum over its tokens of |dJ/dh| |u|, to first order; texts move it
      one way or the other, so that their squares add up, and the root of that is the score.
    - `downstream_gain`: the same with signs, sum of <dJ/dh, u>: what the layer adds to J to first order. There is no second
      order of it: J's Gauss-Newton term needs the whole shift of the final state, these passes give it along one direction.
    - `token_gradient`: half the mean over texts of sum_k (sum over tokens of |g_k| |u|)^2: the most that the next one could
      be for updates of that size (Cauchy-Schwarz at each token).
    - `gauss_newton`: half the mean over texts of sum_k (sum over tokens of <g_k, u>)^2: the KL to the full model in nats, to
      second order in the logits.
    - `gauss_newton_attention`: the same for the update of the attention block alone, the feed-forward block in its place.

    `labels` int64 [N] are the classes (of words); None takes the model's own predictions. `final` are the moments of the states
    that the head reads by the same classes, of which those of the last state are read; they may be of more texts than
    `encodings`. Memory is that of one batch of at most `TOKENS` tokens.
    """
    rows, layers = len(encodings), len(layer_list(model, family))
    share = encodings.answers / final.count.sum()  # the texts stand for all of them
    moments = final.count * share, final.mean[-1], final.squares[-1] * share

    def pull(batch: Tensor, cls: Tensor, logits: Tensor) -> Tensor:
        classes = logits.argmax(1).cpu().numpy() if labels is None else labels[batch.numpy()]
        return torch.from_numpy(trace_ratio_gradient(cls.double().cpu().numpy(), classes, *moments))

    batch = max(1, min(32, TOKENS // int(encodings.lengths.max())))
    sums = {name: np.zeros(layers) for name in SENSITIVITIES}
    for found in answer_gradients(model, family, encodings, pull=pull, batch_size=batch, track=track):
        for layer in range(1, layers + 1):
            for name, value in _costs(found, layer, found.mask[..., None].to(found.logits)).items():
                sums[name][layer - 1] += float(value.double())
    for name in ("token_gradient", "gauss_newton", "gauss_newton_attention"):
        sums[name] /= 2 * rows
    sums["downstream_separability"] **= 0.5
    return {name: values.tolist() for name, values in sums.items()}


def _costs(found: AnswerGradients, layer: int, mask: Tensor) -> dict[str, Tensor]:
    """Return the sums over one batch; `mask` is [B, S, 1]."""
    entering, attended, leaving = (found.states[layer, state] for state in (ENTERING, ATTENDED, LEAVING))
    update, attention = (leaving - entering) * mask, (attended - entering) * mask
    along, pulled = found.gradients[layer, LEAVING], found.pulled[layer, LEAVING]
    moved = torch.einsum("kbsh,bsh->kb", along, update)
    by_attention = torch.einsum("kbsh,bsh->kb", found.gradients[layer, ATTENDED], attention)
    most = torch.einsum("kbs,bs->kb", along.norm(dim=-1), update.norm(dim=-1))
    return {
        "downstream_separability": (pulled.norm(dim=-1) * update.norm(dim=-1)).sum(1).square().sum(),
        "downstream_gain": (pulled * update).sum(),
        "token_gradient": most.square().sum(),
        "gauss_newton": moved.square().sum(),
        "gauss_newton_attention": by_attention.square().sum(),
    }
