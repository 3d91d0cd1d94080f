"""The one exception a user may see: their input is wrong, and the message says what, where and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Wrong input. The message is one sentence: what is wrong, where (file, field, row), and the remedy. Exit code 2."""


def first_line(error: object) -> str:
    """Return the first line of what an error says, or the name of its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest of `choices`, or an empty string when none is close."""
    match = get_close_matches(str(name), [str(choice) for choice in choices], n=1)
    return f"; did you mean {match[0]!r}?" if match else ""
