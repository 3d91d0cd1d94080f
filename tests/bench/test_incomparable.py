"""Runs that cannot be held side by side: one sentence each, exit code 2."""

import shutil

import numpy as np
import pytest
from run_cases import FIRST, GOLD, SECOND, change_result, logits_of, make_run


def broken(change):
    """Return a case: `change` the second run, then compare both."""

    def arguments(a, b):
        change(b)
        return a, b

    return arguments


def rewritten(**arrays):
    return broken(lambda b: np.savez(b / "predictions.npz", **arrays))


def of_another_run(_a, b):
    shutil.copy(make_run(b.parent / "c", FIRST) / "predictions.npz", b)
    return b, b.parent / "c"


def other_width(a, b):
    # the hash and the names agree, the arrays do not
    make_run(b.parent / "wide", SECOND, names=("negative", "positive", "mixed"))
    change_result(b.parent / "wide", lambda result: result["data"].update(label_names=["negative", "positive"]))
    return a, b.parent / "wide"


LOGITS = {"full": logits_of(GOLD), "compressed": logits_of(SECOND)}
BAD = {
    "one directory": (lambda a, _b: (a,), ["two or more run directories", "/a"]),
    "one twice": (lambda a, b: (a, b, a), ["/a: named twice", "once"]),
    "one twice by another path": (lambda a, b: (a, b / ".." / "a"), ["named twice", "the same folder as"]),
    "no such directory": (lambda a, b: (a, b / "none"), ["none/result.json", "there is no result here", "finished run"]),
    "a file": (lambda a, b: (a, b / "result.json"), ["result.json/result.json", "cannot be read"]),
    "no result": (broken(lambda b: (b / "result.json").unlink()), ["b/result.json", "there is no result here"]),
    "result without a part": (
        broken(lambda b: change_result(b, lambda result: result["data"].pop("splits"))),
        ["b/result.json", "'splits'", "run the recipe again"],
    ),
    "part of the wrong kind": (
        broken(lambda b: change_result(b, lambda result: result.update(plan=[5]))),
        ["b/result.json", "of the wrong kind", "run the recipe again"],
    ),
    "figure of the wrong kind": (
        broken(lambda b: change_result(b, lambda result: result["variants"]["compressed"]["versus_full"].update(flips=[5]))),
        ["/b: a part", "of the wrong kind", "run the recipe again"],
    ),
    "no predictions": (broken(lambda b: (b / "predictions.npz").unlink()), ["b/predictions.npz", "there are no predictions"]),
    "predictions cut off": (
        broken(lambda b: (b / "predictions.npz").write_bytes((b / "predictions.npz").read_bytes()[:300])),
        ["b/predictions.npz", "cannot be read", "remove it and run the recipe again"],
    ),
    "predictions empty": (broken(lambda b: (b / "predictions.npz").write_bytes(b"")), ["b/predictions.npz", "cannot be read"]),
    "predictions that are text": (
        broken(lambda b: (b / "predictions.npz").write_text("logits")),
        ["b/predictions.npz", "cannot be read"],
    ),
    "predictions that are pickles": (
        rewritten(**LOGITS | {"compressed": np.array([{"a": 1}], dtype=object)}),
        ["b/predictions.npz", "cannot be read"],
    ),
    "a single array": (
        broken(lambda b: np.save((b / "predictions.npz").open("wb"), LOGITS["full"])),
        ["b/predictions.npz", "cannot be read"],
    ),
    "predictions without the variant": (rewritten(full=LOGITS["full"]), ["b/predictions.npz", "no logits of 'compressed'"]),
    "fewer rows": (rewritten(full=LOGITS["full"][:7], compressed=LOGITS["compressed"][:7]), ["b/predictions.npz", "result.json"]),
    "logits of one dimension": (rewritten(compressed=np.zeros(8, np.float32)), ["b/predictions.npz", "are not those"]),
    "predictions of another run": (of_another_run, ["b/predictions.npz", "are not those that result.json speaks of"]),
    "labels of the wrong shape": (rewritten(**LOGITS, labels=np.zeros(7, np.int64)), ["b/predictions.npz", "labels", "8 rows"]),
    "labels that contradict": (
        rewritten(**LOGITS, labels=np.zeros(8, np.int64)),
        ["/a and ", "the evaluation hashes agree, but the labels differ", "run both recipes again"],
    ),
    "other width": (other_width, ["the evaluation hashes agree", "(8, 2) and (8, 3)", "run both recipes again"]),
    "a variant that is nowhere": (
        lambda a, b: (a, b, "--variant", "onnx_int9"),
        ["'onnx_int9'", "/a has only full, compressed, onnx_int8", "did you mean 'onnx_int8'?"],
    ),
    "a variant that one run lacks": (
        lambda a, b: (
            a,
            *broken(lambda b: change_result(b, lambda result: result["variants"].pop("onnx_int8")))(a, b)[1:],
            *("--variant", "onnx_int8"),
        ),
        ["'onnx_int8'", "/b has only full, compressed", "every run has"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_sentence_with_exit_code_2(runs, compare, case):
    make_arguments, words = BAD[case]
    code, stdout, stderr = compare(*make_arguments(*runs))
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert len(stderr.strip().splitlines()) == 1
    assert [word for word in words if word not in stderr] == [], stderr
