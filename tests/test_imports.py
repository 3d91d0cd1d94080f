"""Imports go one way, and `--help` does not wait for torch."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "compressor"
ORDER = """
errors console progress files < recipe < data < model < compensation measurement < runtime < selection cascade export
< report < run < analysis placement release < stages < pipeline bench < sweep < cli
"""
"""Every room; each imports from those before it. The same two lines stand in CONTRIBUTING.md."""
RANK = {name: rank for rank, names in enumerate(ORDER.split("<")) for name in names.split()}
BESIDE = {"console", "errors", "files", "progress"}
"""Modules in the package's folder itself; they may know one another."""


def modules() -> dict[str, Path]:
    """Return dotted name below the package -> file, of all modules but the package's own two."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts and parts != ("__main__",):
            found[".".join(parts)] = path
    return found


def imports() -> dict[str, set[str]]:
    """Return module -> the modules of the package that it imports, wherever in its text that stands."""
    known = modules()
    found: dict[str, set[str]] = {name: set() for name in known}
    for own, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name.removeprefix("compressor.") in known else node.module for name in inside]
            found[own] |= {name.removeprefix("compressor.") for name in names if name.startswith("compressor.")}
    return found


def test_every_room_has_its_place_in_the_order():
    assert {name.partition(".")[0] for name in modules()} == set(RANK)
    contributing = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(line in contributing for line in ORDER.strip().splitlines())


def test_modules_import_only_from_rooms_below_or_their_own():
    wrong = []
    for own, others in imports().items():
        room = own.partition(".")[0]
        for other in others:
            below = RANK[other.partition(".")[0]] < RANK[room]
            if not (below or other.partition(".")[0] == room or {other, room} <= BESIDE):
                wrong.append(f"{own} imports {other}")
    assert wrong == []


def test_no_modules_import_each_other():
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from error


def test_rooms_stay_small():
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert len(list(folder.glob("*.py"))) <= 12, folder
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path


def test_help_needs_no_heavy_import():
    code = (
        "import sys\nfrom compressor.cli.app import main\ntry:\n    main(['run', '--help'])\nexcept SystemExit as end:\n"
        "    assert not end.code\nheavy = {'torch', 'transformers', 'sklearn', 'onnxruntime', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--device" in done.stdout
