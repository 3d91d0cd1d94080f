"""What is timed: padding, stand-ins, compiling before the clock runs, CUDA graphs by ONNX Runtime's rules."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from compressor.errors import UserError
from compressor.export.onnx import export_variants
from compressor.measurement.runtime import session
from compressor.measurement.timing.cuda_graph import graph_session, graph_subject
from compressor.measurement.timing.latency import settle
from compressor.measurement.timing.subjects import TORCH_MODES, onnx_subject, padded, replaying, torch_subject


def batch(rows, length, first=5):
    ids = np.arange(first, first + rows * length).reshape(rows, length) % 40 + 5
    return {"input_ids": ids, "attention_mask": np.ones((rows, length), dtype=np.int64)}


def test_modes_have_words():
    assert {name: mode.words(96) for name, mode in TORCH_MODES.items()} == {
        "eager": "",
        "padded": "padded to 96",
        "compiled": "compiled",
        "compiled-padded": "compiled, padded to 96",
    }


def test_padding_by_hand():
    short = {
        "input_ids": np.array([[7, 8]]),
        "attention_mask": np.array([[1, 1]]),
        "token_type_ids": np.array([[0, 1]]),
    }
    made = padded(short, 4, pad_id=3)
    assert {name: values.tolist() for name, values in made.items()} == {
        "input_ids": [[7, 8, 3, 3]],
        "attention_mask": [[1, 1, 0, 0]],
        "token_type_ids": [[0, 1, 0, 0]],
    }
    assert padded(short, 2, pad_id=3)["input_ids"].tolist() == [[7, 8]]
    with pytest.raises(ValueError, match="2 tokens cannot be padded to 1"):
        padded(short, 1, pad_id=3)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_padding_changes_no_prediction(tiny, family):
    model = tiny(family)[0]
    run, plain = torch_subject(model), batch(3, 6)
    longer = run(padded(plain, 20, model.config.pad_token_id))
    torch.testing.assert_close(run(plain), longer, atol=2e-6, rtol=1e-5)


def test_a_stand_in_runs_its_counterpart():
    batches, own = [batch(1, 4), batch(1, 4)], ["first", "second"]
    run = replaying(lambda inputs: inputs, batches, own)
    assert [run(batches[1]), run(batches[0])] == ["second", "first"]  # equal arrays, told apart by identity
    with pytest.raises(ValueError, match="shorter"):
        replaying(print, batches, own[:1])


def test_settling_runs_every_shape_once():
    seen = []
    settle(lambda inputs: seen.append(inputs["input_ids"].shape), [batch(1, 4), batch(2, 4), batch(1, 4), batch(1, 9)])
    assert sorted(seen) == [(1, 4), (1, 9), (2, 4)]


def test_compiled_answers_like_eager(tiny, monkeypatch):
    compilations = []

    def stand_in(model, dynamic):
        compilations.append(dynamic)
        return model

    monkeypatch.setattr(torch, "compile", stand_in)
    model = tiny("bert")[0]
    torch.testing.assert_close(torch_subject(model, compiled=True)(batch(2, 5)), torch_subject(model)(batch(2, 5)))
    assert compilations == [True]


@pytest.mark.slow
def test_torch_really_compiles(tiny):
    model = tiny("bert", 1)[0]
    compiled = torch_subject(model, compiled=True)(batch(2, 5))
    torch.testing.assert_close(compiled, torch_subject(model)(batch(2, 5)), atol=1e-5, rtol=1e-4)


def test_nothing_to_compile_with_is_one_sentence(tiny, monkeypatch):
    def failing(**_inputs):
        raise TorchDynamoException("InvalidCxxCompiler: No working C++ compiler found\n\nlong trace")

    monkeypatch.setattr(torch, "compile", lambda model, dynamic: failing)
    with pytest.raises(UserError) as caught:
        torch_subject(tiny("bert")[0], compiled=True)(batch(1, 4))
    text = str(caught.value)
    assert "(InvalidCxxCompiler: No working C++ compiler found)" in text
    assert "g++" in text
    assert "leave --pytorch compiled out" in text
    assert "\n" not in text


class FakeValue:
    """A tensor on the device: its address never changes, its content may."""

    def __init__(self, values):
        self.values, self.updates = np.array(values), 0

    @classmethod
    def ortvalue_from_numpy(cls, values, device, index):
        assert (device, index) == ("cuda", 0)
        return cls(values)

    def update_inplace(self, values):
        assert values.shape == self.values.shape
        self.values, self.updates = np.array(values), self.updates + 1


class FakeOptions:
    def __init__(self):
        self.entries = {}

    def add_run_config_entry(self, key, value):
        self.entries[key] = value


class FakeBinding:
    def __init__(self):
        self.inputs, self.outputs = {}, {}

    def bind_ortvalue_input(self, name, value):
        self.inputs[name] = value

    def bind_output(self, name, device):
        assert device == "cuda"
        self.outputs[name] = None

    def bind_ortvalue_output(self, name, value):
        self.outputs[name] = value

    def clear_binding_outputs(self):
        self.outputs = {}

    def get_outputs(self):
        return list(self.outputs.values())

    def synchronize_inputs(self):
        pass

    synchronize_outputs = synchronize_inputs


class FakeSession:
    """Sums the token ids of a row; records (graph id, shape, addresses) as CUDA graphs must keep them."""

    def __init__(self):
        self.runs = []

    def get_inputs(self):
        return [SimpleNamespace(name=name) for name in ("input_ids", "attention_mask", "token_type_ids")]

    def get_outputs(self):
        return [SimpleNamespace(name="logits")]

    def io_binding(self):
        return FakeBinding()

    def run_with_iobinding(self, binding, options):
        sums = binding.inputs["input_ids"].values.sum(1, keepdims=True)
        if binding.outputs["logits"] is None:
            binding.outputs["logits"] = FakeValue(sums)
        else:
            binding.outputs["logits"].values = sums
        addresses = tuple(id(value) for value in (*binding.inputs.values(), *binding.outputs.values()))
        self.runs.append((options.entries["gpu_graph_id"], binding.inputs["input_ids"].values.shape, addresses))


FAKE = SimpleNamespace(OrtValue=FakeValue, RunOptions=FakeOptions)


def test_one_cuda_graph_a_shape_at_fixed_addresses():
    fake = FakeSession()
    run = graph_subject(fake, runtime=FAKE)
    batches = [batch(1, 4), batch(1, 4, first=20), batch(2, 4), batch(1, 4, first=30)]
    answers = [run(one)[0].values.copy() for one in batches]
    assert [answer.tolist() for answer in answers] == [
        one["input_ids"].sum(1, keepdims=True).tolist() for one in batches
    ]
    # each shape: one run that records nothing, then always its own graph; 0 is ONNX Runtime's own
    expected = [("-1", (1, 4)), ("1", (1, 4)), ("1", (1, 4)), ("-1", (2, 4)), ("2", (2, 4)), ("1", (1, 4))]
    assert [entry[:2] for entry in fake.runs] == expected
    recorded = {entry[2] for entry in fake.runs if entry[0] == "1"}
    assert len(recorded) == 1
    assert recorded.isdisjoint({entry[2] for entry in fake.runs if entry[0] == "2"})


def test_a_graph_that_cannot_be_recorded_is_one_sentence():
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    fake = FakeSession()
    fake.run_with_iobinding = lambda binding, options: (_ for _ in ()).throw(Fail("capture failed\ntrace"))
    with pytest.raises(UserError, match=r"int8: ONNX Runtime cannot run it as a CUDA graph \(capture failed\); leave"):
        graph_subject(fake, "int8", FAKE)(batch(1, 4))


def test_a_session_without_cuda_is_never_called_a_graph(tiny, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    path = export_variants(tiny("bert")[3], tmp_path, ["fp32"])["fp32"].path
    with pytest.raises(UserError, match="CUDA graph .*CPUExecutionProvider"):
        graph_session(path)


@pytest.mark.gpu
def test_cuda_graphs_answer_like_a_plain_session(tiny, tmp_path):
    path = export_variants(tiny("bert")[3], tmp_path, ["optimized"])["optimized"].path
    plain = onnx_subject(session(path, provider="CUDAExecutionProvider"))
    run = graph_subject(graph_session(path))
    shapes = [(1, 4), (3, 9), (1, 4), (8, 32), (3, 9)]
    for index, (rows, length) in enumerate(shapes):
        inputs = batch(rows, length, first=7 * index)
        expected = plain(inputs).copy_outputs_to_cpu()[0]
        np.testing.assert_allclose(run(inputs)[0].numpy(), expected, atol=1e-4)
