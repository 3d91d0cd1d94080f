"""A run that was ended from outside goes on: a full disk, and a kill behind every stage."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
from results import timeless


def test_a_full_disk_is_told_and_the_run_resumes(tiny_task, tmp_path, command, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("compressor.stages.model.model.save_model", full)
        code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", out)
    assert code == 2
    assert "the disk is full (model.safetensors)" in stderr
    assert not (out / "model").exists()
    code, stdout, _ = command("run", tiny_task / "recipe.yaml", "--out", out, "--json")
    assert code == 0
    kept = [stage["name"] for stage in json.loads(stdout)["stages"] if stage["cached"]]
    assert kept == ["scores", "tail", "timing", "plan"]


KILL = """
import dataclasses, os, signal, sys
import compressor.pipeline.pipeline as pipeline
from compressor.cli.app import main
name = sys.argv.pop(1)
def killed(compute):
    def run(self, folder):
        compute(self, folder)
        os.kill(os.getpid(), signal.SIGKILL)
    return run
pipeline.STAGES = tuple(
    dataclasses.replace(s, compute=killed(s.compute)) if s.name == name else s for s in pipeline.STAGES
)
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sets", "stages"),
    [
        (("finetune={epochs: 1, batch_size: 16}", "selection.audit=true"), 10),
        (
            (
                "selection={units: [heads, width], budget: {keep: 0.85}}",
                "compensation.refit={layers: later, blocks: both}",
            ),
            9,
        ),
    ],
)
def test_killed_in_every_stage_it_resumes_to_the_same_result(tiny_task, tmp_path, command, sets, stages):
    recipe = tiny_task / "recipe.yaml"
    # the form of the tail by name: the measured choice may differ from run to run
    tuned = [part for pair in (*sets, "export.cls_only_tail=reassociated") for part in ("--set", pair)]
    code, stdout, _ = command("run", recipe, "--out", tmp_path / "whole", "--json", *tuned)
    assert code == 0
    names = [stage["name"] for stage in json.loads(stdout)["stages"]]
    assert len(names) == stages
    whole = timeless(json.loads(stdout))
    for name in names:
        arguments = [sys.executable, "-c", KILL, name, "run", str(recipe), "--out", str(tmp_path / "killed"), *tuned]
        done = subprocess.run(
            arguments, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (tmp_path / "killed" / "result.json").exists()
    code, stdout, _ = command("run", recipe, "--out", tmp_path / "killed", "--json", *tuned)
    assert code == 0
    assert [stage["cached"] for stage in json.loads(stdout)["stages"]] == [True] * (len(names) - 1) + [False]
    assert timeless(json.loads(stdout)) == whole
