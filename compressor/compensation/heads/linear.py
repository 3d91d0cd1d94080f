"""The readout trainer: the best linear readout, in closed steps, as a head that folds like any other."""

from torch import Tensor

from compressor.compensation.heads.head import (
    Head,
    HeadFit,
    check_nodes,
    cross_entropy,
    standardisation,
    weighted_targets,
)
from compressor.compensation.readout import Activation, linear_nodes, newton_readouts
from compressor.progress import Track, silent
from compressor.recipe.training import HeadSpec


def fit_readout(
    states: Tensor,
    targets: Tensor,
    selection_states: Tensor,
    selection_targets: Tensor,
    spec: HeadSpec,
    activation: Activation,
    *,
    seed: int = 0,  # noqa: ARG001 (every trainer takes one; here nothing is drawn)
    track: Track = silent,
) -> HeadFit:
    """Fit the linear readout; the ridge strength with the lowest selection loss wins.

    states [N, H], targets [N, C] (probabilities; one-hot for gold labels), the same for the selection split. The head
    has C - 1 nodes (at most `spec.nodes`), each where its activation is a straight line. In the result `epochs` are the
    strengths tried, strongest first, `best_epoch` the one taken.
    """
    check_nodes(spec.nodes, states.shape[1])
    mean, deviation = standardisation(states)
    inputs = (states.double() - mean) / deviation
    wanted, held, class_weights = weighted_targets(targets, selection_targets, spec)
    history: list[float] = []
    best = None
    for _, weight, bias in track(newton_readouts(inputs, wanted), "head"):
        head = Head(mean, deviation, *linear_nodes(inputs, weight, bias, spec.nodes, activation))
        history.append(cross_entropy(head.logits(selection_states, activation), held))
        if history.index(min(history)) == len(history) - 1:
            best = head
    return HeadFit(best, len(history), 1 + history.index(min(history)), tuple(history), class_weights)
