"""Fine-tuning: it learns, repeats itself, and leaves frozen tables alone."""

import copy
import errno
import sys

import numpy as np
import pytest
import torch
from tiny import letter_rows, save_model

from compressor.data.batches import encode
from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.families import family_of
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.model.training import checkpoint as checkpoint_module
from compressor.model.training.checkpoint import Checkpoint
from compressor.model.training.training import finetune
from compressor.recipe.training import FinetuneSpec


def test_fine_tuning_learns_repeats_itself_and_keeps_frozen_embeddings(tmp_path):
    source = find_model(str(save_model(tmp_path / "model", layers=2, num_labels=2, initializer_range=0.05)))
    model, family = load_classifier(source, new_labels=["late", "early"]), family_of("bert")
    rows = letter_rows(300)
    encodings = encode([(text,) for text, _ in rows], load_tokenizer(source), 32)
    labels = np.array([label for _, label in rows])
    spec = FinetuneSpec(epochs=20, lr=2e-3, batch_size=16, freeze_embeddings=True)
    state = copy.deepcopy(model.state_dict())
    losses = finetune(model, family, encodings, labels, spec, seed=1)
    assert len(losses) == 20
    assert losses[-1] < 0.5 * losses[0]
    assert (predict(model, encodings).argmax(1) == labels).mean() > 0.9
    assert not model.training
    embeddings = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(model.state_dict()[embeddings], state[embeddings])
    trained = model.state_dict()["classifier.weight"].clone()
    model.load_state_dict(state)
    assert finetune(model, family, encodings, labels, spec, seed=1) == losses
    assert torch.equal(model.state_dict()["classifier.weight"], trained)


def task(tmp_path):
    source = find_model(str(save_model(tmp_path / "model", layers=2, num_labels=2)))
    rows = letter_rows(60)
    encodings = encode([(text,) for text, _ in rows], load_tokenizer(source), 32)
    model = load_classifier(source, new_labels=["late", "early"])
    return model, family_of("bert"), encodings, np.array([label for _, label in rows])


def test_an_interrupted_fine_tuning_with_dropout_ends_with_the_same_weights(tmp_path):
    model, *rest = task(tmp_path)
    start, spec = copy.deepcopy(model.state_dict()), FinetuneSpec(epochs=3, lr=1e-3, batch_size=16)
    whole = finetune(model, *rest, spec, seed=2)
    wanted = copy.deepcopy(model.state_dict())

    def dying(iterable, *_, **__):
        for index, item in enumerate(iterable):
            if index == 6:
                raise KeyboardInterrupt
            yield item

    model.load_state_dict(start)
    checkpoint = Checkpoint(tmp_path / "checkpoint", "a", minutes=0)
    with pytest.raises(KeyboardInterrupt):
        finetune(model, *rest, spec, seed=2, track=dying, checkpoint=checkpoint)
    model.load_state_dict(start)
    torch.manual_seed(99)  # the state of the generator outside is neither used nor changed
    outside = torch.get_rng_state()
    assert finetune(model, *rest, spec, seed=2, checkpoint=checkpoint) == whole
    assert torch.equal(torch.get_rng_state(), outside)
    assert all(torch.equal(wanted[name], value) for name, value in model.state_dict().items())


def test_checkpoints_are_written_no_more_often_than_asked(tmp_path):
    model, *rest = task(tmp_path)
    seen = []

    def watching(iterable, *_, **__):
        for item in iterable:
            seen.append((tmp_path / "checkpoint").exists())
            yield item

    checkpoint = Checkpoint(tmp_path / "checkpoint", "a", minutes=60)
    finetune(model, *rest, FinetuneSpec(epochs=1), seed=2, track=watching, checkpoint=checkpoint)
    assert not any(seen)  # only the end
    assert (tmp_path / "checkpoint" / "progress.json").is_file()
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual.txt").write_text("")
    made = (tmp_path / "checkpoint").rglob("*")  # a colleague who shares the folder may go on
    assert {path.stat().st_mode for path in made} == {
        (tmp_path / name).stat().st_mode for name in ("usual", "usual.txt")
    }


def test_a_training_that_diverges_names_the_field_to_change(tmp_path):
    model, *rest = task(tmp_path)
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"finetune: training diverged in epoch 1; lower finetune.lr \(5e-05\)"):
        finetune(model, *rest, FinetuneSpec())


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux'")
def test_a_disk_that_is_full_at_a_checkpoint_is_said_so(tmp_path, monkeypatch):
    """PyTorch's own writer says `unexpected pos 540352 vs 540304` and nothing of the disk."""
    model, *rest = task(tmp_path)
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / checkpoint_module.STATE).symlink_to("/dev/full")
    monkeypatch.setattr(checkpoint_module, "mkdtemp", lambda **_: str(folder))
    checkpoint = Checkpoint(tmp_path / "checkpoint", "a", minutes=0)
    with pytest.raises(OSError, match="No space left on device") as raised:
        finetune(model, *rest, FinetuneSpec(epochs=1), seed=0, checkpoint=checkpoint)
    assert raised.value.errno == errno.ENOSPC
