"""What lies beside an exported file: the page's lines run as they stand, Triton's schema reads the configuration."""

import json
import re

import onnx
import pytest
from google.protobuf import text_format
from tiny import save_model
from tritonclient.grpc import model_config_pb2 as triton

from compressor.export import onnx as export
from compressor.export.beside import BATCH, text_settings, triton_config, words_beside
from compressor.export.deploy import KINDS, PAIR, page, snippet
from compressor.model.load import find_model, load_tokenizer
from compressor.runtime import Classifier

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMES = {"num_labels": 2, "id2label": {0: "no `n`", 1: "ja ü"}, "label2id": {"no `n`": 0, "ja ü": 1}}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a function: texts a row -> folder of all variants of a BERT; made once."""
    home, made = tmp_path_factory.mktemp("beside"), {}
    model_dir = save_model(home / "model", **NAMES)

    def get(texts):
        if texts not in made:
            made[texts] = home / f"onnx{texts}"
            export.export_variants(model_dir, made[texts], list(export.VARIANTS), max_length=24, texts=texts)
        return made[texts]

    return get


def blocks(page, language):
    return [text for name, text in BLOCK.findall(page) if name == language]


def test_every_folder_has_a_kind():
    assert set(KINDS) == {*export.VARIANTS, "cascade"}


@pytest.mark.parametrize("variant", export.VARIANTS)
@pytest.mark.parametrize("texts", [1, 2])
def test_the_lines_of_the_page_run_as_they_stand(exported, variant, texts, monkeypatch, capsys):
    folder = exported(texts) / variant
    text = (folder / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(folder)
    own, optimum = blocks(text, "python")
    assert own.rstrip() == (snippet(".", PAIR) if texts == 2 else snippet("."))
    scores = []
    for code in (own, optimum):
        capsys.readouterr()
        exec(code, {})
        answer = eval(capsys.readouterr().out)
        scores.append(answer if isinstance(answer, dict) else answer[0])  # of a dict a pipeline makes a dict
    assert scores[0]["label"] == scores[1]["label"] in NAMES["id2label"].values()
    assert scores[0]["score"] == pytest.approx(scores[1]["score"], abs=1e-5)
    assert json.loads(blocks(text, "json")[0]) == list(NAMES["id2label"].values())
    assert "to 24 tokens" in text
    assert "max_length=24" in optimum


def test_the_page_says_the_threads():
    settings = {"label_names": ["a"], "texts": 1, "max_length": 8, "pad_id": 0}
    words = page("int8", settings | {"threads": 1})
    assert "It takes 1 thread, the fastest" in words
    parameter = blocks(words, "text")[-1]
    config = text_format.Parse(parameter, triton.ModelConfig())
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert "For 4 threads a session" in page("fp32", settings | {"threads": 4})
    assert "ONNX Runtime chooses" in page("fp32", settings | {"threads": None})
    assert "CUDAExecutionProvider" in page("fp16", settings | {"threads": None})
    assert "CUDAExecutionProvider" not in page("int8", settings | {"threads": None})
    cascade = page("cascade", settings | {"threads": 2})
    assert "Triton" not in cascade
    assert "Optimum" not in cascade
    large = page("fp32", settings | {"threads": None}, ["model.onnx_data"])
    assert "    model.onnx\n    model.onnx_data\n" in large


@pytest.mark.parametrize("variant", export.VARIANTS)
def test_triton_s_own_schema_reads_the_configuration(exported, variant):
    folder = exported(1) / variant
    config = text_format.Parse((folder / "config.pbtxt").read_text(), triton.ModelConfig())
    graph = onnx.load(folder / "model.onnx").graph
    assert (config.backend, config.default_model_filename, config.max_batch_size) == (
        "onnxruntime",
        "model.onnx",
        BATCH,
    )
    assert [value.name for value in config.input] == [value.name for value in graph.input]
    assert {(value.data_type, *value.dims) for value in config.input} == {(triton.TYPE_INT64, -1)}
    assert [(value.name, value.data_type, *value.dims) for value in config.output] == [("logits", triton.TYPE_FP32, 2)]
    assert config.HasField("dynamic_batching")
    kinds = [group.kind for group in config.instance_group]
    assert kinds == ([triton.ModelInstanceGroup.KIND_CPU] if variant == "int8" else [])


def test_triton_s_types_and_shapes_by_hand():
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [],
        "g",
        [value("ids", onnx.TensorProto.INT32, ["b", "s"])],
        [value('odd "name"', onnx.TensorProto.FLOAT16, ["b", 5])],
    )
    config = text_format.Parse(triton_config(graph, cpu=False), triton.ModelConfig())
    assert [(v.name, v.data_type, *v.dims) for v in config.input] == [("ids", triton.TYPE_INT32, -1)]
    assert [(v.name, v.data_type, *v.dims) for v in config.output] == [('odd "name"', triton.TYPE_FP16, 5)]


def test_without_a_length_it_is_what_model_and_tokenizer_allow(tmp_path):
    source = find_model(str(save_model(tmp_path / "model", "roberta")))  # 60 positions, of which two are the padding's
    export.export_variants(source.path, tmp_path / "onnx", ["fp32"])
    settings = json.loads((tmp_path / "onnx/fp32/classifier.json").read_text())
    expected = text_settings(load_tokenizer(source), source.label_names, max_length=58, texts=None)
    assert settings == expected
    assert (settings["pad_id"], settings["token_types"], settings["threads"]) == (1, False, None)
    assert len(Classifier(tmp_path / "onnx/fp32")(["a " * 500, ("a", "b")])) == 2


def test_a_page_of_the_user_s_stays_and_ours_is_replaced(tmp_path):
    model_dir, out = save_model(tmp_path / "model"), tmp_path / "onnx"
    (out / "fp32").mkdir(parents=True)
    (out / "fp32" / "README.md").write_text("mine")
    for length in (16, 24):
        export.export_variants(model_dir, out, ["fp32", "alltokens"], max_length=length)
        assert (out / "fp32" / "README.md").read_text() == "mine"
        assert f"to {length} tokens" in (out / "alltokens" / "README.md").read_text()
    assert "README.md" not in json.loads((out / "fp32" / ".written.json").read_text())
    settings = json.loads((out / "alltokens" / "classifier.json").read_text())
    assert words_beside(out / "alltokens", "alltokens", settings) == {
        name: (out / "alltokens" / name).read_text() for name in ("classifier.json", "README.md")
    }
