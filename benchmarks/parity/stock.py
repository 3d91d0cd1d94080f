"""Answer inputs with the stock class of whatever transformers is installed.

    python stock.py DIRECTORY INPUTS.npz LOGITS.npy

Run by `run.py` as a child, with another version of the library first on its path. Prints that version.
"""

import sys

import numpy as np
import torch
import transformers


def main(directory: str, inputs: str, logits: str) -> None:
    """Write the logits [N, C] of the inputs [N, S] in a .npz file, by their names."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory, local_files_only=True).eval()
    with np.load(inputs) as arrays, torch.inference_mode():
        np.save(logits, model(**{name: torch.from_numpy(arrays[name]) for name in arrays.files}).logits.numpy())
    print(transformers.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
