"""Pre-training: it learns, resumes to the bit, notices trouble, and divides batches without changing the result."""

import contextlib
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from compressor.model.training.checkpoint import Checkpoint
from compressor.placement import pretrain as placement_pretrain
from compressor.placement.pretrain import batch_rows, build, evaluate, masked_rows, pretrain, rate, trouble
from compressor.placement.text import make_tokenizer, pack
from compressor.recipe.placement import EncoderSpec, GuardSpec, PretrainSpec

WORDS = [
    "the",
    "film",
    "was",
    "good",
    "but",
    "the",
    "plot",
    "was",
    "bad",
    "and",
    "nobody",
    "liked",
    "its",
    "long",
    "end",
]
TEXTS = [
    " ".join(WORDS[(3 * row + place * (1 + row % 3)) % len(WORDS)] for place in range(4 + row % 9))
    for row in range(150)
]
ENCODER = EncoderSpec(layers=3, hidden=16, heads=2, ffn=32, vocab_size=64, positions=16, dropout=0.1)
WIDTHS = 0, 96, 0


@pytest.fixture(scope="module")
def text():
    tokenizer = make_tokenizer(TEXTS, 64)
    return tokenizer, pack(TEXTS, tokenizer, 16)


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def spec(**changes):
    return PretrainSpec(**{"steps": 12, "batch_size": 8, "length": 16, "lr": 1e-2, "checkpoint_steps": 5, **changes})


def trained(text, accelerator, folder, chosen, *, seed=0, key="key", tick=lambda: None):
    tokenizer, packed = text
    model = build(ENCODER, WIDTHS, tokenizer, seed)
    done = pretrain(model, packed, tokenizer, chosen, accelerator, Checkpoint(folder, key), seed=seed, tick=tick)
    return done, model.state_dict()


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns(text, accelerator, tmp_path):
    done, _ = trained(text, accelerator, tmp_path, spec(steps=60))
    assert done.status == "ok"
    assert done.steps == 60
    assert len(done.curve) == 20
    assert done.curve[-1] < done.curve[0] - 0.7
    assert done.events == []


@pytest.mark.parametrize("after", [3, 7, 11])
def test_an_interrupted_training_ends_with_the_same_weights(text, accelerator, tmp_path, after):
    whole, wanted = trained(text, accelerator, tmp_path / "whole", spec())
    left = iter(range(after))

    def dying():
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(text, accelerator, tmp_path / "killed", spec(), tick=dying)
    steps = []
    again, weights = trained(text, accelerator, tmp_path / "killed", spec(), tick=lambda: steps.append(1))
    assert len(steps) == 12 - 5 * (after // 5)  # it went on from the last checkpoint
    assert again.curve == whole.curve
    assert equal(weights, wanted)


def test_a_checkpoint_of_other_inputs_is_not_believed(text, accelerator, tmp_path):
    trained(text, accelerator, tmp_path, spec())
    steps = []
    trained(text, accelerator, tmp_path, spec(), key="other", tick=lambda: steps.append(1))
    assert len(steps) == 12


def test_parts_of_a_batch_add_up_to_it(text, accelerator, tmp_path):
    plain = ENCODER.model_copy(update={"dropout": 0.0})
    tokenizer, packed = text
    states = []
    for parts in (1, 4):
        model = build(plain, WIDTHS, tokenizer, 0)
        chosen = spec(steps=2, accumulate=parts, lr=1e-3)
        pretrain(model, packed, tokenizer, chosen, accelerator, Checkpoint(tmp_path / str(parts), "key"))
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        if not name.endswith("key.bias"):  # it changes no attention, so that its gradient is rounding alone
            assert torch.allclose(tensor, states[1][name], atol=1e-5), name


def injected(monkeypatch, at, value, *, times=1):
    """Make the loss of step `at` (from 0) be `value` the first `times` times that it is computed."""
    honest, seen = placement_pretrain._gradients, []

    def gradients(wrapped, optimizer, ids, masked, chosen, accelerator):
        loss = honest(wrapped, optimizer, ids, masked, chosen, accelerator)
        step = int(optimizer.state_dict()["state"].get(0, {"step": 0})["step"])
        if step == at and len(seen) < times:
            seen.append(step)
            return value
        return loss

    monkeypatch.setattr(placement_pretrain, "_gradients", gradients)
    return seen


@pytest.mark.parametrize(
    ("value", "words"), [(9.0, "a spike of the loss: 9.00 nats"), (math.nan, "the loss is not finite")]
)
def test_trouble_goes_back_to_the_checkpoint_with_half_the_rate(text, accelerator, tmp_path, monkeypatch, value, words):
    guard = GuardSpec(window=5, deviations=6, rise=0.5)
    seen = injected(monkeypatch, 8, value)
    rates = []
    step = torch.optim.AdamW.step

    def recorded(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    done, _ = trained(text, accelerator, tmp_path, spec(guard=guard, warmup=0.0))
    assert seen == [8]
    assert (done.status, done.halvings, done.steps) == ("ok", 1, 12)
    event = done.events[0]
    assert words in event["reason"]
    assert (event["step"], event["back_to"]) == (9, 5)
    wanted = [1e-2 * rate(each, 12, 0.0) for each in range(8)] + [0.5e-2 * rate(each, 12, 0.0) for each in range(5, 12)]
    assert np.allclose(rates, wanted)


def test_a_kill_behind_a_halving_keeps_it(text, accelerator, tmp_path, monkeypatch):
    guard = GuardSpec(window=5)
    injected(monkeypatch, 8, math.inf)
    whole, wanted = trained(text, accelerator, tmp_path / "whole", spec(guard=guard))
    monkeypatch.undo()
    injected(monkeypatch, 8, math.inf)
    left = iter(range(10))  # eight steps, then back to the fifth, then two more

    def dying():
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(text, accelerator, tmp_path / "killed", spec(guard=guard), tick=dying)
    again, weights = trained(text, accelerator, tmp_path / "killed", spec(guard=guard))
    assert again.events == whole.events
    assert equal(weights, wanted)


def test_a_run_that_does_not_settle_is_given_up(text, accelerator, tmp_path, monkeypatch):
    injected(monkeypatch, 6, math.nan, times=99)
    done, _ = trained(text, accelerator, tmp_path, spec(guard=GuardSpec(window=5, halvings=2)))
    assert (done.status, done.steps, done.halvings) == ("unstable", 6, 2)
    assert [event["back_to"] for event in done.events] == [5, 5, None]
    assert np.allclose([event["rate"] / done.events[0]["rate"] for event in done.events], [1, 0.5, 0.25])


def test_the_guard_by_hand():
    guard = GuardSpec(window=5, deviations=3, rise=0.5)
    calm = [2.0, 2.2, 2.0, 1.8, 2.0]  # mean 2, deviation 0.126
    assert trouble(2.4, 1.0, calm, guard) is None
    assert "above 2.50" in trouble(2.6, 1.0, calm, guard)
    assert trouble(9.0, 1.0, calm[:4], guard) is None  # too few steps to tell
    wild = [1.0, 3.0, 1.0, 3.0, 2.0]  # deviation 0.894, three of them 2.68
    assert trouble(4.6, 1.0, wild, guard) is None
    assert "above 4.68" in trouble(4.7, 1.0, wild, guard)
    assert trouble(2.0, math.inf, calm, guard) == "the gradient is not finite"


def test_the_rate_rises_and_falls_along_a_cosine():
    rates = [rate(step, 10, 0.2) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert np.isclose(rates[6], 0.5)
    assert np.isclose(rate(10, 10, 0.2), 0)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_every_epoch_takes_all_sequences_in_another_order():
    rows = np.concatenate([batch_rows(step, 4, 6, seed=1) for step in range(3)])
    assert sorted(rows[:6]) == sorted(rows[6:]) == list(range(6))
    assert rows[:6].tolist() != rows[6:].tolist()
    assert batch_rows(1, 4, 6, seed=1).tolist() == rows[4:8].tolist()
    assert batch_rows(0, 6, 6, seed=2).tolist() != rows[:6].tolist()


def test_placements_of_a_seed_start_from_the_same_attention_and_embeddings(text):
    tokenizer, _ = text
    uniform, other, seed = (build(ENCODER, widths, tokenizer, seed).state_dict() for widths, seed in
                            (((32, 32, 32), 0), (WIDTHS, 0), (WIDTHS, 1)))  # fmt: skip
    shared = [name for name in other if ".intermediate." not in name and not name.endswith("output.dense.weight")]
    same = [name for name in other if "attention" in name or "embeddings" in name]
    assert all(torch.equal(uniform[name], other[name]) for name in [*shared, *same])
    assert not torch.equal(
        seed["bert.embeddings.word_embeddings.weight"], other["bert.embeddings.word_embeddings.weight"]
    )


def test_the_evaluation_loss_by_another_way(text, accelerator):
    tokenizer, packed = text
    masked = masked_rows(packed, np.arange(len(packed)), tokenizer, 0.15, 0)
    model = build(ENCODER, WIDTHS, tokenizer, 0).eval()
    loss, accuracy = evaluate(model, packed, masked, accelerator, batch_size=7)
    labels = torch.where(torch.from_numpy(masked.chosen), torch.from_numpy(packed.ids).long(), -100)
    with torch.no_grad():
        stock = model(input_ids=torch.from_numpy(masked.inputs), labels=labels)
    assert np.isclose(loss, float(stock.loss), atol=1e-5)
    assert accuracy == pytest.approx(float((stock.logits.argmax(-1) == labels)[labels >= 0].float().mean()))


class TwoDevices:
    """Stands for one of two processes that average their gradients, as far as the loop asks."""

    num_processes = 2

    def __init__(self, index):
        self.process_index, self.device = index, torch.device("cpu")

    def backward(self, loss):
        loss.backward()

    def no_sync(self, _model):
        return contextlib.nullcontext()

    def reduce(self, value, reduction):
        assert reduction == "sum"
        return value


def test_two_processes_together_have_the_gradient_of_one(text, accelerator):
    tokenizer, packed = text
    plain = ENCODER.model_copy(update={"dropout": 0.0})
    rows = np.arange(8)
    masked = masked_rows(packed, rows, tokenizer, 0.3, 0)

    def gradient(each):
        model = placement_pretrain.MaskedLoss(build(plain, WIDTHS, tokenizer, 0))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        loss = placement_pretrain._gradients(model, optimizer, packed.ids[rows], masked, spec(accumulate=2), each)
        return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    (whole, wanted), (left, first), (right, second) = (
        gradient(accelerator),
        gradient(TwoDevices(0)),
        gradient(TwoDevices(1)),
    )
    assert np.isclose(left + right, whole, atol=1e-5)
    for name, value in wanted.items():
        assert torch.allclose((first[name] + second[name]) / 2, value, atol=1e-5), name
