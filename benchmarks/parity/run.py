"""Does a model with fewer heads and neurons answer alike wherever it is opened? PyTorch, ONNX files, stock classes.

    python -m benchmarks.parity.run [--models DIR] [--transformers5 FOLDER] [--part measure|tables]

Every model is cut by one pattern over its layers (`PATTERN`), heads kept in a drawn order, and saved. Its logits on invented
token sequences of 3 to 62 tokens, padded to the longest, are compared with those of its ONNX files, of the stock class of the
installed transformers, and of transformers 5 in a child process. Tiny random models of six families, and the classifiers in
the folder `--models` where it is given.
"""

import argparse
import copy
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertTokenizerFast,
    PreTrainedModel,
)

from benchmarks.common import markdown
from compressor import load_model
from compressor.data.answers.kinds import TOKENS
from compressor.data.batches import Encodings, pad
from compressor.errors import UserError
from compressor.export.calibration import invented
from compressor.export.onnx import STOCK, export_variants, quiet
from compressor.export.optimize import expected_nodes
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.model.cls_row import FORMS
from compressor.model.families import Family, family_of, layer_list
from compressor.model.load import find_model, load_classifier, load_tokenizer, longest_input, read_config
from compressor.model.sublayers import cut_ffn, cut_heads, heads_of, shape_of
from compressor.model.surgery import save_model

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "parity.json"
TRANSFORMERS5 = Path(".venv") / "transformers5"
CARD = "# A model of a benchmark\n"
PATTERN = (0.5, 0.5), (0.0, 0.75), (0.25, 1.0), (1.0, 0.25), (0.75, 0.0), (0.34, 0.6)
"""Shares of the heads and of the neurons that stay; the layers take them by turns."""
TINY = {
    "bert": {},
    "bert, pruned by transformers 4": {"pruned_heads": {0: [1], 3: [0, 2]}},
    "roberta": {"pad_token_id": 1, "max_position_embeddings": 98, "type_vocab_size": 1},
    "distilbert": {"dim": 64, "n_heads": 8, "hidden_dim": 128, "n_layers": 6},
    "electra": {"embedding_size": 32},
    "mpnet": {"pad_token_id": 1, "max_position_embeddings": 98},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "pooler_hidden_size": 64,
        "share_att_key": False,
    },
    "modernbert": {
        "global_attn_every_n_layers": 3,
        "local_attention": 16,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "albert": {"embedding_size": 32},
}
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
}
SIZES |= {"max_position_embeddings": 96, "initializer_range": 0.2, "num_labels": 3}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map("word{}".format, range(91))]


def tiny_model(folder: Path, name: str, *, tokens: bool = False, **more: Any) -> Path:  # noqa: ANN401
    """Write the directory of a random classifier of `TINY`, of texts or tokens, with a tokenizer of 91 words; return it.

    `more` are other fields of its configuration.
    """
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    kind = name.partition(",")[0]
    stock = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    model = stock.from_config(AutoConfig.for_model(kind, **{**SIZES, **TINY.get(name, {}), **more}))
    with torch.no_grad():  # trained models have biases and norms that do something
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    # one kind of tokenizer serves all families here: positions go by the id of padding, which the order of words gives
    words = [WORDS[1], WORDS[0], *WORDS[2:]] if kind in {"roberta", "mpnet"} else WORDS
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def cut(model: PreTrainedModel, family: Family, generator: np.random.Generator) -> None:
    """Take heads and neurons out of every layer by `PATTERN`, in place; which ones, and in which order heads stay, is drawn.

    Layers that are one lose the same, and stay one.
    """
    stack = layer_list(model, family)
    for index, layer in enumerate(stack):
        if index and family.groups_key:
            shared = {id(one): one for one in (model.config, *stack[0].parameters(), *stack[0].buffers())}
            stack[index] = copy.deepcopy(stack[0], shared)
            continue
        heads, width = heads_of(layer, family), layer.get_submodule(family.ffn_output).in_features
        share_heads, share_width = PATTERN[index % len(PATTERN)]
        kept = generator.permutation(heads)[: round(share_heads * heads)].tolist()
        cut_heads(layer, family, kept if family.movable_heads or not kept else range(heads))
        cut_ffn(layer, family, np.sort(generator.permutation(width)[: round(share_width * width)]).tolist())


def sequences(directory: Path) -> Encodings:
    """Return invented token sequences for the model in `directory`."""
    source = find_model(str(directory))
    tokenizer = load_tokenizer(source)
    rows = invented(tokenizer, source.config["vocab_size"], longest_input(source.config))
    types = (
        [row["token_type_ids"][0].tolist() for row in rows] if "token_type_ids" in tokenizer.model_input_names else None
    )
    ids = [row["input_ids"][0].tolist() for row in rows]
    words = [list(range(1, max(2, len(row) - 1))) for row in ids] if source.task.kind == TOKENS else None
    return Encodings(ids, types, tokenizer.pad_token_id, words)


def measure(source: Path, transformers5: Path | None) -> dict[str, Any]:
    """Return what the model in `source`, once cut, answers differently wherever it is opened, and how its files are fused."""
    original = find_model(str(source))
    model, family = load_classifier(original), family_of(original.config["model_type"])
    whole, encodings = shape_of(model, family), sequences(source)
    cut(model, family, np.random.default_rng(0))
    wanted, shape = predict(model, encodings), shape_of(model, family)
    found: dict[str, Any] = {"model_type": original.config["model_type"], "rows": len(wanted)}
    found |= {
        "full_heads": whole.full_heads,
        "heads": shape.heads,
        "ffn": whole.ffn_widths,
        "ffn_widths": shape.ffn_widths,
    }
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with quiet():
            save_model(model, load_tokenizer(original), home / "model", CARD)
        config = read_config(home / "model")
        answers = {"ours": predict(load_model(home / "model"), encodings)}
        stock = {"stock": None, "stock 5": transformers5}
        for name, path in stock.items():
            if name == "stock" or path is not None:
                found[f"{name} version"], answers[name] = stock_logits(home / "model", encodings, path, home)
        fused = {}
        for form in FORMS:
            wanted_files = ["fp32", "alltokens", "optimized", "int8"] if form == "reassociated" else ["optimized"]
            for name, file in export_variants(home / "model", home / form, wanted_files, form=form).items():
                key = name if name in STOCK else f"{name}, {form}"
                answers[key] = predict_onnx(session(file.path), encodings)
                if name in {"alltokens", "optimized"}:
                    expected = expected_nodes(config, tail=name not in STOCK)
                    fused[key] = {kind: [file.fused.get(kind, 0), count] for kind, count in expected.items()}
    found["answers"] = {name: apart(wanted, logits) for name, logits in answers.items()}
    return found | {"fused": fused, "largest_logit": float(np.abs(wanted).max())}


def apart(wanted: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Return the largest difference of two tables of logits [N, C], and how many rows they predict another label for."""
    changed = int((wanted.argmax(1) != logits.argmax(1)).sum())
    return {"max_abs": float(np.abs(wanted - logits).max()), "changed": changed}


def stock_logits(directory: Path, encodings: Encodings, first: Path | None, home: Path) -> tuple[str, np.ndarray]:
    """Return the version of transformers in the folder `first` (None: the installed one), and its stock class's logits."""
    np.savez(home / "inputs.npz", **pad(encodings, np.arange(len(encodings))))
    before = [str(first.resolve())] if first is not None else []
    path = os.pathsep.join([*before, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(Path(__file__).with_name("stock.py")), str(directory)]
    done = subprocess.run(
        [*command, str(home / "inputs.npz"), str(home / "logits.npy")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        raise SystemExit(f"{directory}: the stock class does not open it\n{done.stderr}")
    return done.stdout.split()[-1], np.load(home / "logits.npy")


def classifiers(folder: Path | None) -> Iterator[tuple[str, Path]]:
    """Yield name and directory of every classifier in a folder."""
    for directory in sorted(folder.iterdir()) if folder is not None else ():
        try:
            load_classifier(find_model(str(directory)))
        except UserError as error:
            print(f"left out: {error}", flush=True)
        else:
            yield directory.name, directory


def table(models: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown table: the largest difference of a logit, by model and by where it was opened."""
    columns = ["model", "heads left", "largest logit"]
    kinds = {
        "ours": "`load_model`",
        "stock": "stock class",
        "stock 5": "stock class, transformers 5",
        "fp32": "plain file",
        "alltokens": "fused",
        **{f"optimized, {form}": f"with tail, {form}" for form in FORMS},
        "int8, reassociated": "8 bits",
    }
    rows = []
    for name, found in models.items():
        heads = f"{', '.join(map(str, found['heads']))} of {found['full_heads']}"
        row = [name, heads, f"{found['largest_logit']:.1f}"]
        for kind in kinds:
            answer = found["answers"].get(kind)
            changed = f" ({answer['changed']} of {found['rows']} changed)" if answer and kind.startswith("int8") else ""
            row.append(f"{answer['max_abs']:.1g}{changed}" if answer else "not tried")
        rows.append(row)
    return markdown.table([*columns, *kinds.values()], rows)


def fused_table(models: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown table of fused nodes: found of expected, of the fused file and of that with a tail."""
    kinds = "Attention", "SkipLayerNormalization", "BiasGelu"
    files = {"alltokens": "fused", "optimized, reassociated": "with tail"}
    columns = ["model", *(f"{kind}, {word}" for word in files.values() for kind in kinds)]
    rows = [
        [name, *("{} of {}".format(*found["fused"][file][kind]) for file in files for kind in kinds)]
        for name, found in models.items()
    ]
    return markdown.table(columns, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, merge into the results, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder of directories with fine-tuned classifiers")
    parser.add_argument(
        "--transformers5", type=Path, default=TRANSFORMERS5, help="folder in which transformers 5 is installed"
    )
    parser.add_argument("--part", choices=("measure", "tables"), default="measure")
    options = parser.parse_args(arguments)
    if options.part == "measure":
        newer = options.transformers5 if options.transformers5.is_dir() else None
        if newer is None:
            print(
                f"left out: transformers 5 is not in {options.transformers5}; `make bench-parity` installs it",
                flush=True,
            )
        models: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            tiny = ((f"tiny {name}", tiny_model(Path(folder) / name, name)) for name in TINY)
            for name, directory in [*tiny, *classifiers(options.models)]:
                models[name] = measure(directory, newer)
                print(name, models[name]["answers"], flush=True)
        write_json(RESULTS, {"models": models, "environment": environment("cpu")})
    found = read_json(RESULTS)["models"]
    markdown.put("parity", table(found))
    markdown.put("parity_fused", fused_table(found))


if __name__ == "__main__":
    main()
