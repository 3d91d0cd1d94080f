"""The models and files that peers.py sets side by side; each is made once and kept, with what it was made from."""

import argparse
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.glue import recipe_of
from benchmarks.common.optimum import optimum_files
from benchmarks.peers import textpruner as peers_textpruner
from benchmarks.peers.textpruner import MIXES, Mix, Size
from compressor.data.batches import Encodings
from compressor.export.onnx import export_variants
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import versions
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import session
from compressor.measurement.timing.subjects import onnx_subject
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.pipeline.pipeline import run_until
from compressor.progress import silent, track_for_terminal
from compressor.run.checks import prepare
from compressor.run.run import Run
from compressor.stages.cascade.cascade import compute as make_cascade
from compressor.stages.cascade.shared import FITTED, FOLDER

DETAILS = "details.json"
"""What a model is and was made from; written last, so a folder that has it is whole."""
FUSED = "alltokens"
"""The variant in which ways to make a model smaller are compared: fused, and all of the model's own work in it."""
UNTIMED = "benchmark.lengths=[]", "benchmark.workload=false"
"""Overrides for runs that only make a model."""


class LeftOut(Exception):
    """A model cannot be made here; says why in one sentence."""


@dataclass(frozen=True)
class Bench:
    """The teacher, its texts, and where the files go. `threads` are those of ONNX Runtime while sizes are timed."""

    arguments: argparse.Namespace
    out: Path
    threads: int

    @cached_property
    def run(self) -> Run:
        """The refitted one-layer skip's run: its teacher and texts are those of all others."""
        return prepare(recipe_of("sst2_refit", self.arguments, "sst2"), self.run_folder("skip-1"), "cpu", silent)

    def run_folder(self, name: str) -> Path:
        """Return the run directory of one of our own runs."""
        return self.out / "runs" / name

    def folder(self, name: str) -> Path:
        """Return the folder of a model's files."""
        return self.out / "files" / name


@dataclass(frozen=True)
class Maker:
    """Makes the files of one model: `make(bench, folder)` returns its details; `inputs(bench)` decide the result."""

    make: Callable[[Bench, Path], dict[str, Any]]
    inputs: Callable[[Bench], Mapping[str, Any]] = lambda _bench: {}


def make_all(bench: Bench, names: Sequence[str]) -> None:
    """Make what is not there yet or was made from other inputs; say in a line what is kept, made or left out."""
    for name in names:
        folder, shared = bench.folder(name), {"model": bench.run.source.sha256, "compressor": versions()["compressor"]}
        try:
            inputs = {**shared, **MAKERS[name].inputs(bench)}
            if (folder / DETAILS).is_file() and read_json(folder / DETAILS)["inputs"] == inputs:
                print(f"{name}: kept from before", flush=True)
                continue
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            details = MAKERS[name].make(bench, folder)
        except LeftOut as reason:
            print(f"{name}: left out, {reason}", flush=True)
            continue
        write_json(folder / DETAILS, {**details, "inputs": inputs})
        print(f"{name}: made, { ({key: value for key, value in details.items() if key != 'candidates'}) }", flush=True)


def make_full(bench: Bench, folder: Path) -> dict[str, Any]:
    """Export the full model in every format of ours."""
    export_variants(bench.run.source.path, folder, ["fp32", FUSED, "optimized", "int8"], track=bench.run.track)
    return {}


def make_optimum(bench: Bench, folder: Path) -> dict[str, Any]:
    """Export, optimise (O2) and quantise the full model as Optimum's documentation shows."""
    return {"int8": optimum_files(bench.run.source.path, folder)}


def make_skip(layers: int) -> Callable[[Bench, Path], dict[str, Any]]:
    """Return the maker of our own model: `layers` skipped, refitted, with a charge-flow head; no labels, no gradients."""

    def make(bench: Bench, folder: Path) -> dict[str, Any]:
        sets = f"selection.layers={layers}", *UNTIMED
        return _exported_run(bench, f"skip-{layers}", folder, "sst2_refit", sets, [FUSED, "optimized", "int8"])

    return make


def make_ranked(layers: int, rank_by: str) -> Callable[[Bench, Path], dict[str, Any]]:
    """Return the maker of a model without the `layers` that `rank_by` puts lowest, and without compensation."""

    def make(bench: Bench, folder: Path) -> dict[str, Any]:
        sets = f"selection.layers={layers}", "selection.search=ranked", f"selection.rank_by={rank_by}"
        name = f"{rank_by}-{layers}"
        return _exported_run(bench, name, folder, "sst2", (*sets, "compensation.head=null", *UNTIMED), [FUSED])

    return make


def make_exit(bench: Bench, folder: Path) -> dict[str, Any]:
    """Fit, cut and certify the guarded early exit of the full model, with at most 1 % changed predictions."""
    recipe = recipe_of("sst2_cascade", bench.arguments, "sst2", "export.cls_only_tail=reassociated")
    made = bench.run_folder("exit")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    make_cascade(prepare(recipe, made, "cpu", track_for_terminal()), made)
    shutil.copytree(made / FOLDER, folder / "cascade")
    fitted = read_json(made / FITTED)
    return {"exits": [entry["layer"] for entry in fitted["exits"]], "certificate": fitted["certificate"]}


def make_pruned(layers: int) -> Callable[[Bench, Path], dict[str, Any]]:
    """Return the maker of TextPruner's model that takes as long as ours with `layers` skipped, in the same format.

    Every way to prune (MIXES) gets the size that equals the latency on calibration text; the model that agrees best with
    the full one on the selection split stands for TextPruner.
    """

    def make(bench: Bench, folder: Path) -> dict[str, Any]:
        release = peers_textpruner.installed()
        if release is None:
            raise LeftOut("TextPruner is not installed (pip install --no-deps -r benchmarks/requirements-peers.txt)")
        run, candidates, models = bench.run, [], {}
        known: dict[bool, tuple[Size, dict[Size, float]]] = {}  # even or uneven heads: the same size
        wanted = predict(run.teacher, run.selection).argmax(1)
        for name, mix in MIXES.items():
            if mix.heads not in known:
                known[mix.heads] = _equal_size(bench, bench.folder(f"skip-{layers}") / FUSED / "model.onnx", mix)
            size, timed = known[mix.heads]
            models[name] = _pruned(bench, size, name, mix)
            predicted = predict(load_classifier(find_model(str(models[name]))), run.selection).argmax(1)
            agreement = float((predicted == wanted).mean())
            candidates.append({"mix": name, **peers_textpruner.as_details(size, timed), "agreement": agreement})
            print(f"  {name}: {size.heads} heads, FFN {size.ffn}, agreement {agreement:.1%} (selection)", flush=True)
        best = max(candidates, key=lambda entry: entry["agreement"])
        # all of the last layer: the [CLS]-only tail is not written for layers that lost heads
        export_variants(models[best["mix"]], folder, [FUSED, "int8"], form=None)
        chosen = {key: best[key] for key in ("mix", "heads", "ffn")}
        return {**chosen, "candidates": candidates, "textpruner": release, "texts": len(_prune_texts(bench))}

    return make


def _equal_size(bench: Bench, target: Path, mix: Mix) -> tuple[Size, dict[Size, float]]:
    """Find the size whose exported file takes as long as `target`, by timing files of that shape."""
    config, work = bench.run.source.config, bench.out / "work"
    opponent = onnx_subject(session(target, threads=bench.threads))

    def ratio_of(size: Size) -> float:
        shutil.rmtree(work, ignore_errors=True)
        made = _with_tokenizer(bench, peers_textpruner.prune(bench.run.teacher, size, work, None, mix))
        file = export_variants(made, work / "onnx", [FUSED])[FUSED].path
        subject = onnx_subject(session(file, threads=bench.threads))
        ratio = peers_textpruner.latency_ratio(subject, opponent, bench.run.calibration)
        print(f"  {size.heads} heads, FFN {size.ffn}: {ratio:.3f} of the latency of {target.parent}", flush=True)
        return ratio

    sizes = peers_textpruner.sizes_of(config["num_attention_heads"], config["intermediate_size"], mix)
    found = peers_textpruner.bisect(sizes, ratio_of)
    shutil.rmtree(work, ignore_errors=True)
    return found


def _pruned(bench: Bench, size: Size, name: str, mix: Mix) -> Path:
    """Prune to `size` and return the directory; one that is there already is kept."""
    rows = len(_prune_texts(bench))
    label = f"{name.replace(', ', ' ').replace(' ', '-')}-{size.heads}-{size.ffn}-{rows}"
    target, work = bench.out / "pruned" / label, bench.out / "pruned" / ".work"
    if target.is_dir():
        return target
    shutil.rmtree(work, ignore_errors=True)
    made = peers_textpruner.prune(bench.run.teacher, size, work, _prune_texts(bench), mix)
    return _with_tokenizer(bench, made).rename(target)


def _with_tokenizer(bench: Bench, folder: Path) -> Path:
    load_tokenizer(bench.run.source).save_pretrained(folder)
    return folder


def _prune_texts(bench: Bench) -> Encodings:
    texts = bench.run.calibration
    return texts.take(np.arange(min(bench.arguments.prune_texts, len(texts))))


def _match_inputs(layers: int) -> Callable[[Bench], Mapping[str, Any]]:
    def inputs(bench: Bench) -> Mapping[str, Any]:
        target = bench.folder(f"skip-{layers}") / FUSED / "model.onnx"
        if not target.is_file():
            raise LeftOut(f"it takes the latency of skip-{layers}, which is not made")
        digest = hashlib.sha256(target.read_bytes()).hexdigest()
        return {"equal_to": digest, "threads": bench.threads, "texts": len(_prune_texts(bench))}

    return inputs


def _exported_run(
    bench: Bench, name: str, folder: Path, recipe: str, sets: Sequence[str], variants: list[str]
) -> dict[str, Any]:
    """Carry one of our recipes to its model and export it."""
    made = bench.run_folder(name)
    run_until(
        recipe_of(recipe, bench.arguments, "sst2", *sets), "model", made, device="cpu", track=track_for_terminal()
    )
    export_variants(made / "model", folder, variants)
    return {"skip": read_json(made / "plan.json")["skip"]}


MAKERS: dict[str, Maker] = {
    "full": Maker(make_full),
    "optimum": Maker(make_optimum),
    "skip-1": Maker(make_skip(1)),
    "skip-2": Maker(make_skip(2)),
    "exit": Maker(make_exit),
    "textpruner-1": Maker(make_pruned(1), _match_inputs(1)),
    "textpruner-2": Maker(make_pruned(2), _match_inputs(2)),
    "block_influence-1": Maker(make_ranked(1, "block_influence")),
    "block_influence-2": Maker(make_ranked(2, "block_influence")),
    "top_first-1": Maker(make_ranked(1, "top_first")),
    "top_first-2": Maker(make_ranked(2, "top_first")),
}
"""Every model, in the order in which they are made: TextPruner's sizes depend on our skips."""
