"""The roles of the layers, of a run."""

from dataclasses import asdict
from typing import Any

from compressor.analysis.roles.roles import analyze_roles
from compressor.run.run import Run
from compressor.stages.analyses.shared import analysis_stage


def roles_of_run(run: Run) -> dict[str, Any]:
    """Read the roles of the full model's layers from its weights."""
    return asdict(analyze_roles(run.teacher_source.path, seed=run.recipe.seed, track=run.track))


STAGE = analysis_stage("roles", ("teacher",), roles_of_run, lambda run: f"the weights of {run.source.layers} layers")
