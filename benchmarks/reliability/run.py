"""The soak: wrong inputs, kills, storage and load, and a table of what was tried and what was found.

    python -m benchmarks.reliability.run [--short] [--part fuzz --part kills --part storage --part load]

The whole takes about an hour on two cores, which the first three parts share; `--short` a tenth of it. Exit code 1 where
anything was found.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import markdown
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment
from compressor.sweep.work import THREADS

RESULTS = Path(__file__).parents[1] / "results" / "reliability.json"
PARTS = {
    "fuzz": (["--inputs", "10000"], ["--inputs", "1000"]),
    "kills": (["--kills", "200"], ["--kills", "20"]),
    "storage": (["--stages", "5"], ["--stages", "2", "--at-once", "2"]),
    "load": (["--minutes", "10"], ["--minutes", "1"]),
}
"""Part (a module beside this one) -> its options, and those of a short soak."""


LANES = [["kills"], ["fuzz", "storage"]], [["load"]]
"""What goes on at the same time, a core each, one set of lanes after the other: nothing else may disturb what times answers."""


ONE_THREAD = {"kills", "fuzz"}
"""Parts of models so small that a second thread is lost time, and takes a core from the lane beside it."""


def carry_out(part: str, *, short: bool) -> tuple[int, dict[str, Any]]:
    """Run a part in a process of its own; return its exit code and what it met."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", f"benchmarks.reliability.{part}", *PARTS[part][short], "--out", str(out)]
        threads = dict.fromkeys(THREADS, "1") if part in ONE_THREAD else {}
        code = subprocess.run(command, check=False, env={**os.environ, **threads}).returncode
        return code, read_json(out) if out.is_file() else {}


def carry_out_all(parts: Collection[str], *, short: bool) -> bool:
    """Run the parts, lanes side by side, and keep what each met as it ends; return whether all of them went well."""
    codes, lock = [], threading.Lock()

    def lane(names: Sequence[str]) -> None:
        for name in names:
            if name in parts:
                code, found = carry_out(name, short=short)
                with lock:
                    codes.append(code)
                    kept = read_json(RESULTS) if RESULTS.is_file() else {}
                    if found:
                        write_json(RESULTS, {**kept, name: found, "environment": environment("cpu")})

    for lanes in LANES:
        with ThreadPoolExecutor(len(lanes)) as pool:
            list(pool.map(lane, lanes))
    return not any(codes)


def table(results: dict[str, Any]) -> str:
    """Return the Markdown table: what was tried, and how it ended."""
    rows: list[list[str]] = []
    if "fuzz" in results:
        part = results["fuzz"]
        slowest = part["slowest_refusal_seconds"]
        rows.append(
            ["wrong inputs", f"{part['inputs']:,}", f"{part['failed']} failed; slowest refusal {slowest:.1f} s"]
        )
    if "kills" in results:
        part = results["kills"]
        by = ", ".join(f"{count} SIG{name}" for name, count in sorted(part["kills"].items()))
        found = f"{len(part['faults'])} fault{'' if len(part['faults']) == 1 else 's'}"
        said = f"{part['runs']} runs ended with all {part['values_compared']:,} values kept; {found}"
        rows.append(
            [f"kills ({by}; behind {part['torn']} the last file was cut)", str(sum(part["kills"].values())), said]
        )
    if "storage" in results:
        rows += _storage_rows(results["storage"])
    for name, part in results.get("load", {}).items():
        if not isinstance(part, dict):
            continue
        for told, one in (
            ("eight threads", part["threads"]),
            *(("a process of four", each) for each in part["processes"][:1]),
        ):
            low, high = one["memory"]["ci95"]
            rows.append(
                [
                    f"load on {name}, {told}",
                    f"{one['texts']:,} texts",
                    f"{one['wrong']} other answers; p99 of one or two texts {one['p99_ms_of_one_or_two']:.0f} ms; memory "
                    f"{one['memory']['mb_per_hour']:+.0f} MB an hour [{low:+.0f}, {high:+.0f}]",
                ]
            )
    seconds = ", ".join(f"{name} {part['seconds']:,.0f}" for name in PARTS if (part := results.get(name)))
    rows.append(["seconds", f"{results['seconds']:,.0f}" if "seconds" in results else "", seconds])
    return markdown.table(["what", "tried", "how it ended"], rows)


def _storage_rows(part: dict[str, Any]) -> list[list[str]]:
    damaged, one_core, held = part["damaged"], part["one_core"], part["dead_holder"]
    copied, umask = part["elsewhere"]["copied"], part["elsewhere"]["umask"]
    rows = [
        [
            "files of stages emptied, with a bit turned, or cut at 4 KiB",
            f"{damaged['tried']:,}",
            f"{len(damaged['believed'])} believed",
        ],
        ["a run copied elsewhere", "1", f"{copied['kept']} of {copied['stages']} stages kept"],
        ["umask 077", "1", f"exit code {umask['code']}, {len(umask['loose'])} files that others may read"],
        ["one core of several", "1", f"{one_core['threads']} thread, {one_core['usable']} core named"],
        ["a lock whose holder was killed", "1", f"exit code {held['code']}, same result: {held['same']}"],
    ]
    for count, entry in part["at_once"].items():
        codes = entry["one_directory"]["codes"]
        rows.append(
            [f"{count} runs on one directory", count, f"{codes.count(0)} went through, {codes.count(2)} refused"]
        )
        store = entry["one_store"]
        rows.append(
            [
                f"{count} runs with one store",
                count,
                f"{store['same']} with the same result, {sum(store['shared_stages'])} stages shared",
            ]
        )
    if "full" in part:
        full = part["full"]
        clean = sum(
            entry["code"] == 2 and re.search("disk (is full|space)", entry["said"]) is not None for entry in full
        )
        resumed = sum(entry["resumed"] for entry in full)
        rows.append(
            [
                "the disk full at a stage",
                str(len(full)),
                f"{clean} said so with exit code 2, {resumed} went on to the same result",
            ]
        )
        half, rights = part["half_a_core"], part["rights"]
        if half is not None:
            rows.append(["half a core granted", "1", f"{half['threads']} thread, {half['usable']} core named"])
        halfway, theirs = rights["halfway"], rights["theirs"]
        rows.append(
            [
                "the right to write taken away half-way",
                "1",
                f"exit code {halfway['code']}: {halfway['said']}; went on to the same result: {halfway['resumed']}",
            ]
        )
        rows.append(["another user's directory", "1", f"exit code {theirs['code']}: {theirs['said']}"])
        gone = part["vanished"]
        rows.append(["the run directory taken away half-way", "1", f"exit code {gone['code']}: {gone['said']}"])
    return rows


def main() -> None:
    """Run the parts, write the table; exit with 1 where any of them found something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--part", action="append", choices=list(PARTS))
    parser.add_argument("--table", action="store_true", help="only write the table anew")
    arguments = parser.parse_args()
    started, well = time.monotonic(), True
    if not arguments.table:
        well = carry_out_all(arguments.part or list(PARTS), short=arguments.short)
        write_json(RESULTS, {**read_json(RESULTS), "seconds": time.monotonic() - started})
    markdown.put("reliability", table(read_json(RESULTS)))
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
