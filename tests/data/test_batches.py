import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import byte_pairs, wordpiece
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from compressor.data.batches import (
    Encodings,
    bucketed_rows,
    encode,
    join,
    pad,
    padded_batches,
    same_tokens,
    shuffled_rows,
)
from compressor.data.splits import normalised
from compressor.errors import UserError


def tokenizer_of(*inputs):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_input_names=["input_ids", *inputs]
    )


def test_encode_one_text_and_pairs_by_hand():
    tokenizer = tokenizer_of("token_type_ids", "attention_mask")
    single = encode([("a b",), ("x",), ("",)], tokenizer, 10)
    assert single.input_ids == [[2, 4, 5, 3], [2, 1, 3], [2, 3]]
    assert single.token_types == [[0, 0, 0, 0], [0, 0, 0], [0, 0]]
    assert single.lengths.tolist() == [4, 3, 2]
    pair = encode([("a", "b c")], tokenizer, 10)
    assert pair.input_ids == [[2, 4, 3, 5, 6, 3]]
    assert pair.token_types == [[0, 0, 0, 1, 1, 1]]


def test_join_puts_parts_one_after_the_other():
    for types in ("token_type_ids",), ():
        tokenizer = tokenizer_of(*types, "attention_mask")
        parts = [encode(texts, tokenizer, 10) for texts in ([("a b",), ("c",)], [], [("b",)])]
        assert join(parts) == encode([("a b",), ("c",), ("b",)], tokenizer, 10)


def test_encode_truncates_the_longer_text_first():
    tokenizer = tokenizer_of("attention_mask")
    assert encode([("a a a a a a",)], tokenizer, 4).input_ids == [[2, 4, 4, 3]]
    pair = encode([("a a a a a", "b")], tokenizer, 6)
    assert pair.input_ids == [[2, 4, 4, 3, 5, 3]]
    assert pair.token_types is None


@pytest.mark.parametrize(("inputs", "token_types"), [((), None), (("token_type_ids",), [])])
def test_encode_nothing(inputs, token_types):
    empty = encode([], tokenizer_of(*inputs), 8)
    assert (empty.input_ids, empty.token_types, empty.pad_id, len(empty)) == ([], token_types, 0, 0)
    assert list(padded_batches(empty, 4)) == []


def test_pad_by_hand():
    encodings = Encodings([[2, 4, 3], [2, 4, 5, 6, 3], [2, 3]], [[0, 0, 0], [0, 0, 1, 1, 1], [0, 0]], pad_id=9)
    inputs = pad(encodings, np.array([2, 0]))
    assert inputs["input_ids"].tolist() == [[2, 3, 9], [2, 4, 3]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0]]
    inputs = pad(encodings, np.array([1, 2]))
    assert inputs["token_type_ids"].tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int64)}


def test_pad_without_token_types():
    assert set(pad(Encodings([[1]], None, 0), np.array([0]))) == {"input_ids", "attention_mask"}


def test_take_follows_the_rows():
    taken = Encodings([[1], [2, 2], [3]], [[0], [0, 1], [1]], 0).take(np.array([2, 1]))
    assert (taken.input_ids, taken.token_types) == ([[3], [2, 2]], [[1], [0, 1]])
    assert Encodings([[1], [2]], None, 0).take(np.array([1])).token_types is None


def test_buckets_are_longest_first_and_stable():
    batches = bucketed_rows(np.array([3, 5, 3, 9, 5]), 2)
    assert [batch.tolist() for batch in batches] == [[3, 1], [4, 0], [2]]


@given(lengths=st.lists(st.integers(1, 30), max_size=80), batch_size=st.integers(1, 7), seed=st.integers(0, 3))
def test_every_row_comes_exactly_once(lengths, batch_size, seed):
    lengths = np.array(lengths, dtype=np.int64)
    for batches in (
        bucketed_rows(lengths, batch_size),
        shuffled_rows(lengths, batch_size, np.random.default_rng(seed)),
    ):
        assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        assert len(batches) == -(-len(lengths) // batch_size)


def test_shuffled_batches_hold_similar_lengths_and_follow_the_generator():
    lengths = np.random.default_rng(0).integers(1, 100, 640)
    batches, again, other = (shuffled_rows(lengths, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(left, right) for left, right in zip(batches, again, strict=True))
    assert not all(np.array_equal(left, right) for left, right in zip(batches, other, strict=True))
    # pools of 256 rows sorted by length: a batch of 8 spans about 100 / 32 lengths, an unsorted one about 80
    assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 10
    starts = [lengths[batch].mean() for batch in batches]
    assert starts != sorted(starts)


def test_indices_put_results_back_into_order():
    rows = [[7] * length for length in (2, 6, 1, 4, 3)]
    restored = np.zeros(5, dtype=np.int64)
    for indices, inputs in padded_batches(Encodings(rows, None, 0), 2):
        restored[indices] = inputs["attention_mask"].sum(1)
    assert restored.tolist() == [2, 6, 1, 4, 3]


def test_rows_of_special_tokens_alone_are_refused(tmp_path):
    roberta = byte_pairs(tmp_path)
    assert len(encode([("a b", "c d")], roberta, 5).input_ids[0]) == 5
    with pytest.raises(UserError, match="max_length: 4 leaves no room for text, since pairs take 4 special tokens"):
        encode([("a b", "c d")], roberta, 4)
    with pytest.raises(UserError, match="max_length: 2 .* texts take 2"):
        encode([("a b",)], roberta, 2)


LETTER_TEXTS = st.text(alphabet="abAB é\u0301.,\t\u00a0", max_size=8)


def test_texts_of_the_same_tokens_are_copies(tmp_path):
    same, one = same_tokens(wordpiece(tmp_path)), ("a b c", "it's x.")
    for other in [
        ("A b C", "it's x."),
        ("a  b\tc ", "It ' s x ."),
        ("\u00e1 b c", "it's x."),
        ("a\u0301 b c", "it's x."),
    ]:
        assert same(one) == same(other)
    for other in [("a b", "c it's x."), ("ab c", "it's x."), ("a b c",), ("it's x.", "a b c")]:
        assert same(one) != same(other)
    (tmp_path / "cased").mkdir()
    vocabulary = tmp_path / "cased" / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nA\n", encoding="utf-8")
    cased = same_tokens(BertTokenizerFast(str(vocabulary), do_lower_case=False))
    assert cased(("a",)) != cased(("A",))
    assert cased(("a .",)) == cased(("a.",))
    assert same_tokens(byte_pairs(tmp_path)) is normalised  # it normalises nothing


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LETTER_TEXTS, LETTER_TEXTS)
def test_rows_of_one_key_have_the_same_tokens(tmp_path, one, other):
    tokenizer = wordpiece(tmp_path)
    same, ids = same_tokens(tokenizer), encode([(one,), (other,)], tokenizer, 60).input_ids
    if same((one,)) == same((other,)):
        assert ids[0] == ids[1]
    assert same((one,)) == same((f" {one.upper()}\n",))
