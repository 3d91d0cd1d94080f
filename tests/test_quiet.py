"""Nothing reports home, and nothing is written outside of what the user names."""

import os
import subprocess
import sys

import pytest
from homes import files_left, fresh_home

SESSION = """
import sys, time
import numpy as np
for name in sys.argv[1:]:
    __import__(name)
from compressor.measurement.machine.providers import RELU
import onnxruntime
session = onnxruntime.InferenceSession(RELU, providers=["CPUExecutionProvider"])
assert session.run(None, {"x": np.ones(1, np.float32)})[0] == 1
time.sleep(1.5)  # what reports in the background has time to
"""


@pytest.mark.parametrize(
    "imports",
    [
        ["compressor.cascade.runtime"],
        ["compressor.bench.cold_start"],
        ["benchmarks.gpu.subjects"],
        ["benchmarks.peers.make"],
        [
            *("compressor", "torch", "transformers", "optimum.onnxruntime", "datasets", "huggingface_hub", "sklearn"),
            "compressor.pipeline.pipeline",
        ],
    ],
    ids=["runtime", "child", "benchmark", "peers", "everything"],
)
def test_a_fresh_home_stays_empty(tmp_path, imports):
    command = [sys.executable, "-c", SESSION, *imports]
    done = subprocess.run(command, env=fresh_home(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert files_left(tmp_path) == []


def test_a_command_leaves_no_file_in_a_fresh_home(tiny_task, tmp_path):
    command = [sys.executable, "-m", "compressor", "export", str(tiny_task / "model"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=fresh_home(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert files_left(tmp_path) == []


def test_every_way_in_passes_the_switch():
    import compressor

    assert all(os.environ.get(name) for name in compressor.QUIET)


def test_what_the_user_sets_stays():
    code = "import compressor, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
