"""How the answer depends on what every layer computes: one forward pass, and a backward pass for each direction of the answer.

To second order, a change dz [C] of a text's logits moves the model by `KL(p || q) = 1/2 dz' (diag(p) - p p') dz` nats from
its own probabilities p. With a factor A of that matrix, `A A' = diag(p) - p p'`, this is half the squared length of `A' dz`:
C - 1 numbers, which add up over changes and are squared at the end; `Task.directions` has A for every kind of task. Their
gradients with respect to a state tell what any change of that state does to the answer, to first order in the state (the
generalised Gauss-Newton form: Schraudolph 2002, equation 9).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.data.answers.config import model_task
from compressor.data.batches import Encodings, padded_batches, read
from compressor.model.capture import attended_place, watch
from compressor.model.families import Family, layer_list
from compressor.model.states.reading import read_state
from compressor.progress import Track, silent

ENTERING, ATTENDED, LEAVING = "entering", "attended", "leaving"
"""States of a layer: in front of it, behind its attention block (and the norm that ends that), and behind it."""

Place = tuple[int, str]
"""(layer from 1, state)."""
Pull = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(answers [B], what the head reads [B, H], logits [B, C]) -> the direction [B, H] in which each of these is looked at."""


@dataclass(frozen=True)
class AnswerGradients:
    """One batch: its `rows` and `mask` [B, S], `logits` [B, C], and by place the state [B, S, H] and its gradients.

    `gradients` [K, B, S, H] are those of the K directions of the answer, of each text at all of its tokens; `pulled`
    [B, S, H] those of what the head reads along what `pull` gave, empty where nothing did. Where each word has an answer,
    `logits` are [W, C], and the gradients those of the directions of a text's words added up with random signs: the square
    of a change along them is then, in the mean over the signs, the sum of the words' squares (Hutchinson 1990), of which
    it is the share of one answer.
    """

    rows: Tensor
    mask: Tensor
    logits: Tensor
    states: dict[Place, Tensor]
    gradients: dict[Place, Tensor]
    pulled: dict[Place, Tensor] = field(default_factory=dict)


def answer_gradients(
    model: PreTrainedModel,
    family: Family,
    encodings: Encodings,
    *,
    pull: Pull | None = None,
    batch_size: int = 32,
    track: Track = silent,
) -> Iterator[AnswerGradients]:
    """Yield every batch with its states and the gradients of the answer's directions; memory is that of one batch.

    With `pull` one more backward pass follows what it makes of what the head reads. The model is left as it is: no
    parameter gets a gradient.
    """
    layers, task = list(layer_list(model, family)), model_task(model)
    signs = torch.Generator().manual_seed(0)
    for rows, inputs in padded_batches(encodings, batch_size, track, "gradients of the answer"):
        tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
        seen: dict[Place, Tensor] = {}
        hooks = [layers[0].register_forward_pre_hook(_leaf(seen), with_kwargs=True)]
        for number, layer in enumerate(layers, start=1):
            for place, state in ((attended_place(family), ATTENDED), (("", False), LEAVING)):
                hooks.append(watch(layer, place, partial(seen.__setitem__, (number, state))))
        wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
        try:
            model.requires_grad_(False)
            with torch.enable_grad():
                at = encodings.read_at(rows)
                logits = read(model(**tensors).logits, at).float()
                directions = task.directions(logits.detach())
                if at is not None:
                    drawn = torch.randint(2, directions[:, :1].shape, generator=signs) * 2 - 1
                    directions = directions * drawn.to(directions) * (len(encodings) / encodings.answers) ** 0.5
                along = list(torch.einsum("bc,bck->k", logits, directions))
                if pull is not None:
                    cls = read_state(model, family, seen[len(layers), LEAVING], tensors["attention_mask"], at)
                    answers = torch.from_numpy(encodings.answers_of(rows))
                    along.append((cls * pull(answers, cls.detach(), logits.detach()).to(cls)).sum())
                places = list(seen)
                made = [
                    torch.autograd.grad(value, [seen[place] for place in places], retain_graph=True) for value in along
                ]
        finally:
            for hook in hooks:
                hook.remove()
            for parameter in wanting:
                parameter.requires_grad_(True)
        states = {place: state.detach() for place, state in seen.items()}
        pulled = {} if pull is None else dict(zip(places, made.pop(), strict=True))
        gradients = {place: torch.stack(parts) for place, *parts in zip(places, *made, strict=True)}
        for found in (states, gradients, *([pulled] if pulled else [])):
            for number in range(2, len(layers) + 1):
                found[number, ENTERING] = found[number - 1, LEAVING]
        yield AnswerGradients(
            torch.from_numpy(rows), tensors["attention_mask"], logits.detach(), states, gradients, pulled
        )


def _leaf(seen: dict[Place, Tensor]):  # noqa: ANN202
    """Return a hook that has layer 1 start from a tensor that gradients lead to."""

    def start(_module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        name = None if args else "hidden_states"
        state = (args[0] if args else kwargs[name]).detach().requires_grad_()
        seen[1, ENTERING] = state
        return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, name: state})

    return start
