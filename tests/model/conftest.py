"""A checkpoint whose files may be edited."""

import pytest
from tiny import save_model


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "model", layers=2)
