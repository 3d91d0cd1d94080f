"""Arrays that stages of one run hand to later ones."""

from pathlib import Path

import numpy as np

ARRAYS = "arrays"
"""Folder of them in the run directory."""


def save_array(folder: Path, name: str, values: np.ndarray) -> None:
    """Write an array into `folder`/arrays."""
    (folder / ARRAYS).mkdir(exist_ok=True)
    np.save(folder / ARRAYS / f"{name}.npy", values)


def load_array(path: Path, name: str) -> np.ndarray:
    """Return an array that a stage wrote."""
    return np.load(path / ARRAYS / f"{name}.npy", allow_pickle=False)
