"""What a process of its own has to say, for what a process may only do once: its peak of memory begins with it."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def told_by(module: str, *options: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the JSON in the last line that `python -m module options` prints; raises CalledProcessError where it fails."""
    command = [sys.executable, "-m", module, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])
