"""A home of its own for a process that a test starts, to see what it leaves there."""

import os
import sys
from pathlib import Path

PLACES = {"HOME": "home", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config", "XDG_DATA_HOME": "data"}
SWITCHES = "ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "HF_HOME"


def fresh_home(folder: Path) -> dict[str, str]:
    """Return the environment of a process whose home and caches are empty folders, and in which nothing is switched off."""
    for name in PLACES.values():
        (folder / name).mkdir()
    inherited = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    return inherited | {
        **{name: str(folder / place) for name, place in PLACES.items()},
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MPLCONFIGDIR": str(folder),  # the list of fonts is no report
    }


def files_left(folder: Path) -> list[Path]:
    """Return the files below the places of `fresh_home`."""
    return [path for name in PLACES.values() for path in (folder / name).rglob("*") if path.is_file()]
