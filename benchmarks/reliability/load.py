"""Does a shipped folder answer alike under load, and does its memory stay? Eight threads, four processes, texts of every kind.

    python -m benchmarks.reliability.load [--minutes 10] [--seed 0] [FOLDER ...]

The folders (default: those of a tiny run that is made first: a float32 file, a fused one and the early exit) answer batches
of 1 to 256 texts of 1 to 512 words, empty ones, texts of a million letters, emoji and control characters. What every text is
answered with alone, by one thread, is the reference: scores within 1e-5 of it, labels the same unless the two best scores are as
close as that. Memory is sampled by the second, and the slope behind the first quarter is fitted with its 95 % interval.
"""

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.reliability import kills
from compressor.files import write_json
from compressor.runtime.classifier import Classifier

THREADS, PROCESSES, MOST = 8, 4, 256
TOLERANCE = 1e-5
"""How far a score may move with the batch that a text stands in: products of float32 are summed in another order."""
ODD = [
    "",
    " ",
    "\u0000\u0001\u0007\u001b[31m",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\u202eright to left\u202c \u05d0\u05d1 \u0627\u0644",
    "e\u0301 \u00e9 \ufb01 \u212b \u1e9e",
    "\ufeffword1\r\nword2\tword3\u2028word4",
    "'; DROP TABLE texts; --",
    "<script>alert(1)</script>",
    "word1" * 300,
]


def make_texts(drawn: random.Random, count: int = 300) -> list[str]:
    """Return texts of every kind: words, odd ones, and two of a million letters."""
    texts = [" ".join(f"word{drawn.randrange(91)}" for _ in range(int(512 ** drawn.random()))) for _ in range(count)]
    long = ["word7 " * 170_000, "x" * 1_000_000]
    return [*texts, *ODD, *long]


def resident_mb() -> float:
    """Return the resident memory of this process in MB of 10^6; Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024 / 1e6


def alike(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Tell whether two answers are the same but for rounding."""
    close = abs(found["score"] - wanted["score"]) <= TOLERANCE
    return close and (found["label"] == wanted["label"] or abs(wanted["score"] - 0.5) <= TOLERANCE)


def hammer(
    classify: Classifier, texts: Sequence[str], wanted: Sequence[dict[str, Any]], seed: int, until: float
) -> dict[str, Any]:
    """Answer drawn batches until the time is over; return what differed, and the seconds a batch of each size took."""
    drawn, wrong, taken = random.Random(seed), [], []
    while time.monotonic() < until:
        size = min(int(MOST ** drawn.random()) + 1, MOST)
        # texts of a megabyte are rare, as they are in traffic: one of 500
        rows = [drawn.randrange(len(texts) - (2 if drawn.random() < 0.998 else 0)) for _ in range(size)]
        started = time.perf_counter()
        found = classify([texts[row] for row in rows])
        taken.append((size, time.perf_counter() - started))
        wrong += [row for row, answer in zip(rows, found, strict=True) if not alike(answer, wanted[row])]
    return {"wrong": wrong, "taken": taken}


def by_process(folder: str, seed: int, minutes: float) -> dict[str, Any]:
    """Do the same in a process of its own, whose memory is sampled too."""
    texts = make_texts(random.Random(seed))
    classify = Classifier(folder, threads=1)
    wanted = [classify(text)[0] for text in texts]
    return watched(lambda until: [hammer(classify, texts, wanted, seed, until)], minutes)


def watched(work: Any, minutes: float) -> dict[str, Any]:  # noqa: ANN401
    """Carry out `work(until)` for so long; return what it met, and the memory by second."""
    memory, done = [], threading.Event()

    def sample() -> None:
        started = time.monotonic()
        while not done.wait(1.0):
            memory.append((time.monotonic() - started, resident_mb()))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    parts = work(time.monotonic() + 60 * minutes)
    done.set()
    sampler.join()
    return {
        "wrong": [row for part in parts for row in part["wrong"]],
        "taken": [pair for part in parts for pair in part["taken"]],
        "memory": memory,
    }


def slope(memory: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return MB an hour behind the first quarter, with its 95 % interval, and the largest value."""
    late = np.array(memory[len(memory) // 4 :])
    # medians of slopes: a text of a megabyte takes 150 MB for a while, and gives them back
    fit, _, low, high = stats.theilslopes(late[:, 1], late[:, 0] / 3600)
    return {
        "mb_per_hour": float(fit),
        "ci95": [float(low), float(high)],
        "growth_mb": float(late[-len(late) // 10 :, 1].mean() - late[: max(1, len(late) // 10), 1].mean()),
        "peak_mb": float(late[:, 1].max()),
    }


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a load: counts, percentiles of single texts and of full batches, memory."""
    sizes, seconds = (np.array(values) for values in zip(*found["taken"], strict=True))
    single = seconds[sizes <= 2]
    return {
        "batches": len(sizes),
        "texts": int(sizes.sum()),
        "wrong": len(found["wrong"]),
        "p50_ms": float(1e3 * np.percentile(seconds, 50)),
        "p99_ms": float(1e3 * np.percentile(seconds, 99)),
        "p99_ms_of_one_or_two": float(1e3 * np.percentile(single, 99)) if len(single) else None,
        "memory": slope(found["memory"]),
    }


def load(folder: Path, seed: int, minutes: float) -> dict[str, Any]:
    """Return how a folder bears eight threads, then four processes, half of the minutes each."""
    texts = make_texts(random.Random(seed))
    classify = Classifier(folder, threads=1)
    wanted = [classify(text)[0] for text in texts]

    def threads(until: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        workers = [
            threading.Thread(target=lambda own=own: found.append(hammer(classify, texts, wanted, seed + own, until)))
            for own in range(THREADS)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if len(found) < THREADS:
            raise SystemExit(f"{folder}: a thread ended with an error")
        return found

    together = figures(watched(threads, minutes / 2))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        waiting = [pool.submit(by_process, str(folder), seed + own, minutes / 2) for own in range(PROCESSES)]
        apart = [figures(future.result()) for future in waiting]
    return {"threads": together, "processes": apart}


def main() -> None:
    """Load the folders and write what was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all folders together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for what was met")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        folders = list(arguments.folders)
        if not folders:
            recipe = kills.make_task(Path(work))
            kills.whole(recipe, Path(work) / "run")
            folders = sorted(path for path in (Path(work) / "run" / "onnx").iterdir() if path.is_dir())
        found = {folder.name: load(folder, arguments.seed, arguments.minutes / len(folders)) for folder in folders}
    if arguments.out:
        write_json(arguments.out, {**found, "seconds": time.monotonic() - started})
    print(json.dumps(found, indent=1))
    wrong = sum(part["wrong"] for one in found.values() for part in (one["threads"], *one["processes"]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
