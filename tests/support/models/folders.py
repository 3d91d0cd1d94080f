"""Exported folders that a `Classifier` opens."""

import json

import numpy as np
from tiny import LETTERS, letter_rows

NAMES = {"num_labels": 3, "id2label": {0: "no", 1: "maybe", 2: "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}
ODD = [
    "",
    " ",
    "\n",
    "a \U0001f600 b",
    "\u202ea b",
    "a\x00b\x07 c\x1b[31m",
    "É e\u0301 ﬁ",
    "[SEP] a </s>",
    "a b " * 2**18,
]
TEXTS = [*[text for text, _ in letter_rows(190, seed=5)], " ".join(LETTERS * 3), *ODD]
LENGTH = 24


def same_answers(found, expected, within):
    assert [set(answer) for answer in found] == [{"label", "score"}] * len(expected)
    assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
    np.testing.assert_allclose([a["score"] for a in found], [a["score"] for a in expected], atol=within, rtol=0)


def copied(folder, target, **changes):
    """Return a copy of an exported folder with other settings; a file whose change is None is left out."""
    target.mkdir()
    for file in folder.iterdir():
        if changes.get(file.name, "") is not None:
            (target / file.name).write_bytes(file.read_bytes())
    settings = {name: value for name, value in changes.items() if "." not in name}
    if settings:
        known = json.loads((target / "classifier.json").read_text())
        (target / "classifier.json").write_text(json.dumps(known | settings))
    return target
