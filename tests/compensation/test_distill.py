"""Distillation: its loss by hand, that it learns, repeats itself and goes on after a kill, in every family and as a run."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification

from compressor.compensation import distill as distillation
from compressor.compensation.distill import Places, distill, logits_loss, state_variances, states_loss, surely_lower
from compressor.data.answers.kinds import SINGLE
from compressor.data.batches import Encodings, join, pad
from compressor.measurement.predictions import predict
from compressor.model.families import layer_list
from compressor.model.surgery import drop_layers
from compressor.model.training.checkpoint import Checkpoint
from compressor.pipeline.dry_run import dry_run
from compressor.recipe.file import load_recipe
from compressor.recipe.training import DistillSpec
from compressor.report.build import build_report

FAMILIES = ["bert", "roberta", "distilbert", "electra"]
QUICK = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "holdout": 0.0}
WATCHED = {"epochs": 3, "batch_size": 4, "lr": 3e-3, "holdout": 0.25, "evaluate_every": 0.2, "patience": 100}
"""18 of 24 texts, five batches an epoch, a look at the other six after each."""


def pair(tiny, family_name="bert", skip=(2,)):
    """A copy of the tiny teacher, a student without the layers `skip`, and what else `distill` needs."""
    model, family, encodings, _ = tiny(family_name)
    keep = [layer for layer in range(1, 5) if layer not in skip]
    return copy.deepcopy(model), drop_layers(model, family, skip), family, keep, encodings


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


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


def stop_after(count):
    """A track that dies in front of batch `count` + 1 of the training itself."""

    def track(iterable, description="", total=None):
        for index, item in enumerate(iterable):
            if description.startswith("distillation") and index == count:
                raise KeyboardInterrupt
            yield item

    return track


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


SETS = (
    "selection={search: fixed, skip: [2]}",
    "export.variants=[]",
    "benchmark={batch_sizes: [1], lengths: [8], workload: false, min_seconds: 0, min_runs: 2, max_seconds: 1, footprint: false}",
)


def arguments(task, out, distill_section, *more):
    sets = (*SETS, f"compensation.distill={distill_section}", *more)
    return ("run", task / "recipe.yaml", "--out", out, "--json", *(part for value in sets for part in ("--set", value)))


def test_a_run_goes_on_where_it_was_killed_and_says_what_was_done(tiny_task, tmp_path, command, monkeypatch):
    section = "{epochs: 3, lr: 1.0e-3, batch_size: 20, logits_weight: 1, gold_weight: 0.5, patience: 100, checkpoint_minutes: 1.0e-9}"
    code, stdout, _ = command(*arguments(tiny_task, tmp_path / "whole", section))
    assert code == 0
    whole = json.loads(stdout)["distill"]
    assert whole["rows"] == whole["labelled"] > 0
    assert [set(epoch) for epoch in whole["losses"]] == [{"logits", "states", "gold"}] * 3
    assert whole["kept"]
    assert whole["kl_after"] < whole["kl_before"]

    calls = {"left": 5}
    real = distillation.logits_loss

    def dying(*values):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise KeyboardInterrupt
        return real(*values)

    out = tmp_path / "killed"
    monkeypatch.setattr(distillation, "logits_loss", dying)
    assert command(*arguments(tiny_task, out, section))[0] != 0
    progress = json.loads((out / ".stages" / "checkpoints" / "distill" / "progress.json").read_text())
    assert progress["progress"]["done"] == 5
    assert not (out / "model").exists()
    calls["left"] = 10**6
    code, stdout, _ = command(*arguments(tiny_task, out, section))
    assert code == 0
    steps = 3 * -(-whole["rows"] // 20)
    assert 10**6 - calls["left"] == steps - 5
    result = json.loads(stdout)
    assert result["distill"] == whole == json.loads((out / "model.json").read_text())["distill"]
    assert not (out / ".stages" / "checkpoints" / "distill").exists()
    one, other = (
        AutoModelForSequenceClassification.from_pretrained(path / "model") for path in (tmp_path / "whole", out)
    )
    assert same(one.state_dict(), other.state_dict())
    assert type(one).__name__ == "BertForSequenceClassification"
    assert "distillation" in (out / "model" / "README.md").read_text(encoding="utf-8")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'id="distill"' in page
    assert "Not kept" not in page
    assert whole["held"] > 0
    assert whole["curve"][-1][0] == whole["steps"] == steps
    assert f"lowest after step {whole['kept_step']} of {steps}" in page
    assert (out / "figures" / "distill.png").is_file()


def test_a_fine_tuning_that_was_killed_in_a_new_run_goes_on(tiny_task, tmp_path, command, monkeypatch):
    out, calls = tmp_path / "run", {"left": 2}
    real = torch.nn.functional.cross_entropy

    def dying(*values):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise KeyboardInterrupt
        return real(*values)

    monkeypatch.setattr(Checkpoint, "due", True)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", dying)
    sets = [*SETS, "finetune={epochs: 2, batch_size: 40}", "compensation.head=null"]
    run = ("finetune", tiny_task / "recipe.yaml", "--out", out, *(part for value in sets for part in ("--set", value)))
    assert command(*run)[0] != 0
    assert (out / ".stages" / "checkpoints" / "teacher" / "progress.json").is_file()
    calls["left"] = 1000
    code, _, _ = command(*run)
    assert code == 0
    assert 1000 - calls["left"] == 2 * 2 - 2  # 80 rows of train, two batches an epoch
    assert not (out / ".stages" / "checkpoints" / "teacher").exists()


def test_a_distillation_that_does_harm_is_not_kept(tiny_task, tmp_path, command):
    out = tmp_path / "run"
    harmful = "{epochs: 1, lr: 0.5, holdout: 0, logits_weight: 0.0, states_weight: 0.0, gold_weight: 1.0}"
    code, stdout, _ = command(*arguments(tiny_task, out, harmful, "compensation.head=null"))
    assert code == 0
    assert not json.loads(stdout)["distill"]["kept"]
    plain = tmp_path / "plain"
    assert command(*arguments(tiny_task, plain, "null", "compensation.head=null"))[0] == 0
    one, other = (AutoModelForSequenceClassification.from_pretrained(path / "model") for path in (out, plain))
    assert same(one.state_dict(), other.state_dict())
    assert "Not kept" in (out / "report.html").read_text(encoding="utf-8")
    assert "distillation)" not in (out / "model" / "README.md").read_text(encoding="utf-8")


def test_a_start_that_nothing_beats_is_said_to_stay(tiny_task, tmp_path, command):
    out = tmp_path / "run"
    harmful = "{epochs: 1, lr: 0.5, logits_weight: 1, patience: 1}"
    code, stdout, _ = command(*arguments(tiny_task, out, harmful, "compensation.head=null"))
    assert code == 0
    made = json.loads(stdout)["distill"]
    assert (made["kept"], made["kept_step"]) == (False, 0)
    assert made["kl_before"] == made["kl_after"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"no step of {made['steps']} lowered the KL" in page
    assert "Not kept: nothing was nearer to the full model than the start" in page
    assert "distillation)" not in (out / "model" / "README.md").read_text(encoding="utf-8")


def test_results_of_earlier_versions_have_a_report(tiny_task, tmp_path, command):
    out = tmp_path / "run"
    assert command(*arguments(tiny_task, out, "{epochs: 1, lr: 1.0e-3}"))[0] == 0
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    for name in ("held", "curve", "kept_step", "steps"):
        del result["distill"][name]
    (out / "result.json").write_text(json.dumps(result), encoding="utf-8")
    build_report(out)
    assert "held out" not in (out / "report.html").read_text(encoding="utf-8")
    assert not (out / "figures" / "distill.png").exists()


def test_gold_labels_without_labelled_text_are_refused_before_the_run(tiny_task, tmp_path, command):
    out = tmp_path / "run"
    section = "{gold_weight: 1.0}"
    code, _, stderr = command(*arguments(tiny_task, out, section, "data.label=null", "separability.labels=teacher"))
    assert code == 2
    assert "compensation.distill.gold_weight" in stderr
    assert not out.exists()


def test_the_dry_run_names_the_work(tiny_task, tmp_path):
    recipe = load_recipe(tiny_task / "recipe.yaml", ["compensation.distill={epochs: 2, text: [calibration]}"])
    costs = {stage.name: stage.cost for stage in dry_run(recipe, tmp_path / "run", device="cpu")}
    assert costs["model"] == "distillation: at most 2 epochs over 60 rows with both models, 4 head nodes"


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
