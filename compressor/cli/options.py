"""Arguments and options that several commands share, and what `--json` does."""

import signal
import sys
import threading
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from compressor.console import print_json, say, show

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERRUPTED = 130
TERMINATED = 143
HELP_WIDTH = 100
"""Most columns of `--help`: longer lines are hard to read."""

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML recipe.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a recipe field; may be repeated.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Run directory; runs/NAME by default.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]


def answer(as_json: bool, found: Any, parts: Callable[[], "Iterable[RenderableType]"]) -> None:  # noqa: ANN401
    """Print what was found: as JSON, or else as the tables and sentences that `parts` makes of it."""
    if as_json:
        print_json(found)
    else:
        show(*parts())


class Panels(TyperGroup):
    """A group whose `--help` lists its commands by panel, each with its whole first sentence, in a terminal of any width."""

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # noqa: ANN401, ARG002
        """Write a list for each panel; Typer's own would cut the sentences."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None)
            sentence = command.get_short_help_str(limit=sys.maxsize)
            panels.setdefault(panel if isinstance(panel, str) else "Commands", []).append((name, sentence))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


ENDINGS: dict[int, tuple[str, int]] = {
    signal.SIGINT: ("interrupted", INTERRUPTED),
    signal.SIGTERM: ("terminated", TERMINATED),
}
"""Signal -> its word and its exit code; schedulers and service managers end a process by SIGTERM."""


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command so that Ctrl-C and SIGTERM end it with one sentence and exit code 130 or 143, as shells expect it.

    What a handler raises within a callback of compiled code comes out as that code's own error (torch: "could not
    determine the shape of object type ..."): whatever a command fails by once a signal has come, the signal has ended it.
    """

    @wraps(command)
    def call(*arguments: object, **options: object) -> None:
        received: list[int] = []

        def end(number: int, _frame: object) -> None:
            received.append(number)
            raise KeyboardInterrupt  # what is open is left as Ctrl-C leaves it

        # others than the main thread may not set handlers, and what a parent has set to be ignored (nohup) stays so
        set_here = ENDINGS if threading.current_thread() is threading.main_thread() else ()
        found = {number: signal.getsignal(number) for number in set_here}
        before = {number: handler for number, handler in found.items() if handler not in {signal.SIG_IGN, None}}
        for number in before:
            signal.signal(number, end)
        try:
            command(*arguments, **options)
        except typer.Exit:  # it had come to its end
            raise
        except (KeyboardInterrupt, Exception) as error:
            if not received and not isinstance(error, KeyboardInterrupt):
                raise
            ended, code = ENDINGS[received[0] if received else signal.SIGINT]
            say(f"{ended}; run the same command again to resume.")
            raise typer.Exit(code) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return call
