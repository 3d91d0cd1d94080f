"""Text for pre-training: held-out texts, packing by hand, whole words masked in the right shares."""

import numpy as np
import pytest
from tiny import LETTERS, save_model, wordpiece

from compressor.errors import UserError
from compressor.placement.masks import mask_words
from compressor.placement.text import (
    Packed,
    held_out,
    load_given_tokenizer,
    make_tokenizer,
    pack,
    read_texts,
    unigram_loss,
)
from compressor.recipe.placement import EncoderSpec, TextSpec

SPECIALS = np.arange(5)


@pytest.fixture
def pieces(tmp_path):
    """Return a tokenizer that knows the letters, alone and inside a word."""
    tokenizer = wordpiece(tmp_path)
    file = tmp_path / "vocab.txt"
    file.write_text(file.read_text() + "".join(f"\n##{letter}" for letter in LETTERS), encoding="utf-8")
    return type(tokenizer)(str(file))


def test_sequences_are_packed_as_by_hand(pieces):
    packed = pack(["a bc", "d", "efg h", "x"], pieces, 6)
    shown = [pieces.convert_ids_to_tokens(row) for row in packed.ids]
    assert shown == [
        ["[CLS]", "a", "b", "##c", "[SEP]", "d"],
        ["[CLS]", "[SEP]", "e", "##f", "##g", "h"],
    ]  # what is left, [SEP] x [SEP], does not fill a third one
    assert packed.starts.astype(int).tolist() == [[0, 1, 1, 0, 0, 1], [0, 0, 1, 0, 0, 1]]


def test_the_rest_of_a_word_in_the_next_sequence_counts_as_a_word(pieces):
    packed = pack(["abcdef"], pieces, 4)
    assert [pieces.convert_ids_to_tokens(row) for row in packed.ids] == [
        ["[CLS]", "a", "##b", "##c"],
        ["[CLS]", "##d", "##e", "##f"],
    ]
    assert packed.starts.astype(int).tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]


def random_batch(rows=400, length=50):
    generator = np.random.default_rng(3)
    ids = generator.integers(5, 105, size=(rows, length))
    starts = generator.random((rows, length)) < 0.6
    ids[:, 0], starts[:, 0], starts[:, 1] = 2, False, True
    ids[:, 20], starts[:, 20], starts[:, 21] = 3, False, True
    return ids, starts


def test_words_are_masked_together_in_the_shares_of_bert():
    ids, starts = random_batch()
    masked = mask_words(ids, starts, 0.15, 4, 105, SPECIALS, 1, 2)
    ordinary = ids >= 5
    assert not masked.chosen[~ordinary].any()
    same_word = ~starts[:, 1:] & ordinary[:, 1:] & ordinary[:, :-1]
    assert (masked.chosen[:, 1:] == masked.chosen[:, :-1])[same_word].all()
    assert abs(masked.chosen[ordinary].mean() - 0.15) < 0.015  # 12,000 words: deviation 0.003
    chosen = masked.chosen
    hidden, kept = (masked.inputs == 4)[chosen].mean(), (masked.inputs == ids)[chosen].mean()
    assert abs(hidden - 0.8) < 0.03  # 2,900 tokens: deviation 0.008
    assert abs(kept - 0.101) < 0.03  # a random token is the right one in 1 % of cases
    assert (masked.inputs[~chosen] == ids[~chosen]).all()
    assert masked.inputs.min() >= 2
    assert ((masked.inputs >= 5) | (masked.inputs == 4))[chosen].all()


def test_masks_hang_on_the_seed_alone():
    ids, starts = random_batch(20)
    first, again, other = (mask_words(ids, starts, 0.15, 4, 105, SPECIALS, *seed) for seed in ((0, 7), (0, 7), (0, 8)))
    assert np.array_equal(first.inputs, again.inputs)
    assert np.array_equal(first.chosen, again.chosen)
    assert not np.array_equal(first.chosen, other.chosen)


def test_equal_texts_are_on_the_same_side():
    texts = [f"text {number % 300}" for number in range(600)]
    early, late = held_out(texts, 0.2)
    assert len(early) + len(late) == 600
    assert not set(early) & set(late)
    assert 0.1 < len(late) / 600 < 0.3
    with pytest.raises(UserError, match=r"text.held_out: 0.0001 of 600 texts leaves one side empty"):
        held_out(texts, 0.0001)


def test_the_vocabulary_is_trained_on_the_text():
    tokenizer = make_tokenizer(["the film is good", "the film is bad"] * 20, 80)
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]
    assert tokenizer.tokenize("The FILM") == ["the", "film"]
    assert tokenizer("good", "bad")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert tokenizer.convert_ids_to_tokens(tokenizer("goad")["input_ids"]) == ["[CLS]", "go", "##a", "##d", "[SEP]"]
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]


def test_equal_texts_give_equal_vocabularies():
    generator = np.random.default_rng(0)
    texts = [" ".join("".join(generator.choice(list(LETTERS), size=5)) for _ in range(6)) for _ in range(60)]
    made = [make_tokenizer(texts, 300).get_vocab() for _ in range(4)]
    assert made[0] == made[1] == made[2] == made[3]
    assert 250 < len(made[0]) <= 300


def test_the_unigram_loss_by_hand():
    packed = Packed(np.array([[2, 5, 5, 6]]), np.ones((1, 4), dtype=bool))
    # counts 2 + 1 and 1 + 1 of 3 + 8
    assert np.isclose(unigram_loss(packed, np.array([5, 6]), 8), -(np.log(3 / 11) + np.log(2 / 11)) / 2)


def test_text_is_read_from_lines_columns_and_lists_of_files(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"x": "three", "y": "four"}\n{"x": null, "y": "five"}\n', encoding="utf-8")
    assert read_texts(TextSpec(files=str(tmp_path / "a.txt"))) == ["one", "two"]
    (tmp_path / "c.csv").write_text("x,y\nsix,7\n", encoding="utf-8")
    files = [str(tmp_path / "b.jsonl"), str(tmp_path / "c.csv")]
    assert read_texts(TextSpec(files=files, column=["x", "y"])) == ["three", "four", "five", "six", "7"]
    with pytest.raises(UserError, match="no column 'z'"):
        read_texts(TextSpec(files=files, column="z"))


@pytest.mark.parametrize("content", ["{", '{"model": {"type": "x"}}', "[" * 9999])
def test_a_damaged_tokenizer_is_refused(tmp_path, content):
    (save_model(tmp_path / "model") / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="encoder.tokenizer .* it cannot be loaded"):
        load_given_tokenizer(EncoderSpec(tokenizer=str(tmp_path / "model"), vocab_size=64))
