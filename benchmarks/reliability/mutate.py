"""Wrong inputs made out of right ones: values that do not belong there, parts that are gone, bytes that are broken."""

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

import yaml

WORDS = (
    *(
        "",
        " ",
        "0",
        "null",
        "~",
        "true",
        "nan",
        "inf",
        "-0",
        "1e999",
        "auto",
        "cls",
        "bert",
        "gpt2",
        "../../etc/passwd",
        "/",
    ),
    *(
        "a\0b",
        "\x1b[31mred\x1b[0m",
        "\u202eevil\u2066",
        "\u2028",
        "\ufeff",
        "\U0001f9ea" * 3,
        "e\u0301\u0327",
        "\x85",
        "$(id)",
    ),
    *(
        "${model}",
        "${nothing}",
        "{{ 7 * 7 }}",
        "%s%n",
        "=1+1",
        "<script>alert(1)</script>",
        "__class__",
        "package:os",
        "~root",
    ),
)
NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    7,
    10**6,
    2**31,
    2**63,
    -(2**63),
    10**30,
    10**400,
    0.5,
    -0.0,
    1e-300,
    1e308,
    float("inf"),
    float("nan"),
)
LONG = 3_000


def value(random: Random, depth: int = 0) -> Any:  # noqa: ANN401
    """Return some value that JSON can hold, a nasty one as a rule."""
    kind = random.randrange(12)
    if kind < 3:
        return random.choice(NUMBERS)
    if kind < 6:
        return random.choice(WORDS)
    if kind == 6:
        return random.choice([None, True, False, [], {}, [[]], {"": None}])
    if kind == 7:
        return random.choice('xa 9[{"\\') * random.choice([50, LONG])
    if kind == 8:
        return "".join(chr(random.choice([random.randrange(1, 0xD7FF), random.randrange(32, 127)])) for _ in range(9))
    if kind == 9 and depth == 0:
        made: Any = 0
        for _ in range(random.choice([5, 50, 400])):
            made = [made] if random.random() < 0.5 else {"a": made}
        return made
    if kind == 10 and depth < 3:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 11 and depth < 3:
        return {random.choice(WORDS): value(random, depth + 1) for _ in range(random.randrange(4))}
    return random.randrange(-9, 100)


def changed(random: Random, whole: Any, times: int = 2) -> Any:  # noqa: ANN401
    """Return a copy of some JSON of which a part or a few, at any depth, are something else, gone, or called otherwise."""
    whole = copy.deepcopy(whole)
    for _ in range(random.randint(1, times)):
        above, key, place = None, None, whole
        while isinstance(place, dict | list) and place:
            above, key = place, random.choice(list(place) if isinstance(place, dict) else range(len(place)))
            place = above[key]
            if random.random() < 0.3:
                break
        if above is None:
            return value(random)
        way = random.randrange(10)
        if way == 0:
            del above[key]
        elif way == 1 and isinstance(above, dict):
            above[random.choice([*WORDS, f"{key}s", str(key).upper()])] = above.pop(key)
        elif way == 2 and isinstance(above, list):
            above.extend(above * random.choice([1, 50]))
        elif way == 3 and isinstance(place, int | float):
            above[key] = random.choice([str(place), -place, place * 10**6, place + 0.5, [place]])
        else:
            above[key] = value(random)
    return whole


def as_json(random: Random, whole: Any) -> bytes:  # noqa: ANN401
    """Return a value as JSON, NaN and infinity as Python writes them, now and then with a key twice."""
    text = json.dumps(whole, ensure_ascii=random.random() < 0.5)
    if random.random() < 0.05 and text.startswith("{") and isinstance(whole, dict) and whole:
        name = random.choice(list(whole))
        text = f"{{{json.dumps(str(name))}: {json.dumps(value(random))}, {text[1:]}"
    return text.encode("utf-8", "surrogatepass")


def as_yaml(random: Random, whole: Any) -> bytes:  # noqa: ANN401
    """Return a value as YAML, now and then with keys twice, anchors and tags."""
    try:
        text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=random.random() < 0.5)
    except (yaml.YAMLError, RecursionError, ValueError):
        text = json.dumps(whole)
    way = random.randrange(14)
    if way == 0:
        text += text
    elif way == 1:
        layers = "".join(
            f"z{n}: &z{n} [{', '.join([f'*z{n - 1}'] * 9)}]\n" for n in range(1, random.choice([3, 9, 30]))
        )
        text = f"z0: &z0 [x]\n{layers}{text}"
    elif way == 2:
        text = text.replace(
            ": ", random.choice([": &a ", ": *a ", ": !!python/name:os.system ", ": !!binary ", ": !!set "]), 1
        )
    elif way == 3:
        text = text.replace("\n", random.choice(["\n\t", "\r", "\n---\n", "\n...\n", " #\n", "\u2028"]), 1)
    return text.encode("utf-8", "surrogatepass")


def broken(random: Random, content: bytes) -> bytes:
    """Return bytes of which something is cut, doubled, replaced or put in."""
    content, place = bytes(content), random.randrange(len(content) + 1)
    noise = random.choice(
        [
            *(
                b"",
                b"\0",
                b"\xff\xfe",
                b"\xef\xbb\xbf",
                b"\r",
                b'"',
                b"'",
                b"[" * 500,
                b"{" * 500,
                b"\x80",
                b"\n\n",
                b"\xed\xa0\x80",
            ),
            *(b"9" * 5000, b"x" * LONG * 10, bytes(random.randrange(256) for _ in range(20)), "\u2028\ud7ff".encode()),
        ]
    )
    ways: list[Callable[[], bytes]] = [
        lambda: content[:place],
        lambda: content[place:],
        lambda: content[:place] + noise + content[place:],
        lambda: noise + content,
        lambda: content[:place] + noise + content[place + len(noise) :],
        lambda: content[:place] + bytes([random.randrange(256)]) + content[place + 1 :],
        lambda: content.decode("utf-8", "replace").encode(random.choice(["utf-16", "utf-32", "cp037"]), "replace"),
        lambda: content.replace(b"\n", random.choice([b"\r\n", b"\r", b"\x85", b""])),
        lambda: content * random.choice([2, 20]),
        lambda: random.choice([b"", b"\n", b"\0" * 1000, b"\x1f\x8b\x08\0", b"PK\x03\x04", b"PAR1PAR1", b"\x80\x04."]),
        lambda: bytes(random.randrange(256) for _ in range(random.randrange(300))),
    ]  # fmt: skip
    return random.choice(ways)()
