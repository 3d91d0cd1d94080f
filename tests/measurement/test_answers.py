import numpy as np
import pytest

from compressor.measurement.answers import confusion, confusion_text, swapped_order


def test_a_confusion_matrix_counts_labels_by_answers():
    matrix = confusion(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 0]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 0]]
    assert confusion_text(matrix, ["a", "b", "c"]) == (
        "confusion matrix, a row a label and a column an answer: 'a' [1, 1, 0], 'b' [0, 1, 0], 'c' [2, 0, 0]"
    )
    large = np.zeros((9, 9), dtype=int)
    large[3, 4], large[4, 3], large[5, 5] = 7, 9, 30
    assert confusion_text(large, list("abcdefghi")).endswith("'e' answered as 'd' 9 times, 'd' answered as 'e' 7 times")


@pytest.mark.parametrize(
    ("matrix", "order"),
    [
        ([[108, 892], [892, 108]], [1, 0]),  # 10.8 % as given, 89.2 % the other way round
        ([[30, 470], [65, 135]], None),  # 23.6 %, and 76.4 % swapped: not sure enough above the larger class, 71 %
        ([[10, 690], [160, 140]], [1, 0]),  # 15 % and 85 % of 1,000 rows, 70 % of them of one class
        ([[2, 0], [0, 2]], None),
        ([[0, 5], [5, 0]], None),  # ten rows are no proof
        ([[0, 300], [0, 700]], None),  # always the larger class
        ([[700, 0], [300, 0]], None),
        ([[0, 700], [0, 300]], None),  # always the smaller class: the larger one is no other order of answers
        ([[400, 600], [600, 400]], None),  # bad answers, not swapped ones: most errors would stay
        ([[8, 90, 2], [3, 7, 90], [85, 5, 10]], [2, 0, 1]),
        ([[90, 5, 3, 2], [2, 3, 90, 5], [1, 94, 4, 1], [2, 2, 2, 94]], [0, 2, 1, 3]),
    ],
)
def test_swapped_classes_are_told_from_bad_answers(matrix, order):
    found = swapped_order(np.array(matrix))
    assert (None if found is None else found.tolist()) == order


def test_answers_at_random_are_almost_never_called_swapped():
    generator = np.random.default_rng(0)
    for classes in (2, 3, 10):
        for _ in range(300):
            answers, labels = generator.integers(classes, size=(2, 60))
            assert swapped_order(confusion(labels, answers, classes)) is None
