"""Does any input lead to something else than an answer or one sentence? Thousands of wrong inputs, each to a command.

    python -m benchmarks.reliability.fuzz --inputs 10000 --seed 0 --out FILE.json [--target recipes] [--only 17]

Commands run in a child that is forked for each input, so that one that hangs, or takes all memory, is killed and counted. An
input is made from the seed and its number alone: `--only` makes a single one again and shows what came of it. What must hold
of each is in `faults_of`. The file has counts by target and outcome, the slowest refusals, and the inputs that failed.
"""

import argparse
import contextlib
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.reliability.corpus import Corpus, make
from benchmarks.reliability.targets import NEED_RUN, TARGETS

ALLOWED = {0, 2, 3}
SLOWEST_REFUSAL = 5.0
"""Seconds of a processor within which what is wrong must be said."""
LIMIT, PATIENCE = 60, 600
"""Seconds of a processor after which a command is killed, and of any clock: other work on a machine is no fault of it."""
MEMORY = 8 * 2**30
"""Bytes of address space that a child may take beyond those of its parent."""
LONGEST_SENTENCE = 1500
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Outcome:
    """What came of one input; `code` is the exit code, or what ended the command instead."""

    number: int
    target: str
    arguments: list[str]
    code: int | str
    seconds: float
    stderr: str
    faults: list[str]


def one(number: int, seed: int, corpus: Corpus, place: Path, names: list[str], *, fork: bool) -> Outcome:
    """Make the input of that number in an empty folder `place`, run its command and return what came of it."""
    random = Random(f"{seed}:{number}")
    name = random.choices(names, [TARGETS[name].weight for name in names])[0]
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    arguments = TARGETS[name].write(random, corpus, place)
    before = listing(place)
    code, stderr, seconds = (forked if fork else called)(arguments)
    changes = listing(place) != before and (code == 2 or not TARGETS[name].runs)
    left = changes or any(path.suffix == ".tmp" for path in place.rglob("*"))
    return Outcome(number, name, arguments, code, seconds, stderr, faults_of(code, seconds, stderr, left=left))


def faults_of(code: int | str, seconds: float, stderr: str, *, left: bool) -> list[str]:
    """Return what is wrong with an outcome: code, traceback, several sentences or none, left-over files, too slow."""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    found = {
        f"ended with {code}": code not in ALLOWED,
        "a traceback": "Traceback (most recent" in stderr,
        "our fault": "our fault" in stderr,
        f"{len(errors)} sentences": code == 2 and len(errors) != 1,
        "a sentence too long": any(len(line) > LONGEST_SENTENCE for line in errors),
        "signs that command a terminal": CONTROL.search(stderr) is not None,
        "files left or changed": left,
        f"refused after {seconds:.1f} s": code == 2 and seconds > SLOWEST_REFUSAL,
    }
    return [fault for fault, holds in found.items() if holds]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and the time of every file below a folder."""
    found = {path: path.lstat() for path in sorted(folder.rglob("*"))}
    return {str(path): (status.st_size, status.st_mtime_ns) for path, status in found.items()}


def called(arguments: list[str]) -> tuple[int | str, str, float]:
    """Return the exit code of a command, what it says on stderr, and its seconds of a processor."""
    out, err, started = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = answer(arguments)
    return code, err.getvalue(), time.process_time() - started


def answer(arguments: list[str]) -> int | str:
    """Run a command, or ask an exported folder for the class of a text; return the exit code."""
    from compressor.cli.app import main
    from compressor.errors import UserError
    from compressor.runtime.classifier import Classifier

    try:
        if arguments[0] == "classify":
            Classifier(arguments[1])(["a b c", "", "x" * 500])
        else:
            main(arguments)
    except SystemExit as end:
        return end.code or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return 0


def forked(arguments: list[str]) -> tuple[int | str, str, float]:
    """Return what `called` does, of a child with limits; a child that is killed gives the name of its end."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out:
        child = os.fork()
        if not child:
            try:
                size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
                resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
                out.write(json.dumps(called(arguments)))
                out.flush()
            finally:
                os._exit(0)
        status = _waited(child)
        out.seek(0)
        text = out.read()
    if text:
        code, stderr, seconds = json.loads(text)
        return code, stderr, seconds
    return ("hangs" if status is None else f"killed ({os.waitstatus_to_exitcode(status)})"), "", float(LIMIT)


def _waited(child: int) -> int | None:
    """Return how a child ended; None where it had to be killed."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def outcomes(
    numbers: range | list[int], seed: int, corpus: Corpus, names: list[str] | None = None, *, fork: bool
) -> Iterator[Outcome]:
    """Yield what comes of the inputs; a command that writes into the current folder would leave what is looked for there."""
    names = [name for name in names or TARGETS if corpus.run is not None or name not in NEED_RUN]
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "home").mkdir()
        os.chdir(Path(place) / "home")
        try:
            for number in numbers:
                found = one(number, seed, corpus, Path(place) / "input", names, fork=fork)
                strays = [path.name for path in Path(place, "home").iterdir()]
                if strays:
                    found = Outcome(**{**asdict(found), "faults": [*found.faults, f"left {strays[:3]} where it ran"]})
                    shutil.rmtree(Path(place) / "home")
                    (Path(place) / "home").mkdir()
                    os.chdir(Path(place) / "home")
                yield found
        finally:
            os.chdir(home)


def summary(found: list[Outcome], seconds: float, seed: int) -> dict[str, Any]:
    """Return counts by target and outcome, the slowest refusals, and what failed."""
    refused = sorted((one for one in found if one.code == 2), key=lambda one: -one.seconds)
    return {
        "inputs": len(found),
        "seed": seed,
        "seconds": seconds,
        "outcomes": {
            name: dict(Counter(str(one.code) for one in found if one.target == name).most_common()) for name in TARGETS
        },
        "failed": len([one for one in found if one.faults]),
        "slowest_refusal_seconds": refused[0].seconds if refused else None,
        "slowest_refusals": [asdict(one) for one in refused[:5]],
        "failures": [asdict(one) for one in found if one.faults],
    }


def _write(path: Path | None, made: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def warm(corpus: Corpus) -> None:
    """Import what commands import, so that children need not."""
    from compressor.pipeline import dry_run, quick  # noqa: F401
    from compressor.release import verify  # noqa: F401

    for arguments in (["validate", str(corpus.folder / "recipe.yaml")], ["explain", str(corpus.model), "a b"]):
        called(arguments)


def main() -> None:
    """Run the inputs and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only these; repeatable")
    parser.add_argument("--only", type=int, action="append", help="number of an input; repeatable")
    arguments = parser.parse_args()
    numbers = arguments.only or range(arguments.inputs)
    found: list[Outcome] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        corpus = make(Path(place) / "corpus", run=True)
        warm(corpus)
        for outcome in outcomes(numbers, arguments.seed, corpus, arguments.target, fork=True):
            found.append(outcome)
            if outcome.faults or arguments.only:
                print(json.dumps(asdict(outcome))[:1500], flush=True)
            if len(found) % 500 == 0:
                print(f"{len(found)} inputs, {time.perf_counter() - started:.0f} s", flush=True)
                _write(arguments.out, summary(found, time.perf_counter() - started, arguments.seed))
    made = summary(found, time.perf_counter() - started, arguments.seed)
    _write(arguments.out, made)
    print(
        json.dumps({key: made[key] for key in ("inputs", "seconds", "outcomes", "failed", "slowest_refusal_seconds")})
    )
    sys.exit(1 if made["failed"] else 0)


if __name__ == "__main__":
    main()
