"""Whatever a configuration, a tokenizer, a data file or a recipe holds: exit code 0, 2 or 3 and one sentence, never our fault.

The slow test tries over 5,000 inputs, the fast one some hundred of each kind.
"""

import json
import shutil

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import save_model

from compressor.cli.app import main

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 100),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["bert", "gpt2", "auto", "", "0", "null", "cls", "test", "ä\u2028b", "\ud800", "relative_key", "gelu"]
    ),
)
VALUES = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.sampled_from("0123"), inner, max_size=3)
    ),
    max_leaves=5,
)
CONFIG_FIELDS = (
    *("model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size"),
    *(
        "max_position_embeddings",
        "type_vocab_size",
        "pad_token_id",
        "id2label",
        "label2id",
        "problem_type",
        "hidden_act",
    ),
    *("position_embedding_type", "is_decoder", "pruned_heads", "compressor", "quantization_config", "layer_norm_eps"),
    *(
        "architectures",
        "torch_dtype",
        "dtype",
        "num_labels",
        "auto_map",
        "classifier_dropout",
        "chunk_size_feed_forward",
    ),
    *("hidden_dropout_prob", "initializer_range", "use_cache", "tie_word_embeddings", "attn_implementation"),
)
RECIPE_FIELDS = (
    *(
        "name",
        "seed",
        "model",
        "model.path",
        "model.revision",
        "finetune",
        "data",
        "data.text",
        "data.label",
        "data.train",
    ),
    *(
        "data.task",
        "data.source",
        "data.max_length",
        "data.calibration",
        "data.selection.size",
        "data.labels",
        "data.encoding",
    ),
    *(
        "data.on_bad_row",
        "separability.score",
        "selection.layers",
        "selection.skip",
        "selection.units",
        "selection.budget",
    ),
    *("selection.protect", "selection.search", "compensation", "compensation.head", "compensation.refit", "cascade"),
    *(
        "cascade.exits",
        "export.variants",
        "export.opset",
        "benchmark.lengths",
        "goals",
        "goals.max_drop",
        "analysis",
        "text",
    ),
)
CELLS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['"', '"a', 'a"b', "a,b", "\t", "\r\n", "NA", "", "1.5", "-1"]
)
FILES = st.one_of(
    st.binary(max_size=200),
    st.lists(st.lists(CELLS, max_size=4), max_size=8).map(
        lambda rows: "\n".join(",".join(row) for row in rows).encode()
    ),
    st.lists(st.lists(CELLS, max_size=3), max_size=8).map(
        lambda rows: ("text,label\n" + "\n".join(",".join(row) for row in rows)).encode()
    ),
    st.lists(VALUES, max_size=6).map(
        lambda rows: "\n".join(json.dumps(row) for row in rows).encode("utf-8", "surrogatepass")
    ),
)


def outcome(capsys, *arguments):
    """Return the exit code of a command; fails where an error is not one sentence, or is called our fault."""
    capsys.readouterr()
    try:
        main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as end:
        code = end.code or 0
    stderr = capsys.readouterr().err
    assert code in {0, 2, 3}, (code, stderr, arguments)
    assert "Traceback" not in stderr
    assert "our fault" not in stderr, stderr
    return code


def fuzz(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def try_recipes(examples, tiny_task, tmp_path, capsys):
    known = yaml.safe_load((tiny_task / "recipe.yaml").read_text())

    @fuzz(examples)
    @given(st.lists(st.tuples(st.sampled_from(RECIPE_FIELDS), VALUES), min_size=1, max_size=3), st.booleans())
    def check(changes, as_options):
        if as_options:
            sets = [word for field, value in changes for word in ("--set", f"{field}={json.dumps(value)}")]
            outcome(capsys, "validate", tiny_task / "recipe.yaml", *sets)
            return
        recipe = json.loads(json.dumps(known))
        for field, value in changes:
            *above, last = field.split(".")
            place = recipe
            for part in above:
                place = place.setdefault(part, {}) if isinstance(place, dict) else {}
            if isinstance(place, dict):
                place[last] = value
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8", errors="surrogatepass")
        outcome(capsys, "validate", path)

    check()


def try_texts(examples, tmp_path, capsys):
    @fuzz(examples)
    @given(st.binary(max_size=120) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")))
    def check(content):
        (tmp_path / "any.yaml").write_bytes(content)
        outcome(capsys, "validate", tmp_path / "any.yaml")

    check()


def try_files(examples, tiny_task, tmp_path, capsys):
    @fuzz(examples)
    @given(FILES, st.sampled_from(["csv", "tsv", "jsonl", "parquet"]), st.booleans())
    def check(content, suffix, skip):
        path = tmp_path / f"rows.{suffix}"
        path.write_bytes(content)
        sets = ["--set", f"data.train={path}", "--set", f"data.on_bad_row={'skip' if skip else 'error'}"]
        outcome(capsys, "validate", tiny_task / "recipe.yaml", *sets)

    check()


def try_models(examples, loads, tmp_path, tiny_task, capsys):
    folder = save_model(tmp_path / "model", layers=2, num_labels=2)
    known = json.loads((folder / "config.json").read_text())
    tokenizer = (folder / "tokenizer.json").read_bytes()

    @fuzz(examples)
    @given(st.dictionaries(st.sampled_from(CONFIG_FIELDS), VALUES, min_size=1, max_size=2))
    def configs(changes):
        (folder / "config.json").write_text(json.dumps({**known, **changes}))
        outcome(capsys, "validate", tiny_task / "recipe.yaml", "--set", f"model.path={folder}")

    @fuzz(loads)
    @given(st.dictionaries(st.sampled_from(CONFIG_FIELDS), VALUES, min_size=1, max_size=1))
    def loading(changes):
        (folder / "config.json").write_text(json.dumps({**known, **changes}))
        outcome(capsys, "explain", folder, "a b c")

    @fuzz(loads)
    @given(st.integers(0, len(tokenizer)), st.binary(max_size=20), st.booleans())
    def tokenizers(place, noise, cut):
        (folder / "config.json").write_text(json.dumps(known))
        (folder / "tokenizer.json").write_bytes(tokenizer[:place] + noise + (b"" if cut else tokenizer[place:]))
        outcome(capsys, "explain", folder, "a b c")

    configs()
    loading()
    tokenizers()
    shutil.rmtree(folder)


def test_some_hundred_odd_inputs(tiny_task, tmp_path, capsys):
    try_recipes(150, tiny_task, tmp_path, capsys)
    try_texts(100, tmp_path, capsys)
    try_files(150, tiny_task, tmp_path, capsys)
    try_models(100, 30, tmp_path, tiny_task, capsys)


@pytest.mark.slow
def test_over_five_thousand_odd_inputs(tiny_task, tmp_path, capsys):
    try_recipes(1800, tiny_task, tmp_path, capsys)
    try_texts(800, tmp_path, capsys)
    try_files(1600, tiny_task, tmp_path, capsys)
    try_models(700, 250, tmp_path, tiny_task, capsys)
