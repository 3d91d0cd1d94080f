"""What is fuzzed: each target writes one wrong input into a folder and returns the command that is to take it."""

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.reliability.corpus import Corpus
from benchmarks.reliability.mutate import WORDS, as_json, as_yaml, broken, changed, value

TOKENIZER = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"
SETTINGS = "classifier.json", "tokenizer.json", "config.json"
Write = Callable[[Random, Corpus, Path], list[str]]


@dataclass(frozen=True)
class Target:
    """One kind of input. `weight` is its share of all, `runs` whether its command may write where it succeeds."""

    write: Write
    weight: int
    runs: bool = False


def _recipe(random: Random, corpus: Corpus, folder: Path) -> list[str]:
    made = as_yaml(random, changed(random, corpus.recipe, 3))
    if random.random() < 0.3:
        made = broken(random, made)
    (folder / "recipe.yaml").write_bytes(made)
    return ["validate", str(folder / "recipe.yaml"), *random.choice([[], [], ["--syntax-only"], ["--json"]])]


def _set(random: Random, corpus: Corpus, _folder: Path) -> list[str]:
    places = [f"{part}.{key}" for part, keys in corpus.recipe.items() if isinstance(keys, dict) for key in keys]
    words = []
    for _ in range(random.randint(1, 3)):
        place = random.choice([*places, *corpus.recipe, random.choice(WORDS), f"{random.choice(places)}.more"])
        given = value(random)
        text = given if isinstance(given, str) else json.dumps(given)
        words += ["--set", f"{place}{random.choice(['=', '=', '=', '=', '', '=='])}{text}".replace("\0", "")]
    return ["validate", str(corpus.folder / "recipe.yaml"), *words]


def _sweep(random: Random, corpus: Corpus, folder: Path) -> list[str]:
    made = as_yaml(random, changed(random, corpus.sweep, 2))
    (folder / "sweep.yaml").write_bytes(broken(random, made) if random.random() < 0.2 else made)
    command = ["sweep", "--dry-run", "--out", str(folder / "out")] if random.random() < 0.3 else ["validate"]
    return [*command[:1], str(folder / "sweep.yaml"), *command[1:]]


def _config(random: Random, corpus: Corpus, folder: Path) -> list[str]:
    _changed_json(random, corpus.model, folder / "model", ("config.json",))
    return random.choice([_validate(corpus, folder / "model"), ["explain", str(folder / "model"), "a b c"]])


def _tokenizer(random: Random, corpus: Corpus, folder: Path) -> list[str]:
    _changed_json(random, corpus.model, folder / "model", TOKENIZER)
    return ["explain", str(folder / "model"), random.choice(["a b c", "", "x" * 3000, "\u202ea \U0001f9ea"])]


def _weights(random: Random, corpus: Corpus, folder: Path) -> list[str]:
    shutil.copytree(corpus.model, folder / "model")
    file = folder / "model" / "model.safetensors"
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = as_json(random, changed(random, json.loads(content[8 : 8 + size]), 3))
    length = random.choice([len(header), len(header), len(header), random.choice([0, 1, 2**31, 2**63, 2**64 - 1])])
    made = struct.pack("<Q", length) + header + content[8 + size :]
    file.write_bytes(broken(random, content) if random.random() < 0.3 else made)
    if random.random() < 0.1:
        file.rename(file.with_name("pytorch_model.bin"))
    return random.choice([_validate(corpus, folder / "model"), ["explain", str(folder / "model"), "a b c"]])


def _data(random: Random, corpus: Corpus, folder: Path) -> list[str]:
    suffix = random.choice(["csv", "tsv", "jsonl", "parquet"])
    file = _changed_data(random, corpus, folder, suffix)
    sets = ["--set", f"data.train={file}", *random.choice([[], ["--set", "data.on_bad_row=skip"]])]
    if random.random() < 0.3:
        sets += ["--set", f"data.{random.choice(['text', 'label', 'encoding', 'labels'])}={json.dumps(value(random))}"]
    command = random.choice(["validate", "validate", "score"])
    out = ["--out", str(folder / "out")] if command == "score" else []
    return [command, str(corpus.folder / "recipe.yaml"), *sets, *out]


def _quick(random: Random, corpus: Corpus, folder: Path) -> list[str]:
    file = _changed_data(random, corpus, folder, random.choice(["csv", "tsv", "jsonl", "json", "txt", "parquet"]))
    more = random.choice(
        [[], ["--text", "text"], ["--label", random.choice(WORDS)], ["--labels", random.choice(WORDS)]]
    )
    more = [word.replace("\0", "") for word in more]
    return ["quick", str(corpus.model), str(file), "--dry-run", "--out", str(folder / "out"), *more]


def _changed_data(random: Random, corpus: Corpus, folder: Path, suffix: str) -> Path:
    content = (corpus.folder / f"train.{suffix}").read_bytes()
    if suffix == "jsonl" and random.random() < 0.6:
        rows = [json.loads(line) for line in content.splitlines()]
        content = b"\n".join(as_json(random, row) for row in changed(random, rows, 4) or [])
    elif suffix == "json" and random.random() < 0.6:
        content = as_json(random, changed(random, json.loads(content), 4))
    elif suffix in {"csv", "tsv"} and random.random() < 0.5:
        sign = b"," if suffix == "csv" else b"\t"
        rows = content.split(b"\n")
        for _ in range(random.randint(1, 4)):
            cells = random.choice(rows).split(sign)
            cells[random.randrange(len(cells))] = str(value(random)).encode("utf-8", "surrogatepass")
            rows[random.randrange(len(rows))] = sign.join(cells)
        content = b"\n".join(rows)
    else:
        content = broken(random, content)
    file = folder / f"rows.{suffix if random.random() < 0.95 else random.choice(['', 'CSV', 'csv.gz', 'xlsx', 'json'])}"
    file.write_bytes(content)
    return file


def _finished(random: Random, corpus: Corpus, folder: Path) -> list[str]:
    shutil.copytree(corpus.run, folder / "run")
    name = random.choice(["result.json", "result.json", "manifest.json"])
    content = (folder / "run" / name).read_bytes()
    made = as_json(random, changed(random, json.loads(content), 2))
    (folder / "run" / name).write_bytes(broken(random, content) if random.random() < 0.15 else made)
    command = "verify" if name == "manifest.json" else random.choice(["compare", "compare", "compare", "report"])
    return [command, str(folder / "run"), *([str(corpus.run)] if command == "compare" else [])]


def _exported(random: Random, corpus: Corpus, folder: Path) -> list[str]:
    """Return the command that asks an exported folder, by way of a small program: no command of the tool opens one alone."""
    source = corpus.run / "onnx" / "optimized"
    _changed_json(random, source, folder / "onnx", tuple(name for name in SETTINGS if (source / name).is_file()))
    return ["classify", str(folder / "onnx")]


def _arguments(random: Random, corpus: Corpus, _folder: Path) -> list[str]:
    commands = (
        "validate",
        "plan",
        "score",
        "explain",
        "report",
        "compare",
        "verify",
        "schema",
        "quick",
        "sweep",
        "bundle",
    )
    words = [
        random.choice([*WORDS, str(corpus.folder), str(corpus.model), "--json", "--set", "--out", "-1"])
        for _ in range(3)
    ]
    return [random.choice(commands), *(word.replace("\0", "") for word in words[: random.randrange(4)])]


def _changed_json(random: Random, source: Path, folder: Path, names: tuple[str, ...]) -> None:
    shutil.copytree(source, folder)
    file = folder / random.choice(names)
    content = file.read_bytes()
    if file.suffix != ".json" or random.random() < 0.2:
        file.write_bytes(broken(random, content))
    else:
        file.write_bytes(as_json(random, changed(random, json.loads(content))))


def _validate(corpus: Corpus, model: Path) -> list[str]:
    return ["validate", str(corpus.folder / "recipe.yaml"), "--set", f"model.path={model}"]


TARGETS = {
    "recipes": Target(_recipe, 18),
    "set": Target(_set, 16),
    "sweeps": Target(_sweep, 10),
    "configs": Target(_config, 14),
    "tokenizers": Target(_tokenizer, 10),
    "weights": Target(_weights, 6),
    "data": Target(_data, 14, runs=True),
    "quick": Target(_quick, 4),
    "results": Target(_finished, 4, runs=True),
    "exported": Target(_exported, 4),
    "arguments": Target(_arguments, 2, runs=True),
}
NEED_RUN = {"results", "exported"}
"""Targets that change a finished run."""
