import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.data.splits import Split, cut_train, first_of_each, hash_order, normalised, row_hash, without_overlaps


def split_of(texts, labels=None):
    labels = None if labels is None else np.array(labels, dtype=np.int64)
    return Split(
        [(text,) if isinstance(text, str) else text for text in texts], labels, [f"t:{i}" for i in range(len(texts))]
    )


def content(split):
    labels = [None] * len(split) if split.labels is None else split.labels.tolist()
    return list(zip(split.texts, labels, strict=True))


def test_take_keeps_texts_labels_and_ids_together():
    taken = split_of(["a", "b", "c"], [0, 1, 1]).take(np.array([2, 0]))
    assert (taken.texts, taken.labels.tolist(), taken.ids) == ([("c",), ("a",)], [1, 0], ["t:2", "t:0"])
    assert len(split_of(["a"]).take([])) == 0
    assert split_of(["a"]).take([0]).labels is None


def test_digest_is_that_of_the_documented_encoding():
    # by hand: kind, then for each row the number of texts, each length and text, and the label
    from hashlib import sha256

    stream = b"labelled" + (1).to_bytes(4, "big") + (2).to_bytes(8, "big") + "é".encode() + (1).to_bytes(8, "big")
    assert split_of(["é"], [1]).sha256 == sha256(stream).hexdigest()


def test_digest_tells_boundaries_order_and_labels_apart_but_not_ids():
    contents = [
        split_of([("ab", "c")]),
        split_of([("a", "bc")]),
        split_of(["ab", "c"]),
        split_of(["c", "ab"]),
        split_of(["abc"]),
        split_of(["ab", "c"], [0, 1]),
        split_of(["ab", "c"], [1, 0]),
        split_of([]),
        split_of([], []),
    ]
    assert len({split.sha256 for split in contents}) == len(contents)
    assert Split([("a",)], None, ["x"]).sha256 == Split([("a",)], None, ["y"]).sha256
    assert len(contents[0].sha256) == 64


def test_row_hash_does_not_depend_on_the_process():
    code = "from compressor.data.splits import row_hash; print(row_hash(('a text', 'b'), 3))"
    for hash_seed in ("0", "1"):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == row_hash(("a text", "b"), 3)


def test_row_hash_normalises_white_space_only():
    assert row_hash((" a \t b\n",), 0) == row_hash(("a b",), 0)
    assert len({row_hash(("a b",), 0), row_hash(("A b",), 0), row_hash(("ab",), 0), row_hash(("a b",), 1)}) == 4
    assert normalised(("  x\u00a0 y ", "")) == ("x y", "")


@pytest.mark.parametrize(
    ("rows", "selection", "calibration", "sizes"),
    [
        (10, 2, 3, (5, 3, 2)),
        (10, 100, 100, (3, 2, 5)),  # half of 10, then half of the 5 left
        (10, 2, None, (4, 4, 2)),
        (10, 2, 0, (8, 0, 2)),
        (3, 1, 1, (1, 1, 1)),
        (2, 1, 1, (1, 0, 1)),
        (1, 1, 1, (1, 0, 0)),
        (0, 1, 1, (0, 0, 0)),
    ],
)
def test_cut_sizes(rows, selection, calibration, sizes):
    parts = cut_train(split_of([f"text {i}" for i in range(rows)]), selection, calibration, seed=0)
    assert tuple(map(len, parts)) == sizes
    assert sorted(row for part in parts for row in part.ids) == sorted(f"t:{i}" for i in range(rows))


def test_cut_depends_on_the_seed():
    rows = split_of([f"text {i}" for i in range(50)])
    assert cut_train(rows, 10, 10, 0)[2].texts != cut_train(rows, 10, 10, 1)[2].texts


def test_overlaps_leave_the_earlier_part_and_are_counted():
    parts = {
        "train": split_of(["a", "b  b", "a", "A", "x", "x"], [0, 1, 0, 1, 0, 1]),
        "selection": split_of(["b b", "c", "d"], [1, 1, 0]),
        "evaluation": split_of(["a", "c", "c"], [0, 1, 1]),
    }
    kept, removed = without_overlaps(parts)
    assert removed == {"train": 3, "selection": 1}
    assert kept["train"].texts == [("A",), ("x",), ("x",)]  # case counts, repetitions inside a part stay
    assert kept["train"].labels.tolist() == [1, 0, 1]
    assert kept["selection"].texts == [("b b",), ("d",)]
    assert kept["evaluation"] is parts["evaluation"]


words = st.sampled_from(["a", "b", "c", "A", "a b", "a  b", " a b", "d", "e"])
labelled_rows = st.lists(st.tuples(words, st.integers(0, 1)), max_size=25)


@given(
    rows=labelled_rows,
    later=st.lists(words, max_size=5),
    sizes=st.tuples(*[st.integers(0, 9)] * 2),
    shuffle=st.randoms(),
)
def test_parts_are_disjoint_and_independent_of_file_order(rows, later, sizes, shuffle):
    def parts_of(rows):
        train = split_of([text for text, _ in rows], [label for _, label in rows])
        names = ("train", "calibration", "selection")
        cut = dict(zip(names, cut_train(train, *sizes, seed=5), strict=True))
        return cut, *without_overlaps({**cut, "evaluation": split_of(later)})

    cut, kept, removed = parts_of(rows)
    texts = {name: {normalised(row) for row in part.texts} for name, part in kept.items()}
    names = list(kept)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert not texts[name] & texts[other]
    assert sum(removed.values()) == len(rows) + len(later) - sum(map(len, kept.values()))
    assert all(removed[name] == len(cut[name]) - len(kept[name]) for name in removed)
    # nothing is lost but what stands in a later part
    assert set().union(*texts.values()) == {normalised((text,)) for text in [*(text for text, _ in rows), *later]}
    # whatever the order of the file, the parts are the same; ids follow their rows
    permuted = list(rows)
    shuffle.shuffle(permuted)
    _, again, removed_again = parts_of(permuted)
    assert removed_again == removed
    assert all(content(again[name]) == content(kept[name]) for name in names)
    assert all(again[name].sha256 == kept[name].sha256 for name in names)
    assert all(
        rows[int(row.split(":")[1])][0] == text
        for row, (text,) in zip(kept["train"].ids, kept["train"].texts, strict=True)
    )


def test_hash_order_breaks_ties_by_label():
    assert hash_order(split_of(["a", "a", "a"], [1, 0, 1]), 0) == [1, 0, 2]


def test_the_first_row_of_every_text_stays():
    rows = split_of(["a  b", "c", "a b", "d", "c "], [0, 1, 1, 0, 0])
    kept = first_of_each(rows)
    assert (kept.texts, kept.labels.tolist()) == ([("a  b",), ("c",), ("d",)], [0, 1, 0])
    assert first_of_each(kept) is kept
