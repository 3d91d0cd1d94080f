"""The one exception a user may see: their input is wrong, and the message says what, where and what to do."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

LONGEST = 1000
"""Characters of a sentence; what is wrong may be a value of any length."""

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")
"""What would move a terminal's cursor or colour what follows; a label of a model or a text may hold it."""


def plain(text: str) -> str:
    """Return the text with a space for everything that is no sign but a command to the terminal; line ends stay."""
    return CONTROL.sub(" ", text)


def shortened(message: str) -> str:
    """Return a sentence without its middle where it is too long: it begins with the place and ends with the remedy."""
    return message if len(message) <= LONGEST else f"{message[: LONGEST * 2 // 3]} [...] {message[-LONGEST // 3 :]}"


class UserError(Exception):
    """Wrong input. The message is one sentence: what is wrong, where (file, field, row), and the remedy. Exit code 2.

    Of one that is too long the middle is left out, and of what it quotes all that would command a terminal.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(plain(message)))


def first_line(error: object) -> str:
    """Return the first line of what an error says, or the name of its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def whole_result(path: str) -> Iterator[None]:
    """Turn what Python makes of a result without some part, or with one of another kind, into a UserError naming `path`."""
    try:
        yield
    except (UserError, OSError, RuntimeError, NameError, ImportError, AssertionError):  # what no value leads to
        raise
    except Exception as error:
        raise UserError(
            f"{path}: a part is missing or of the wrong kind ({first_line(error)}); run the recipe again to write a whole "
            "result."
        ) from error


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest of `choices`, or an empty string when none is close."""
    match = get_close_matches(str(name), [str(choice) for choice in choices], n=1)
    return f"; did you mean {match[0]!r}?" if match else ""
