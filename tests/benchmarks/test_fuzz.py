"""The fuzzer finds what it looks for, makes the same input again, and finds nothing among some two hundred."""

import pytest

from benchmarks.reliability.corpus import Corpus, make
from benchmarks.reliability.fuzz import faults_of, one, outcomes, summary
from benchmarks.reliability.targets import NEED_RUN, TARGETS

INPUTS = 200


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return make(tmp_path_factory.mktemp("corpus") / "c", run=False)


def test_some_two_hundred_inputs_are_answered_or_refused(corpus: Corpus) -> None:
    found = list(outcomes(range(INPUTS), 7, corpus, fork=False))
    made = summary(found, 1.0, 7)
    assert made["failures"] == []
    assert sum(sum(codes.values()) for codes in made["outcomes"].values()) == INPUTS
    assert all(made["outcomes"][name] for name in TARGETS if name not in NEED_RUN)
    assert made["slowest_refusal_seconds"] == made["slowest_refusals"][0]["seconds"]


def test_a_number_is_the_same_input_again(corpus: Corpus, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [name for name in TARGETS if name not in NEED_RUN]
    first, second = (one(11, 3, corpus, tmp_path / "input", names, fork=False) for _ in range(2))
    assert (first.arguments, first.code, first.stderr) == (second.arguments, second.code, second.stderr)
    assert one(12, 3, corpus, tmp_path / "input", names, fork=False).arguments != first.arguments


@pytest.mark.parametrize(
    ("outcome", "faults"),
    [
        ((0, 9.0, "", False), []),
        ((2, 0.1, "error: no.\n", False), []),
        ((3, 0.1, "", False), []),
        ((1, 0.1, "error: X (our fault; ...).\n", False), ["ended with 1", "our fault"]),
        ((2, 0.1, "", False), ["0 sentences"]),
        ((2, 0.1, "error: a\nerror: b\n", False), ["2 sentences"]),
        ((2, 6.0, "error: no.\n", False), ["refused after 6.0 s"]),
        ((2, 0.1, "error: no.\n", True), ["files left or changed"]),
        ((2, 0.1, f"error: {'x' * 2000}\n", False), ["a sentence too long"]),
        ((2, 0.1, "error: \x1b[2J\n", False), ["signs that command a terminal"]),
        (("hangs", 60.0, "", False), ["ended with hangs"]),
        ((0, 0.1, "Traceback (most recent call last):\n", False), ["a traceback"]),
    ],
)
def test_what_is_a_fault(outcome: tuple, faults: list) -> None:
    code, seconds, stderr, left = outcome
    assert faults_of(code, seconds, stderr, left=left) == faults
