"""What a run would do and cost, without doing any of it."""

from dataclasses import dataclass
from pathlib import Path

from compressor.measurement.doctor import resolve_device
from compressor.pipeline import default_out, stage_keys, stages_of
from compressor.progress import silent
from compressor.recipe import Recipe, SelectionSpec
from compressor.report.formats import layers_text
from compressor.run import Run, prepare
from compressor.rundir import RunDir
from compressor.selection.audit import spec_of_all_sizes
from compressor.selection.search import candidate_sets, most_sets, wanted_sizes
from compressor.selection.trie import count_applications


@dataclass(frozen=True)
class StageStatus:
    """A stage as a dry run sees it."""

    name: str
    cached: bool
    cost: str


def dry_run(recipe: Recipe, out: str | Path | None = None, *, device: str = "auto") -> list[StageStatus]:
    """Return every stage, whether its result is there already, and what it will cost; nothing is computed or written."""
    path = default_out(recipe, out)
    run = prepare(recipe, path, resolve_device(device), silent)
    folder, keys = RunDir(path), stage_keys(run)
    costs = stage_costs(run)
    return [
        StageStatus(stage.name, folder.cached(stage.name, keys[stage.name]) is not None, costs.get(stage.name, ""))
        for stage in stages_of(recipe)
    ]


def stage_costs(run: Run) -> dict[str, str]:
    """Return the expected work of each stage in words and numbers."""
    recipe, data = run.recipe, run.data
    spec, layers = recipe.selection, run.source.layers
    wide = spec_of_all_sizes(spec, layers)
    cells = len(recipe.benchmark.batch_sizes) * (len(recipe.benchmark.lengths) + recipe.benchmark.workload)
    least, most = cells * recipe.benchmark.min_seconds, cells * recipe.benchmark.max_seconds
    tuning = recipe.finetune
    return {
        "teacher": f"{tuning.epochs} epochs over {len(data.train)} rows" if tuning else "given",
        "scores": f"1 pass over {len(data.calibration)} calibration rows",
        "plan": f"{_search_work(spec, layers)} over {len(data.selection)} selection rows",
        "audit": f"every score against {_search_work(wide, layers)} over {len(data.selection)} selection rows",
        "timing": f"{len(recipe.benchmark.batch_sizes) * len(recipe.benchmark.lengths)} cells",
        "model": ("closed-form refit, " if recipe.compensation.refit else "")
        + _distillation_work(run)
        + (f"{recipe.compensation.head.nodes} head nodes" if recipe.compensation.head else "no head"),
        "tail": "the last layer's [CLS] row in each form",
        "onnx": ", ".join(run.variants) or "none",
        "full-onnx": ", ".join(run.full_variants) or "none",
        "predictions": f"{2 + len(run.variants) + len(run.full_variants)} models over {len(data.evaluation)} evaluation rows",
        "latency": f"{cells} cells, {least:.0f} to {most:.0f} s",
        "shipping": f"{len(run.variants)} files over {len(data.selection)} selection rows",
        "analysis-errors": f"{len(data.evaluation)} evaluation rows with both models, a probe behind every layer",
        "analysis-ffn": f"{len(data.calibration)} calibration rows, {layers} blocks removed on {len(data.evaluation)} rows",
        "analysis-roles": f"the weights of {layers} layers",
        **_cascade_work(run),
    }


def _cascade_work(run: Run) -> dict[str, str]:
    recipe, data = run.recipe, run.data
    spec, timing = recipe.cascade, recipe.benchmark
    if spec is None:
        return {}
    texts = min(spec.fit_size, len(data.train) + len(data.selection))
    exits = "every layer" if spec.exits == "auto" else layers_text(spec.exits)
    cells = len(timing.batch_sizes) * timing.workload
    return {
        "cascade": f"exits behind {exits} fitted on {texts} texts, certified on {len(data.guard)} calibration rows",
        "cascade-evaluation": f"{len(data.evaluation)} evaluation rows, {cells} cells, "
        f"{cells * timing.min_seconds:.0f} to {cells * timing.max_seconds:.0f} s",
    }


def _distillation_work(run: Run) -> str:
    spec = run.recipe.compensation.distill
    if spec is None:
        return ""
    rows = sum(len(getattr(run.data, part)) for part in spec.text)
    return f"distillation: {spec.epochs} epochs over {rows} rows with both models, "


def _search_work(spec: SelectionSpec, layers: int) -> str:
    if spec.budget is not None:
        return f"beam search of width {spec.beam_width} over mixes of {', '.join(spec.units)}"
    if spec.search == "exhaustive":
        sets = candidate_sets(layers, wanted_sizes(spec, layers), spec.protect)
        return f"{len(sets):,} sets, {count_applications(layers, sets):,} layer applications"
    if spec.search in {"greedy", "beam"}:
        return f"{spec.search} search, at most {most_sets(spec, layers):,} sets"
    return f"{spec.search} search, 1 set"
