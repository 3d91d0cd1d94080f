"""The demo task: sentences of a small grammar whose words do not give their label away.

Every sentence is a verdict on something, negative (0) or positive (1). Four devices decide it: negation inside a clause
("was not dull"), contrast ("X, but Y": the conceding clause does not count), scope ("nobody said that ..."
turns round what it embraces, "nobody can deny that ..." does not) and reported speech, upheld or rejected afterwards.
Clauses under contrast are of opposite polarity, and the other devices turn round nearly as often as they keep, so that
a linear model of words or word pairs stays at about 60 % accuracy: order and nesting decide. The remaining lean of the
words towards the label is meant: with none at all, the task is a parity and short fine-tuning often learns nothing.
"""

# ruff: noqa: SIM905 - a list of words reads better as text
from random import Random

LABELS = ("negative", "positive")
SIZES = {"train": 4500, "validation": 1000, "test": 1000}
"""Rows of each generated file; calibration and selection are cut out of `train` as for any other task."""

SUBJECTS = (
    "plot acting ending dialogue music photography script humour pacing cast soup dessert service wine menu breakfast "
    "room bathroom view bed pool food writing translation cover narrator sound screen battery keyboard camera design"
).split()
ADJECTIVES = (
    "bad awful terrible dreadful horrible dull boring poor disappointing mediocre weak annoying unpleasant clumsy "
    "forgettable lousy pathetic careless ugly hopeless inferior frustrating useless disgusting".split(),
    "good great wonderful excellent delightful superb brilliant lovely impressive charming pleasant enjoyable memorable "
    "terrific fantastic outstanding splendid remarkable refreshing beautiful perfect magnificent fabulous stunning".split(),
)
COPULAS = (
    ("was", "seemed", "was really", "looked", "was nothing but"),
    ("was not", "was never", "was hardly", "did not seem", "was anything but"),
)
"""Links of subject and adjective: plain, and negated."""
FRAMES = (
    (
        "nobody can deny that {}",
        "it is true that {}",
        "everyone agreed that {}",
        "I am sure that {}",
        "few deny that {}",
    ),
    (
        "nobody said that {}",
        "it is not true that {}",
        "I doubt that {}",
        "it is wrong to say that {}",
        "few agree that {}",
    ),
)
"""Scopes around one clause: those that keep its polarity, and those that turn it round."""
SPEAKERS = ("my brother", "the critic", "the guide", "a friend")
SPEECH = (
    ("{who} said that {}, and I agree", "{who} rightly said that {}"),
    ("{who} said that {}, but I disagree", "{who} wrongly said that {}"),
)
"""Reported clauses: upheld, and rejected."""
CONTRASTS = (
    ("{conceded}, but {main}", "although {conceded}, {main}", "{conceded}; still, {main}"),
    ("{main}, although {conceded}", "{main}, even if {conceded}"),
)
"""Two clauses of opposite polarity, the one that counts last or first."""
P_CONTRAST, P_MAIN_LAST, P_SPEECH = 0.5, 0.75, 0.25
"""Shares of contrasts among the sentences (of them, those that put last what counts) and of reported speech."""
P_NEGATED, P_FRAMED, P_TURNED = 0.25, 0.2, 0.35
"""Shares of negated clauses, of framed ones inside contrasts and speech, of frames and speech that turn round."""


def generate(rows: int, rng: Random, seen: set[str]) -> list[tuple[str, int]]:
    """Return `rows` pairs of sentence and label, labels alternating, none of whose sentences is in `seen`; adds to it."""
    pairs = []
    while len(pairs) < rows:
        label = len(pairs) % 2
        text = _sentence(rng, label)
        text = text[0].upper() + text[1:] + "."
        if text not in seen:
            seen.add(text)
            pairs.append((text, label))
    return pairs


def generate_files(seed: int) -> dict[str, list[tuple[str, int]]]:
    """Return the rows of `train`, `validation` and `test`; no sentence stands twice within or across them."""
    rng, seen = Random(seed), set()
    return {name: generate(rows, rng, seen) for name, rows in SIZES.items()}


def _sentence(rng: Random, label: int) -> str:
    kind = rng.random()
    if kind < P_CONTRAST:
        template = rng.choice(CONTRASTS[rng.random() >= P_MAIN_LAST])
        return template.format(main=_part(rng, label), conceded=_part(rng, 1 - label))
    if kind < P_CONTRAST + P_SPEECH:
        rejected = rng.random() < P_TURNED
        return rng.choice(SPEECH[rejected]).format(_part(rng, label ^ rejected), who=rng.choice(SPEAKERS))
    return _framed(rng, label)


def _part(rng: Random, polarity: int) -> str:
    return _framed(rng, polarity) if rng.random() < P_FRAMED else _clause(rng, polarity)


def _framed(rng: Random, polarity: int) -> str:
    turned = rng.random() < P_TURNED
    return rng.choice(FRAMES[turned]).format(_clause(rng, polarity ^ turned))


def _clause(rng: Random, polarity: int) -> str:
    negated = rng.random() < P_NEGATED
    adjective = rng.choice(ADJECTIVES[polarity ^ negated])
    return f"the {rng.choice(SUBJECTS)} {rng.choice(COPULAS[negated])} {adjective}"
