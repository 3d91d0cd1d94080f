"""Exported cascades."""

from types import SimpleNamespace

import numpy as np
import pytest
from cascades import TEXTS
from tiny import save_model

from compressor.cascade.exits import fit_exits
from compressor.cascade.parts import write_parts
from compressor.cascade.thresholds import Certificate
from compressor.data.batches import encode
from compressor.export.calibration import invented
from compressor.export.onnx import Job, export_optimized, quiet
from compressor.export.quantize import quantize
from compressor.model.families import family_of
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.stages.cascade.cascade import write_settings


@pytest.fixture(scope="package")
def exported(tmp_path_factory):
    """Return a function: family, precision -> (folder of a cascade with two exits, tokenizer); made once.

    Behind the 8-bit one stands the full model.
    """
    made = {}

    def get(model_type="bert", precision="float32"):
        if (model_type, precision) not in made:
            home = tmp_path_factory.mktemp("cascade")
            source = find_model(str(save_model(home / "model", model_type, 3)))
            model, family, tokenizer = load_classifier(source), family_of(model_type), load_tokenizer(source)
            fits, _ = fit_exits(model, family, encode([(text,) for text in TEXTS], tokenizer, 24), [1, 2])
            with quiet():
                fused = export_optimized(Job.of(source, home, None, None))
            folder = home / "parts"
            folder.mkdir()
            cut, again = fused, None
            if precision == "int8":
                cut, again = home / "int8.onnx", fused
                with quiet():
                    quantize(fused, cut, invented(tokenizer, model.config.vocab_size, 24))
            write_parts(cut, model, family, [fit.head for fit in fits], folder, again)
            with quiet():
                tokenizer.save_pretrained(folder)
            data = SimpleNamespace(label_names=("a", "b", "c"), text_columns=("text",))
            run = SimpleNamespace(tokenizer=tokenizer, data=data, provenance={"guard": "taken from the test file"})
            spec = SimpleNamespace(max_flips=0.1, confidence=0.95, precision=precision)
            run.recipe, run.cascade = SimpleNamespace(data=SimpleNamespace(max_length=24)), spec
            thresholds = tuple(float(np.quantile(np.ptp(np.sort(fit.logits)[:, -2:], axis=1), 0.6)) for fit in fits)
            exits, thresholds = ((1, 2, 3), (*thresholds, 1.0)) if again else ((1, 2), thresholds)
            certificate = Certificate(thresholds, True, 0, 120, 0.03, 0.1, 0.95, 1)
            write_settings(run, folder, exits, 3, certificate)
            made[model_type, precision] = folder, tokenizer
        return made[model_type, precision]

    return get
