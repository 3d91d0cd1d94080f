"""Fused graphs are those that ONNX Runtime's own optimizer makes, at a fraction of its memory."""

import onnx
import pytest
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

from compressor.export import optimize
from compressor.export.onnx import export_graph, quiet
from compressor.export.optimize import fuse


@pytest.mark.parametrize(
    ("name", "beside"), [("bert", False), ("bert", True), ("distilbert", False), ("modernbert", False)]
)
def test_fused_graphs_are_those_of_the_library(tiny, tmp_path, name, beside):
    model = tiny(name)[0]
    source = export_graph(model, "fp32", tmp_path, None, None)
    if beside:
        onnx.save_model(
            onnx.load(source), source, save_as_external_data=True, location="model.onnx.data", size_threshold=0
        )
    options = FusionOptions("bert")
    options.use_raw_attention_mask(True)
    with quiet():
        wanted = optimize_model(str(source), "bert", opt_level=1, optimization_options=options)
        fuse(source, tmp_path / "fused.onnx", model.config.to_dict())
    wanted.save_model_to_file(str(tmp_path / "wanted.onnx"), use_external_data_format=beside)
    assert onnx.load(tmp_path / "fused.onnx") == onnx.load(tmp_path / "wanted.onnx")
    assert (tmp_path / "fused.onnx.data").exists() == beside


def test_weights_stay_beside_a_graph_whose_sums_were_turned(tiny, tmp_path, monkeypatch):
    """The file of its sums in order has another name than what its weights lie in."""
    model = tiny("albert")[0]
    source = export_graph(model, "fp32", tmp_path, None, None)
    onnx.save_model(onnx.load(source), source, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    made, simplified = [], optimize._simplified

    def watched(ordered, folder, *more):
        found = simplified(ordered, folder, *more)
        made.append((ordered.name, sorted(file.name for file in folder.iterdir())))
        return found

    monkeypatch.setattr(optimize, "_simplified", watched)
    with quiet():
        fuse(source, tmp_path / "fused.onnx", model.config.to_dict())
    assert made == [("ordered-model.onnx", ["simplified.onnx", "simplified.onnx.data"])]


def test_shapes_are_inferred_from_a_copy_without_weights(tiny, tmp_path):
    model = tiny("bert")[0]
    whole = onnx.load(export_graph(model, "fp32", tmp_path, None, None))
    before = whole.SerializeToString()
    bare = optimize._without_weights(whole)
    assert whole.SerializeToString() == before
    assert list(bare.graph.node) == list(whole.graph.node)
    assert [(w.name, list(w.dims)) for w in bare.graph.initializer] == [
        (w.name, list(w.dims)) for w in whole.graph.initializer
    ]
    left = sum(len(weight.raw_data) for weight in bare.graph.initializer)
    assert left < 0.1 * sum(len(weight.raw_data) for weight in whole.graph.initializer)
