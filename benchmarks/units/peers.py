"""What others leave of a model at the same cost: TextPruner's heads and neurons, and rankings of whole layers.

Nothing is made up for, as published. TextPruner prunes in its three ways on the unlabelled texts that our mixes are fitted to, to
the size of nearest FLOPs; the model that agrees best with the full one on the selection split stands for it.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.digits import digits
from benchmarks.peers import textpruner
from benchmarks.peers.textpruner import MIXES, Mix, Size
from compressor.measurement.cost import shape_flops
from compressor.measurement.predictions import predict
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.model.sublayers import any_shape
from compressor.model.surgery import drop_layers
from compressor.model.units import Shape
from compressor.pipeline.pipeline import run_until
from compressor.run.run import Run
from compressor.selection.baselines import ranked_set
from compressor.stages.selection.trials import run_evidence

RANKINGS = "block_influence", "top_first"


def measure(run: Run, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield `{"NAME SIXTHS": entry}`: what is left of the run's model at 1 - `sizes` sixths of its FLOPs, and its predictions."""
    run_until(run.recipe, "scores", run.path, device=run.device)
    layers, evidence = run.source.layers, run_evidence(run)
    for sixths in sizes:
        for name in RANKINGS:
            skip = ranked_set(name, evidence, sixths * layers // 6)
            predictions = digits(predict(drop_layers(run.teacher, run.family, skip), run.evaluation))
            yield {f"{name} {sixths}": {"skip": list(skip), "predictions": predictions}}
        if textpruner.installed() is None:
            print(
                "TextPruner is not installed (pip install --no-deps -r benchmarks/peers/requirements.txt)", flush=True
            )
            continue
        yield {f"textpruner {sixths}": best_pruned(run, 1 - sixths / 6, run.path / "pruned")}


def best_pruned(run: Run, keep: float, work: Path) -> dict[str, Any]:
    """Return what TextPruner's best model of about `keep` of the FLOPs predicts, and which one that is."""
    wanted, tried = predict(run.teacher, run.selection).argmax(1), []
    for name, mix in MIXES.items():
        size, kept = size_of(run, keep, mix)
        shutil.rmtree(work, ignore_errors=True)
        made = textpruner.prune(run.teacher, size, work, run.calibration, mix)
        load_tokenizer(run.source).save_pretrained(made)
        model = load_classifier(find_model(str(made)))
        agreement = float((predict(model, run.selection).argmax(1) == wanted).mean())
        entry = {"mix": name, "heads": size.heads, "ffn": size.ffn, "kept": kept, "agreement": agreement}
        tried.append({**entry, "predictions": digits(predict(model, run.evaluation))})
        print(f"  TextPruner, {name}: {size}, {kept:.1%} of the FLOPs, {agreement:.1%} agree", flush=True)
    return max(tried, key=lambda entry: entry["agreement"])


def size_of(run: Run, keep: float, mix: Mix) -> tuple[Size, float]:
    """Return TextPruner's size that is nearest to `keep` of the encoder's FLOPs, and the share that it has."""
    full, hidden = any_shape(run.source.config), run.source.config[run.family.width_key]
    layers, heads, width = len(full.heads), full.full_heads, max(full.ffn_widths)

    def share(size: Size) -> float:
        return shape_flops(Shape((size.ffn,) * layers, (size.heads,) * layers, heads), hidden) / shape_flops(
            full, hidden
        )

    size = min(textpruner.sizes_of(heads, width, mix), key=lambda size: abs(share(size) - keep))
    return size, share(size)
