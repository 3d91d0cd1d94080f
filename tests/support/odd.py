"""Odd values, and files, cells and tables of them, for fuzzing."""

import json
from typing import get_args

from hypothesis import strategies as st

from compressor.recipe.base import Spec
from compressor.recipe.compression import Recipe

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
CONFIG_FIELDS = """
    model_type num_hidden_layers hidden_size num_attention_heads intermediate_size vocab_size
    max_position_embeddings type_vocab_size pad_token_id id2label label2id problem_type hidden_act
    position_embedding_type is_decoder pruned_heads compressor quantization_config layer_norm_eps architectures
    torch_dtype dtype num_labels auto_map classifier_dropout chunk_size_feed_forward hidden_dropout_prob
    initializer_range use_cache tie_word_embeddings attn_implementation
""".split()  # noqa: SIM905


def fields_of(spec, prefix=""):
    """Return the paths of all fields of a recipe (`data`, `data.text`), each with the words that it takes."""
    found = {}
    for name, field in spec.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        words = [word for kind in [*kinds, *sum(map(get_args, kinds), ())] for word in get_args(kind)]
        found[prefix + name] = [word for word in words if isinstance(word, str)]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Spec):
                found |= fields_of(kind, f"{prefix}{name}.")
    return found


RECIPE_FIELDS = fields_of(Recipe)
PLAN_FIELDS = [field for field in RECIPE_FIELDS if field.startswith(("selec", "sep", "data.", "goals"))]
CHEAP = "--set", "benchmark={batch_sizes: [1], lengths: [8], min_seconds: 0, min_runs: 5, max_seconds: 1}"
CELLS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['"', '"a', 'a"b', "a,b", "\t", "\r\n", "NA", "", "1.5", "-1"]
)


def lines_of(header, separator, width):
    rows = st.lists(st.lists(CELLS, max_size=width), max_size=8)
    return rows.map(lambda rows: "\n".join([*header, *(separator.join(row) for row in rows)]).encode())


FILES = st.one_of(
    st.binary(max_size=200),
    lines_of([], ",", 4),
    lines_of(["text,label"], ",", 3),
    lines_of(["text\tlabel"], "\t", 3),
    st.lists(VALUES, max_size=6).map(
        lambda rows: "\n".join(json.dumps(row) for row in rows).encode("utf-8", "surrogatepass")
    ),
)
TEXT_COLUMN = CELLS | st.sampled_from(["\ud7ff", "a\0b", "x" * 5000, " "]) | st.none()
TABLES = st.one_of(  # parquet: columns of one type each, whatever it is
    st.tuples(st.lists(text, min_size=1, max_size=6), labels)
    for text in (TEXT_COLUMN, st.binary(max_size=4), st.integers(-9, 9), st.lists(st.text(max_size=3), max_size=2))
    for labels in (
        st.sampled_from(
            [[0, 1], [0.5, 1.0], ["0", "1"], [None, 1], [True, False], [b"0", b"1"], [[0], [1]], [{"a": 1}]]
        ),
    )
)
