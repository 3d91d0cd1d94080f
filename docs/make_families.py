"""Write docs/families.md anew: what works for each model family, read off the rows of the families' table.

What each mark promises is tested for every family in the table: states, all allowed sets of layers against naive search, stock
directories, files, heads and neurons in tests/model, tests/selection and tests/export.
"""

from pathlib import Path

from compressor.model.families import FAMILIES, REFUSED, Family

PAGE = Path(__file__).parent / "families.md"
HEAD = """# Model families

Made by `make docs` from the table of families (`compressor/model/families.py`). For every family: states and scores, trials,
distillation, analyses of errors and FFN, fused norms and GELU in the ONNX files, 8 bits, and a result that the stock class of
transformers loads. Where the columns differ:

"""
COLUMNS = {
    "whole layers": lambda family: "the last ones, by number" if family.groups_key else (
        "sets that leave a regular period, layer 1 stays" if family.period_key else "any set"
    ),
    "within a budget": lambda family: "heads, neurons and the last layers, all alike" if family.groups_key else (
        "heads, neurons, FFN and attention blocks" if family.period_key else (
            "neurons, layers and blocks" if not family.movable_heads else "heads, neurons, layers and blocks"
        )
    ),
    "refits, audit, roles": lambda family: "no: layers are one" if family.groups_key else "yes",
    "attention in the files": lambda family: "single nodes" if family.relative else "fused",
    "[CLS]-only tail": lambda family: (
        f"{'with [CLS], ' * bool(family.pooling_key)}the feed-forward block" if family.relative else "yes"
    ),
    "early exit": lambda family: "no: attention reads distances" if family.relative else "yes",
    "the head reads": lambda family: "[CLS] or the mean of the tokens" if family.pooling_key else "[CLS]",
    "compensation head": lambda family: "the second map, refitted" if family.head_norm else "4 to 16 nodes, folded exactly",
}  # fmt: skip
"""Column -> what a family's row says of it."""
BEHIND = """
A BERT whose `position_embedding_type` is relative is served as the families are whose attention reads distances. Where layers
are one, applied again and again (ALBERT), every set of as many layers leaves the same model and what one loses all lose: fewer
layers save time, fewer neurons the size of the weights too.

## Refused

| `model_type` | why |
| --- | --- |
"""
REST = """
Checkpoints that need code of their own (`auto_map`, such as NomicBERT and GTE) are refused, since none is ever run.
[Limits](limits.md) says more of single families, [kinds of answers](kinds.md) what a classifier may give.
"""


def page() -> str:
    """Return the page."""
    lines = [f"| `model_type` | {' | '.join(COLUMNS)} |", f"| {' | '.join(['---'] * (1 + len(COLUMNS)))} |"]
    lines += [row(name, family) for name, family in FAMILIES.items()]
    refused = [f"| `{name}` | {why} |" for name, why in REFUSED.items()]
    return HEAD + "\n".join(lines) + "\n" + BEHIND + "\n".join(refused) + "\n" + REST


def row(name: str, family: Family) -> str:
    """Return the row of a family."""
    return f"| `{name}` | {' | '.join(told(family) for told in COLUMNS.values())} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
