"""The model card that travels with a compressed model."""

from collections.abc import Sequence

CARD = """---
library_name: transformers
pipeline_tag: text-classification
tags: [compressor, layer-skipping]
---

# {name}

{base} without encoder layers {skip} of {layers} (numbered from 1), {head}
An ordinary `{model_class}`: no custom code is needed.

```python
from transformers import pipeline

classify = pipeline("text-classification", model="path/to/this/folder")
```

What the removal costs in accuracy and gains in latency is in `result.json` and `report.html` of the run that made it.

## Recipe

```yaml
{recipe}```
"""


def model_card(
    *,
    name: str,
    base: str,
    model_class: str,
    skip: tuple[int, ...],
    layers: int,
    nodes: int | None,
    refitted: Sequence[int],
    distilled: bool,
    recipe: str,
) -> str:
    """Return the README.md of a compressed model; `nodes` is None where the stock head stayed as it was.

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
        skip=", ".join(map(str, skip)),
        layers=layers,
        head=head,
        recipe=recipe,
    )
