"""The stage that fine-tunes the full model, where the recipe asks for it."""

from pathlib import Path
from typing import Any

from compressor.data.answers.config import LOGISTIC
from compressor.data.answers.kinds import SINGLE_LABEL
from compressor.files import write_json
from compressor.model.load import load_classifier
from compressor.model.surgery import save_model
from compressor.model.training.training import finetune
from compressor.run.run import TEACHER, Run
from compressor.stages.stage import Stage, spec_json


def inputs(run: Run) -> dict[str, Any]:
    """Return what fine-tuning the full model depends on."""
    spec = spec_json(run.recipe.finetune)
    train = spec and [run.data.train.sha256, run.data.label_names, run.recipe.data.max_length]
    kind = {} if run.kind == SINGLE_LABEL else {"kind": run.kind}
    return {"model": run.source.sha256, "finetune": spec, "train": train, **kind}


def compute(run: Run, folder: Path) -> None:
    """Fine-tune the model that the recipe names and save it as a Hugging Face directory."""
    recipe, names = run.recipe, run.data.label_names
    model = load_classifier(run.source, device=run.device, new_labels=names, kind=run.kind, seed=recipe.seed)
    if run.logistic:
        model.config.update(LOGISTIC)
    train = run.encode(run.data.train)
    spec, labels = recipe.finetune, run.data.train.labels
    checkpoint = run.checkpoint(TEACHER, inputs(run))
    losses = finetune(model, run.family, train, labels, spec, seed=recipe.seed, track=run.track, checkpoint=checkpoint)
    card = "# The full model\n\nFine-tuned by `compressor` from the model that the run's recipe names.\n"
    save_model(model, run.tokenizer, folder / TEACHER, card)
    write_json(folder / f"{TEACHER}.json", {"loss": losses, "rows": len(train)})
    checkpoint.remove()


def cost(run: Run) -> str:
    """Return the expected work."""
    tuning = run.recipe.finetune
    return f"{tuning.epochs} epochs over {len(run.data.train)} rows" if tuning else "given"


STAGE = Stage(
    TEACHER, (TEACHER, f"{TEACHER}.json"), (), inputs, compute, cost, wanted=lambda recipe: recipe.finetune is not None
)
