"""The notebook runs as it stands, and what is stored below its cells is of such a run."""

import os
import re
from itertools import groupby
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
STORED = nbformat.read(ROOT / "docs/quickstart.ipynb", as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(notebook) -> list[list[tuple]]:
    """Return what stands below each cell: of each output its type, its stream or its forms.

    A stream may come in one piece or in several, as the machine is quick or slow.
    """
    return [
        [kind for kind, _ in groupby(
            (output.output_type, output.get("name"), *sorted(output.get("data", {}))) for output in cell.outputs
        )]
        for cell in code(notebook)
    ]  # fmt: skip


def test_the_notebook_runs_and_shows_what_is_stored(tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    fresh = nbformat.from_dict({**STORED, "cells": [{**cell} for cell in STORED.cells]})
    for cell in code(fresh):
        cell.update(outputs=[], execution_count=None)
    (tmp_path / "place").mkdir()
    NotebookClient(
        fresh, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "place")}}
    ).execute()
    assert kinds(fresh) == kinds(STORED)
    assert [cell.outputs[0].get("text") for cell in code(fresh)[:1]] == [code(STORED)[0].outputs[0].text]
    assert (tmp_path / "place/runs/quickstart/report.html").is_file()
    said = code(fresh)[-1].outputs[0].text.splitlines()
    assert said[0] == said[1]


def test_what_is_stored_is_whole_small_and_of_no_machine():
    nbformat.validate(STORED)
    assert [cell.execution_count for cell in code(STORED)] == [*range(1, len(code(STORED)) + 1)]
    assert "error" not in {kind for cell in kinds(STORED) for kind, *_ in cell}
    assert ("stream", "stderr") not in {tuple(kind) for cell in kinds(STORED) for kind in cell}
    text = (ROOT / "docs/quickstart.ipynb").read_text("utf-8")
    assert len(text) < 50_000
    assert [place for place in ("/home/", "/root/", "/tmp/", "/Users/", "site-packages") if place in text] == []
    # any other absolute path: a slash that no word, tag or address stands before
    outputs = [output for cell in code(STORED) for output in cell.outputs]
    said = [cell.source for cell in STORED.cells] + [output.get("text", "") for output in outputs]
    said += [value for output in outputs for value in output.get("data", {}).values()]
    assert [found for part in said for found in re.findall(r"(?<![\w.<:/])/[A-Za-z][\w.-]*/", part)] == []
    assert "Ship onnx/" in text
