"""What every amount of every block does to the answer, to second order, from one forward and one backward pass.

A block that loses a piece changes the state behind its norm (pre-norm: the stream that it adds to); the gradients of the
answer (`model/states/gradients.py`) turn the change into a shift of the answer, K numbers a text. Shifts of several pieces
add up, to first order in the states, so that the damage of any mix is `1/2 mean_n |sum_i shift_in|^2` nats: of n pieces the
n x n matrix of their products says it all.
"""

from collections.abc import Collection, Mapping
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from compressor.compensation.refits.amounts import Amount, Piece
from compressor.data.batches import Encodings
from compressor.model.capture import recorded
from compressor.model.families import Family, layer_list
from compressor.model.states.gradients import ATTENDED, ENTERING, LEAVING, answer_gradients
from compressor.model.sublayers import heads_of, inputs_of
from compressor.model.units import pieces
from compressor.progress import Track, silent


def answer_shifts(
    model: PreTrainedModel,
    family: Family,
    encodings: Encodings,
    amounts: Mapping[Piece, Amount],
    whole: Collection[int] = (),
    *,
    batch_size: int = 32,
    track: Track = silent,
) -> dict[Piece, np.ndarray]:
    """Return the shift float32 [N, K] of the answer of every text by each amount, and by each layer (part "") of `whole`."""
    layers = list(layer_list(model, family))
    by_layer: dict[int, dict[str, Amount]] = {}
    for (number, piece), amount in amounts.items():
        by_layer.setdefault(number, {})[piece] = amount
    shifts: dict[Piece, np.ndarray] = {}
    places = {"contexts": family.attention_output, "neurons": family.ffn_output}
    with ExitStack() as stack:
        caught = [stack.enter_context(recorded(layer, places)) for layer in layers]
        for batch in answer_gradients(model, family, encodings, batch_size=batch_size, track=track):
            with torch.no_grad():
                for number, layer in enumerate(layers, start=1):
                    entering, attended, leaving = (batch.states[number, name] for name in (ENTERING, ATTENDED, LEAVING))
                    moved = {"": (entering, leaving, LEAVING)} if number in whole else {}
                    found = _behind(layer, family, by_layer.get(number, {}), caught[number - 1], entering, attended)
                    for piece, state in found.items():
                        behind = ATTENDED if bool(pieces(piece)[0]) else LEAVING
                        moved[piece] = state, attended if behind == ATTENDED else leaving, behind
                    for piece, (state, was, behind) in moved.items():
                        made = torch.einsum("kbsh,bsh->bk", batch.gradients[number, behind], state - was)
                        table = shifts.setdefault(
                            (number, piece), np.zeros((len(encodings), made.shape[1]), np.float32)
                        )
                        table[batch.rows.numpy()] = made.float().cpu().numpy()
    return shifts


def _behind(
    layer: nn.Module,
    family: Family,
    amounts: Mapping[str, Amount],
    inside: Mapping[str, Tensor],
    entering: Tensor,
    attended: Tensor,
) -> dict[str, Tensor]:
    """Return the state [B, S, H] behind the block that each amount changes, its norm included where it ends in one."""
    made = {}
    for piece, amount in amounts.items():
        attending = bool(pieces(piece)[0])
        phi = inside["contexts" if attending else "neurons"]
        units = torch.tensor(amount.kept, dtype=torch.long, device=phi.device)
        each = phi.shape[-1] // heads_of(layer, family) if attending else 1
        kept = inputs_of(units, each)
        state = (entering if attending else attended) + linear(phi.detach()[..., kept], amount.weight, amount.bias)
        norm = family.attention_norm if attending else family.ffn_norm
        made[piece] = state if family.final_norm else layer.get_submodule(norm)(state)
    return made
