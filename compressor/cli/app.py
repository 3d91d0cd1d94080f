"""The command line: a command parses, calls one function, prints. Heavy imports wait until a command needs them."""

import errno
import io
import re
import sys
from importlib.metadata import version as installed
from typing import Annotated

import typer

from compressor.cli.analyze.commands import analyze
from compressor.cli.directories.commands import explain, export, report
from compressor.cli.machine.commands import doctor, schema
from compressor.cli.options import HELP_WIDTH, Panels, interruptible
from compressor.cli.quick.commands import quick
from compressor.cli.recipes.commands import audit, demo, finetune, plan, run, score, validate
from compressor.cli.release.commands import bundle, push, verify
from compressor.cli.sweep.commands import sweep
from compressor.cli.timing.commands import bench, compare
from compressor.console import say
from compressor.errors import UserError, shortened

SURROGATES = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes that are no UTF-8."""

REFUSED = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR}
"""What a system has against a path, whoever asks for it first."""

UsageError = typer.BadParameter.__base__
"""What Typer raises for a command line that it cannot read; it shows only this one heir."""

app = typer.Typer(
    cls=Panels,
    name="compressor",
    help="Skip layers of a fine-tuned BERT, make up for them, and ship ONNX with the evidence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"compressor {installed('compressor')}")
        raise typer.Exit


@app.callback()
def main_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Skip layers of a fine-tuned BERT, make up for them, and ship ONNX with the evidence."""


COMMANDS = {
    "A run": (quick, run, sweep, validate, plan, demo),
    "Parts of a run": (finetune, score, audit, export),
    "What is finished": (bench, compare, explain, report),
    "Handing it on": (verify, bundle, push),
    "Machine and editor": (doctor, schema),
}
"""Panel of `--help` -> its commands, in the order in which they are listed."""
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(interruptible(command))
app.add_typer(analyze, rich_help_panel="What is finished")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; turn errors into one sentence on stderr and the exit code of their kind."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without the signs of a text or a table gets their codes
            stream.reconfigure(errors="backslashreplace")
    try:
        undecodable = next((word for word in arguments if not word.isascii() and SURROGATES.search(word)), None)
        if undecodable is not None:
            shown = SURROGATES.sub("?", undecodable)
            raise UserError(f"the argument {shown!r} holds bytes that are no UTF-8 text; give it in UTF-8.")
        sys.exit(app(args=arguments, prog_name="compressor", standalone_mode=False))
    except UserError as error:
        _fail(str(error), 2)
    except UsageError as error:
        _fail_usage(error)
    except Exception as error:  # the boundary of the program: anything else is our fault
        where = getattr(error, "filename", None)
        if _disk_full(error):
            place = f" ({where})" if where else ""
            _fail(f"the disk is full{place}; free space and run the same command again, it resumes.", 2)
        if where and isinstance(error, OSError) and error.errno in REFUSED:
            _fail(f"{where}: the system refuses it ({error.strerror}); name another place or give the rights.", 2)
        if "--debug" in arguments:
            raise
        _fail(f"{type(error).__name__}: {error} (our fault; `compressor --debug ...` shows where).", 1)


def _disk_full(error: BaseException | None) -> bool:
    """Tell whether `error` or what caused it is a full disk or quota; safetensors and NumPy hide the error number."""
    while error is not None:
        number, text = getattr(error, "errno", None), str(error).lower()
        numpy_cut_short = isinstance(error, OSError) and "requested and" in text
        if number in {errno.ENOSPC, errno.EDQUOT} or "no space left on device" in text or numpy_cut_short:
            return True
        error = error.__cause__ or error.__context__
    return False


def _fail_usage(error: typer.BadParameter) -> None:
    """End with what is wrong with the command line in one sentence; a command without any arguments gets its help."""
    if error.ctx is not None and error.message == error.ctx.get_help():
        typer.echo(error.message, err=True)
        sys.exit(2)
    said, where = error.format_message().rstrip("."), error.ctx.command_path if error.ctx else "compressor"
    _fail(f"{said[:1].lower()}{said[1:]}; `{where} --help` shows what it takes.", 2)


def _fail(message: str, code: int) -> None:
    say(f"error: {shortened(message)}")
    sys.exit(code)
