"""Changes to the files of a run."""

from compressor.release.verify import verify


def edit(path, change):
    text = path.read_text(encoding="utf-8")
    assert change(text) != text
    path.write_text(change(text), encoding="utf-8")


def found(root):
    return {(entry.file, entry.problem) for entry in verify(root).findings}
