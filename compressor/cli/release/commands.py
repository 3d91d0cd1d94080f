"""Commands that hand a finished run on. Heavy imports wait until a command needs them."""

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.options import AsJson, answer
from compressor.console import print_json, say

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A finished run.")]
Every = Annotated[bool, typer.Option("--all", help="Take every ONNX folder, not only what the run says to ship.")]
Texts = Annotated[
    bool, typer.Option("--texts", help="Leave texts of the evaluation in the report; without it none of yours travels.")
]


def verify(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run, its model/, one of its ONNX folders, or an unpacked bundle.")
    ],
    as_json: AsJson = False,
) -> None:
    """Check that a run, or a bundle of it, is what its model card says.

    Every file against the sha256 of its manifest, weights against config.json, model and ONNX files on ten texts, the card
    against result.json. A manifest is no signature: to know who made it, compare the sha256 of manifest.json that is printed
    here. Exit code 2 with the first finding; --json lists all.
    """
    from compressor.cli.release.tables import verified_lines
    from compressor.progress import track_for_terminal
    from compressor.release.verify import verify as check

    found = check(directory, track=track_for_terminal())
    if as_json:
        print_json(found.to_dict())
    found.require()
    if not as_json:
        answer(as_json, found, lambda: verified_lines(found))


def bundle(
    run_dir: RunDirectory,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.tar", help="The tar file to write.")],
    every: Every = False,
    texts: Texts = False,
    as_json: AsJson = False,
) -> None:
    """Write one tar file of a run: model, card, the ONNX files that ship, the account, licence, SBOM, manifest.

    The run is verified first. The same run gives the same bytes each time; unpacked, `compressor verify` checks it.
    """
    from compressor.cli.release.tables import bundle_parts
    from compressor.progress import track_for_terminal
    from compressor.release.bundle import bundle as write

    made = write(run_dir, out, every=every, texts=texts, track=track_for_terminal())
    _say_licence(made.licence)
    answer(as_json, made.to_dict(), lambda: bundle_parts(made))


def push(
    run_dir: RunDirectory,
    to: Annotated[
        str, typer.Option("--to", metavar="OWNER/NAME", help="Repository on the hub; made where there is none.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List files and sizes, and send nothing.")] = False,
    every: Every = False,
    texts: Texts = False,
    as_json: AsJson = False,
) -> None:
    """Upload a run to the Hugging Face hub: the model with its card, ONNX files below onnx/, in one commit.

    The run is verified first. Needs a token (`hf auth login`, or HF_TOKEN); HF_ENDPOINT names another hub.
    """
    from compressor.cli.release.tables import push_parts
    from compressor.progress import track_for_terminal
    from compressor.release.hub import push as upload

    done = upload(run_dir, to, private=private, dry_run=dry_run, every=every, texts=texts, track=track_for_terminal())
    _say_licence(done.licence)
    answer(as_json, done.to_dict(), lambda: push_parts(done))


def _say_licence(licence: str | None) -> None:
    if licence is None:
        say("warning: the source model's card names no licence; ask its owner before you hand this model on.")
