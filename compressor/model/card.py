"""The model card that travels with a compressed model; its front matter is the hub's metadata."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from compressor.files import README
from compressor.model.units import Unit, unit_words
from compressor.recipe.text import parse

SOURCE_KEYS = "language", "license", "license_name", "license_link"
"""What a compressed model has of its source's metadata: what both must share."""
FRONT_MATTER = re.compile(r"\s*---\n(.*?)\n---\n", re.DOTALL)
CARD = """---
{metadata}
---

# {name}

{base} {gone}, {head}
An ordinary `{model_class}`: no custom code is needed.{zeros}

```python
from transformers import pipeline

{use}

What the removal costs in accuracy and gains in latency is in `result.json` and `report.html` of the run that made it.

## Recipe

{fence}yaml
{recipe}{fence}
"""
MARKS = re.compile(r"[\\`*_\[\]<>&|~]")
"""What Markdown and HTML take for more than a sign of a name."""


ANSWER, RESULTS = "answer", "results"
"""Blocks of a card that a run fills in once it is over."""
USE = """classify = pipeline("text-classification", model="path/to/this/folder")
```

Texts are cut to {max_length} tokens, as when it was measured: `classify(..., truncation=True, max_length={max_length})`."""
USE_TOKENS = """label = pipeline("token-classification", model="path/to/this/folder", aggregation_strategy="first")
```

A word has the label of its first token. Texts were cut to {max_length} tokens when it was measured: give the pipeline
`tokenizer=AutoTokenizer.from_pretrained("path/to/this/folder", model_max_length={max_length})` for the same."""
ZEROS = """ Parts of layers that went are there as zeros, so
`transformers` computes the same and saves no time on them; `compressor.load_model("path/to/this/folder")` and the ONNX
files of the run leave them out."""


def with_line(card: str, line: str) -> str:
    """Return a card with the answer of its run below the title, in place of an earlier one."""
    head, title, rest = _without(card, ANSWER).partition("\n# ")
    name, _, body = rest.partition("\n")
    return f"{head}{title}{name}\n\n{_block(ANSWER, line)}\n{body}"


def with_results(card: str, text: str, results: Sequence[EvalResult]) -> str:
    """Return a card with a section on what was measured in front of the recipe, and `results` in its metadata.

    Both take the place of earlier ones: what a run measures is known only once the card is written.
    """
    head, recipe, rest = _without(card, RESULTS).partition("\n## Recipe\n")
    made = ModelCard(f"{head}\n{_block(RESULTS, text)}\n{recipe}{rest}")
    made.data.eval_results = list(results) or None
    made.data.metrics = [result.metric_type for result in results] or None
    return str(made)


def block_in(card: str, name: str) -> str | None:
    """Return the text of a block (`ANSWER`, `RESULTS`) of a card, None where it has none."""
    _, mark, after = card.partition(f"<!-- {name} -->\n")
    text, end, _ = after.partition(f"\n<!-- /{name} -->")
    return text if mark and end else None


def _block(name: str, text: str) -> str:
    return f"<!-- {name} -->\n{text}\n<!-- /{name} -->"


def _without(card: str, name: str) -> str:
    """Return a card without the block of that name, which stands between comments that no reader sees."""
    before, mark, after = card.partition(f"\n<!-- {name} -->")
    return before + after.partition(f"<!-- /{name} -->\n")[2] if mark else card


def source_metadata(directory: Path) -> dict[str, Any]:
    """Return what the card of the model in `directory` says of `SOURCE_KEYS`; nothing where it says nothing usable."""
    try:
        matter = FRONT_MATTER.match((directory / README).read_text(encoding="utf-8"))
        found = parse(matter[1]) if matter else {}
    except (OSError, ValueError, TypeError, yaml.YAMLError):  # the last but one for keys that are lists
        return {}
    if not isinstance(found, dict):
        return {}
    lists = {key: value if isinstance(value, list) else [value] for key, value in found.items() if key in SOURCE_KEYS}
    return {
        key: found[key] for key, values in lists.items() if values and all(isinstance(v, str) and v for v in values)
    }


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
    max_length: int,
    base_id: str | None,
    source: Mapping[str, Any],
) -> str:
    """Return the README.md of a compressed model; `nodes` is None where the stock head stayed as it was.

    `base_id` is what the hub calls the source, None for a directory; `source` what its card says (`source_metadata`).

    `units` are what went, `padded` says whether zeros stand for parts of layers in the directory.

    `refitted` names the layers (in the full model's numbers) whose feed-forward outputs were refitted, `distilled` says whether
    the whole model was then trained towards the full one.
    """
    head = (
        "the classification head as it was." if nodes is None else f"a head of {nodes} nodes folded into the stock one."
    )
    by_word = model_class.endswith("ForTokenClassification")
    if by_word and nodes is not None:
        head = "the classifier fitted anew to the full model's outputs."
    if distilled:
        head = f"all layers then trained towards the full model's outputs (distillation), {head}"
    if refitted:
        which = f"layer{'' if len(refitted) == 1 else 's'} {', '.join(map(str, refitted))}"
        head = f"the feed-forward output of {which} refitted in closed form, {head}"
    metadata = ModelCardData(
        library_name="transformers", pipeline_tag=f"{'token' if by_word else 'text'}-classification",
        tags=["compressor", "layer-skipping"], model_name=name, base_model=base_id, **source,
    )  # fmt: skip
    longest = max(map(len, re.findall("`+", recipe)), default=0)
    return CARD.format(
        metadata=metadata.to_yaml(),
        fence="`" * max(3, longest + 1),  # that no value of the recipe can close
        use=(USE_TOKENS if by_word else USE).format(max_length=max_length),
        name=name,
        base=MARKS.sub(lambda found: f"&#{ord(found[0])};", " ".join(base.split())),
        model_class=model_class,
        gone=f"without {unit_words(units)} of {layers} encoder layers (numbered from 1)"
        if units
        else f"with all of its {layers} encoder layers",
        zeros=ZEROS if padded else "",
        head=head,
        recipe=recipe,
    )
