"""Does a killed run lose anything? A small run of every stage, ended by signals at drawn moments, resumed until it is whole.

    python -m benchmarks.reliability.kills [--kills 200] [--seed 0] [--signal KILL --signal TERM --signal INT]

The run compresses a tiny random classifier: heads and neurons in a budget, refit, distillation, head, early exit, files, timing,
analyses. It is carried out three times without interruption first: values of result.json that differ between those are times,
and whatever else a resumed run says must be the same to the last digit. After every kill but those of `--torn` the same command
goes on; after those the file written last is cut at a drawn multiple of 4 KiB before, as a power failure may leave it.

Most attempts are forks of this process, which has loaded the libraries already: half of an attempt's seconds would be imports, in
which nothing can be lost. One in ten is a new process, as is the undisturbed run that the others are held against.
"""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from benchmarks.parity.run import tiny_model
from compressor.cli.app import main as main_of_command
from compressor.files import read_json, write_json

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
CODES = {"KILL": -signal.SIGKILL, "TERM": 143, "INT": 130}
"""What a process that was ended by a signal returns: words and a code of its own where it was asked, not killed."""
BLOCK = 4096
LATEST = 0.4
"""Share of a forked run's seconds within which each attempt is ended; what was whole stays, so later stages are met too."""
NEW = 0.1
"""Share of the attempts that are new processes."""
FORK = multiprocessing.get_context("fork")
TIMED = "seconds", "_ms", "per_s", "speedup", "ratio", "latency", "times", "runs", "rss", "bytes", "started", "finished"
"""Parts of the names under which times stand; two undisturbed runs may differ there and nowhere else."""
RECIPE = {
    "name": "killed",
    "data": {
        "text": "text",
        "label": "label",
        "calibration": {"split": "train", "size": 120, "seen_in_training": False},
        "selection": {"size": 80},
        "max_length": 24,
    },
    "separability": {"labels": "teacher"},
    "selection": {"units": ["heads", "width"], "widths": [0.5], "budget": {"keep": 0.7}},
    "compensation": {
        "refit": {"layers": "later", "blocks": "both"},
        "distill": {"epochs": 2, "checkpoint_minutes": 0.01},
        "head": {"nodes": 4, "epochs": 5},
    },
    "cascade": {"model": "compressed", "max_flips": 0.2, "confidence": 0.9},
    "export": {"variants": ["fp32", "optimized"]},
    "benchmark": {
        "batch_sizes": [1],
        "lengths": [8],
        "workload": False,
        "min_seconds": 0,
        "min_runs": 5,
        "max_seconds": 2,
        "footprint": False,
    },
    "analysis": ["errors", "ffn", "roles"],
}


def make_task(folder: Path) -> Path:
    """Write a tiny classifier, its data and a recipe of every stage; return the recipe."""
    tiny_model(folder / "model", "bert", num_labels=2, num_hidden_layers=3)
    drawn = random.Random(0)
    for name, count in (("train", 420), ("validation", 120)):
        rows = ["text,label"]
        for _ in range(count):
            words = [drawn.randrange(91) for _ in range(drawn.randrange(3, 14))]
            rows.append(f"{' '.join(f'word{word}' for word in words)},{int(words[0] < 45)}")
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    data = {**RECIPE["data"], **{part: str(folder / f"{part}.csv") for part in ("train", "validation")}}
    recipe = {**RECIPE, "model": {"path": str(folder / "model")}, "data": data}
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return folder / "recipe.yaml"


def start(recipe: Path, out: Path, said: IO[bytes] | int = subprocess.PIPE) -> subprocess.Popen:
    """Start the run as a new process in a group of its own; what it says on stderr goes to a file or a pipe."""
    command = [sys.executable, "-m", "compressor", *arguments_of(recipe, out)]
    text = said == subprocess.PIPE
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, text=text, start_new_session=True)


def arguments_of(recipe: Path, out: Path) -> list[str]:
    """Return what follows the name of the program."""
    return ["run", str(recipe), "--out", str(out), "--device", "cpu"]


class Attempt:
    """A run at work: a new process, or a fork of this one; what it says goes to a file."""

    def __init__(self, recipe: Path, out: Path, *, new: bool = False, modules: Path | None = None) -> None:
        self._said, self.new = out.with_name(f"{out.name}.txt"), new
        if new:
            with self._said.open("wb") as said:
                self._process: Any = start(recipe, out, said)
        else:
            self._process = FORK.Process(target=_run, args=(arguments_of(recipe, out), self._said, modules))
            self._process.start()

    def ended(self, seconds: float | None = None) -> int | None:
        """Wait at most so long; return the exit code, None where it is still at work."""
        if not self.new:
            self._process.join(seconds)
            return self._process.exitcode
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self, number: int) -> int:
        """Send a signal to the process and all that it started; return the exit code."""
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile, or has no group of its own yet
            os.killpg(self._process.pid, number)
        if self.ended(2) is None:
            os.kill(self._process.pid, number)
        code = self.ended()
        assert code is not None
        return code

    @property
    def said(self) -> str:
        """What it said on stderr."""
        return self._said.read_text(encoding="utf-8", errors="replace")


def _run(arguments: list[str], said: Path, modules: Path | None) -> None:
    """Be the command, in a fork; name the modules that it has loaded at its end."""
    os.setsid()
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        main_of_command(arguments)
    finally:
        if modules is not None:
            write_json(modules, sorted(sys.modules))


def whole(recipe: Path, out: Path, *, new: bool = True, modules: Path | None = None) -> float:
    """Carry a run through; return its seconds. Raises SystemExit where it fails."""
    started, attempt = time.monotonic(), Attempt(recipe, out, new=new, modules=modules)
    if code := attempt.ended():
        raise SystemExit(f"{out}: exit code {code}\n{attempt.said}")
    return time.monotonic() - started


def load(modules: Path) -> None:
    """Import what a run has imported, so that forks need not."""
    for name in read_json(modules):
        with contextlib.suppress(Exception):  # names that are no modules, or that want to be imported by another
            importlib.import_module(name)


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Yield every value of a result with its place."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from leaves(part, f"{place}/{name}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from leaves(part, f"{place}/{number}")
    else:
        yield place, value


def stable(result: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a result that do not speak of time, of this call, or of the run's folder.

    Of this call is also how many sets a search knew from one before it that was ended.
    """
    apart = {"stages", "environment", "answer"}
    kept = {name: value for name, value in result.items() if name not in apart}
    return {place: value for place, value in leaves(kept) if not any(word in place for word in (*TIMED, "sets_known"))}


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return the places where two results differ."""
    return sorted(place for place in {*found, *wanted} if found.get(place) != wanted.get(place))


def left_over(out: Path) -> list[str]:
    """Return temporary files and folders that lie in a finished run directory."""
    return sorted(
        file.relative_to(out).as_posix()
        for file in out.rglob("*")
        if file.name.endswith((".tmp", ".part", ".lock")) or file.name.startswith(".readers")
    )


def tear(out: Path, drawn: random.Random) -> str | None:
    """Cut the file that was written last at a multiple of 4 KiB below its size; return its name."""
    files = [file for file in out.rglob("*") if file.is_file() and file.stat().st_size]
    if not files:
        return None
    last = max(files, key=lambda file: file.stat().st_mtime_ns)
    blocks = (last.stat().st_size - 1) // BLOCK
    os.truncate(last, BLOCK * drawn.randint(0, blocks))
    return last.relative_to(out).as_posix()


def campaign(work: Path, kills: int, seed: int, signals: list[str], torn: float) -> dict[str, Any]:
    """Kill runs at drawn moments, `kills` times in all; return what was met."""
    with FORK.Pool(1) as apart:  # a process that has computed with several threads must not be forked
        recipe = apart.apply(make_task, [work])
    drawn = random.Random(seed)
    whole(recipe, work / "first")
    whole(recipe, work / "second", new=False, modules=work / "modules.json")
    load(work / "modules.json")
    seconds = whole(recipe, work / "third", new=False)
    wanted = stable(read_json(work / "first" / "result.json"))
    others = [stable(read_json(work / name / "result.json")) for name in ("second", "third")]
    unstable = sorted({place for other in others for place in differences(other, wanted)})
    wanted = {place: value for place, value in wanted.items() if place not in unstable}
    done: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    runs, cut, new, unmet = 0, 0, 0, 0
    while sum(done.values()) < kills:
        runs += 1
        out, history, ended = work / "run", [], False
        while not ended:
            attempt = Attempt(recipe, out, new=drawn.random() < NEW)
            name = drawn.choice(signals)
            wait = drawn.uniform(0.1, seconds * LATEST) + attempt.new * drawn.uniform(0, EARLY_S)
            code = attempt.ended(None if sum(done.values()) >= kills else wait)
            if code is not None:
                ended = True
                if code:
                    faults.append({"run": runs, "history": history, "code": code, "said": attempt.said[-500:]})
                continue
            code = attempt.end(SIGNALS[name])
            history.append([name, round(wait, 2)])
            done[name] += 1
            new += attempt.new
            unmet += code == 0  # it had ended, or it did not heed the signal
            if code not in {CODES[name], 0} or "Traceback" in attempt.said:
                # before a command has begun, and once its result is written, Python itself answers
                early = wait < (EARLY_S if attempt.new else EARLY_FORK_S) and code in {-SIGNALS[name], 1, 130}
                late = code == -SIGNALS[name] and (out / "result.json").is_file()
                if not (early or late):
                    said = attempt.said[-500:]
                    faults.append({"run": runs, "history": list(history), "code": code, "said": said})
            if name == "KILL" and drawn.random() < torn and out.is_dir() and (file := tear(out, drawn)):
                history[-1].append(f"cut {file}")
                cut += 1
        found = stable(read_json(out / "result.json"))
        apart = [place for place in differences(found, wanted) if place not in unstable]
        if apart or left_over(out):
            print(f"run {runs}, {history}: {apart[:10]} differ, {left_over(out)} left", flush=True)
            faults.append({"run": runs, "history": history, "differs": apart[:10], "left": left_over(out)})
        shutil.rmtree(out)
        print(f"{sum(done.values())} kills, {runs} runs, {len(faults)} faults", flush=True)
    return {
        "kills": dict(done), "of_new_processes": new, "unmet": unmet, "torn": cut, "runs": runs, "seconds_of_a_run": seconds,
        "values_compared": len(wanted), "unstable": unstable, "faults": faults,
    }  # fmt: skip


EARLY_S, EARLY_FORK_S = 8.0, 0.5
"""Seconds in which a new process, or a fork, may not have begun: what it answers to a signal then is Python's."""


def main() -> None:
    """Run a campaign and write what was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", action="append", choices=list(SIGNALS))
    parser.add_argument("--torn", type=float, default=0.25, help="share of SIGKILLs behind which a file is cut")
    parser.add_argument("--out", type=Path, help="JSON file for what was met")
    arguments, started = parser.parse_args(), time.monotonic()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would ignore it
    with tempfile.TemporaryDirectory() as work:
        found = campaign(Path(work), arguments.kills, arguments.seed, arguments.signal or list(SIGNALS), arguments.torn)
    found["seconds"] = time.monotonic() - started
    if arguments.out:
        write_json(arguments.out, found)
    print(json.dumps(found, indent=1))
    sys.exit(bool(found["faults"]))


if __name__ == "__main__":
    main()
