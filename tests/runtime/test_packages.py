"""Three packages are enough, and threads are those that were measured."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import onnxruntime as ort
import pytest
from folders import TEXTS, copied, same_answers

from compressor.measurement.machine.libraries import CUDA
from compressor.runtime import Classifier
from compressor.runtime.engine import strict


@pytest.fixture
def threads_taken(monkeypatch):
    """Return the threads of every session of ONNX Runtime that is opened, 0 for its own choice."""
    session, taken = ort.InferenceSession, []

    def opened(*arguments, sess_options, **options):
        taken.append(sess_options.intra_op_num_threads)
        return session(*arguments, sess_options=sess_options, **options)

    monkeypatch.setattr("onnxruntime.InferenceSession", opened)
    return taken


def test_threads_are_the_recorded_ones_unless_named(variant, tmp_path, threads_taken):
    recorded = copied(variant(1), tmp_path / "a", threads=3)
    for folder, threads in ((recorded, None), (recorded, 1), (variant(1), None), (variant(1), 2)):
        Classifier(folder, threads=threads)
    assert threads_taken == [3, 1, 0, 2]


@pytest.mark.parametrize(("granted", "taken"), [(2, 2), (8, 0), (None, 0)], ids=["fewer", "all", "nobody knows"])
def test_a_containers_limit_is_obeyed(variant, monkeypatch, threads_taken, granted, taken):
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(8)))
    if granted is None:
        monkeypatch.setitem(sys.modules, "joblib", None)  # importing it raises ImportError
    else:
        monkeypatch.setattr("joblib.cpu_count", lambda: granted)
    Classifier(variant(1))
    assert threads_taken == [taken]


def test_a_gpu_multiplies_as_it_did_when_it_was_measured():
    assert strict((CUDA, "CPUExecutionProvider")) == [(CUDA, {"use_tf32": "0"}), ("CPUExecutionProvider", {})]
    assert strict([(CUDA, {"use_tf32": "1", "device_id": "1"})]) == [(CUDA, {"use_tf32": "1", "device_id": "1"})]


ALLOWED = {"compressor", "numpy", "onnxruntime", "tokenizers"}
WATCHED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in {allowed} and top not in sys.stdlib_module_names:
            raise ImportError(f"{{name}} must not be imported")
sys.meta_path.insert(0, Refuse())
import json
from compressor.runtime import Classifier
print(json.dumps(Classifier(sys.argv[1], threads=1)(json.loads(sys.argv[2]))))
"""


def test_it_imports_nothing_else(exported):
    _, folder = exported
    # numpy and the two others import for themselves what they can do without
    code = WATCHED.format(allowed=sorted(ALLOWED | {"coloredlogs", "huggingface_hub", "google", "flatbuffers"}))
    for name in ("optimized", "int8"):
        given = [sys.executable, "-c", code, str(folder / name), json.dumps(TEXTS[:20])]
        done = subprocess.run(given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        same_answers(json.loads(done.stdout), Classifier(folder / name, threads=1)(TEXTS[:20]), 1e-6)
        found = subprocess.run(
            [sys.executable, "-c", "import sys, compressor.runtime; print(*sys.modules)"],
            capture_output=True,
            text=True,
        )
        heavy = {
            "torch",
            "transformers",
            "onnx",
            "pydantic",
            "yaml",
            "scipy",
            "pandas",
            "huggingface_hub",
            "rich",
            "typer",
        }
        assert heavy & {module.split(".")[0] for module in found.stdout.split()} == set()


@pytest.mark.slow
def test_three_packages_are_enough(variant, tmp_path):
    """An environment with `pip install --no-deps` of the source tree, and links to the three packages, and no more."""
    place, home = tmp_path / "env", Path(sysconfig.get_path("purelib"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python, site = place / "bin" / "python", next(place.glob("lib/python*/site-packages"))
    for name in ("numpy", "numpy.libs", "onnxruntime", "tokenizers"):
        if (home / name).exists():
            (site / name).symlink_to(home / name)
    source = tmp_path / "source"  # setuptools writes into the tree that it builds
    source.mkdir()
    root = Path(__file__).parents[2]
    for name in ("compressor", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(root / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    for command in (
        [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", tmp_path, source],
        [*pip, "--python", python, "install", "--no-deps", "--no-index", "--find-links", tmp_path, "compressor"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    code = "import json, sys; from compressor.runtime import Classifier; print(json.dumps(Classifier('.')(json.loads(sys.argv[1]))))"
    done = subprocess.run(
        [python, "-c", code, json.dumps(TEXTS[:20])],
        cwd=variant(1),
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    same_answers(json.loads(done.stdout), Classifier(variant(1))(TEXTS[:20]), 1e-6)
    without = subprocess.run([python, "-c", "import torch"], env=clean, capture_output=True, text=True, check=False)
    assert "No module named 'torch'" in without.stderr
