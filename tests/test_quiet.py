"""Nothing reports home, and nothing is written outside of what the user names."""

import os
import subprocess
import sys

import pytest

SESSION = """
import compressor
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
        [
            "torch",
            "transformers",
            "optimum.onnxruntime",
            "datasets",
            "huggingface_hub",
            "sklearn",
            "compressor.pipeline.pipeline",
        ],
    ],
    ids=["runtime", "child", "everything"],
)
def test_a_fresh_home_stays_empty(tmp_path, imports):
    homes = {"HOME": "home", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config", "XDG_DATA_HOME": "data"}
    for folder in homes.values():
        (tmp_path / folder).mkdir()
    told = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "HF_HOME", "MPLCONFIGDIR")
    inherited = {name: value for name, value in os.environ.items() if name not in told}
    environment = {**inherited, **{name: str(tmp_path / folder) for name, folder in homes.items()}}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "MPLCONFIGDIR": str(tmp_path)}  # fonts are no report
    done = subprocess.run(
        [sys.executable, "-c", SESSION, *imports], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = [path for folder in homes.values() for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert written == []


def test_every_way_in_passes_the_switch():
    import compressor

    assert all(os.environ.get(name) for name in compressor.QUIET)
