"""Every score of a layer against the damage that real forward passes measure, on seven models: five tasks, two of twelve layers.

    python -m benchmarks.frontier.audits --models DIR --data DIR [--model sst2]

One model takes minutes, so that `--model` audits one and keeps what is known of the others; audits resume. The figures are in
results/audits.json, the tables in tables/frontier.md.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.common.glue import TASKS, add_sources, recipe_of
from compressor.files import read_json
from compressor.measurement.machine.environment import environment
from compressor.pipeline.pipeline import run_until
from compressor.progress import silent, track_for_terminal
from compressor.run.checks import prepare
from compressor.run.run import Run
from compressor.selection.audit import DAMAGES, rank_correlation

RESULTS = Path(__file__).parents[1] / "results" / "audits.json"
DRAWS = 2000
UNTIMED = "benchmark.batch_sizes=[1]", "benchmark.lengths=[32]", "benchmark.min_seconds=0"
"""An audit has nothing to do with time, which a run takes all the same."""
TEXTS = "data.calibration.size=1000", "data.selection.size=500"
DEEP = "selection.search=beam", "selection.beam_width=2"
MODELS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(TASKS, TEXTS),
    "sst2-12layers": (*TEXTS, *DEEP),
    "qnli-12layers": (*TEXTS, *DEEP, "data.selection.size=250"),
}
"""Model, whose name begins with its task -> what its recipe has beside that of the task."""


def audited(arguments: argparse.Namespace, model: str) -> tuple[Run, dict[str, Any]]:
    """Score, search and audit one model; return the run and its audit."""
    recipe = recipe_of(model.split("-")[0], arguments, model, "selection.audit=true", *UNTIMED, *MODELS[model])
    out, say = Path("runs") / "audits" / model, lambda line: print(f"  {line}", flush=True)
    run_until(recipe, "audit", out, device="cpu", track=track_for_terminal(), say=say)
    return prepare(recipe, out, "cpu", silent), read_json(out / "audit.json")


def pool_audits(audits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return by score: mean rank correlation over models (interval: layers or blocks resampled within each), hits, regret."""
    pooled = []
    for name in audits[0]["scores"]:
        entry: dict[str, Any] = {"score": name}
        for units in ("layers", "blocks"):
            for kind in (*DAMAGES, *(f"raw_{kind}" for kind in DAMAGES)):
                entry[f"rho_{units}_{kind}"] = _pooled_rho(audits, name, units, kind)
        hits = [next(hit for hit in audit["hits"] if hit["score"] == name) for audit in audits]
        entry["top1"], entry["top3"] = (sum(hit[key] for hit in hits) for key in ("top1", "top3"))
        entry["regret"] = float(np.mean([np.mean(_regrets(audit, name)) for audit in audits]))
        entry["first"] = float(np.mean([_regrets(audit, name)[0] for audit in audits]))
        pooled.append(entry)
    return pooled


def _pooled_rho(audits: Sequence[Mapping[str, Any]], name: str, units: str, kind: str) -> dict[str, Any] | None:
    """Return the mean rank correlation over the models where it is defined; None where it is nowhere."""
    generator, whole, draws = np.random.default_rng(0), [], []
    for audit in audits:
        rows = [row for row in audit["damage"] if units == "blocks" or len(row["skip"]) == 1]
        predicted = np.array([row["predicted"][name] for row in rows])
        measured = np.array([row[kind] for row in rows], dtype=float)
        picks = generator.integers(len(rows), size=(DRAWS, len(rows)))
        rho = rank_correlation(predicted[None], measured[None])[0]
        if not np.isnan(rho):
            whole.append(rho)
            draws.append(rank_correlation(predicted[picks], measured[picks]))
    if not whole:
        return None
    interval = np.nanquantile(np.ma.masked_invalid(draws).mean(axis=0).filled(np.nan), [0.025, 0.975]).tolist()
    return {"value": float(np.mean(whole)), "ci95": interval, "models": len(whole)}


def _regrets(audit: Mapping[str, Any], name: str) -> list[float]:
    """Return what the score's sets of 1, 2, ... layers lose in agreement against the best found."""
    points = [point for point in audit["frontier"] if point["series"] == name and point["size"]]
    return [point["regret"]["agreement"] for point in sorted(points, key=lambda point: point["size"])]


def _rho(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "none"
    low, high = estimate["ci95"]
    return f"{estimate['value']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _audit_table(audits: Sequence[Mapping[str, Any]]) -> str:
    pooled, count = pool_audits(audits), len(audits)
    units = {"layers": "layers", "blocks": "blocks"}
    kinds = {"kl": "KL", "flips": "flips", "accuracy_lost": "accuracy lost"}
    columns = ["score", *(f"{unit}, {kind}" for unit in units.values() for kind in kinds.values())]
    columns += ["first pick is best", "best among first 3", "first pick loses", "mean regret, points"]
    rows = [
        [entry["score"].replace("_", " ")]
        + [_rho(entry[f"rho_{unit}_{kind}"]) for unit in units for kind in kinds]
        + [f"{entry['top1']} of {count}", f"{entry['top3']} of {count}"]
        + [f"{100 * entry['first']:.1f}", f"{100 * entry['regret']:.1f}"]
        for entry in sorted(pooled, key=lambda entry: entry["regret"])
    ]
    return markdown.table(columns, rows)


def _audit_model_table(audits: Mapping[str, Any]) -> str:
    rows = []
    for name in next(iter(audits.values()))["scores"]:
        cells = [name.replace("_", " ")]
        for audit in audits.values():
            key = name, "layers", "kl", True
            rho = next(
                row for row in audit["correlations"]
                if (row["score"], row["units"], row["damage"], row["readout"]) == key
            )  # fmt: skip
            first = next(hit["order"][0] for hit in audit["hits"] if hit["score"] == name)
            said = "none" if rho["rho"] is None else f"{rho['rho']:+.2f} [{rho['ci95'][0]:+.2f}, {rho['ci95'][1]:+.2f}]"
            cells.append(f"{said}, layer {first}, {100 * np.mean(_regrets(audit, name)):.1f}")
        rows.append(cells)
    best = [str(audit["hits"][0]["best"]) for audit in audits.values()]
    rows.append(["least damaging layer", *best])
    return markdown.table(["score", *audits], rows)


def write(audits: Mapping[str, Any]) -> None:
    """Write both tables from the audits that there are, by model."""
    markdown.put("frontier_audit", _audit_table(list(audits.values())))
    markdown.put("frontier_audit_tasks", _audit_model_table(audits))


def main() -> None:
    """Audit the models, write the figures and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--model", action="append", choices=MODELS, help="only this model; may be repeated")
    parser.add_argument("--table-only", action="store_true", help="rewrite the tables from the results")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"audits": {}}
    if not arguments.table_only:
        for model in arguments.model or MODELS:
            results["audits"][model] = audited(arguments, model)[1]
            results["environment"] = environment("cpu")
            RESULTS.write_text(json.dumps(results, allow_nan=False) + "\n", encoding="utf-8")
    write({model: results["audits"][model] for model in MODELS if model in results["audits"]})


if __name__ == "__main__":
    main()
