"""Write docs/requirements.lock: every pinned package with the sha256 of its file on this platform, those of other platforms kept.

    python docs/make_lock.py

pip itself says which files it would install and what their digests are (`--dry-run --report`); nothing is installed. torch is
left out: its files differ by platform and by what they compute on, and an index may serve a build of its own under the same
version, so one digest would be wrong for most readers. It is pinned in constraints.txt, and its own dependencies on libraries
of NVIDIA are what its index gives.

    pip install -c constraints.txt torch
    pip install --require-hashes --no-deps -r docs/requirements.lock
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK, PINS = ROOT / "docs/requirements.lock", ROOT / "constraints.txt"
LEFT_OUT = re.compile(r"(torch|nvidia-.*|cuda-.*|triton)$")
HEAD = """# Digests of what constraints.txt pins, made by `make lock` (docs/make_lock.py says why torch is not here). Use:
#   pip install -c constraints.txt torch
#   pip install --require-hashes --no-deps -r docs/requirements.lock
"""
LINE = re.compile(r"^(\S+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)$")
Lock = dict[tuple[str, str], set[str]]
"""(name, version) -> digests."""


def normal(name: str) -> str:
    """Return the name of a package as indexes have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(text: str) -> Lock:
    """Return what a lock holds; raises ValueError for a line that is none."""
    found: Lock = {}
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        match = LINE.match(line)
        if match is None:
            raise ValueError(f"no line of a lock: {line!r}")
        found[match[1], match[2]] = set(re.findall(r"sha256:([0-9a-f]{64})", match[3]))
    return found


def pins(text: str) -> dict[str, str]:
    """Return name -> version of a file of constraints."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def reported(report: Mapping[str, Any]) -> Lock:
    """Return what pip's report says that it would install from files with a digest."""
    found: Lock = {}
    for entry in report["install"]:
        digests = entry["download_info"].get("archive_info", {}).get("hashes", {})
        name = normal(entry["metadata"]["name"])
        if "sha256" in digests and not LEFT_OUT.match(name):
            found[name, entry["metadata"]["version"]] = {digests["sha256"]}
    return found


def merged(old: Lock, new: Lock, versions: Mapping[str, str]) -> Lock:
    """Return both, digests of other platforms kept as long as the version is still the pinned one."""
    kept = {key: digests for key, digests in old.items() if versions.get(key[0]) == key[1]}
    return {key: kept.get(key, set()) | new.get(key, set()) for key in {*kept, *new}}


def written(lock: Lock) -> str:
    """Return the text of a lock."""
    lines = (f"{name}=={version} {_options(lock[name, version])}\n" for name, version in sorted(lock))
    return HEAD + "".join(lines)


def _options(digests: Iterable[str]) -> str:
    return " ".join(f"--hash=sha256:{digest}" for digest in sorted(digests))


def main() -> None:
    """Ask pip and write the lock."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run(  # noqa: S603
        [*command, "-c", str(PINS), f"{ROOT}[demo,dev]"], check=True, capture_output=True, text=True
    )
    versions = pins(PINS.read_text("utf-8"))
    new = reported(json.loads(done.stdout[done.stdout.index("{") :]))
    lacking = sorted(f"{name} {version}" for name, version in new if versions.get(name) != version)
    if lacking:
        sys.exit(f"constraints.txt does not pin {', '.join(lacking)}")
    old = read(LOCK.read_text("utf-8")) if LOCK.is_file() else {}
    LOCK.write_text(written(merged(old, new, versions)), encoding="utf-8")


if __name__ == "__main__":
    main()
