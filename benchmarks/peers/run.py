"""The same SST-2 model by several tools, side by side in one run: layer skips, early exit, Optimum, TextPruner, rankings.

    python -m benchmarks.peers.run --models DIR --data DIR [--out DIR] [--part make|measure|tables] [--draft]

`--models` holds the fine-tuned classifier (DIR/sst2), `--data` the GLUE parquet files. `make` builds every model and file
below `--out` and keeps what is there; it learns and chooses on calibration, training and selection text alone. `measure`
answers the evaluation split with every file and times all of them in interleaved rounds; results/peers.json keeps the
predictions, so that all intervals can be computed anew from it. `tables` rewrites the section of tables/peers.md.
"""

import argparse
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.common.digits import digits
from benchmarks.common.glue import add_sources
from benchmarks.peers import tables as peers_tables
from benchmarks.peers.make import DETAILS, FUSED, MAKERS, Bench, make_all
from benchmarks.peers.tables import BASE, PAIRS, PLAIN, ROWS
from compressor.cascade.runtime import CascadeClassifier
from compressor.data.batches import Encodings, pad
from compressor.export.optimize import onnx_bytes
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment
from compressor.measurement.runtime import predict_onnx, session
from compressor.measurement.timing.latency import (
    WORKLOAD,
    Benchmark,
    Cell,
    Subject,
    benchmark,
    grid_batches,
    workload_batches,
)
from compressor.measurement.timing.ratios import Ratio, claimed, ratio
from compressor.measurement.timing.subjects import onnx_subject
from compressor.progress import track_for_terminal
from compressor.stages.cascade.evaluation import answers

RESULTS = Path(__file__).parents[1] / "results" / "peers.json"
PARTS = "make", "measure", "tables"
BATCHES, GRID = (1, 8), (1, 128)
"""Batch sizes of the real texts; batch and length of the synthetic cell."""
ROUNDS, LONGEST = 320, 900
"""Rounds of every cell (five times each of up to 64 batches), and the seconds after which a cell ends."""
DRAFT_ROWS, DRAFT_ROUNDS = 64, 6
GPU_ONLY = {"optimum-onnx O4": "fp16 for GPUs; this run is on the CPU"}
PROVIDER = "CPUExecutionProvider"


def find_rows(bench: Bench) -> tuple[dict[str, Path], dict[str, dict], dict[str, str]]:
    """Return row -> file or cascade folder, row -> details of its model, and what is left out with the reason.

    Ends the program where TextPruner's sizes were found for another file of ours or with other threads.
    """
    places: dict[str, Path] = {}
    details: dict[str, dict] = {}
    left_out = dict(GPU_ONLY)
    for key in ROWS:
        model, _, variant = key.partition("/")
        folder = bench.folder(model)
        place = folder / variant if variant == "cascade" else folder / variant / "model.onnx"
        if not (folder / DETAILS).is_file() or not place.exists():
            left_out[key] = "not made"
            print(f"{key}: left out, {folder} does not hold it; --part make says why", flush=True)
            continue
        places[key], details[key] = place, read_json(folder / DETAILS)
    _check_sizes(bench, details)
    return places, details, left_out


def measure(bench: Bench, draft: bool) -> dict[str, Any]:
    """Answer the evaluation split with every file and time them all; return the content of results/peers.json."""
    places, details, left_out = find_rows(bench)
    if not {PLAIN, BASE} <= set(places):
        raise SystemExit(
            f"{bench.out}: the full model's files are missing, which all others are held against; run --part make"
        )
    run = bench.run
    rows = len(run.evaluation) if not draft else min(DRAFT_ROWS, len(run.evaluation))
    evaluation, labels = run.evaluation.take(np.arange(rows)), run.data.evaluation.labels[:rows]
    subjects: dict[str, Subject] = {}
    found: dict[str, dict[str, Any]] = {}
    for key, place in places.items():
        if place.is_dir():
            cascade = CascadeClassifier(place, threads=bench.threads)
            logits, _ = answers(cascade, evaluation, run.classes)
            subjects[key], size = cascade.run, sum(onnx_bytes(place / part) for part in cascade.settings["parts"])
        else:
            opened = session(place, threads=bench.threads)
            logits, subjects[key] = predict_onnx(opened, evaluation), onnx_subject(opened)
            size = onnx_bytes(place)
        known = {name: value for name, value in details[key].items() if name != "inputs"}
        found[key] = {"predictions": digits(logits), "bytes": size, "details": known}
        print(f"{key}: {(logits.argmax(1) == labels).mean():.1%}", flush=True)
    measured = time_all(subjects, evaluation, run.source.config["vocab_size"], DRAFT_ROUNDS if draft else ROUNDS)
    write_json(bench.out / "latency_raw.json", [entry for part in measured for entry in part.raw])
    for key, entry in found.items():
        entry["latency"] = latency_of(measured, key)
    return {
        "rows": found,
        "pairs": pair_ratios(measured),
        "noise_floor": [
            floor_of(part, entry, base) for part in measured for entry in part.raw for base in (PLAIN, BASE)
        ],
        "labels": "".join(map(str, labels)),
        "left_out": left_out,
        "threads": bench.threads,
        "versions": {"textpruner": next((e["textpruner"] for e in details.values() if "textpruner" in e), None)},
        "environment": environment("cpu"),
    }


def time_all(subjects: Mapping[str, Subject], evaluation: Encodings, vocabulary: int, rounds: int) -> list[Benchmark]:
    """Time all subjects on real texts, and all but the early exit on random tokens, of which its exits know nothing."""
    inputs = list(pad(evaluation, np.arange(1)))
    batch, length = GRID
    parts = [
        (subjects, [Cell(size, WORKLOAD, workload_batches(evaluation, size)) for size in BATCHES]),
        (
            {key: subject for key, subject in subjects.items() if not key.startswith("exit/")},
            [Cell(batch, length, grid_batches(batch, length, vocabulary, inputs))],
        ),
    ]
    return [
        benchmark(
            chosen,
            # both full models are opponents, so that both are timed twice for a noise floor
            {key: PLAIN if key == BASE else BASE for key in chosen if key != PLAIN},
            dict.fromkeys(chosen, PROVIDER),
            cells,
            min_seconds=0,
            min_runs=rounds,
            max_seconds=LONGEST,
            track=track_for_terminal(),
        )
        for chosen, cells in parts
    ]


def latency_of(measured: list[Benchmark], key: str) -> list[dict[str, Any]]:
    """Return the cells of one row: percentiles in milliseconds, and its speed-up over both full models."""
    cells = []
    for part in measured:
        for entry, row in zip(part.raw, part.latency.get(key, []), strict=False):
            kept = {name: row[name] for name in ("batch", "length", "p50_ms", "p90_ms", "p99_ms", "runs", "complete")}
            gains = {name: _gain(part, entry, key, base) for name, base in (("plain", PLAIN), ("fused", BASE))}
            cells.append({**kept, **gains})
    return cells


def pair_ratios(measured: list[Benchmark]) -> list[dict[str, Any]]:
    """Return for each of PAIRS and each cell the peer's latency over ours, with its 95 % interval."""
    pairs = []
    for part in measured:
        for entry in part.raw:
            values = entry["values_ms"]
            for ours, peer in ((ours, peer) for ours, peers in PAIRS.items() for peer in peers):
                if ours in values and peer in values:
                    found = ratio(values[peer], values[ours], 0, _average(entry))
                    place = {"batch": entry["batch"], "length": entry["length"]}
                    pairs.append({"ours": ours, "peer": peer, **place, **_plain_ratio(found)})
    return pairs


def floor_of(part: Benchmark, entry: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Return the noise floor of the cell of raw values `entry` for opponent `base`."""
    place = {"batch": entry["batch"], "length": entry["length"]}
    floor = next(
        floor
        for floor in part.noise_floor
        if {key: floor[key] for key in place} == place and floor.get("model", base) == base
    )
    return {**place, "model": base, "ratio": floor["ratio"], "ci95": floor["ci95"]}


def _gain(part: Benchmark, entry: Mapping[str, Any], key: str, base: str) -> dict[str, Any] | None:
    if key == base:
        return None
    values, floor = entry["values_ms"], floor_of(part, entry, base)
    found = ratio(values[base], values[key], 0, _average(entry))
    return {**_plain_ratio(found), "claimed": claimed(found, Ratio(floor["ratio"], *floor["ci95"]))}


def _average(entry: Mapping[str, Any]) -> Callable[..., Any]:
    return np.mean if entry["length"] == WORKLOAD else np.median


def _plain_ratio(found: Ratio) -> dict[str, Any]:
    return {"ratio": found.value, "ci95": [found.lo, found.hi]}


def _check_sizes(bench: Bench, details: Mapping[str, dict]) -> None:
    for key, entry in details.items():
        inputs = entry["inputs"]
        if "equal_to" not in inputs:
            continue
        target = bench.folder(f"skip-{key.partition('/')[0].rpartition('-')[2]}") / FUSED / "model.onnx"
        same = target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == inputs["equal_to"]
        if not same or inputs["threads"] != bench.threads:
            raise SystemExit(
                f"{key}: its size was found for an earlier {target}, or with other threads than {bench.threads}; "
                "run --part make again"
            )


def main() -> None:
    """Carry out the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="folder of the models and files")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; repeatable")
    parser.add_argument("--only", choices=MAKERS, action="append", help="make only this model; repeatable")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime")
    parser.add_argument("--prune-texts", type=int, default=1000, help="calibration texts for TextPruner's scores")
    parser.add_argument("--draft", action="store_true", help="few rows and rounds; written to OUT/peers.json alone")
    arguments = parser.parse_args()
    bench, parts = Bench(arguments, arguments.out, arguments.threads), arguments.part or PARTS
    results = arguments.out / RESULTS.name if arguments.draft else RESULTS
    if "make" in parts:
        make_all(bench, arguments.only or list(MAKERS))
    if "measure" in parts:
        results.parent.mkdir(parents=True, exist_ok=True)
        write_json(results, measure(bench, arguments.draft))
    if "tables" in parts:
        text = peers_tables.tables(read_json(results))
        print(text)
        if not arguments.draft:
            markdown.put("peers", text)


if __name__ == "__main__":
    main()
