"""How near a file must come to PyTorch: limits by hand, which grow with the logits."""

import numpy as np
import pytest

from compressor.errors import UserError
from compressor.export.parity import Parity, check_parity, parity


def test_parity_by_hand():
    reference = np.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.50005]], dtype=np.float32)
    other = np.array([[1.25, 0.0], [0.0, 2.0], [0.5, 0.4999]], dtype=np.float32)
    found = parity(reference, other)
    assert (found.max_abs, found.rows, found.decided) == (0.25, 3, 1.0)  # the flip of row 2 is a tie
    assert found.agreement == pytest.approx(2 / 3)
    assert parity(reference, reference) == Parity(0.0, 1.0, 3, 1.0, 1.0)
    assert parity(reference, reference[:, ::-1]).decided == 0.0
    with pytest.raises(ValueError, match="equal non-empty"):
        parity(reference, other[:2])
    with pytest.raises(ValueError, match="equal non-empty"):
        parity(reference[:0], other[:0])


def test_fp16_that_overflows_is_the_model_s_not_ours():
    with pytest.raises(UserError, match="fp16 overflows with this model, .* 9 real texts; leave fp16 out"):
        check_parity("fp16", Parity(np.nan, 0.5, 9))
    check_parity("fp16", Parity(0.5, 0.9, 9))  # judged by its changed predictions


@pytest.mark.parametrize("variant", ["fp32", "optimized", "int8"])
def test_numbers_that_are_not_finite_fail_everywhere(variant):
    reference = np.array([[1.0, 0.0]])
    for broken in (np.nan, np.inf):
        with pytest.raises(RuntimeError, match=r"parity failure: .* not finite"):
            check_parity(variant, parity(reference, np.array([[1.0, broken]])))


@pytest.mark.parametrize(
    ("variant", "found", "words"),
    [
        ("fp32", Parity(2e-3, 1.0, 9), "differ by up to 0.002 .* 9 rows, allowed is 0.001"),
        ("optimized", Parity(6e-3, 1.0, 9), "allowed is 0.005"),
        ("fp32", Parity(1e-6, 0.9, 10, decided=0.9), "90.00% of 10 labels"),
    ],
)
def test_parity_limits(variant, found, words):
    with pytest.raises(RuntimeError, match=f"parity failure: .*{words}"):
        check_parity(variant, found)
    check_parity("int8", found)  # judged by its changed predictions, not here


def test_limits_grow_with_the_logits():
    # logits that deviate by 50 round by more: 0.0036 is nothing there, and a tie is one within 0.005
    reference = np.array([[50.0, -50.0], [-50.0, 50.0], [50.0, 49.997]])
    found = parity(reference, reference + np.array([[0.0036, 0], [0, 0.0036], [0, 0.0036]]))
    assert found.scale == pytest.approx(reference.std())
    assert (found.max_abs, found.decided) == (pytest.approx(0.0036), 1.0)
    check_parity("fp32", found)
    with pytest.raises(RuntimeError, match="differ by up to 0.0036 .* allowed is 0.001"):
        check_parity("fp32", parity(reference / 50, reference / 50 + 0.0036))


def test_parity_within_limits():
    check_parity("optimized", Parity(2e-3, 1.0, 9))
    check_parity("fp32", Parity(1e-6, 0.9, 10, decided=1.0))
