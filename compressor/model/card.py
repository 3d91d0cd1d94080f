"""The model card that travels with a compressed model."""

from collections.abc import Sequence

from compressor.model.units import Unit, unit_words

CARD = """---
library_name: transformers
pipeline_tag: text-classification
tags: [compressor, layer-skipping]
---

# {name}

{base} {gone}, {head}
An ordinary `{model_class}`: no custom code is needed.{zeros}

```python
from transformers import pipeline

classify = pipeline("text-classification", model="path/to/this/folder")
```

What the removal costs in accuracy and gains in latency is in `result.json` and `report.html` of the run that made it.

## Recipe

```yaml
{recipe}```
"""


ZEROS = """ Parts of layers that went are there as zeros, so
`transformers` computes the same and saves no time on them; `compressor.load_model("path/to/this/folder")` and the ONNX
files of the run leave them out."""


OPEN, CLOSE = "<!-- answer -->", "<!-- /answer -->"
"""Around the line of a run that decided what to ship, known only once the card is written."""


def with_line(card: str, line: str) -> str:
    """Return a card with the answer of its run below the title, in place of an earlier one."""
    before, mark, after = card.partition(OPEN)
    if mark:
        card = before + after.partition(CLOSE)[2].lstrip("\n")
    head, title, rest = card.partition("\n# ")
    name, _, body = rest.partition("\n")
    return f"{head}{title}{name}\n\n{OPEN}\n{line}\n{CLOSE}\n{body}"


def model_card(
    *,
    name: str,
    base: str,
    model_class: str,
    units: Sequence[Unit],
    padded: bool,
    layers: int,
    nodes: int | None,
    refitted: Sequence[int],
    distilled: bool,
    recipe: str,
) -> str:
    """Return the README.md of a compressed model; `nodes` is None where the stock head stayed as it was.

    `units` are what went, `padded` says whether zeros stand for parts of layers in the directory.

    `refitted` names the layers (in the full model's numbers) whose feed-forward outputs were refitted, `distilled` says whether
    the whole model was then trained towards the full one.
    """
    head = (
        "the classification head as it was." if nodes is None else f"a head of {nodes} nodes folded into the stock one."
    )
    if distilled:
        head = f"all layers then trained towards the full model's outputs (distillation), {head}"
    if refitted:
        which = f"layer{'' if len(refitted) == 1 else 's'} {', '.join(map(str, refitted))}"
        head = f"the feed-forward output of {which} refitted in closed form, {head}"
    return CARD.format(
        name=name,
        base=base,
        model_class=model_class,
        gone=f"without {unit_words(units)} of {layers} encoder layers (numbered from 1)"
        if units
        else f"with all of its {layers} encoder layers",
        zeros=ZEROS if padded else "",
        head=head,
        recipe=recipe,
    )
