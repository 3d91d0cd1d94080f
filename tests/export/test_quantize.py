"""8-bit files: products by hand, rows that do not disturb each other, every family and every kind of graph."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny import TEXTS, save_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compressor.data.batches import encode, pad
from compressor.export import onnx as export
from compressor.export import rowwise
from compressor.export.calibration import Columns, invented, observe
from compressor.export.optimize import count_operators
from compressor.measurement.machine.providers import CPU, open_session
from compressor.measurement.runtime import predict_onnx, session
from compressor.measurement.timing.subjects import onnx_subject
from compressor.model.families import FAMILIES

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid(rowwise.MS, 1)]
RANDOM = np.random.default_rng(0)


def float_value(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def run(build, given, kind=TensorProto.FLOAT):
    """Return `y` of the graph that `build` appends to, for its input `x`."""
    graph = helper.make_graph([], "g", [helper.make_tensor_value_info("x", kind, given.shape)], [])
    graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    made = rowwise.Graph(graph, 18)
    build(made)
    graph.node.extend(made.nodes)
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=8)
    return open_session(model.SerializeToString(), CPU, 1).run(["y"], {"x": given})[0]


def by_rows(weights, *, one_sided=False, columns=None):
    def build(graph):
        rows = rowwise.quantised_rows(graph, "x", one_sided=one_sided, columns=columns, heard=weights)
        shift = rowwise.product(graph, rows, weights, "y" if columns is None else "bare")
        if columns is not None:
            graph.add("Add", ["bare", graph.constant("shift", shift)], "y")

    return build


def dequantised(weights):
    values, scales = rowwise.rounded(weights)
    return values * scales


def test_weights_by_hand():
    values, scales = rowwise.rounded(np.array([[1.27, 0.0], [-0.63, 0.0]], dtype=np.float32))
    assert values.tolist() == [[127, 0], [-63, 0]]
    assert scales == pytest.approx([0.01, 1.0])  # a channel of zeros divides by nothing


def test_rows_by_hand():
    weights = np.array([[1.27], [0.64]], dtype=np.float32)  # 127 and 64 steps of 0.01
    rows = np.array([[127.0, -64.0], [1.27, 0.64], [0.0, 0.0]], dtype=np.float32)  # steps of 1, of 0.01, none at all
    wanted = [[127 * 1.27 - 64 * 0.64], [1.27 * 1.27 + 0.64 * 0.64], [0.0]]
    np.testing.assert_allclose(run(by_rows(weights), rows), wanted, rtol=1e-5)


def test_a_huge_row_does_not_disturb_the_others():
    weights, rows = RANDOM.normal(size=(48, 20)).astype(np.float32), RANDOM.normal(size=(3, 48)).astype(np.float32)
    alone = run(by_rows(weights), rows[:2])
    rows[2] *= 1e4
    together = run(by_rows(weights), rows)
    assert np.array_equal(together[:2], alone)
    assert np.abs(together - rows @ weights).max(1) == pytest.approx(0, abs=0.02 * 1e4 * 10)
    assert np.abs(alone - rows[:2] @ weights).max() < 0.2


def test_rows_behind_an_activation_use_all_steps():
    weights = RANDOM.normal(size=(64, 16)).astype(np.float32)
    rows = np.maximum(RANDOM.normal(size=(5, 64)) * [[0.01], [1], [10], [100], [0]], -0.17).astype(np.float32)
    exact = run(lambda graph: graph.add("MatMul", ["x", graph.constant("w", dequantised(weights))], "y"), rows)
    found, plain = (run(by_rows(weights, one_sided=side), rows) - exact for side in (True, False))
    # 255 steps from -0.17 to the largest value, which counts as 1 at least; half a step each, 64 of them
    assert (np.abs(found).max(1) < 64 * 3 * 0.5 * 1.17 / 255 * np.maximum(rows.max(1), 1)).all()
    assert np.abs(found[2:4]).mean() < 0.8 * np.abs(plain[2:4]).mean()  # large rows: steps of 1.17 / 255 for 1 / 127
    assert np.abs(found[4]).max() < 1e-6


def test_columns_are_moved_and_evened_out():
    columns = Columns(np.array([0.0, 50.0]), np.array([1.0, 16.0]))
    weights = np.array([[1.0, 0.5], [-0.25, 0.125]])
    heard = np.array([1.0, 0.25])
    expected = heard**0.2 / columns.reach**0.8
    assert rowwise.balanced(columns, weights) == pytest.approx(expected)
    # a column that nobody moves or hears counts as a thousandth
    still = Columns(np.zeros(2), np.array([0.0, 1.0]))
    assert np.isfinite(rowwise.balanced(still, np.array([[0.0], [1.0]]))).all()
    rows = (RANDOM.uniform(-1, 1, (40, 2)) * columns.reach + columns.mean).astype(np.float32)
    weights = weights.astype(np.float32)
    plain, even = (np.abs(run(by_rows(weights, columns=known), rows) - rows @ weights) for known in (None, columns))
    assert even.mean() < 0.3 * plain.mean()


@pytest.mark.parametrize("inner", [16, 32, 50])
def test_products_of_few_rows_by_blocks(inner):
    weights, rows = (
        RANDOM.normal(size=(inner, 24)).astype(np.float32),
        RANDOM.normal(size=(2, inner)).astype(np.float32),
    )
    weights[:, 3] = 0
    found = run(lambda graph: rowwise.block_product(graph, "x", weights, "y"), rows)
    np.testing.assert_allclose(found, rows @ weights, atol=0.25)
    assert np.abs(found[:, 3]).max() < 1e-3


def test_table_rows_by_hand():
    table = np.array([[1.27, -0.64], [0.0, 0.0], [127.0, 1.0]], dtype=np.float32)
    found = run(lambda graph: rowwise.table_rows(graph, table, "x", "t", "y"), np.array([[2, 0, 1]]), TensorProto.INT64)
    np.testing.assert_allclose(found, table[[[2, 0, 1]]], rtol=1e-6)


def test_what_is_observed_by_hand(tmp_path):
    nodes = [helper.make_node("Add", ["x", "x"], ["twice"]), helper.make_node("Relu", ["twice"], ["y"])]
    graph = helper.make_graph(nodes, "g", [float_value("x", 1, "S", 2)], [float_value("y", 1, "S", 2)])
    onnx.save(helper.make_model(graph, opset_imports=OPSETS, ir_version=8), tmp_path / "model.onnx")
    batches = [np.array([[[1, 0], [3, 0]]]), np.array([[[5, -2]]])]
    found = observe(tmp_path / "model.onnx", ["twice", "twice"], [{"x": b.astype(np.float32), "z": b} for b in batches])
    assert list(found) == ["twice"]
    assert found["twice"].mean.tolist() == [7.0, -2.0]  # of the means 4 and 10, 0 and -4
    assert found["twice"].reach.tolist() == [5.0, 2.0]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert observe(tmp_path / "model.onnx", ["twice"], []) == observe(tmp_path / "model.onnx", [], batches) == {}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_invented_sequences(tmp_path, kind):
    tokenizer = AutoTokenizer.from_pretrained(save_model(tmp_path / "model", kind))
    made = invented(tokenizer, 64, 20)
    assert len(made) == 64
    pairs = 0
    for inputs in made:
        (ids,), (types,) = inputs["input_ids"], inputs["token_type_ids"]
        assert 3 <= len(ids) <= 20
        assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert ids.max() < 64
        marks = np.isin(ids, tokenizer.all_special_ids).sum()
        assert marks in {2, 3}
        pairs += marks == 3
        # only a tokenizer that marks segments gives the second text another
        assert types.max() == (marks == 3 and kind == "bert")
        assert inputs["attention_mask"].all()
    assert 16 < pairs <= 32
    again = invented(tokenizer, 64, 20)
    assert all(np.array_equal(one["input_ids"], other["input_ids"]) for one, other in zip(made, again, strict=True))


def exported(folder, kind="bert", **changes):
    """Return (encodings, logits of the fused file, 8-bit file) of a tiny model."""
    form, opset = changes.pop("form", "reassociated"), changes.pop("opset", None)
    model_dir = save_model(folder / "model", kind, layers=3, **changes)
    files = export.export_variants(model_dir, folder / "onnx", ["optimized", "int8"], form=form, opset=opset)
    encodings = encode(TEXTS, AutoTokenizer.from_pretrained(model_dir), 32)
    return encodings, predict_onnx(session(files["optimized"].path), encodings), files["int8"].path


CASES = {
    **{kind: {"kind": kind} for kind in sorted(FAMILIES)},
    "all rows": {"form": None},
    "single row": {"form": "single_row"},
    "old operators": {"opset": 14},
    "relative positions": {"position_embedding_type": "relative_key", "form": None},
    "relu": {"hidden_act": "relu"},
    "tanh gelu": {"hidden_act": "gelu_new"},
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_graph_answers_nearly_alike(tmp_path, case):
    encodings, wanted, file = exported(tmp_path, **CASES[case])
    opened = session(file, threads=1)
    alone, together = (predict_onnx(opened, encodings, batch_size=size) for size in (1, 12))
    spread = wanted.std()
    # random weights this large magnify roundings more than fine-tuned ones
    assert 1e-7 < np.abs(alone - wanted).max() < 0.6 * spread
    assert np.sqrt(np.mean((alone - wanted) ** 2)) < 0.15 * spread
    # a row has its own scales: nothing but float32 rounding, which may tip a step, depends on the batch
    assert np.abs(alone - together).max() < 0.1 * spread
    assert np.median(np.abs(alone - together)) < 1e-4 * spread
    nodes = count_operators(file)
    assert not {"Attention", "QAttention", "DynamicQuantizeLinear", "EmbedLayerNormalization"} & set(nodes)
    weights = onnx.load(file).graph.initializer
    matrices = [tensor.dims for tensor in weights if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2]
    # positions, segments, scales, and the classifier of three classes
    assert all(min(dims) < 16 or dims[0] == 60 or dims[1] == 1 for dims in matrices), matrices


def test_padding_on_either_side_changes_nothing(tmp_path):
    encodings, wanted, file = exported(tmp_path)
    opened = onnx_subject(session(file, threads=1))
    inputs = pad(encodings, np.arange(1))
    plain = opened(inputs)[0]
    wide = {name: np.pad(values, ((0, 0), (0, 9))) for name, values in inputs.items()}
    np.testing.assert_allclose(opened(wide)[0], plain, atol=1e-4)
    np.testing.assert_allclose(plain, wanted[:1], atol=0.2)


def pruned(model):
    model.prune_heads({0: [1], 1: [0, 2]})


def twins(model):
    """Give two layers the same weights, which a file holds once, and their inputs different columns."""
    layers = model.bert.encoder.layer
    layers[1].load_state_dict(layers[0].state_dict())


@pytest.mark.parametrize("change", [pruned, twins])
def test_changed_layers(tmp_path, change):
    folder = save_model(tmp_path / "stock", "bert", layers=3)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    change(model)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "model")
    files = export.export_variants(tmp_path / "model", tmp_path / "onnx", ["optimized", "int8"])
    encodings = encode(TEXTS, AutoTokenizer.from_pretrained(folder), 32)
    wanted, found = (predict_onnx(session(file.path), encodings) for file in files.values())
    assert np.abs(found - wanted).max() < 0.6 * wanted.std()
