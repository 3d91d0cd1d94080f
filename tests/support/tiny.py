"""Tiny random models, tokenizers and texts that the tests make for themselves; nothing from a network."""

import json
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertTokenizerFast,
    RobertaTokenizerFast,
)

from compressor.model.families import FAMILIES

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = [(" ".join(LETTERS[(7 * row + step * step) % 26] for step in range(1 + 5 * row % 29)),) for row in range(24)]
COMMON = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
COMMON |= {"max_position_embeddings": 60, "initializer_range": 0.3, "num_labels": 3}
OFFSET = {
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "type_vocab_size": 1,
}  # positions start after the pad id
CONFIGS = {
    "bert": {},
    "roberta": OFFSET,
    "xlm-roberta": OFFSET,
    "camembert": OFFSET,
    "distilbert": {"dim": 32, "n_heads": 4, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "mpnet": OFFSET,
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "pooler_hidden_size": 32,
    },
    "modernbert": {
        "global_attn_every_n_layers": 3,
        "local_attention": 8,
        "pad_token_id": 0,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "albert": {"embedding_size": 16},
}

ABSOLUTE = [kind for kind, family in FAMILIES.items() if not family.relative]
"""Families of which one row can be worked out alone."""
APART = [kind for kind, family in FAMILIES.items() if not family.groups_key]
"""Families whose layers have weights of their own."""
MOVABLE = [kind for kind in APART if FAMILIES[kind].movable_heads]
"""Families whose heads may go one by one."""
FOLDING = [kind for kind, family in FAMILIES.items() if not family.head_norm]
"""Families into whose head a small one folds."""

FRESH = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
inputs = {name: torch.tensor(value) for name, value in json.load(open(sys.argv[2])).items()}
assert "compressor" not in sys.modules
with torch.inference_mode():
    print(json.dumps({"logits": model(**inputs).logits.tolist(), "layers": model.config.num_hidden_layers,
                      "class": type(model).__name__}))
"""
"""What a process without this package makes of a model directory: logits of the inputs in a JSON file, layers, class."""


def sets(*values):
    """Return the arguments of a command that set these fields of a recipe."""
    return [part for value in values for part in ("--set", value)]


def wordpiece(folder: Path):
    file = folder / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]), encoding="utf-8")
    return BertTokenizerFast(str(file))


def byte_pairs(folder: Path):
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *LETTERS]
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    vocab.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    return RobertaTokenizerFast(str(vocab), str(merges))


def save_model(
    folder: Path, model_type: str = "bert", layers: int = 2, seed: int = 1, *, tokens: bool = False, **changes
) -> Path:
    """Write the Hugging Face directory of a random classifier, of texts or `tokens`, with a tokenizer of single letters."""
    folder.mkdir(parents=True)
    count = {"n_layers" if model_type == "distilbert" else "num_hidden_layers": layers}
    config = AutoConfig.for_model(model_type, **{**COMMON, **CONFIGS[model_type], **count, **changes})
    torch.manual_seed(seed)
    stock = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    stock.from_config(config).save_pretrained(folder)
    tokenizer = (byte_pairs if "bos_token_id" in CONFIGS[model_type] else wordpiece)(folder)
    if model_type == "distilbert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return folder


def save_rows(folder: Path, rows: list[tuple[str, int]], train: int) -> None:
    """Write (text, label) rows as train.csv, the first `train` of them, and validation.csv."""
    for name, part in (("train", rows[:train]), ("validation", rows[train:])):
        lines = ["text,label", *(f"{text},{label}" for text, label in part)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def letter_rows(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Return (text, label) rows without repeats: the label says whether the first letter is in the alphabet's first half."""
    generator = torch.Generator().manual_seed(seed)
    rows: dict[str, int] = {}
    while len(rows) < count:
        length = int(torch.randint(3, 12, (1,), generator=generator))
        letters = torch.randint(26, (length,), generator=generator).tolist()
        rows[" ".join(LETTERS[letter] for letter in letters)] = int(letters[0] < 13)
    return list(rows.items())
