"""Tables of `compressor explain` for the terminal."""

from collections.abc import Sequence

from compressor.analysis.explain import Explanation, TokenEffect
from compressor.cli.tables import Column, Grid, numbers, words
from compressor.console import TIE

CLASSES_SHOWN = 6
"""Classes beside each other; a model of more shows the predicted one and the runner-up, JSON has all."""


def explain_tables(found: Explanation) -> list[Grid | str]:
    """Return the prediction, its charges node by node down to the logits, and what checks them."""
    first, second = (found.labels.index(label) for label in (found.prediction, found.runner_up))
    many = len(found.labels) > CLASSES_SHOWN
    classes = [first, second] if many else list(range(len(found.labels)))

    def cells(charges: Sequence[float]) -> tuple[str, ...]:
        return (*(f"{charges[index]:+.4f}" for index in classes), f"{charges[first] - charges[second]:+.4f}")

    # the node that speaks most for the prediction first
    nodes = sorted(found.nodes, key=lambda node: -node.charge_for)
    rows = [
        (f"node {node.node}", f"{node.activation:+.4f}", *cells(node.charges), _tokens(node.tokens)) for node in nodes
    ]
    if found.other_nodes:
        rows.append((f"{found.other_nodes:,} other nodes", "", *cells(found.other_charges), ""))
    rows += [
        ("bias", "", *cells(found.bias), ""),
        ("sum = logit", "", *cells(found.logits), f"margin: {_tokens(found.tokens)}"),
    ]
    columns = [
        *words(""),
        *numbers("activation", rank=2),
        *(Column(f"to {found.labels[index]}", rank=0 if index in {first, second} else 1) for index in classes),
        *numbers(f"{found.prediction} - {found.runner_up}"),
        *words("tokens that move it most"),
    ]
    title = (
        f"charges of the nodes; a token's number is what it adds (the value with it less that with it {_hidden(found)})"
    )
    notes = [
        f"the charges sum to the logits (largest difference {found.sum_error:.1g}; from the model's own float32 logits "
        f"{found.model_difference:.1g})"
    ]
    if many:
        notes.append(f"{len(found.labels)} classes; shown are the two with the highest logits, --json has all")
    if found.tokens_read < found.tokens_total:
        notes.append(
            f"the text has {found.tokens_total:,} tokens, of which the model takes {found.tokens_read:,}; the rest was cut off"
        )
    lead = f"{found.margin:.4f} ahead of {found.runner_up} in the logits"
    headline = f"{found.prediction}: confidence {found.confidence:.1%}, {lead}"
    return [headline, "", Grid(title, columns, rows), *(f"note: {note}" for note in notes)]


def _hidden(found: Explanation) -> str:
    return "masked" if found.hidden_by == "mask" else "removed"


def _tokens(effects: Sequence[TokenEffect]) -> str:
    # what belongs to one token stays on one line
    return ", ".join(
        f"{effect.token or '(space)'}{TIE}[{effect.position}]{TIE}{effect.effect:+.4f}" for effect in effects
    )
