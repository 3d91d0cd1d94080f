"""The stage that holds every score against trials, and finds the best set of every size."""

from dataclasses import asdict
from pathlib import Path

from compressor.analysis.roles.roles import roles_of
from compressor.analysis.roles.weights import model_weights
from compressor.files import read_json, write_json
from compressor.model.families import layer_kinds
from compressor.recipe.compression import Recipe
from compressor.run.run import Run
from compressor.run.variants import variant_flops
from compressor.selection.audit import audit_scores, spec_of_all_sizes
from compressor.stages.selection.plan import search_work
from compressor.stages.selection.trials import run_evidence, run_trials
from compressor.stages.stage import Stage


def compute(run: Run, folder: Path) -> None:
    """Hold every score against trials on the selection split, and find the best set of every size."""
    roles = roles_of(model_weights(run.teacher), seed=run.recipe.seed, track=run.track).roles
    audit = audit_scores(
        run_trials(run)[0],
        run_evidence(run),
        run.recipe.selection,
        labels=run.recipe.separability.labels,
        flops=lambda skip: variant_flops(run, "full", skip),
        roles=[
            {"layer": role.layer, "role": role.role, "margin": role.margin, "stability": role.stability}
            for role in roles
        ],
        seed=run.recipe.seed,
    )
    write_json(folder / "audit.json", asdict(audit))


def cost(run: Run) -> str:
    """Return the expected work."""
    layers, kinds = run.source.layers, layer_kinds(run.source.config)
    work = search_work(spec_of_all_sizes(run.recipe.selection, layers, kinds), layers, kinds=kinds)
    return f"every score against {work} over {len(run.data.selection)} selection rows"


def wanted(recipe: Recipe) -> bool:
    """Return whether the recipe asks for an audit."""
    return recipe.selection.audit


STAGE = Stage(
    "audit",
    ("audit.json",),
    ("plan",),
    lambda _run: {},
    compute,
    cost,
    wanted,
    lambda run: {"audit": read_json(run.path / "audit.json") if wanted(run.recipe) else None},
)
