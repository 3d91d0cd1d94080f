"""Words that a tokenizer cannot show a model: those that become nothing, and those behind the longest input."""

from collections.abc import Mapping
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from compressor.data.answers.tokens import first_tokens
from compressor.data.batches import check_room
from compressor.data.files import bad_rows
from compressor.data.labels import shown
from compressor.data.rows import SKIP
from compressor.data.splits import Split
from compressor.data.tasks import TaskData
from compressor.errors import UserError

PARTS = "evaluation", "train", "calibration", "selection"


def fit_data(data: TaskData, tokenizer: PreTrainedTokenizerBase, max_length: int, *, skip: bool = False) -> TaskData:
    """Return the data without the words behind `max_length` tokens, and a warning for each part that had some.

    A word is read at its first token, so one that becomes no token at all has no answer: its text is bad, and left out where
    `skip` says so. Raises UserError for such texts otherwise, for a tokenizer that cannot say which token is of which word,
    and where nothing is left of a part.
    """
    check_room(tokenizer, 1, max_length, "data.max_length")
    made, notes = {}, []
    for name in PARTS:
        part = getattr(data, name)
        made[name], cut, lost = fit_words(part, tokenizer, max_length)
        if lost and (not skip or not len(made[name])):
            remedy = "take such words out" + ("" if skip else f", or {SKIP}")
            raise UserError(f"{bad_rows(lost, len(part))}; {remedy}.")
        if lost:
            notes.append(
                f"{len(lost)} of {len(part):,} texts of the {name} part are left out: {bad_rows(lost, len(part))}."
            )
        if cut:
            words = sum(map(len, part.texts))
            notes.append(
                f"{len(cut):,} of {len(part):,} texts of the {name} part are longer than data.max_length ({max_length} tokens): "
                f"{sum(cut.values()):,} of {words:,} words behind that are left out, and no figure counts them."
            )
    return replace(data, **made, warnings=(*data.warnings, *notes))


def fit_words(
    split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Split, Mapping[int, int], Mapping[int, str]]:
    """Return a split with the words that a model sees, row -> words that were cut off, and row -> why it is left out.

    Raises UserError for a tokenizer that cannot say which token is of which word.
    """
    if not tokenizer.is_fast:
        raise UserError(
            "Labels of words need a fast tokenizer (tokenizer.json), which says where a word begins; save one beside "
            "the model."
        )
    if not len(split):
        return split, {}, {}
    texts = [list(words) for words in split.texts]
    told = {"is_split_into_words": True, "padding": False, "verbose": False}
    whole = tokenizer(texts, truncation=False, **told)
    seen = tokenizer(texts, truncation=True, max_length=max_length, **told)
    kept, cut, lost = {}, {}, {}
    for row, words in enumerate(texts):
        there = first_tokens(whole.word_ids(row))
        nothing = next((word for word in range(len(words)) if word not in there), None)
        if nothing is not None:
            file, _, place = split.ids[row].partition(":")
            lost[row] = (
                f"row {int(place) + 1} of data.{file}, word {nothing + 1}: {shown(words[nothing])} becomes no token"
            )
            continue
        inside = first_tokens(seen.word_ids(row))
        last = max(
            inside
        )  # where the front of a text is cut off, the first word may have lost its first token, not the last
        kept[row] = sorted(word for word in inside if there[last] - there[word] == inside[last] - inside[word])
        if len(kept[row]) < len(words):
            cut[row] = len(words) - len(kept[row])
    return split.take_words(kept), cut, lost
