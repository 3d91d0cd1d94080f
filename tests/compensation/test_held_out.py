"""Text that a distillation does not train on: how it is drawn, and the step that it finds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from students import WATCHED, pair, same, stop_after, weights

from compressor.compensation import distill as distillation
from compressor.compensation.distill import distill, surely_lower
from compressor.data.answers.kinds import SINGLE
from compressor.data.batches import Encodings, join
from compressor.measurement.predictions import predict
from compressor.model.training.checkpoint import Checkpoint
from compressor.recipe.training import DistillSpec

ROWS = st.lists(st.integers(0, 12), min_size=1, max_size=60)


@given(ROWS, st.sampled_from([0.0, 0.1, 0.25, 0.5]), st.integers(0, 3), st.data())
def test_no_copy_of_a_text_that_is_held_out_is_trained_on(ids, share, seed, data):
    encodings = Encodings([[1, text, 2] for text in ids], [[0, text % 2, 1] for text in ids], 0)
    known = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    rows, held = distillation.held_out(encodings, share, seed, known)
    assert rows.tolist() == sorted(set(rows))
    assert held.tolist() == sorted(set(held))
    trained, unseen = ({ids[row] for row in part} for part in (rows, held))
    assert not trained & unseen
    assert trained | unseen == set(ids)
    assert len(unseen) == len(held) == min(int(share * len(set(ids))), len(set(ids) - known_texts(ids, known)) or 999)
    assert trained
    if set(ids) - known_texts(ids, known):
        assert not unseen & known_texts(ids, known)
    again = distillation.held_out(encodings, share, seed, known)
    assert all(np.array_equal(one, other) for one, other in zip((rows, held), again, strict=True))


def known_texts(ids, known):
    return {text for text, knows in zip(ids, known, strict=True) if knows}


def test_a_thousand_texts_are_held_out_at_most():
    encodings = Encodings([[number] for number in range(30_000)], None, 0)
    rows, held = distillation.held_out(encodings, 0.1, 0)
    assert (len(rows), len(held)) == (29_000, 1000)
    assert not np.array_equal(held, distillation.held_out(encodings, 0.1, 1)[1])


def test_nothing_that_is_held_out_reaches_a_training_step(tiny, monkeypatch):
    teacher, student, family, keep, encodings = pair(tiny)
    encodings = join([encodings, encodings])  # a copy of every text
    spec, seen = DistillSpec(**WATCHED), set()
    rows, held = distillation.held_out(encodings, spec.holdout, 0)
    assert len(held) == 6
    assert len(rows) == 36
    real = distillation.forward

    def spy(model, *arguments):
        if torch.is_grad_enabled():
            inputs = arguments[1]
            for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
                seen.add(tuple(ids[mask.bool()].tolist()))
        return real(model, *arguments)

    monkeypatch.setattr(distillation, "forward", spy)
    fit = distill(teacher, student, family, keep, encodings, spec)
    assert (fit.rows, fit.held) == (36, 6)
    assert seen == {tuple(encodings.input_ids[row]) for row in rows}
    assert not seen & {tuple(encodings.input_ids[row]) for row in held}


def test_the_step_nearest_to_the_full_model_on_held_out_text_is_kept(tiny):
    teacher, student, family, keep, encodings = pair(tiny)
    fit = distill(teacher, student, family, keep, encodings, DistillSpec(**WATCHED))
    assert [step for step, _ in fit.curve] == list(range(16))
    assert fit.kept_step == min(fit.curve, key=lambda point: point[1])[0] > 0
    held = encodings.take(distillation.held_out(encodings, 0.25, 0)[1])
    found = SINGLE.divergence(predict(teacher, held), predict(student, held))
    assert found == pytest.approx(min(value for _, value in fit.curve), rel=1e-4)


def test_where_training_does_harm_the_start_is_kept(tiny):
    teacher, student, family, keep, encodings = pair(tiny, skip=())  # nothing is missing, so that nothing can be gained
    before = weights(student)
    spec = DistillSpec(**{**WATCHED, "patience": 3})
    fit = distill(teacher, student, family, keep, encodings, spec)
    assert (fit.kept_step, fit.steps) == (0, 4)
    assert fit.curve[0][1] == pytest.approx(0, abs=1e-9)
    assert same(before, student.state_dict())


def test_a_fall_that_may_be_chance_is_not_kept(tiny, monkeypatch):
    ones = np.ones(4)
    # by hand: falls of 0.5, 0.4, 0.5, 0.6 have mean 0.5 and standard error 0.041, and 2.35 of these are chance
    assert surely_lower(ones - [0.5, 0.4, 0.5, 0.6], ones)
    # falls of 0.1, -0.1, 0.2, -0.1: mean 0.025, standard error 0.075
    assert not surely_lower(ones - [0.1, -0.1, 0.2, -0.1], ones)
    assert not surely_lower(ones, ones)
    assert not surely_lower(np.zeros(1), np.ones(1))  # one text tells nothing
    monkeypatch.setattr(distillation, "surely_lower", lambda _now, _before: False)
    teacher, student, family, keep, encodings = pair(tiny)
    before = weights(student)
    fit = distill(teacher, student, family, keep, encodings, DistillSpec(**WATCHED))
    assert fit.kept_step == 0 < fit.steps
    assert min(value for _, value in fit.curve) < fit.curve[0][1]
    assert same(before, student.state_dict())


@pytest.mark.parametrize("stopped", [1, 8, 14])
def test_an_interrupted_distillation_that_is_watched_ends_with_the_same_weights(tiny, tmp_path, stopped):
    spec = DistillSpec(**WATCHED)
    teacher, student, family, keep, encodings = pair(tiny)
    whole = distill(teacher, student, family, keep, encodings, spec)
    wanted = weights(student)
    _, student, *_ = pair(tiny)
    checkpoint = Checkpoint(tmp_path, "a", minutes=0)
    with pytest.raises(KeyboardInterrupt):
        distill(
            teacher, student, family, keep, encodings, spec, track=stop_after(stopped), checkpoint=checkpoint
        )  # fmt: skip
    _, student, *_ = pair(tiny)
    assert distill(teacher, student, family, keep, encodings, spec, checkpoint=checkpoint) == whole
    assert same(wanted, student.state_dict())
