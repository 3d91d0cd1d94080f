"""What a full disk, a folder that vanishes, a damaged file, another place, and many runs at once do to a run directory.

    python -m benchmarks.reliability.storage [--stages 5]

A tmpfs (Linux, as root) is made too small for one stage after the other: the run must end with one sentence and exit code 2,
and go on to the same result once there is room. Every file of every stage is emptied, has one bit turned, and is cut at every
4 KiB: the next run must not believe it. Rights are taken away half-way, from a root that obeys them (`setpriv`). Runs are copied,
started with umask 077 and with half a core, and by eights on one directory, one model and one store.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.reliability import kills
from compressor.files import read_json, write_json
from compressor.pipeline.dry_run import dry_run
from compressor.recipe.file import load_recipe
from compressor.run.rundir import LOCK, STAGES_FOLDER, RunDir

CGROUP = Path("/sys/fs/cgroup")
START = [sys.executable, "-m", "compressor", "run"]


def run(recipe: Path, out: Path, *more: str, **options: Any) -> tuple[int, str]:  # noqa: ANN401
    """Return the exit code of a run, and what it said."""
    command = [*START, str(recipe), "--out", str(out), "--device", "cpu", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    return done.returncode, done.stderr


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """Mount a tmpfs of `size` bytes for a while."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, option: str) -> None:
    """Change the size of a mounted tmpfs."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)


def sentence(said: str) -> str:
    """Return the error that a run ended with."""
    return next((line for line in reversed(said.splitlines()) if line.startswith("error:")), said[-300:])


def full_disks(recipe: Path, first: Path, work: Path, stages: int) -> list[dict[str, Any]]:
    """Fill the disk at stages, evenly chosen; return what each run said, and whether it went on to the same result."""
    wanted = kills.stable(read_json(first / "result.json"))
    names = [stage["name"] for stage in read_json(first / "result.json")["stages"]]
    sizes = [sum((first / file).stat().st_size for file in manifest(first, name)) for name in names]
    found = []
    chosen = sorted({round(place * (len(names) - 1) / max(1, stages - 1)) for place in range(stages)})
    for number in chosen:
        size = sum(sizes[:number]) + sizes[number] // 2 + 2**14
        with small_disk(work / "disk", size) as disk:
            code, said = run(recipe, disk / "run")
            entry = {"stage": names[number], "bytes": size, "code": code, "said": sentence(said)}
            remount(disk, "size=1g")
            again, words = run(recipe, disk / "run")
            same = not again and not _apart(disk / "run", wanted)
            found.append({**entry, "resumed": same, "left": kills.left_over(disk / "run")})
            if again:
                found[-1]["second"] = sentence(words)
        print(found[-1], flush=True)
    return found


def _apart(out: Path, wanted: dict[str, Any]) -> list[str]:
    """Return where a result differs from another, intervals of times left out."""
    places = kills.differences(kills.stable(read_json(out / "result.json")), wanted)
    return [place for place in places if not place.startswith(("/benchmark", "/prediction", "/tail"))]


def manifest(out: Path, name: str) -> list[str]:
    """Return the files of a stage."""
    return list(read_json(out / STAGES_FOLDER / f"{name}.json")["files"])


def vanished(recipe: Path, work: Path) -> dict[str, Any]:
    """Take the run directory away half-way."""
    process = kills.start(recipe, work / "gone")
    while not (work / "gone" / STAGES_FOLDER / "plan.json").is_file() and process.poll() is None:
        time.sleep(0.05)
    shutil.rmtree(work / "gone", ignore_errors=True)
    said = process.communicate()[1]
    shutil.rmtree(work / "gone", ignore_errors=True)
    return {"code": process.returncode, "said": sentence(said)}


def damaged(recipe: Path, first: Path, work: Path) -> dict[str, Any]:
    """Empty every file of every stage, turn one bit of it, cut it at every block; return what was believed all the same."""
    out, believed, tried = work / "damaged", [], 0
    shutil.copytree(first, out)
    loaded = load_recipe(recipe)
    keys = {stage.name: stage.key for stage in dry_run(loaded, out, device="cpu")}
    for name, key in keys.items():
        for file in manifest(out, name):
            place = out / file
            content = place.read_bytes()
            if not content:
                continue
            middle = len(content) // 2
            cuts = [(f"cut at {end}", content[:end]) for end in range(kills.BLOCK, len(content), kills.BLOCK)]
            for how, other in (
                ("emptied", b""),
                ("a bit turned", content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]),
                *cuts,
            ):
                tried += 1
                place.write_bytes(other)
                if RunDir(out).cached(name, key) is not None:
                    believed.append([name, file, how])
            place.write_bytes(content)
    return {"tried": tried, "believed": believed}


def elsewhere(recipe: Path, first: Path, work: Path) -> dict[str, Any]:
    """Carry on a copy of a run in another place, and run with umask 077."""
    shutil.copytree(first, work / "other" / "place")
    cached = [stage.cached for stage in dry_run(load_recipe(recipe), work / "other" / "place", device="cpu")]
    code, said = run(recipe, work / "private", preexec_fn=lambda: os.umask(0o077))
    loose = [file.name for file in (work / "private").rglob("*") if file.stat().st_mode & 0o077]
    return {
        "copied": {"kept": sum(cached), "stages": len(cached)},
        "umask": {"code": code, "said": sentence(said) if code else "", "loose": loose[:5]},
    }


def at_once(recipe: Path, first: Path, work: Path, count: int) -> dict[str, Any]:
    """Start runs by `count` on one directory, then on directories of their own with one store."""
    wanted = kills.stable(read_json(first / "result.json"))
    one = [kills.start(recipe, work / "one") for _ in range(count)]
    said = [process.communicate()[1] for process in one]
    codes = sorted(process.returncode for process in one)
    words = {sentence(text) for text, process in zip(said, one, strict=True) if process.returncode}
    store = ["--store", str(work / "store")]
    command = [sys.executable, "-m", "compressor", "run", str(recipe), "--device", "cpu", *store]
    many = [
        subprocess.Popen(
            [*command, "--out", str(work / f"run{number}")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for number in range(count)
    ]
    ended = [process.wait() for process in many]
    same = [not _apart(work / f"run{number}", wanted) for number in range(count)]
    shared = [
        sum(stage["shared"] for stage in read_json(work / f"run{number}" / "result.json")["stages"])
        for number in range(count)
    ]
    for name in ("one", "store", *(f"run{number}" for number in range(count))):
        shutil.rmtree(work / name)
    return {
        "one_directory": {"codes": codes, "said": sorted(words)},
        "one_store": {"codes": ended, "same": sum(same), "shared_stages": shared},
    }


def limited(recipe: Path, work: Path) -> dict[str, Any]:
    """Run on one core of several: the run takes what it may, and says so."""
    core = sorted(os.sched_getaffinity(0))[0]
    free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    code, _ = run(recipe, work / "core", preexec_fn=lambda: os.sched_setaffinity(0, {core}), env=free)
    told = read_json(work / "core" / "environment.json")
    return {"code": code, "threads": told["threads"], "usable": told["cpu"]["usable"]}


def half_a_core(recipe: Path, work: Path) -> dict[str, Any] | None:
    """Run with half of a core granted, in a control group of its own; None where none can be made."""
    for group, limit in ((CGROUP / "cpu", ("cpu.cfs_quota_us", "50000")), (CGROUP, ("cpu.max", "50000 100000"))):
        place = group / f"half-{os.getpid()}"
        try:
            place.mkdir()
            (place / limit[0]).write_text(limit[1])
        except OSError:
            continue
        # what a container sees of its group lies where that of the machine lies outside
        enter = 'echo $$ > "$0/cgroup.procs" && mount --bind "$0" "$1" && shift && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", enter, str(place), str(group), *START, str(recipe)]
        free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        try:
            done = subprocess.run(
                [*command, "--out", str(work / "half"), "--device", "cpu"],
                capture_output=True,
                text=True,
                check=False,
                env=free,
            )
            told = read_json(work / "half" / "environment.json")
            return {"code": done.returncode, "threads": told["threads"], "usable": told["cpu"]["usable"]}
        finally:
            place.rmdir()
    return None


def rights(recipe: Path, first: Path, work: Path) -> dict[str, Any]:
    """Take the right to write away half-way, then run on another user's directory, as a root that obeys rights."""
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner", *START[:1]]
    command = [*bound, *START[1:], str(recipe), "--device", "cpu", "--out"]
    out = work / "rights"
    process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (out / STAGES_FOLDER / "plan.json").is_file() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)  # folders come and go while it works
    folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    process.send_signal(signal.SIGCONT)
    halfway = process.communicate()[1]
    for folder in folders:
        folder.chmod(0o755)
    resumed, _ = run(recipe, out)
    same = not resumed and not _apart(out, kills.stable(read_json(first / "result.json")))
    shutil.copytree(first, work / "theirs")
    for path in (work / "theirs", *(work / "theirs").rglob("*")):
        os.chown(path, 65534, 65534)
    done = subprocess.run([*command, str(work / "theirs"), "--fresh"], capture_output=True, text=True, check=False)
    return {
        "halfway": {"code": process.returncode, "said": sentence(halfway), "resumed": same},
        "theirs": {"code": done.returncode, "said": sentence(done.stderr)},
    }


def dead_holder(recipe: Path, first: Path, work: Path) -> dict[str, Any]:
    """Kill the process that holds the lock of a directory; the next run must get it at once."""
    process = kills.start(recipe, work / "held")
    while not (work / "held" / LOCK).exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, said = run(recipe, work / "held")
    wanted = kills.stable(read_json(first / "result.json"))
    return {"code": code, "said": sentence(said) if code else "", "same": not _apart(work / "held", wanted)}


def main() -> None:
    """Try all of it and write what was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=5, help="stages at which the disk is full")
    parser.add_argument("--at-once", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--out", type=Path, help="JSON file for what was met")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        recipe = kills.make_task(work)
        kills.whole(recipe, work / "first")
        found: dict[str, Any] = {"damaged": damaged(recipe, work / "first", work)}
        found["elsewhere"] = elsewhere(recipe, work / "first", work)
        found["one_core"] = limited(recipe, work)
        found["dead_holder"] = dead_holder(recipe, work / "first", work)
        print(json.dumps(found), flush=True)
        found["at_once"] = {str(count): at_once(recipe, work / "first", work, count) for count in arguments.at_once}
        if os.geteuid() == 0:
            found["vanished"] = vanished(recipe, work)
            found["half_a_core"] = half_a_core(recipe, work)
            found["rights"] = rights(recipe, work / "first", work)
            found["full"] = full_disks(recipe, work / "first", work, arguments.stages)
    found = json.loads(json.dumps(found).replace(made, "WORK"))  # whose folder it was says nothing
    if arguments.out:
        write_json(arguments.out, {**found, "seconds": time.monotonic() - started})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
