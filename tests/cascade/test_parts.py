"""The parts compute what the fused file computes, the exits what PyTorch computes, and attention stays fused."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from compressor.cascade.exits import ExitFeatures, ExitHead, model_reader
from compressor.cascade.parts import (
    EXIT_LOGITS,
    FULL,
    HIDDEN,
    file_reader,
    layer_states,
    part_names,
    with_exits,
    write_parts,
)
from compressor.data.batches import pad
from compressor.export.calibration import invented
from compressor.export.onnx import Job, export_optimized, quiet
from compressor.export.quantize import quantize
from compressor.measurement.runtime import feeds
from compressor.model.families import layer_list
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.model.surgery import leave_out, save_model

LAYERS = 4


@pytest.fixture(scope="module")
def parts(tiny, tmp_path_factory):
    """Return a function: (family, exits) -> (folder of the parts, fused file, heads); made once."""
    made, fused = {}, {}

    def get(model_type, exits):
        model, family, _, directory = tiny(model_type)
        if model_type not in fused:
            with quiet():
                job = Job.of(find_model(str(directory)), tmp_path_factory.mktemp(model_type), "reassociated", None)
                fused[model_type] = export_optimized(job)
        if (model_type, exits) not in made:
            generator = torch.Generator().manual_seed(0)
            heads = [
                ExitHead(
                    layer,
                    torch.randn(96, 3, generator=generator).double(),
                    torch.randn(3, generator=generator).double(),
                )
                for layer in exits
            ]
            folder = tmp_path_factory.mktemp("parts")
            write_parts(fused[model_type], model, family, heads, folder)
            made[model_type, exits] = folder, fused[model_type], heads
        return made[model_type, exits]

    return get


def logits_at(model, family, head, states, mask):
    features = ExitFeatures(model, family, head.layer)(states[head.layer], mask)
    return features @ head.weight.float() + head.bias.float()


def open_parts(folder, exits):
    return [ort.InferenceSession(str(folder / name)) for name in part_names(len(exits))]


def run_parts(sessions, batch):
    current, logits = dict(batch), []
    for session in sessions[:-1]:
        names = [value.name for value in session.get_inputs()]
        current[HIDDEN], found = session.run(None, feeds(names, current))
        logits.append(found)
    names = [value.name for value in sessions[-1].get_inputs()]
    return logits, sessions[-1].run(None, feeds(names, current))[0]


@pytest.mark.parametrize("exits", [(2,), (1, 3)])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "electra", "camembert"])
def test_parts_compute_what_the_whole_computes(tiny, parts, model_type, exits):
    model, family, encodings, _ = tiny(model_type)
    folder, fused, heads = parts(model_type, exits)
    sessions, whole = open_parts(folder, exits), ort.InferenceSession(str(fused))
    names = [value.name for value in whole.get_inputs()]
    for rows in (np.arange(24), np.array([5]), np.array([1, 20, 7])):
        batch = pad(encodings, rows)
        early, logits = run_parts(sessions, batch)
        np.testing.assert_allclose(logits, whole.run(None, feeds(names, batch))[0], atol=1e-6)
        tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
        with torch.inference_mode():
            output = model(**tensors, output_hidden_states=True)
            for head, found in zip(heads, early, strict=True):
                exit_logits = logits_at(model, family, head, output.hidden_states, tensors["attention_mask"])
                np.testing.assert_allclose(found, exit_logits, atol=2e-4)
        np.testing.assert_allclose(logits, output.logits, atol=1e-4)


@pytest.mark.parametrize(
    "units",
    [
        ("1.ffn", "2.attention", "4.ffn:8"),
        ("3.ffn:24", "4.attention"),
        (2, "4.ffn"),
        ("1.heads:3+ffn:8", "2.heads:1", "3.attention+ffn:24", "4.heads:2+ffn:40"),
    ],
)
@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "electra"])
def test_a_model_without_parts_of_layers_is_cut_behind_its_layers(tiny, tmp_path, model_type, units):
    model, family, encodings, directory = tiny(model_type)
    cut = leave_out(model, family, units)
    save_model(cut, load_tokenizer(find_model(str(directory))), tmp_path / "cut", "card")
    job = Job.of(find_model(str(tmp_path / "cut")), tmp_path / "onnx", "reassociated", None)
    job.work.mkdir()
    with quiet():
        fused = export_optimized(job)
    graph = onnx.load(str(fused))
    layers = len(layer_list(cut, family))
    states = layer_states(graph, layers)
    for state in states[:-1]:  # the last one is a single row of the tail
        graph.graph.output.append(onnx.helper.make_tensor_value_info(state, onnx.TensorProto.FLOAT, None))
    onnx.save_model(graph, str(tmp_path / "states.onnx"))
    batch = pad(encodings, np.arange(24))
    tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
    with torch.inference_mode():
        output = cut(**tensors, output_hidden_states=True)
    session = ort.InferenceSession(str(tmp_path / "states.onnx"))
    names = [value.name for value in session.get_inputs()]
    found = session.run(None, feeds(names, batch))[1:]
    for state, wanted in zip(found, output.hidden_states[1:-1], strict=True):
        np.testing.assert_allclose(
            state[tensors["attention_mask"].bool()], wanted[tensors["attention_mask"].bool()], atol=1e-4
        )
    generator = torch.Generator().manual_seed(0)
    head = ExitHead(1, torch.randn(96, 3, generator=generator).double(), torch.zeros(3).double())
    write_parts(fused, cut, family, [head], tmp_path)
    early, logits = run_parts(open_parts(tmp_path, (1,)), batch)
    np.testing.assert_allclose(logits, output.logits, atol=1e-4)
    with torch.inference_mode():
        wanted = logits_at(cut, family, head, output.hidden_states, tensors["attention_mask"])
    np.testing.assert_allclose(early[0], wanted, atol=2e-4)
    with_exits(fused, cut, family, [1], tmp_path / "exits.onnx")
    with quiet():
        observed = invented(load_tokenizer(find_model(str(directory))), 64, 24)
        quantize(tmp_path / "exits.onnx", tmp_path / "int8.onnx", observed)
    (tmp_path / "eight").mkdir()
    write_parts(tmp_path / "int8.onnx", cut, family, [head], tmp_path / "eight")
    _, eight = run_parts(open_parts(tmp_path / "eight", (1,)), batch)
    np.testing.assert_array_equal(eight, file_reader(tmp_path / "int8.onnx", [1])(batch)[1])
    assert (eight.argmax(1) == logits.argmax(1)).mean() >= 0.8


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "electra"])
def test_every_layer_is_in_one_part_and_fused_and_no_part_carries_the_weights_of_another(parts, model_type):
    folder, fused, _ = parts(model_type, (1, 3))
    graphs = [onnx.load(str(folder / name)).graph for name in part_names(2)]
    for kind, counts in (("Attention", [1, 2, 0]), ("SkipLayerNormalization", [2, 4, 2])):  # the last layer is a tail
        assert [sum(node.op_type == kind for node in graph.node) for graph in graphs] == counts
    whole = onnx.load(str(fused)).graph
    large = {weight.name for weight in whole.initializer if len(weight.dims) == 2}
    shares = [{weight.name for weight in graph.initializer} & large for graph in graphs]
    assert not any("embed" in name for share in shares[1:] for name in share)
    assert sum(map(len, shares)) == len(set.union(*shares)) == len(large)


@pytest.mark.parametrize("exits", [(2,), (1, 3)])
def test_names_types_and_axes_of_the_parts(parts, exits):
    sessions = open_parts(parts("bert", exits)[0], exits)
    for index, session in enumerate(sessions):
        inputs = {value.name: (value.type, value.shape) for value in session.get_inputs()}
        assert inputs["attention_mask"][0] == "tensor(int64)"
        assert all(isinstance(axis, str) for axis in inputs["attention_mask"][1])
        assert (HIDDEN in inputs) == (index > 0)
        assert ("input_ids" in inputs) == (index == 0)
        outputs = [value.name for value in session.get_outputs()]
        assert outputs[-1] == ("logits" if index == len(exits) else EXIT_LOGITS)
        assert session.get_outputs()[-1].shape[1] == 3


def test_the_head_is_exported_from_a_copy_so_that_a_model_on_the_gpu_stays_there(tiny, tmp_path, parts, monkeypatch):
    model, family, *_ = tiny("bert")
    _, fused, heads = parts("bert", (2,))
    moved = []
    monkeypatch.setattr(ExitFeatures, "cpu", lambda self: moved.append(self.layer) or self)
    write_parts(fused, model, family, heads, tmp_path)
    assert len(moved) == 1
    assert moved[0] is not layer_list(model, family)[2]


@pytest.mark.parametrize("model_type", ["distilbert", "bert"])
def test_a_front_without_attention_has_an_exit(tiny, tmp_path, model_type):
    model, family, encodings, directory = tiny(model_type)
    cut = leave_out(model, family, [1, "2.attention"])  # what is layer 1 now does not attend
    save_model(cut, load_tokenizer(find_model(str(directory))), tmp_path / "cut", "card")
    job = Job.of(find_model(str(tmp_path / "cut")), tmp_path / "onnx", None, None)
    job.work.mkdir()
    with quiet():
        fused = export_optimized(job)
    head = ExitHead(1, torch.ones(96, 3).double() / 96, torch.zeros(3).double())
    (tmp_path / "parts").mkdir()
    loaded = load_classifier(find_model(str(tmp_path / "cut")))
    write_parts(fused, loaded, family, [head], tmp_path / "parts")
    sessions, batch = open_parts(tmp_path / "parts", (1,)), pad(encodings, np.arange(24))
    early, logits = run_parts(sessions, batch)
    tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
    with torch.inference_mode():
        output = loaded(**tensors, output_hidden_states=True)
        np.testing.assert_allclose(logits, output.logits, atol=1e-4)
        wanted = logits_at(loaded, family, head, output.hidden_states, tensors["attention_mask"])
    np.testing.assert_allclose(early[0], wanted, atol=1e-4)


def test_names_of_the_parts():
    assert part_names(2) == ["front.onnx", "middle.onnx", "back.onnx"]
    assert part_names(1, full=True) == ["front.onnx", "back.onnx", "full.onnx"]
    assert part_names(0, full=True) == ["back.onnx", "full.onnx"]


@pytest.mark.parametrize("exits", [(), (2,), (1, 3)])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_eight_bit_parts_round_as_the_whole_does_and_linear_maps_do_not(tiny, parts, tmp_path, model_type, exits):
    model, family, encodings, folder = tiny(model_type)
    _, fused, heads = parts(model_type, exits or (2,))
    heads = heads[: len(exits)]
    observed = invented(load_tokenizer(find_model(str(folder))), model.config.vocab_size, 24)
    with_exits(fused, model, family, [1, 2, 3], tmp_path / "exits.onnx")
    with quiet():
        quantize(tmp_path / "exits.onnx", tmp_path / "int8.onnx", observed)
    write_parts(tmp_path / "int8.onnx", model, family, heads, tmp_path, fused)
    read, float32 = file_reader(tmp_path / "int8.onnx", [1, 2, 3]), ort.InferenceSession(str(fused))
    names = [value.name for value in float32.get_inputs()]
    for rows in (np.arange(24), np.array([5])):
        batch = pad(encodings, rows)
        early, logits = run_parts(open_parts(tmp_path, exits), batch)
        seen, own = read(batch)
        np.testing.assert_array_equal(own, logits)
        assert not np.array_equal(logits, float32.run(None, feeds(names, batch))[0])
        again = ort.InferenceSession(str(tmp_path / FULL)).run(None, feeds(names, batch))[0]
        np.testing.assert_array_equal(again, float32.run(None, feeds(names, batch))[0])
        for head, found in zip(heads, early, strict=True):
            wanted = seen[head.layer] @ head.weight.float() + head.bias.float()
            np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_what_exits_read_in_a_float32_file_is_what_they_read_in_pytorch(tiny, parts, tmp_path):
    model, family, encodings, _ = tiny("bert")
    batch = pad(encodings, np.arange(24))
    with_exits(parts("bert", (2,))[1], model, family, [1, 3], tmp_path / "exits.onnx")
    seen, logits = file_reader(tmp_path / "exits.onnx", [1, 3])(batch)
    with torch.inference_mode():
        wanted, output = model_reader(model, family, [1, 3])(batch)
    assert sorted(seen) == sorted(wanted) == [1, 3]
    for layer, features in seen.items():
        np.testing.assert_allclose(features, wanted[layer], atol=1e-4)
    np.testing.assert_allclose(logits, output, atol=1e-4)
