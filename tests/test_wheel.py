"""The wheel holds all that the package needs, is the same twice, and works in an empty folder without the repository."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "compressor"
SHORT = (
    *("--set", "finetune.epochs=1", "--set", "data.calibration.size=300", "--set", "data.selection.size=300"),
    *("--set", "benchmark.min_seconds=0", "--set", "benchmark.max_seconds=2", "--set", "benchmark.min_runs=5"),
)
USE = """
import compressor, sys
from compressor.runtime import Classifier
print(compressor.__file__)
print(Classifier(sys.argv[1])("the plot was not dull")[0]["label"])
"""


def data_files():
    """Return the files of the package that are no Python."""
    return [
        path.relative_to(PACKAGE)
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"} and "__pycache__" not in path.parts
    ]


def built(folder: Path, out: Path) -> Path:
    """Return the wheel that is built of a copy of the sources in `folder`."""
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / "compressor", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    # the build tool of this environment, so that nothing is fetched
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run([*command, "--wheel-dir", str(out), str(folder)], check=True, env=environment, umask=0o022)
    return next(out.glob("*.whl"))


def test_every_file_that_is_no_python_is_declared():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    patterns = [
        (Path(*name.split(".")[1:]) / pattern).as_posix() for name, patterns in told.items() for pattern in patterns
    ]
    files = [path.as_posix() for path in data_files()]
    assert {"py.typed", "recipe/demo.yaml", "report/templates/report.html.j2"} <= set(files)
    assert [name for name in files if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


def test_the_recipe_of_the_example_is_one_file():
    from compressor.recipe.file import DEMO

    assert DEMO.samefile(ROOT / "recipes/demo.yaml")


@pytest.mark.slow
def test_the_wheel_is_the_same_twice_and_holds_everything(tmp_path):
    first, second = (built(tmp_path / name, tmp_path / f"{name}-out") for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    names = set(zipfile.ZipFile(first).namelist())
    wanted = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
    wanted |= {f"compressor/{path.as_posix()}" for path in data_files()}
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_works_without_the_repository(tmp_path):
    wheel = built(tmp_path / "sources", tmp_path / "out")
    shutil.rmtree(tmp_path / "sources")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = tmp_path / "env/bin/python"
    site = next((tmp_path / "env/lib").glob("python*/site-packages"))
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    # a line of a .pth file adds the folder and leaves what stands in its own .pth files: packages, and no editable install
    (site / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    place = tmp_path / "empty"
    place.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "COLUMNS"}}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HOME": str(place)}

    def call(*words):
        done = subprocess.run(
            [str(word) for word in words], cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    program = tmp_path / "env/bin/compressor"
    assert call(program, "--version").startswith("compressor ")
    assert json.loads(call(program, "schema"))["title"]
    answer = json.loads(call(program, "demo", "--json", *SHORT))["answer"]
    assert "Ship " in (place / "runs/demo/report.html").read_text("utf-8") or answer["path"] is None
    assert "verified: " in call(program, "verify", "runs/demo")
    assert "sha256" in call(program, "bundle", "runs/demo", "--out", "demo.tar", "--all")
    file, label = call(python, "-c", USE, "runs/demo/onnx/optimized").split()
    assert Path(file).is_relative_to(tmp_path / "env")
    assert label in {"negative", "positive"}
