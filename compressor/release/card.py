"""Does a model card say what result.json says: its line, its table, its metadata, the size of what it names."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from compressor.errors import first_line, whole_result
from compressor.files import README
from compressor.measurement.cost import weight_bytes
from compressor.model.card import ANSWER, FRONT_MATTER, RESULTS, block_in
from compressor.recipe.text import parse
from compressor.report.wording.answer import answer_line
from compressor.report.wording.card import eval_results, results_section

FACT = re.compile(r"\d[\d.,]*|(?:full-)?onnx/\w+|\b(?:Ship|Keep|exact|lossless|near|lossy|missed)\b")
"""What a sentence of another version is held to: its numbers, what it ships, how good that is."""
CLOSE = 1e-9
"""How far a metric in the metadata may be from that of result.json: both are the same number, written twice."""


def card_problems(directory: Path, result: Mapping[str, Any], *, same_version: bool) -> Iterator[tuple[str, str]]:
    """Yield (file, what is wrong) where the card in a model directory contradicts the content of result.json.

    Sentences are compared as they are written where the same version wrote them, else by `FACT`.
    """
    try:
        card = (directory / README).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        yield README, f"the model card cannot be read ({first_line(error)})"
        return
    with whole_result("result.json"):
        line = answer_line(result["answer"]) if result["answer"] else None
        wanted = {ANSWER: line, RESULTS: results_section(result)}
        metrics = {entry.metric_type: entry.metric_value for entry in eval_results(result)}
    for name, text in wanted.items():
        found = block_in(card, name)
        if not _alike(found, text, same_version):
            which = "its line" if name == ANSWER else "its table of results"
            yield README, f"{which} is not what result.json says: {_short(found)} instead of {_short(text)}"
    try:
        matter = FRONT_MATTER.match(card)
        parse(matter[1] if matter else "")  # within its limits, before the library reads it
        said = {entry.metric_type: entry.metric_value for entry in ModelCard(card).data.eval_results or []}
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        yield README, f"its metadata cannot be read ({first_line(error)})"
        return
    apart = [
        name
        for name in sorted(metrics.keys() | said.keys())
        if not isinstance(said.get(name), float | int) or abs(said[name] - metrics.get(name, float("inf"))) > CLOSE
    ]
    for name in apart:
        yield README, f"its metadata gives {name} as {said.get(name)}, and result.json as {metrics.get(name)}"


def size_problems(root: Path, result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (file, what is wrong) where what the line names is not there, or not as large as the line says.

    An early exit counts all its parts.
    """
    answer = result["answer"] or {}
    path, wanted = answer.get("path"), answer.get("bytes")
    if path is None or path == "model":  # the model's weights are looked at by themselves
        return
    if not (root / path).is_dir():
        yield path, "is what the card's line ships, and it is missing"
        return
    parts = sum(file.stat().st_size for file in (root / path).glob("*.onnx*"))
    if wanted not in {parts, weight_bytes(root / path)}:
        yield path, f"holds {parts:,} bytes of weights, and result.json says {wanted:,}"


def _alike(found: str | None, wanted: str | None, same_version: bool) -> bool:
    if found is None or wanted is None:
        return found == wanted
    if same_version:
        return found.strip() == wanted.strip()
    return FACT.findall(found) == FACT.findall(wanted)


def _short(text: str | None) -> str:
    line = " ".join((text or "nothing").split())
    return repr(line if len(line) <= 120 else f"{line[:117]}...")
