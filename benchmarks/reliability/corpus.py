"""What is right to begin with: a tiny random model, data in every format, a recipe, a sweep, and a finished run of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ROWS = 120


@dataclass(frozen=True)
class Corpus:
    """Right inputs in a folder; `run` is the directory of a finished run, None where none was made."""

    folder: Path
    recipe: dict[str, Any]
    sweep: dict[str, Any]
    run: Path | None

    @property
    def model(self) -> Path:
        """The directory of the model."""
        return self.folder / "model"


def make(folder: Path, *, run: bool) -> Corpus:
    """Write the corpus into an empty folder; a finished `run` takes some seconds more."""
    _model(folder / "model")
    _data(folder)
    benchmark = {
        "batch_sizes": [1],
        "lengths": [8],
        "min_seconds": 0,
        "min_runs": 5,
        "max_seconds": 1,
        "footprint": False,
    }
    recipe = {
        "name": "right",
        "seed": 1,
        "model": {"path": str(folder / "model")},
        "data": {
            **{"train": str(folder / "train.csv"), "validation": str(folder / "validation.csv"), "text": "text"},
            **{
                "label": "label",
                "calibration": {"split": "train", "size": 20},
                "selection": {"size": 20},
                "max_length": 32,
            },
        },
        "separability": {"score": "trace_ratio", "labels": "gold"},
        "selection": {"search": "exhaustive", "layers": 1, "protect": []},
        "compensation": {"refit": None, "head": {"nodes": 4, "epochs": 2}},
        "export": {"variants": ["optimized"]},
        "benchmark": benchmark,
        "analysis": [],
        "goals": {"max_drop": 0.5},
    }
    sweep = {
        "name": "swept",
        "base": recipe,
        "models": {"own": {"model.path": str(folder / "model")}},
        "grid": {"selection.layers": [1, 2], "data.max_length": [16, 32]},
        "seeds": [0, 1],
        "engine": {"workers": 1, "threads": 1},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    finished = None
    if run:
        from compressor.pipeline.pipeline import run_recipe

        finished = run_recipe(recipe, folder / "run", device="cpu").path
    return Corpus(folder, recipe, sweep, finished)


def _model(folder: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, BertConfig, BertTokenizerFast

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, num_labels=2,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]), encoding="utf-8"
    )
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


def _data(folder: Path) -> None:
    import pandas as pd

    random, texts = Random(0), set()
    while len(texts) < ROWS:
        texts.add(" ".join(random.choice(LETTERS) for _ in range(random.randint(3, 9))))
    frame = pd.DataFrame({"text": sorted(texts), "label": [int(text < "n") for text in sorted(texts)]})
    frame = frame.sample(frac=1, random_state=0)
    for name, part in (("train", frame[:80]), ("validation", frame[80:])):
        part.to_csv(folder / f"{name}.csv", index=False)
    frame[:80].to_csv(folder / "train.tsv", sep="\t", index=False)
    frame[:80].to_json(folder / "train.jsonl", orient="records", lines=True)
    frame[:80].to_json(folder / "train.json", orient="records")
    frame[:80].to_parquet(folder / "train.parquet", index=False)
    (folder / "train.txt").write_text("\n".join(frame["text"]) + "\n", encoding="utf-8")
