"""Account of a prediction, node by node: how much charge each node of the head gives each class, and which tokens move it.

The stock head computes `output(activation(dense(z)))`, so each logit is the sum of the charges `w_ck a_k` of its nodes and
a bias; where the head has a norm in between, a_k is what that gives. A folded head has a few nodes whose output weights are
not 0; a head as the checkpoint had it has as many as the states are wide.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compressor.data.answers.config import need_single_label
from compressor.data.batches import Encodings, encode
from compressor.errors import UserError
from compressor.model.families import Family, family_of
from compressor.model.load import find_model, load_classifier, load_tokenizer, longest_input
from compressor.model.states.states import final_states
from compressor.progress import Track, silent

SUM_TOLERANCE = 1e-5
"""Largest difference allowed between a logit and the sum of its charges, for logits of about 1; larger ones round by more."""
NODES_SHOWN = 16
"""Nodes accounted for one by one; a head of more shows those of the largest charges and the sum of the others."""
CONFIDENT = 0.9
"""Probability from which a wrong prediction counts as confidently wrong."""
EXAMPLES = 4
"""Most examples of each kind in the report."""


@dataclass(frozen=True)
class Charges:
    """Charges of N rows in float64: `activations` [N, K], output `weights` [K, C], `bias` [C].

    `nodes` are the K rows of the dense map whose output weights are not all 0.
    """

    nodes: tuple[int, ...]
    activations: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    @property
    def charges(self) -> np.ndarray:
        """Charge of every node to every class, [N, K, C]."""
        return self.activations[:, :, None] * self.weights

    @property
    def logits(self) -> np.ndarray:
        """Logits [N, C]."""
        return self.activations @ self.weights + self.bias


@dataclass(frozen=True)
class TokenEffect:
    """A word piece and what it adds: a value with it less the value with it hidden. `position` counts from 0."""

    position: int
    token: str
    effect: float


@dataclass(frozen=True)
class NodeAccount:
    """One node: its activation, its charge to every class, the one for the prediction, the tokens that move it most.

    `charge_for` is the charge to the predicted class less that to the runner-up.
    """

    node: int
    activation: float
    charges: tuple[float, ...]
    charge_for: float
    tokens: tuple[TokenEffect, ...]


@dataclass(frozen=True)
class Explanation:
    """Account of one prediction; charges of `nodes`, `other_charges` and `bias` sum to `logits`, [C] in order of `labels`.

    `margin` is the logit of `prediction` less that of `runner_up`, and `tokens` are those that move it most. `sum_error`
    is the largest difference of a logit from the sum of its charges, `model_difference` that from the model's own float32
    logits. `hidden_by` says how a token was hidden: mask, or removed where the tokenizer has no mask token.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    prediction: str
    runner_up: str
    confidence: float
    margin: float
    probabilities: tuple[float, ...]
    logits: tuple[float, ...]
    bias: tuple[float, ...]
    nodes: tuple[NodeAccount, ...]
    other_nodes: int
    other_charges: tuple[float, ...]
    tokens: tuple[TokenEffect, ...]
    hidden_by: str
    tokens_read: int
    tokens_total: int
    sum_error: float
    model_difference: float

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


def head_charges(model: nn.Module, family: Family, states: np.ndarray) -> Charges:
    """Return the charges of final [CLS] states [N, H], computed in float64 from the weights of the stock head."""
    dense, output = model.get_submodule(family.dense), model.get_submodule(family.output)

    def double(values: Tensor) -> Tensor:
        return values.detach().cpu().double()

    used = (output.weight != 0).any(0).cpu()
    bias = 0.0 if dense.bias is None else double(dense.bias)
    activations = family.activation(torch.from_numpy(states).double() @ double(dense.weight).T + bias)
    if family.head_norm:
        norm = copy.deepcopy(model.get_submodule(family.head_norm)).cpu().double()
        with torch.inference_mode():
            activations = norm(activations)
    return Charges(
        tuple(used.nonzero()[:, 0].tolist()),
        activations[:, used].numpy(),
        double(output.weight)[:, used].T.numpy(),
        double(output.bias).numpy(),
    )


def explain_directory(
    model_dir: Path, text: str, text_pair: str | None = None, *, top: int = 3, track: Track = silent
) -> Explanation:
    """Explain the prediction of a model directory for a text or a pair of texts, with the `top` tokens of each node.

    Raises UserError for an empty text or a directory that is no usable classifier.
    """
    texts = {"TEXT": text} if text_pair is None else {"TEXT": text, "TEXT_PAIR": text_pair}
    for name, value in texts.items():
        if not value.strip():
            raise UserError(f"{name}: the text is empty; give the words to explain.")
    if top < 1:
        raise UserError(f"--top {top}: at least one token must be shown.")
    source, where = find_model(str(model_dir), field="MODEL_DIR"), f"MODEL_DIR {str(model_dir)!r}"
    need_single_label(source.task.kind, where, "explain shows which classes the nodes speak for")
    model, tokenizer = load_classifier(source), load_tokenizer(source)
    return explain(model, tokenizer, tuple(texts.values()), source.label_names, top=top, track=track)


def explain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: tuple[str, ...],
    labels: Sequence[str],
    *,
    top: int = 3,
    track: Track = silent,
) -> Explanation:
    """Explain the prediction for one row of one or two texts, cut at the number of tokens that the model takes."""
    family, limit = family_of(model.config.model_type), longest_input(model.config.to_dict())
    row = encode([texts], tokenizer, limit)
    total = len(tokenizer(*texts, verbose=False)["input_ids"])
    positions, pieces = _pieces(tokenizer, texts, limit)
    if not positions:
        raise UserError("TEXT: the tokenizer finds no token in it; give the words to explain.")
    # row 0 is the text itself, the others hide one token each
    states, own_logits = final_states(model, family, _hidden(row, positions, tokenizer.mask_token_id), track=track)
    found = head_charges(model, family, states)
    charges, logits = found.charges, found.logits
    first, second = (int(label) for label in np.argsort(-logits[0], kind="stable")[:2])
    sum_error = float(np.abs(charges.sum(1) + found.bias - logits).max())
    model_difference = float(np.abs(logits[0] - own_logits[0]).max())
    scale = 1 + np.abs(logits[0]).max()
    if sum_error > SUM_TOLERANCE * scale or model_difference > 1e-3 * scale:
        raise RuntimeError(
            f"the charges miss the logits by {sum_error:.2g} and those of the model by {model_difference:.2g}"
        )
    margins, probabilities = logits[:, first] - logits[:, second], softmax(logits[0])
    size = np.abs(charges[0]).max(1)
    # a folded head keeps the order in which it was built; of a wide one the largest charges come first
    order = np.arange(len(size)) if len(size) <= NODES_SHOWN else np.argsort(-size, kind="stable")
    shown, others = order[:NODES_SHOWN], order[NODES_SHOWN:]

    def movers(values: np.ndarray) -> tuple[TokenEffect, ...]:
        """Return the tokens that move values [1 + tokens] most, the strongest first."""
        effects = values[0] - values[1:]
        strongest = np.argsort(-np.abs(effects), kind="stable")[:top]
        return tuple(TokenEffect(positions[index], pieces[index], float(effects[index])) for index in strongest)

    return Explanation(
        texts=texts,
        labels=tuple(labels),
        prediction=labels[first],
        runner_up=labels[second],
        confidence=float(probabilities[first]),
        margin=float(margins[0]),
        probabilities=tuple(probabilities.tolist()),
        logits=tuple(logits[0].tolist()),
        bias=tuple(found.bias.tolist()),
        nodes=tuple(
            NodeAccount(
                found.nodes[index],
                float(found.activations[0, index]),
                tuple(charges[0, index].tolist()),
                float(charges[0, index, first] - charges[0, index, second]),
                movers(found.activations[:, index]),
            )
            for index in shown
        ),
        other_nodes=len(others),
        other_charges=tuple(charges[0, others].sum(0).tolist()),
        tokens=movers(margins),
        hidden_by="mask" if tokenizer.mask_token_id is not None else "removed",
        tokens_read=len(row.input_ids[0]),
        tokens_total=total,
        sum_error=sum_error,
        model_difference=model_difference,
    )


def explained_examples(
    model: PreTrainedModel,
    family: Family,
    evaluation: Encodings,
    logits: dict[str, np.ndarray],
    labels: np.ndarray | None,
    texts: Sequence[tuple[str, ...]],
    ids: Sequence[str],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the charges of at most four changed and four confidently wrong predictions of the compressed `model`.

    `logits` holds those of `full` and `compressed`, [N, C] each. Changed predictions come first, those of which the full
    model was most confident in front; wrong ones, known by their gold `labels` [N], are the most confident of the others.
    """
    full, own = (softmax(logits[side].astype(np.float64), axis=1) for side in ("full", "compressed"))
    changed = full.argmax(1) != own.argmax(1)
    wrong = np.zeros(len(own), dtype=bool) if labels is None else own.argmax(1) != labels
    wrong &= ~changed & (own.max(1) >= CONFIDENT)
    chosen = [
        (int(row), kind)
        for kind, rows, by in (("flipped", changed, full), ("confident_wrong", wrong, own))
        for row in sorted(np.flatnonzero(rows), key=lambda row, by=by: -by[row].max())[:EXAMPLES]
    ]
    if not chosen:
        return []
    states, _ = final_states(model, family, evaluation.take(np.array([row for row, _ in chosen])))
    found = head_charges(model, family, states)
    return [
        {
            "id": ids[row],
            "kind": kind,
            "texts": list(texts[row]),
            "label": None if labels is None else names[labels[row]],
            "full": {"label": names[full[row].argmax()], "confidence": float(full[row].max())},
            "compressed": {"label": names[own[row].argmax()], "confidence": float(own[row].max())},
            # 17 rounded values add up to less than 1e-6
            "logits": found.logits[index].round(8).tolist(),
            "charges": found.charges[index].round(8).tolist(),
            "bias": found.bias.round(8).tolist(),
        }
        for index, (row, kind) in enumerate(chosen)
    ]


def _pieces(tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...], limit: int) -> tuple[list[int], list[str]]:
    """Return the positions of the tokens that stand for text, special ones left out, and the text of each."""
    encoded = tokenizer(
        *texts, truncation=True, max_length=limit, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    positions = [index for index, special in enumerate(encoded["special_tokens_mask"]) if not special]
    sources, offsets = encoded.sequence_ids(), encoded["offset_mapping"]
    pieces = [texts[sources[index]][slice(*offsets[index])].strip() for index in positions]
    return positions, pieces


def _hidden(row: Encodings, positions: Sequence[int], mask_id: int | None) -> Encodings:
    """Return the row, and behind it one row for every position, in which that token is masked or removed."""

    def without(values: list[int], position: int, instead: int | None) -> list[int]:
        return [*values[:position], *([] if instead is None else [instead]), *values[position + 1 :]]

    ids, types = row.input_ids[0], row.token_types[0] if row.token_types else None
    return Encodings(
        [ids, *(without(ids, position, mask_id) for position in positions)],
        # a masked token keeps its segment
        None
        if types is None
        else [types, *(types if mask_id is not None else without(types, p, None) for p in positions)],
        row.pad_id,
    )
