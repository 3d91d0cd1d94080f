"""Twelve layers: every set of two really pretrained models, and whether one layer of twelve can go.

    python -m benchmarks.frontier.twelve --models DIR --data DIR [--model sst2-12layers] [--part walk|one|tables] [--minutes 20]

`walk` tries all 4,095 sets on selection rows: the best of each size, what greedy and beam searches find, and the time
against sets tried one by one. It goes on where it was stopped (`--minutes`); remove runs/frontier/MODEL to measure anew. `one`
leaves one layer out, chosen on the selection split, and measures it on the evaluation split. Figures go into
results/glue_frontier.json.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.digits import digits
from benchmarks.common.glue import TWELVE, add_sources, recipe_of
from benchmarks.compensation.run import Measured
from benchmarks.frontier import twelve_tables
from benchmarks.frontier.run import RESULTS
from compressor.compensation.refits.refit import refit_gaps
from compressor.files import read_json, write_json, write_text
from compressor.measurement.machine.environment import environment
from compressor.measurement.predictions import predict
from compressor.model.capture import fit_calls
from compressor.model.states.states import final_states
from compressor.model.surgery import drop_layers, kept_layers
from compressor.pipeline.pipeline import run_until
from compressor.progress import silent
from compressor.recipe.training import HeadSpec, RefitSpec
from compressor.run.checks import prepare
from compressor.run.run import Run
from compressor.run.rundir import STAGES_FOLDER
from compressor.selection.baselines import ranked_set
from compressor.selection.search import candidate_sets
from compressor.selection.trials import judge
from compressor.selection.trie import SkipSet, set_chunks
from compressor.stages.selection.trials import run_evidence, run_trials

ROWS = {"sst2-12layers": 500, "qnli-12layers": 100}
"""Selection rows that every set is tried on; those of QNLI have 3.6 times as many tokens."""
NAIVE_SETS = 24
PIECE_SETS = 256
"""Sets that are walked before the clock is looked at; a boundary costs up to eleven layer applications."""
WIDTHS = 1, 4, 8
GUIDED = range(2, 8)
"""Layers skipped by a search that the default score leads, each number a search of its own."""


def walk(run: Run, until: float) -> tuple[dict, bool]:
    """Try every set of the run's layers, and some one by one; return their times, and whether all were tried by `until`.

    Half of those that are tried one by one come before and half after, so that drift hits both alike. Times are those of
    the processor, so that what else runs on the machine counts less; sets whose time was lost with a process that was
    killed are not timed.
    """
    (run.path / STAGES_FOLDER).mkdir(parents=True, exist_ok=True)
    trials, _ = run_trials(run)
    layers, path, half = len(trials.layers), run.path / "pace.json", NAIVE_SETS // 2
    sets = candidate_sets(layers, range(layers), [])
    sample = [sets[pick] for pick in np.random.default_rng(0).choice(len(sets), NAIVE_SETS, replace=False)]
    if path.is_file():
        done = read_json(path)
    else:
        done = {"predicted_seconds": trials.seconds(sets), "pieces": []}
        done["naive_seconds"] = naive_trials(run, sample[:half])
        write_json(path, done)
    for piece in set_chunks(sets, PIECE_SETS, layers):
        if new := trials.unknown(piece):
            if time.perf_counter() > until:
                break
            started = time.process_time()
            trials(new, "every set")
            seconds = time.process_time() - started
            done["pieces"].append({"sets": len(new), "applications": trials.applications(new), "seconds": seconds})
            write_json(path, done)
    whole = not trials.unknown(sets)
    if whole and len(done["naive_seconds"]) < NAIVE_SETS:
        done["naive_seconds"] += naive_trials(run, sample[half:])
        write_json(path, done)
    figures = {
        "rows": trials.rows,
        "walk": {
            "sets": len(sets),
            "layer_applications": trials.applications(sets),
            "predicted_seconds": done["predicted_seconds"],
            "pieces": done["pieces"],
        },
        "naive": {
            "sample": sample,
            "seconds": done["naive_seconds"],
            "layer_applications": sum(layers - len(skip) for skip in sets),
        },
    }
    return figures, whole


def naive_trials(run: Run, sets: list[SkipSet]) -> list[float]:
    """Return the processor's seconds of judging each set on its own: a forward pass of the pruned model and the readout."""
    teacher, seconds = predict(run.teacher, run.selection), []
    for skip in sets:
        pruned = drop_layers(run.teacher, run.family, skip)
        started = time.process_time()
        states, logits = final_states(pruned, run.family, run.selection)
        judge(skip, torch.from_numpy(states), logits, teacher, run.data.selection.labels)
        seconds.append(time.process_time() - started)
    return seconds


def measure_walk(model: str, arguments: argparse.Namespace) -> dict:
    """Return the model's searches: what each finds, how much it tries, and the time of all sets; if cut short the time alone."""
    every = "selection.layers=auto", "goals={max_flips: 0.05}", f"data.selection.size={ROWS[model]}"
    run = prepare(recipe_of(model, arguments, model, *every), Path("runs") / "frontier" / model, "cpu", silent)
    walked, whole = walk(run, arguments.until)
    if not whole:
        print(f"{model}: not all sets are tried yet; the same command goes on.", flush=True)
        return walked
    searches = {"exhaustive": every}
    for width in WIDTHS:
        beam = "selection.search=beam", f"selection.beam_width={width}", "selection.layers=11", "goals=null"
        searches[f"beam of {width}"] = (*every, *beam)
    found = {}
    for name, sets in searches.items():  # all find their trials in the cache
        run_until(recipe_of(model, arguments, model, *sets), "plan", run.path, device="cpu")
        plan, best = read_json(run.path / "plan.json"), {}
        for trial in plan["trace"]:
            if trial["skip"]:
                best.setdefault(str(len(trial["skip"])), {key: trial[key] for key in ("skip", "agreement", "kl")})
        found[name] = {"best": best} | {key: plan[key] for key in ("sets_evaluated", "layer_applications")}
    found["guided"] = measure_guided(model, arguments, run.path, every)
    trials, evidence = run_trials(run)[0], run_evidence(run)
    gain = [ranked_set("separability", evidence, size) for size in range(1, len(trials.layers))]
    found["separability"] = {
        "best": {
            str(len(trial.skip)): {"skip": trial.skip, "agreement": trial.agreement, "kl": trial.kl}
            for trial in trials(gain, "sets of lowest gain")
        }
    }
    return {"layers": len(trials.layers), "searches": found, **walked}


def measure_guided(model: str, arguments: argparse.Namespace, path: Path, every: Sequence[str]) -> dict:
    """Return the best set of each of `GUIDED` layers that a search led by the default score finds, and the sets it tried."""
    best, tried = {}, {}
    for size in GUIDED:
        sets = *every, "selection.search=guided", f"selection.layers={size}", "goals=null"
        run_until(recipe_of(model, arguments, model, *sets), "plan", path, device="cpu")
        plan = read_json(path / "plan.json")
        trial = next(trial for trial in plan["trace"] if trial["skip"] == plan["skip"])
        best[str(size)] = {key: trial[key] for key in ("skip", "agreement", "kl")}
        tried[str(size)] = sum(len(trial["skip"]) == size for trial in plan["trace"])
    return {"best": best, "tried": tried}


def measure_one(model: str, arguments: argparse.Namespace) -> dict:
    """Return predictions on the evaluation split without one layer, by who chose it: as it is, refitted, with a readout.

    The trials take the layer of best agreement on the selection split, `separability` the one of lowest gain, for which it
    needs no trial.
    """
    recipe, out = recipe_of(model, arguments, model), Path("runs") / "frontier" / f"{model}-one"
    run_until(recipe, "plan", out, device="cpu")
    run, plan = prepare(recipe, out, "cpu", silent), read_json(out / "plan.json")
    raw = min(plan["trace"], key=lambda trial: (-trial["raw_agreement"], trial["raw_kl"]))
    chosen = {
        twelve_tables.AS_IT_IS: raw["skip"],
        twelve_tables.AFTER_READOUT: plan["skip"],
        "separability": plan["ranked"]["skip"],
    }
    measured, calls = Measured(run), fit_calls(run.teacher, run.family, run.calibration)
    predictions: dict[str, dict[str, str]] = {}
    for (layer,) in map(tuple, chosen.values()):
        if str(layer) in predictions:
            continue
        pruned = drop_layers(run.teacher, run.family, (layer,))
        plain = digits(predict(pruned, run.evaluation))
        refit_gaps(run.teacher, pruned, run.family, kept_layers(run.source.layers, (layer,)), calls, RefitSpec())
        made = measured.heads(pruned, {"readout": HeadSpec(trainer="readout")})
        refitted = {"refit": made["stock"], "refit + readout": made["readout"]}
        predictions[str(layer)] = {"as it is": plain} | {way: entry["predictions"] for way, entry in refitted.items()}
    agreement = {trial["skip"][0]: [trial["raw_agreement"], trial["agreement"]] for trial in plan["trace"]}
    return {
        "one": measured.truth()
        | {"chosen": {who: layer for who, (layer,) in chosen.items()}, "predictions": predictions}
        | {
            "selection_rows": plan["rows"],
            "selection_agreement": {str(key): agreement[key] for key in sorted(agreement)},
        }
    }


PARTS = {"walk": measure_walk, "one": measure_one}


def main() -> None:
    """Measure the models and parts asked for, merge them into the results, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--model", action="append", choices=TWELVE, help="only this model; repeatable")
    parser.add_argument("--part", action="append", choices=[*PARTS, "tables"], help="only this part; repeatable")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="try no further sets after that")
    arguments = parser.parse_args()
    arguments.until = time.perf_counter() + 60 * arguments.minutes
    results = read_json(RESULTS)
    for model in arguments.model or TWELVE:
        for part in [part for part in PARTS if part in (arguments.part or PARTS)]:
            entry = results.setdefault("twelve", {}).setdefault(model, {})
            entry |= PARTS[part](model, arguments) | {"environment": environment("cpu")}
            write_text(RESULTS, json.dumps(results, allow_nan=False) + "\n")
    twelve_tables.write(results)


if __name__ == "__main__":
    main()
