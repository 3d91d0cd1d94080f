import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressor.compensation.readout import crossfit_readout
from compressor.data.splits import (
    Split,
    copies_of,
    cut_train,
    first_rows,
    hash_order,
    normalised,
    row_hash,
    without_overlaps,
)
from compressor.measurement.statistics import paired_lower_bound


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


def test_row_hash_normalises_white_space_and_unicode_form_only():
    assert row_hash((" a \t b\n",), 0) == row_hash(("a b",), 0)
    assert len({row_hash(("a b",), 0), row_hash(("A b",), 0), row_hash(("ab",), 0), row_hash(("a b",), 1)}) == 4
    assert normalised(("  x\u00a0 y ", "")) == ("x y", "")
    assert normalised(("cafe\u0301",)) == ("caf\u00e9",)
    assert row_hash(("cafe\u0301",), 0) == row_hash(("caf\u00e9",), 0)


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


def test_parts_that_decide_hold_every_text_once_by_hand():
    rows = split_of(["a", "b", "c", "d", " a", "b ", "b", "c"], [1, 0, 1, 0, 0, 0, 1, 1])
    times = {"a": 2, "b": 3, "c": 2, "d": 1}
    order = list(dict.fromkeys(rows.texts[row][0].strip() for row in hash_order(rows, 0)))
    train, calibration, selection = cut_train(rows, 2, 1, 0)
    # of four texts selection takes two and calibration one; train keeps the copies of the fourth
    found = [[text.strip() for (text,) in part.texts] for part in (selection, calibration, train)]
    assert found == [order[:2], order[2:3], order[3:] * times[order[3]]]
    assert copies_of(selection, rows) == times[order[0]] - 1 + times[order[1]] - 1
    assert copies_of(calibration, rows) == times[order[2]] - 1


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


def uncased(texts):
    """Return the key of rows to a tokenizer that knows no case."""
    return normalised(tuple(text.lower() for text in texts))


def parts_of(rows, later, sizes, same=normalised):
    """Return the parts as they are cut, and the parts and counts without overlaps."""
    train = split_of([text for text, _ in rows], [label for _, label in rows])
    cut = dict(zip(("train", "calibration", "selection"), cut_train(train, *sizes, seed=5, same=same), strict=True))
    return cut, *without_overlaps({**cut, "evaluation": split_of(later)}, same)


@given(
    rows=labelled_rows,
    later=st.lists(words, max_size=5),
    sizes=st.tuples(*[st.integers(0, 9)] * 2),
    shuffle=st.randoms(),
    same=st.sampled_from([normalised, uncased]),
)
def test_parts_are_disjoint_and_independent_of_file_order(rows, later, sizes, shuffle, same):
    cut, kept, removed = parts_of(rows, later, sizes, same)
    texts = {name: {same(row) for row in part.texts} for name, part in kept.items()}
    names = list(kept)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert not texts[name] & texts[other]
    for name in ("calibration", "selection"):
        assert len(texts[name]) == len(kept[name])
    copies = sum(
        copies_of(cut[name], split_of([text for text, _ in rows]), same) for name in ("calibration", "selection")
    )
    assert sum(removed.values()) + copies == len(rows) + len(later) - sum(map(len, kept.values()))
    assert all(removed[name] == len(cut[name]) - len(kept[name]) for name in removed)
    # nothing is lost but copies and what stands in a later part
    assert set().union(*texts.values()) == {same((text,)) for text in [*(text for text, _ in rows), *later]}
    # whatever the order of the file, the parts are the same; ids follow their rows
    permuted = list(rows)
    shuffle.shuffle(permuted)
    _, again, removed_again = parts_of(permuted, later, sizes, same)
    assert removed_again == removed
    assert all(content(again[name]) == content(kept[name]) for name in names)
    assert all(again[name].sha256 == kept[name].sha256 for name in names)
    assert all(
        rows[int(row.split(":")[1])][0] == text
        for row, (text,) in zip(kept["train"].ids, kept["train"].texts, strict=True)
    )


@given(
    rows=labelled_rows,
    copied=st.lists(st.integers(0, 24), max_size=40),
    sizes=st.tuples(*[st.integers(0, 9)] * 2),
    same=st.sampled_from([normalised, uncased]),
)
def test_copies_of_rows_change_nothing_that_decides(rows, copied, sizes, same):
    copies = [rows[place] for place in copied if place < len(rows)]
    _, kept, _ = parts_of(rows, ["d"], sizes, same)
    _, more, _ = parts_of([*rows, *copies], ["d"], sizes, same)
    for name in ("calibration", "selection"):
        assert content(more[name]) == content(kept[name])
    assert {row for row, _ in content(more["train"])} == {row for row, _ in content(kept["train"])}


def test_hash_order_breaks_ties_by_label():
    assert hash_order(split_of(["a", "a", "a"], [1, 0, 1]), 0) == [1, 0, 2]


def test_the_first_row_of_every_text():
    rows = split_of(["a  b", "c", "a b", "d", "c ", "A b"])
    assert first_rows(rows) == [0, 1, 3, 5]
    assert first_rows(rows, uncased) == [0, 1, 3]


def test_a_readout_of_pure_noise_agrees_by_chance_where_each_text_stands_twice():
    generator = np.random.default_rng(0)
    noise = {f"text {row}": (generator.standard_normal(64), generator.standard_normal(2)) for row in range(400)}
    rows = split_of([*noise, *(f" {text} " for text in noise)], [0] * 800)
    agreements = {}
    for name, part in (("split", cut_train(rows, 10**6, 0, 0)[2]), ("file", rows.take(hash_order(rows, 0)))):
        states, logits = (
            torch.from_numpy(np.stack(values))
            for values in zip(*(noise[text.strip()] for (text,) in part.texts), strict=True)
        )
        found = crossfit_readout(states, logits)
        agreements[name] = float((found.argmax(1) == logits.argmax(1)).double().mean())
    assert agreements["split"] == pytest.approx(0.5, abs=0.1)
    assert agreements["file"] > 0.6  # what copies do where they are left in


@pytest.mark.parametrize("copies", [1, 3, 5])
def test_a_drop_of_just_the_goal_is_accepted_as_seldom_as_said_however_often_texts_are_repeated(copies):
    generator, accepted, runs, drop = np.random.default_rng(copies), 0, 200, 0.03
    for _ in range(runs):
        texts = [f"text {number}" for number in range(600)]
        # a row is lost, gained or neither; the true drop is the goal
        change = dict(zip(texts, generator.choice([-1, 0, 1], len(texts), p=[0.05, 0.93, 0.02]), strict=True))
        rows = split_of([text for text in texts for _ in range(copies)])
        part = cut_train(rows, 300, 0, int(generator.integers(1 << 30)))[2]
        found = np.array([change[text] for (text,) in part.texts])
        accepted += paired_lower_bound(int((found > 0).sum()), int((found < 0).sum()), len(found), 0.95) >= -drop
    assert accepted / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
