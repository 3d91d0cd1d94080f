"""What was verified, bundled or uploaded, for the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from compressor.cli.tables import Grid, numbers, words

if TYPE_CHECKING:
    from compressor.release.bundle import Bundle
    from compressor.release.hub import Pushed
    from compressor.release.verify import Verified


def verified_lines(found: "Verified") -> list[Grid | str]:
    """Return what was looked at where nothing was found: files, ONNX folders with their distance from PyTorch, the card."""
    rows = [(name, "not asked" if apart is None else f"{apart:.2g}") for name, apart in found.onnx.items()]
    columns = [*words("ONNX folder"), *numbers("largest logit difference")]
    grid = [Grid(f"asked {found.texts} texts, beside PyTorch", columns, rows)] if rows else []
    card = "; weights, model card and result.json agree" if found.card else ""
    return [
        *grid,
        f"verified: {found.files:,} files are those of the manifest{card}.",
        f"manifest.json: sha256 {found.manifest_sha256}",
        *(f"note: {note}" for note in found.notes),
    ]


def bundle_parts(made: "Bundle") -> list[Grid | str]:
    """Return the files of a bundle, and its sha256."""
    said = f"{made.path}: {len(made.files):,} files, {made.bytes / 1e6:,.1f} MB"
    return [_files(made.files, "in the bundle"), said, f"sha256 {made.sha256}"]


def push_parts(done: "Pushed") -> list[Grid | str]:
    """Return the files of an upload, and where it went."""
    size = f"{len(done.files):,} files, {sum(done.files.values()) / 1e6:,.1f} MB"
    if done.url is None:
        said = f"nothing was sent: {size} would go to {done.repository}{' (private)' if done.private else ''}."
    else:
        said = f"{size} uploaded: {done.url}"
    return [_files(done.files, "for the hub"), said]


def _files(files: Mapping[str, int], title: str) -> Grid:
    rows = [(name, f"{size:,}") for name, size in files.items()]
    return Grid(title, [*words("file"), *numbers("bytes")], rows)
