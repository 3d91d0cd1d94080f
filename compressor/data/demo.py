"""The demo task: sentences of a small grammar whose words do not give their label away.

Every sentence is a verdict on something, negative (0) or positive (1). Four devices decide it: negation inside a clause
("was not dull"), contrast ("X, but Y": the conceding clause does not count), scope ("nobody would claim that ..."
turns round what it embraces, "nobody can deny that ..." does not) and reported speech, upheld or rejected afterwards.
Clauses under contrast are of opposite polarity, and all other devices leave a word and the label statistically
independent, so that a linear bag-of-words model is at chance: order and nesting have to be read.
"""

from random import Random

LABELS = ("negative", "positive")
SIZES = {"train": 5000, "validation": 1000, "test": 1000}
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
    ("was", "seemed", "was really", "looked"),
    ("was not", "was never", "was hardly", "did not seem"),
)
"""Links of subject and adjective: plain, and negated."""
FRAMES = (
    ("nobody can deny that {}", "it is true that {}", "everyone agreed that {}", "I am sure that {}"),
    ("nobody said that {}", "it is not true that {}", "I doubt that {}", "it is wrong to say that {}"),
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
P_CONTRAST, P_FRAME = 0.5, 0.3
P_NEGATED, P_SCOPED = 0.35, 0.1


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
        template = rng.choice(rng.choice(CONTRASTS))
        return template.format(main=_part(rng, label), conceded=_part(rng, 1 - label))
    # One clause alone is turned round once or twice, equally often: otherwise its adjective would show the label.
    turned, negated = rng.choice(((1, 0), (0, 1), (1, 1), (1, 1)))
    wrap = _framed if kind < P_CONTRAST + P_FRAME else _reported
    return wrap(rng, label, turned, negated)


def _part(rng: Random, polarity: int) -> str:
    kind, negated = rng.random(), int(rng.random() < P_NEGATED)
    if kind >= P_SCOPED:
        return _clause(rng, polarity, negated)
    wrap = _framed if kind < P_SCOPED / 2 else _reported
    return wrap(rng, polarity, rng.randrange(2), negated)


def _framed(rng: Random, polarity: int, turned: int, negated: int) -> str:
    return rng.choice(FRAMES[turned]).format(_clause(rng, polarity ^ turned, negated))


def _reported(rng: Random, polarity: int, turned: int, negated: int) -> str:
    return rng.choice(SPEECH[turned]).format(_clause(rng, polarity ^ turned, negated), who=rng.choice(SPEAKERS))


def _clause(rng: Random, polarity: int, negated: int) -> str:
    adjective = rng.choice(ADJECTIVES[polarity ^ negated])
    return f"the {rng.choice(SUBJECTS)} {rng.choice(COPULAS[negated])} {adjective}"
