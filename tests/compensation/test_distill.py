"""Distillation: its loss by hand, that it learns, repeats itself and goes on after a kill, in every family."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from students import QUICK, WATCHED, pair, same, stop_after, weights

from compressor.compensation import distill as distillation
from compressor.compensation.distill import Places, distill, logits_loss, state_variances, states_loss
from compressor.data.answers.kinds import SINGLE
from compressor.data.batches import join, pad
from compressor.measurement.predictions import predict
from compressor.model.families import layer_list
from compressor.model.surgery import drop_layers
from compressor.model.training.checkpoint import Checkpoint
from compressor.recipe.training import DistillSpec

FAMILIES = ["bert", "roberta", "distilbert", "electra"]


def test_losses_by_hand():
    teacher, student = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    p = 1 / (1 + math.exp(-1.0))  # at temperature 2 the logits are 1 and 0
    expected = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    assert float(logits_loss(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-6)
    # one text of two tokens, one of one: three tokens of width 2; the padding (100) must not count
    ours = [torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[0.0, 2.0], [100.0, 0.0]]]), torch.zeros(2, 2, 2)]
    mask, scales = torch.tensor([[1, 1], [1, 0]]), torch.tensor([2.0, 1.0])
    theirs = [torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)]
    assert float(states_loss(ours, theirs, mask, scales)) == pytest.approx((1 + 0 + 2) / 3 / 2 / 2)
    logits, labels = torch.tensor([[0.0, 0.0], [5.0, -5.0]]), torch.tensor([1, -1])
    assert float(SINGLE.loss(logits, labels)) == pytest.approx(math.log(2) / 2)
    assert float(SINGLE.loss(logits, torch.tensor([-1, -1]))) == 0.0


@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_states_are_the_states_behind_the_layers(tiny, name):
    model, family, encodings, _ = tiny(name)
    seen = []
    hooks = [
        layer.register_forward_hook(
            lambda _m, _i, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        for layer in layer_list(model, family)
    ]
    inputs = {key: torch.from_numpy(value) for key, value in pad(encodings, np.arange(5)).items()}
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    assert len(hidden) == len(seen) + 1
    assert all(torch.equal(one, other) for one, other in zip(hidden[1:], seen, strict=True))


def test_variances_are_those_of_all_tokens(tiny):
    model, family, encodings, _ = tiny("bert")
    inputs = {key: torch.from_numpy(value) for key, value in pad(encodings, np.arange(len(encodings))).items()}
    with torch.no_grad():
        state = model(**inputs, output_hidden_states=True).hidden_states[3][inputs["attention_mask"].bool()]
    assert state_variances(model, family, Places([3, 4]), encodings)[0] == pytest.approx(
        float(state.var(0, correction=0).mean()), rel=1e-5
    )


def test_nothing_is_learned_where_nothing_is_missing(tiny):
    teacher, student, family, keep, encodings = pair(tiny, skip=())
    before = weights(student)
    spec = DistillSpec(**QUICK, weight_decay=0.0)
    fit = distill(teacher, student, family, keep, encodings, spec)
    assert [set(epoch) for epoch in fit.losses] == [{"states"}] * 2
    assert fit.losses[-1]["states"] < 1e-9
    assert all(torch.allclose(value, before[name], atol=1e-4) for name, value in student.state_dict().items())
    inputs = {key: torch.from_numpy(value) for key, value in pad(encodings, np.arange(4)).items()}
    output = teacher(**inputs).logits
    loss = logits_loss(output, output.detach(), 2.0)
    loss.backward()
    assert abs(float(loss.detach())) < 1e-6
    assert max(float(p.grad.abs().max()) for p in teacher.parameters() if p.grad is not None) < 1e-5


@pytest.mark.parametrize("name", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES[1:])])
def test_distillation_learns_and_leaves_embeddings_and_teacher_alone(tiny, name):
    teacher, student, family, keep, encodings = pair(tiny, name)
    encodings = join([encodings] * 3)
    before, full = weights(student), weights(teacher)
    fit = distill(
        teacher,
        student,
        family,
        keep,
        encodings,
        DistillSpec(epochs=12, batch_size=8, lr=3e-3, logits_weight=1, holdout=0),
    )
    assert fit.rows == 72
    assert fit.precision == "fp32"
    assert all(fit.losses[-1][part] < 0.7 * fit.losses[0][part] for part in ("logits", "states"))
    after = student.state_dict()
    frozen = [key for key in after if key.startswith(f"{family.encoder}.embeddings")]
    assert frozen
    assert all(torch.equal(after[key], before[key]) for key in frozen)
    assert not any(
        torch.equal(after[key], before[key]) for key in after if key not in frozen and key.endswith("weight")
    )
    assert same(full, teacher.state_dict())
    assert not student.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in student.parameters())


def test_embeddings_learn_where_the_recipe_says_so(tiny):
    teacher, student, family, keep, encodings = pair(tiny)
    before = weights(student)
    distill(teacher, student, family, keep, encodings, DistillSpec(**QUICK, freeze_embeddings=False))
    table = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(student.state_dict()[table], before[table])


def test_rows_without_labels_do_not_count(tiny):
    spec = DistillSpec(**QUICK, logits_weight=1.0, gold_weight=1.0)
    ends = []
    for labels in (None, np.full(24, -1), np.arange(24) % 3):
        teacher, student, family, keep, encodings = pair(tiny)
        fit = distill(teacher, student, family, keep, encodings, spec, labels=labels)
        ends.append((fit, weights(student)))
    (none, without), (empty, unlabelled), (given, labelled) = ends
    assert same(without, unlabelled)
    assert "gold" not in none.losses[0]
    assert empty.losses[0]["gold"] == 0.0
    assert (none.labelled, empty.labelled, given.labelled) == (0, 0, 24)
    assert given.losses[0]["gold"] > 0.1
    assert not same(without, labelled)


@pytest.mark.parametrize("stopped", [1, 3, 4])  # in the middle of an epoch of three batches, at its end, behind it
def test_an_interrupted_distillation_ends_with_the_same_weights(tiny, tmp_path, stopped):
    spec = DistillSpec(**QUICK)
    teacher, student, family, keep, encodings = pair(tiny)
    whole = distill(teacher, student, family, keep, encodings, spec, seed=5)
    wanted = weights(student)
    _, student, *_ = pair(tiny)
    with pytest.raises(KeyboardInterrupt):
        distill(
            teacher, student, family, keep, encodings, spec, seed=5, track=stop_after(stopped),
            checkpoint=Checkpoint(tmp_path / "c", "same", minutes=0),
        )  # fmt: skip
    _, student, *_ = pair(tiny)
    batches = []

    def count(iterable, description="", total=None):
        for item in iterable:
            batches.append((description, total))
            yield item

    checkpoint = Checkpoint(tmp_path / "c", "same", minutes=0)
    resumed = distill(teacher, student, family, keep, encodings, spec, seed=5, track=count, checkpoint=checkpoint)
    assert resumed == whole
    assert same(wanted, student.state_dict())
    trained = [total for description, total in batches if description.startswith("distillation")]
    assert trained == [6 - stopped] * (6 - stopped)
    _, student, *_ = pair(tiny)  # the end is kept too, until the caller has stored the result
    assert distill(teacher, student, family, keep, encodings, spec, seed=5, checkpoint=checkpoint) == whole
    assert same(wanted, student.state_dict())
    checkpoint.remove()
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("damage", ["other inputs", "weights", "state", "progress"])
def test_a_checkpoint_of_other_inputs_or_damaged_is_ignored(tiny, tmp_path, damage):
    spec = DistillSpec(**QUICK)
    teacher, student, family, keep, encodings = pair(tiny)
    whole = distill(teacher, student, family, keep, encodings, spec)
    wanted = weights(student)
    _, student, *_ = pair(tiny)
    with pytest.raises(KeyboardInterrupt):
        checkpoint = Checkpoint(tmp_path / "c", "a", minutes=0)
        distill(teacher, student, family, keep, encodings, spec, track=stop_after(3), seed=1, checkpoint=checkpoint)
    for file in (tmp_path / "c").rglob({"weights": "*.safetensors", "state": "*.pt"}.get(damage, "progress.json")):
        if damage != "other inputs":
            file.write_bytes(file.read_bytes()[:40])
    _, student, *_ = pair(tiny)
    checkpoint = Checkpoint(tmp_path / "c", "b" if damage == "other inputs" else "a", minutes=0)
    assert distill(teacher, student, family, keep, encodings, spec, checkpoint=checkpoint) == whole
    assert same(wanted, student.state_dict())
    assert len([path for path in (tmp_path / "c").iterdir() if path.is_dir()]) == 1


def test_bf16_learns_too(tiny):
    teacher, student, family, keep, encodings = pair(tiny)
    fit = distill(
        teacher,
        student,
        family,
        keep,
        encodings,
        DistillSpec(epochs=8, batch_size=8, lr=3e-3, holdout=0, precision="bf16"),
    )
    assert fit.precision == "bf16"
    assert fit.losses[-1]["states"] < 0.9 * fit.losses[0]["states"]
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"text": []}, "at least one part"),
        ({"text": ["train", "train"]}, "none twice"),
        ({"states_weight": 0.0}, "nothing to learn"),
    ],
)
def test_a_distillation_without_text_or_loss_is_refused(values, words):
    with pytest.raises(ValidationError, match=words):
        DistillSpec(**values)


@pytest.mark.gpu
def test_cuda_takes_bf16_and_goes_on_after_an_interruption(tiny, tmp_path):
    spec = DistillSpec(**QUICK)
    ends = []
    for interrupted in (False, True):
        teacher, student, family, keep, encodings = pair(tiny)
        teacher, student = teacher.to("cuda"), student.to("cuda")
        checkpoint = Checkpoint(tmp_path / f"{interrupted}", "a", minutes=0)
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                distill(
                    teacher, student, family, keep, encodings, spec, track=stop_after(4), checkpoint=checkpoint
                )  # fmt: skip
            student = drop_layers(teacher, family, (2,))
        fit = distill(teacher, student, family, keep, encodings, spec, checkpoint=checkpoint)
        assert fit.precision == ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32")
        ends.append(student.state_dict())
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-4) for name in ends[0])


@pytest.mark.gpu
def test_cuda_keeps_the_best_step(tiny):
    teacher, student, family, keep, encodings = pair(tiny)
    teacher, student = teacher.to("cuda"), student.to("cuda")
    fit = distill(teacher, student, family, keep, encodings, DistillSpec(**WATCHED, attended=True))
    held = encodings.take(distillation.held_out(encodings, 0.25, 0)[1])
    found = SINGLE.divergence(predict(teacher, held), predict(student, held))
    assert found == pytest.approx(min(value for _, value in fit.curve), rel=1e-2)
    assert found < fit.curve[0][1]


@pytest.mark.parametrize("name", FAMILIES)
def test_attended_states_are_those_behind_the_norm(tiny, name):
    model, family, encodings, _ = tiny(name)
    inputs = {key: torch.from_numpy(value) for key, value in pad(encodings, np.arange(5)).items()}
    layer = layer_list(model, family)[1]
    with torch.no_grad():
        logits, (behind, attended) = distillation.forward(model, family, inputs, Places([1], [2]))
        again = layer.get_submodule(family.attention_norm)
        seen = []
        hook = again.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        plain = model(**inputs, output_hidden_states=True)
        hook.remove()
    assert torch.equal(logits, plain.logits)
    assert torch.equal(behind, plain.hidden_states[1])
    assert torch.equal(attended, seen[0])
    spec = DistillSpec(**QUICK, attended=True)
    own, theirs = distillation.targets([1, 3], 4, spec)
    assert (list(own.behind), list(own.attended)) == ([1, 2], [1, 2])
    assert (list(theirs.behind), list(theirs.attended)) == ([2, 4], [1, 3])
