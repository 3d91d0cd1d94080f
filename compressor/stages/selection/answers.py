"""Whether the full model's answers on the selection split can be what its labels mean, looked at before the search."""

import numpy as np

from compressor.data.answers.kinds import SINGLE_LABEL
from compressor.data.labels import mapping_text
from compressor.errors import UserError
from compressor.measurement.answers import confusion, confusion_text, swapped_order
from compressor.run.arrays import load_array
from compressor.run.run import Run


def check_answers(run: Run, logits: np.ndarray) -> None:
    """Raise UserError where the classes of a model that came fine-tuned are swapped; `logits` [N, C] of the selection split."""
    matrix = _matrix(run, logits)
    order = None if matrix is None or run.recipe.finetune is not None else swapped_order(matrix)
    if order is None:
        return
    names, right = run.data.label_names, np.trace(matrix)
    answer_for = np.argsort(order)
    example = {value: names[answer_for[place]] for value, place in run.data.label_values.items()}
    raise UserError(
        f"model.path {run.recipe.model.path!r}: the classes of the full model look swapped: {_share(right, matrix)} of the "
        f"selection split is answered right, and {_share(matrix[order, np.arange(len(order))].sum(), matrix)} with the "
        f"classes in another order ({confusion_text(matrix, names)}); say what the values of the label column mean, for "
        f"example data.labels: {mapping_text(example)}, or correct id2label in the model's config.json."
    )


def answer_notes(run: Run) -> list[str]:
    """Return a warning where always giving the larger class would be right more often than the full model is."""
    matrix = _matrix(run, load_array(run.path, "selection_logits"))
    if matrix is None or np.trace(matrix) >= matrix.sum(axis=1).max():
        return []
    names, largest = run.data.label_names, int(matrix.sum(axis=1).argmax())
    return [
        f"The full model answers {_share(np.trace(matrix), matrix)} of the selection split right, less than always "
        f"{names[largest]!r} would ({_share(matrix[largest].sum(), matrix)}): {confusion_text(matrix, names)}."
    ]


def _matrix(run: Run, logits: np.ndarray) -> np.ndarray | None:
    labels = run.data.selection.labels
    return None if labels is None or run.kind != SINGLE_LABEL else confusion(labels, logits.argmax(axis=1), run.classes)


def _share(rows: int, matrix: np.ndarray) -> str:
    return f"{rows / matrix.sum():.1%}"
