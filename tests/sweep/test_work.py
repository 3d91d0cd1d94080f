"""How points are run: cores divided, killed processes started again, what failed said in one sentence."""

import os
import sys
from dataclasses import replace

import pytest

from compressor.errors import UserError
from compressor.recipe.engine import EngineSpec
from compressor.run import workers
from compressor.run.workers import share_of
from compressor.sweep import work as work_module
from compressor.sweep.engines import local
from compressor.sweep.work import Job, Outcome, brought_back, work


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """Return a function: Python lines -> a job whose process runs these in place of the pipeline; `attempt` counts from 1."""

    def make(lines, name="point"):
        count = f"import os, pathlib, signal, sys; p = pathlib.Path({str(tmp_path / name)!r})\n"
        count += "attempt = len(p.read_text()) + 1 if p.exists() else 1; p.write_text('x' * attempt)\n"
        monkeypatch.setattr(work_module, "command_of", lambda _job, _recipe: [sys.executable, "-c", count + lines])
        return Job(name, "name: x\n", str(tmp_path), "cpu", str(tmp_path / "store"))

    return make


def test_a_killed_process_is_started_again(scripted, tmp_path):
    job = scripted("os.kill(os.getpid(), signal.SIGKILL) if attempt < 3 else None")
    found = work(job, threads=1, attempts=3)
    assert (found.code, found.done, found.attempts, found.error) == (0, True, 3, "")
    assert (tmp_path / "recipes" / "point.yaml").read_text(encoding="utf-8") == "name: x\n"


def test_no_more_often_than_it_may_be(scripted):
    found = work(scripted("os.kill(os.getpid(), signal.SIGKILL)"), threads=1, attempts=2)
    assert (found.code, found.done, found.attempts) == (-9, False, 2)
    assert found.error == "killed by SIGKILL; see logs/point.txt."


def test_a_wrong_recipe_is_tried_once_and_its_sentence_is_kept(scripted):
    found = work(
        scripted("print('error: data.train: no such file.', file=sys.stderr); sys.exit(2)"), threads=1, attempts=3
    )
    assert (found.code, found.attempts, found.error) == (2, 1, "data.train: no such file.")


def test_missed_goals_are_an_end(scripted):
    found = work(scripted("sys.exit(3)"), threads=1, attempts=3)
    assert (found.code, found.done, found.attempts) == (3, True, 1)


def test_threads_and_cores_are_those_it_was_given(scripted, tmp_path):
    core = sorted(os.sched_getaffinity(0))[0]
    lines = f"pathlib.Path({str(tmp_path / 'said')!r}).write_text(f\"{{os.environ['OMP_NUM_THREADS']}} {{os.sched_getaffinity(0)}}\")"
    work(scripted(lines), threads=1, cores=[core])
    assert (tmp_path / "said").read_text(encoding="utf-8") == f"1 {{{core}}}"


@pytest.mark.parametrize(
    ("cores", "more", "points", "expected"),
    [(8, {}, 12, (8, 1)), (8, {}, 3, (3, 2)), (8, {"threads": 4}, 12, (2, 4)), (8, {"workers": 2}, 12, (2, 4)),
     (2, {"workers": 1}, 12, (1, 2)), (1, {}, 5, (1, 1))],
)  # fmt: skip
def test_cores_are_divided_and_never_shared(monkeypatch, cores, more, points, expected):
    monkeypatch.setattr(workers, "usable_cores", lambda: list(range(cores)))
    share = share_of(EngineSpec(**more), points)
    assert (share.workers, share.threads) == expected
    taken = [core for worker in range(share.workers) for core in share.cores(worker)]
    assert len(set(taken)) == len(taken) <= cores


def test_more_than_the_cores_is_refused(monkeypatch):
    monkeypatch.setattr(workers, "usable_cores", lambda: [0, 1])
    with pytest.raises(UserError, match="2 workers of 2 threads take 4 cores, and there are 2"):
        share_of(EngineSpec(workers=2, threads=2), 4)


def test_all_points_end_whatever_one_of_them_does(scripted):
    job = scripted("sys.exit(2)")
    found = list(local([job, replace(job, name="other")], EngineSpec(workers=1, threads=1)))
    assert sorted(outcome.name for outcome in found) == ["other", "point"]


@pytest.fixture
def apart(scripted, tmp_path, monkeypatch):
    """Return a job of a worker that shares no folder; its process adds a line to a file of its run, as often as it runs."""
    scripted("")
    lines = (
        "import pathlib, sys; run = pathlib.Path(sys.argv[1]); (run / '.stages').mkdir(parents=True, exist_ok=True); "
        "(run / '.stages' / 'lock').touch(); told = (run / 'told').open('a'); told.write('x'); print('said', run)"
    )
    monkeypatch.setattr(work_module, "command_of", lambda job, _recipe: [sys.executable, "-c", lines, str(job.run_dir)])
    return Job("point", "name: x\n", str(tmp_path / "sweep"), "cpu", f"file://{tmp_path}/bucket", apart=True)


def test_a_run_apart_comes_back_through_the_store(apart, tmp_path):
    (tmp_path / "sweep").mkdir()
    found = work(apart, threads=1)
    assert (found.code, list((tmp_path / "sweep").iterdir())) == (0, [])
    assert brought_back(apart, found) == found
    assert (apart.run_dir / "told").read_text(encoding="utf-8") == "x"
    assert not (apart.run_dir / ".stages" / "lock").exists()
    said = apart.log.read_text(encoding="utf-8").removeprefix("said ").strip()
    assert not os.path.lexists(said)  # the folder that it ran in is gone
    brought_back(apart, work(apart, threads=1))  # another worker begins with what the first one left
    assert (apart.run_dir / "told").read_text(encoding="utf-8") == "xx"
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["logs", "points"]


def test_a_store_that_is_none_is_said_and_nothing_runs(apart, tmp_path):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "letters").touch()
    found = work(apart, threads=1)
    assert (found.code, found.done) == (2, False)
    assert "holds something else than a store" in found.error


def test_what_never_ran_brings_nothing_back(apart, tmp_path):
    (tmp_path / "sweep").mkdir()
    lost = Outcome("point", -1, 0.0, "the Ray task was lost.", 2)
    assert brought_back(apart, lost) == lost
    assert not list((tmp_path / "sweep").iterdir())


def test_what_cannot_be_brought_back_has_failed(apart, tmp_path, monkeypatch):
    (tmp_path / "sweep").mkdir()
    done = work(apart, threads=1)

    def gone(_place):
        raise UserError("the store cannot be used.")

    monkeypatch.setattr(work_module, "open_store", gone)
    found = brought_back(apart, done)
    assert (done.done, found.done, found.error) == (True, False, "the store cannot be used.")
    assert not list((tmp_path / "sweep").iterdir())
