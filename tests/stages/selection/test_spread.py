"""Sets that other processes try: the same trials, whoever tries them."""

from dataclasses import asdict

import pytest

from compressor.measurement.machine.environment import torch_threads, usable_cores
from compressor.progress import silent
from compressor.recipe.file import load_recipe
from compressor.run.checks import prepare
from compressor.run.rundir import STAGES_FOLDER
from compressor.selection import trials as trials_module
from compressor.stages.selection import trials as stage

SETS = [(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3)]


def tried(folder, out, *changes):
    """Return the trials of all sets of three layers, as figures by set, with one thread a process."""
    run = prepare(load_recipe(folder / "recipe.yaml", ["benchmark.lengths=[8]", *changes]), out, "cpu", silent)
    (out / STAGES_FOLDER).mkdir(parents=True)
    with torch_threads(1):
        found = stage.run_trials(run)[0](SETS, "sets")
    assert [trial.skip for trial in found] == SETS
    return [asdict(trial) for trial in found]


@pytest.mark.skipif(len(usable_cores()) < 2, reason="two processes take two cores")
def test_subtrees_of_two_processes_are_the_whole_search(tiny_task, tmp_path, monkeypatch):
    alone = tried(tiny_task, tmp_path / "one")
    monkeypatch.setattr(trials_module, "ELSEWHERE_FROM_S", 0.0)
    monkeypatch.setattr(stage.Trials, "_compute", None)  # nothing is tried here
    two = tried(tiny_task, tmp_path / "two", "selection.engine={workers: 2, threads: 1}")
    assert two == alone


@pytest.mark.skipif(len(usable_cores()) < 2, reason="two processes take two cores")
def test_what_takes_seconds_is_tried_here(tiny_task, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "spread", None)
    assert tried(tiny_task, tmp_path / "run", "selection.engine={workers: 2, threads: 1}")


@pytest.mark.slow
def test_ray_tasks_are_the_whole_search(tiny_task, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    alone = tried(tiny_task, tmp_path / "one")
    monkeypatch.setattr(trials_module, "ELSEWHERE_FROM_S", 0.0)
    assert tried(tiny_task, tmp_path / "two", "selection.engine={kind: ray, workers: 2}") == alone


def test_more_than_the_cores_is_refused_before_work(tiny_task, tmp_path, command):
    change = "selection.engine={workers: 64, threads: 64}"
    code, _, error = command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "out", "--set", change)
    assert (code, "64 workers of 64 threads" in error) == (2, True)
    assert not (tmp_path / "out").exists()
