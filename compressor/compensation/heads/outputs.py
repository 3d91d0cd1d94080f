"""The head of tasks other than one label a text: the full model's outputs, read off in closed form, as a head that folds."""

import torch
from torch import Tensor, nn

from compressor.compensation.heads.head import Head, HeadFit, check_nodes, standardisation
from compressor.compensation.readout import STRENGTHS, Activation, linear_nodes, ridge_readout
from compressor.data.answers.kinds import Task
from compressor.recipe.training import HeadSpec


def fit_outputs(
    states: Tensor,
    outputs: Tensor,
    selection_states: Tensor,
    selection_outputs: Tensor,
    spec: HeadSpec,
    activation: Activation,
    task: Task,
) -> HeadFit:
    """Fit a ridge regression to the full model's outputs; the strength with the lowest selection loss wins.

    states [N, H] and outputs [N, C] (scores, or the logits of many labels), the same for the selection split. The losses are
    mean divergences (`Task.divergences`). The head has C nodes (at most `spec.nodes`), each where its activation is a straight
    line; one without an activation is a map of its own and takes all C. `epochs` are the strengths tried, strongest first, and
    `best_epoch` the one taken.
    """
    check_nodes(spec.nodes, states.shape[1])
    most = outputs.shape[1] if isinstance(activation, nn.Identity) else spec.nodes
    mean, deviation = standardisation(states)
    inputs = (states.double() - mean) / deviation
    heads = []
    for strength in STRENGTHS:
        weight, bias = ridge_readout(inputs, outputs, strength)
        nodes = linear_nodes(inputs, weight, bias, most, activation, relative=False)
        heads.append(Head(mean, deviation, *nodes))
    losses = [distance(task, head.logits(selection_states, activation), selection_outputs) for head in heads]
    best = losses.index(min(losses))
    return HeadFit(heads[best], len(heads), 1 + best, tuple(losses), None)


def distance(task: Task, outputs: Tensor, wanted: Tensor) -> float:
    """Return the mean divergence of outputs [N, C] from those wanted, in float64."""
    with torch.no_grad():
        return float(task.divergences(outputs.double(), wanted.double()).mean())
