"""Two finished runs, and the command that compares them."""

from functools import partial

import pytest
from run_cases import SECOND, make_run


@pytest.fixture
def runs(tmp_path):
    """Return two runs on the same rows."""
    return make_run(tmp_path / "a"), make_run(tmp_path / "b", SECOND, skip=(2, 4))


@pytest.fixture
def compare(command):
    """Return a function: arguments of `compressor compare` -> (exit code, stdout, stderr)."""
    return partial(command, "compare")
