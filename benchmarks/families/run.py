"""Families without a checkpoint at hand: small encoders of each, trained from nothing on the demo task, then compressed.

    python -m benchmarks.families.run [--family deberta-v2] [--rows 12000] [--epochs 8]

Six layers 128 wide over the words of the demo's grammar (`compressor/data/demo.py`), where words alone decide about 60 %: what a
trained model loses says more than random weights do. One layer less (exhaustive search, closed-form refit where the family
has one, readout), two, and heads and neurons within 5/6 of the encoder's FLOPs. Nothing is chosen on the evaluation
rows. results/families.json keeps figures, intervals and parity; families are merged in.
"""

import argparse
import re
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from transformers import AutoConfig, AutoModel, BertTokenizerFast

from benchmarks.common import markdown
from compressor import run_recipe
from compressor.data.demo import LABELS, generate
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment, torch_threads
from compressor.measurement.statistics import share_interval
from compressor.model.families import FAMILIES
from compressor.model.units import unit_words
from compressor.progress import track_for_terminal

RESULTS = Path(__file__).parents[1] / "results" / "families.json"
SIZES = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512, "num_hidden_layers": 6}
SIZES |= {"max_position_embeddings": 64, "pad_token_id": 0}
KINDS: dict[str, dict[str, Any]] = {
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "type_vocab_size": 0,
        "pooler_hidden_size": 128,
    },
    "modernbert": {"global_attn_every_n_layers": 3, "local_attention": 16, "cls_token_id": 2, "sep_token_id": 3},
    "albert": {"embedding_size": 64, "hidden_dropout_prob": 0.1},
}
"""Family -> what its configuration has beside the sizes."""
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROWS = {"validation": 2000, "test": 1000}
COLUMNS = ["family", "run", "gone", "full", "compressed", "change, points [95 %]", "changed answers [95 %]",
           "ONNX float32, largest difference", "changed in 8 bits [95 %]"]  # fmt: skip


def texts(folder: Path, rows: int, seed: int = 0) -> dict[str, str]:
    """Write the parts of the demo task with `rows` training sentences; return the files by part."""
    rng, seen, files = Random(seed), set(), {}
    for part, count in {"train": rows, **ROWS}.items():
        pairs = generate(count, rng, seen)
        files[part] = str(folder / f"{part}.parquet")
        frame = pd.DataFrame({"text": [text for text, _ in pairs], "label": [LABELS[label] for _, label in pairs]})
        frame.to_parquet(files[part], index=False)
    return files


def untrained(folder: Path, family: str, train: str, seed: int = 0) -> Path:
    """Write an encoder of random weights with a tokenizer of the words in the file `train`; return its directory."""
    folder.mkdir(parents=True, exist_ok=True)
    words = sorted(
        {word for text in pd.read_parquet(train)["text"] for word in re.findall(r"\w+|[^\w\s]", text.lower())}
    )
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *words]), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**SIZES, **KINDS[family], "vocab_size": len(tokenizer)})
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def runs_of(family: str) -> dict[str, dict[str, Any]]:
    """Return the runs of a family: name -> what its recipe has beside model and data."""
    shared = FAMILIES[family].groups_key  # a refit of one layer would be one of all
    gaps, later = ({}, {}) if shared else ({"refit": "closed_form"}, {"refit": {"layers": "later", "blocks": "both"}})
    runs = {
        f"{count} of 6 layers less": {
            "selection": {"search": "exhaustive", "layers": count},
            "compensation": {"head": {"trainer": "readout"}, **gaps},
        }
        for count in (1, 2)
    }
    mix = {"units": ["heads", "width"], "budget": {"keep": 5 / 6}}
    return runs | {"heads and neurons, 5/6": {"selection": mix, "compensation": {"head": None, **later}}}


def measure(family: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a family; the model is trained in the first run and taken from there by the others."""
    home = arguments.out / family
    (home / "data").mkdir(parents=True, exist_ok=True)
    files = texts(home / "data", arguments.rows)
    source = untrained(home / "untrained", family, files["train"])
    data = {**files, "text": "text", "label": "label", "max_length": 48, "selection": {"size": 1000}}
    data["calibration"] = {"split": "test", "size": 1000}
    training = {"epochs": arguments.epochs, "lr": arguments.lr, "batch_size": 64}
    found: dict[str, Any] = {
        "environment": environment("cpu"),
        "rows": arguments.rows,
        "training": training,
        "runs": {},
    }
    for number, (name, more) in enumerate(runs_of(family).items()):
        path = home / f"run{number}"
        values = {
            "name": f"{family}-{number}",
            "model": {"path": str(source if number == 0 else home / "run0" / "teacher")},
            "data": data,
            "benchmark": {"batch_sizes": [1], "lengths": [], "min_seconds": 2, "footprint": False},
            **({"finetune": training} if number == 0 else {}),
            **more,
        }
        result = read_json(
            run_recipe(values, path, device="cpu", track=track_for_terminal(), say=print).path / "result.json"
        )
        kept = ("accuracy", "accuracy_ci95", "parameters", "bytes", "encoder_flops", "versus_full")
        found["runs"][name] = {
            "plan": result["plan"]["units"],
            "parity": result["parity"],
            "variants": {key: {field: entry.get(field) for field in kept} for key, entry in result["variants"].items()},
            "latency": {key: entry.get("latency") for key, entry in result["variants"].items()},
        }
        print(family, name, found["runs"][name]["variants"]["compressed"], flush=True)
    return found


def rows_of(family: str, entry: dict[str, Any]) -> list[list[str]]:
    """Return a row for each run of a family."""
    rows = []
    for name, run in entry["runs"].items():
        full, own, eight = (run["variants"][key] for key in ("full", "compressed", "onnx_int8"))
        versus, rounded = own["versus_full"], eight["versus_full"]
        rows.append([
            family, name, unit_words(run["plan"]), *(f"{100 * side['accuracy']:.1f} %" for side in (full, own)),
            markdown.points(versus["accuracy_delta"], *versus["ci95"]),
            markdown.share(versus["flip_rate"], *share_interval(versus["flips"], versus["rows"])),
            f"{run['parity']['fp32']['max_abs']:.1g}",
            markdown.share(rounded["flip_rate"], *share_interval(rounded["flips"], rounded["rows"])),
        ])  # fmt: skip
    return rows


def main() -> None:
    """Measure the families asked for, write the results after each, rewrite the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", action="append", choices=KINDS, help="only this family; repeatable")
    parser.add_argument("--rows", type=int, default=12_000, help="training sentences")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table-only", action="store_true", help="rewrite the table from the results")
    arguments = parser.parse_args()
    kept = read_json(RESULTS) if RESULTS.is_file() else {}
    with torch_threads(arguments.threads):
        for family in [] if arguments.table_only else arguments.family or KINDS:
            kept[family] = measure(family, arguments)
            write_json(RESULTS, kept)
    markdown.put(
        "families", markdown.table(COLUMNS, [row for name, entry in kept.items() for row in rows_of(name, entry)])
    )


if __name__ == "__main__":
    main()
