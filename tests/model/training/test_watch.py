"""Early stopping: measurements made by hand find the step whose weights are kept, and end the training."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from compressor.data.batches import Encodings
from compressor.errors import UserError
from compressor.model.training.checkpoint import Checkpoint
from compressor.model.training.training import Watch, best_of, train
from compressor.recipe.training import FinetuneSpec

SPEC = FinetuneSpec(epochs=4, batch_size=4, lr=1e-2)
TEXTS = Encodings([[1, 2, 3]] * 12, None, 0)
"""Three batches an epoch, twelve steps in all."""


class Step(nn.Module):
    """Something to train that says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.device = torch.device("cpu")


def trained(values, every=1, patience=100, checkpoint=None, dies_after=None):
    """Train with measurements that read `values` in turn; return the progress, the model and the weights after every step."""
    model, left, seen = Step(), iter(values), []

    def loss(_rows, _inputs):
        if len(seen) == dies_after:
            raise KeyboardInterrupt
        seen.append(model.weight.detach().clone())
        return {"all": (model.weight * torch.tensor([1.0, -2.0])).sum()}

    watch = Watch(lambda: next(left), every, patience)
    progress = train(model, TEXTS, SPEC, loss, field="finetune", dropout=True, checkpoint=checkpoint, watch=watch)
    return progress, model, seen


@pytest.mark.parametrize(
    ("values", "every", "patience", "kept", "steps"),
    [
        ([5, 4, 3, 2, 3, 4, 1, *[9] * 6], 1, 100, 6, 12),  # the best of all, to the end
        ([5, 4, 3, 2, 3, 4, 1, *[9] * 6], 1, 2, 3, 5),  # two in vain end it before the best is reached
        ([5, 4, 4, 3, 6], 3, 100, 9, 12),  # a look at the end of each epoch
        ([5, 4, 6, 3], 5, 100, 12, 12),  # steps 0, 5, 10 and the last
        ([1, 1, 1, 1, 1], 1, 3, 0, 4),  # no better than the start: the first of equals
        ([1, 2, 3, 4, 5, 6], 1, 4, 0, 5),
        ([1, *range(13, 1, -1)], 1, 2, 0, 12),  # worse than the start, but better with every look: it may come back
        ([3, *range(13, 1, -1)], 1, 2, 12, 12),  # and does
    ],
)
def test_the_best_weights_are_kept_and_patience_ends_it(values, every, patience, kept, steps):
    progress, model, seen = trained(values, every, patience)
    assert progress.done == steps
    assert best_of(progress.curve) == kept
    assert [value for _, value in progress.curve] == values[: len(progress.curve)]
    assert progress.curve[-1][0] == steps
    if kept < len(seen):
        assert torch.equal(model.weight, seen[kept])  # what stood there in front of the next step
    assert not torch.equal(seen[-1], seen[0])
    assert torch.equal(model.weight, torch.zeros(2)) == (kept == 0)
    assert not model.training


def test_losses_of_an_epoch_that_was_ended_are_means_of_what_it_saw():
    progress, _, seen = trained([1] * 5, patience=3)
    assert progress.done == 4
    each = [float(weight @ torch.tensor([1.0, -2.0])) for weight in seen]
    assert [epoch["all"] for epoch in progress.losses] == pytest.approx([np.mean(each[:3]), each[3]])


@pytest.mark.parametrize("dies", [2, 4, 7])
def test_a_killed_training_remembers_its_best_weights(tmp_path, dies):
    values = [5, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9]  # the best is step 2
    whole, wanted, _ = trained(values, patience=6)
    with pytest.raises(KeyboardInterrupt):
        trained(values, patience=6, checkpoint=Checkpoint(tmp_path, "a", minutes=0), dies_after=dies)
    again, model, seen = trained(values[dies + 1 :], patience=6, checkpoint=Checkpoint(tmp_path, "a", minutes=0))
    assert vars(again) == vars(whole)
    assert len(seen) == 8 - dies
    assert torch.equal(model.weight, wanted.weight)
    ended, model, seen = trained([], patience=6, checkpoint=Checkpoint(tmp_path, "a", minutes=0))
    assert (vars(ended), seen) == (vars(whole), [])
    assert torch.equal(model.weight, wanted.weight)


def test_best_weights_that_are_damaged_start_the_training_again(tmp_path):
    values = [5, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9]
    with pytest.raises(KeyboardInterrupt):
        trained(values, checkpoint=Checkpoint(tmp_path, "a", minutes=0), dies_after=4)
    (best,) = tmp_path.rglob("best.safetensors")
    best.unlink()
    progress, _, seen = trained(values, checkpoint=Checkpoint(tmp_path, "a", minutes=0))
    assert len(seen) == progress.done == 12


def test_a_measurement_that_is_no_number_is_a_divergence():
    with pytest.raises(UserError, match="diverged in epoch 1; lower finetune.lr"):
        trained([1, float("nan")])


def test_without_a_watch_the_end_is_kept():
    model = Step()
    before = copy.deepcopy(model.weight)
    progress = train(
        model, TEXTS, SPEC, lambda _rows, _inputs: {"all": model.weight.sum()}, field="finetune", dropout=False
    )
    assert (progress.done, progress.curve) == (12, [])
    assert not torch.equal(model.weight, before)
