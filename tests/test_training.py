"""Fine-tuning: it learns, repeats itself, and leaves frozen tables alone."""

import copy

import numpy as np
import torch
from tiny import letter_rows, save_model

from compressor.data.batches import encode
from compressor.measurement.predictions import predict
from compressor.model.families import family_of
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.model.training import finetune
from compressor.recipe_training import FinetuneSpec


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
