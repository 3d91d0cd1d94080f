"""An ALBERT of six layers that are one."""

from transformers import AutoModelForSequenceClassification

from compressor.model.families import FAMILIES

FAMILY = FAMILIES["albert"]


def stock_of(folder, layers):
    """Return the stock class of the directory with another number of layers, as transformers itself makes it."""
    return AutoModelForSequenceClassification.from_pretrained(folder, num_hidden_layers=layers).eval()
