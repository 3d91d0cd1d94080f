"""How an exported folder is used: the lines that a reader copies, and the page that lies in the folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.data.answers.kinds import MANY_LABELS, RANKING, SCORE, SINGLE_LABEL, TOKENS


@dataclass(frozen=True)
class Use:
    """How the answers of a kind are had."""

    gives: str
    """What the folder gives, of the names that follow."""
    returned: str
    """What `Classifier` returns, in short."""
    pipeline: str
    """What a text-classification pipeline is told beside the text; `{apply}` is the function of the output."""
    torch: str
    """The answers out of `logits`; `{apply}` likewise."""
    by_word: bool = False
    """Whether words have answers, so that texts are lists of them, and class and pipeline are those for tokens."""

    @property
    def stock(self) -> str:
        """The end of the names of the stock classes."""
        return "TokenClassification" if self.by_word else "SequenceClassification"


_SCORE = Use(
    "a score of this name",
    "[{'label': ..., 'score': ...}]",
    ', function_to_apply="{apply}"',
    "logits[:, 0]{apply}.tolist()",
)
USES = {
    SINGLE_LABEL: Use(
        "one of these labels", "[{'label': ..., 'score': ...}]", "",
        "[model.config.id2label[i] for i in logits.argmax(-1).tolist()]",
    ),
    SCORE: _SCORE,
    MANY_LABELS: Use(
        "any of these labels", "[{'labels': [...], 'scores': {...}}]", ", top_k=None",
        "[dict(zip(model.config.label2id, row, strict=True)) for row in logits.sigmoid().tolist()]",
    ),
    RANKING: _SCORE,
    TOKENS: Use(
        "one of these labels for each word",
        "[{'words': [...], 'labels': [...], 'scores': [...]}], and 'entities' of BIO labels", "",
        "[model.config.id2label[i] for i in logits[0].argmax(-1).tolist()], inputs.word_ids(0)", by_word=True,
    ),
}  # fmt: skip
"""Kind of task -> how its answers are had."""
EXAMPLE, PAIR = "a gripping film", ("a man plays the guitar", "someone makes music")
KINDS = {
    "fp32": "the graph as it was exported, in float32",
    "alltokens": "the graph with its nodes fused, in float32; it computes every row of the last layer",
    "optimized": "the fused graph in float32, without what no prediction depends on",
    "fp16": "the fused graph in float16, for GPUs",
    "int8": "the fused graph in 8 bits, for processors that multiply 8-bit numbers",
    "cascade": "a model in parts: texts that it is sure of leave behind an early one",
}
"""Name of a folder -> what is in it."""
CPU_ONLY = "int8", "cascade"
TRITON = """## Triton

`config.pbtxt` is for Triton's ONNX Runtime backend. In a model repository the folder takes this shape:

```text
MODEL/
  config.pbtxt
  1/
    model.onnx{data}
```

It takes token ids, int64, of as many columns as the longest text of a request has, and gives logits: tokenise
with `tokenizer.json` first, at most {length} tokens. Requests of the same length are batched; pad to a few lengths (with id
{pad} and mask 0) so that more of them are.{threads}
"""
TRITON_THREADS = """ For {count} a session add:

```text
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "{threads}" }} }}
```"""
PAGE = """# {variant}: how to deploy

{kind}. It gives {gives}, and cuts {texts} to {length} tokens:

```json
{labels}
```

## Python, without torch

```sh
pip install onnxruntime numpy tokenizers
pip install --no-deps compressor
```

In this folder:

```python
{lines}
```

{threads}{gpu}
"""
OPTIMUM = """## Transformers and Optimum

With `pip install 'optimum-onnx[onnxruntime]' transformers`, in this folder:

```python
{lines}
```

"""
GPU = """

On a GPU install `onnxruntime-gpu` in the place of `onnxruntime`, and add
`providers=("CUDAExecutionProvider",)`."""


def example(texts: int | None) -> str | tuple[str, str]:
    """Return a row of so many texts: one text where that is not known."""
    return PAIR if texts == 2 else EXAMPLE


def pipeline_call(example: str | tuple[str, str], length: int, answers: Mapping[str, Any] | None) -> str:
    """Return the call of a pipeline `classify` of transformers; see `snippet`."""
    if use_of(answers).by_word:
        return f"classify({json.dumps(example, ensure_ascii=False)})"
    row = example if isinstance(example, str) else dict(zip(("text", "text_pair"), example, strict=True))
    told = use_of(answers).pipeline.format(apply="sigmoid" if (answers or {}).get("sigmoid") else "none")
    return f"classify({json.dumps(row, ensure_ascii=False)}, truncation=True, max_length={length}{told})"


def optimum_lines(folder: str, example: str | tuple[str, str], length: int, answers: Mapping[str, Any] | None) -> str:
    """Return lines of Python that classify a text with the ONNX folder `folder` (an expression), Optimum and a pipeline."""
    use = use_of(answers)
    # a pipeline for tokens cuts texts to what its tokenizer is told alone
    cut, grouped = (f", model_max_length={length}", ', aggregation_strategy="first"') if use.by_word else ("", "")
    task = "token-classification" if use.by_word else "text-classification"
    return "\n".join(
        [
            f"from optimum.onnxruntime import ORTModelFor{use.stock}",
            "from transformers import AutoTokenizer, pipeline",
            "",
            f"model, tokenizer = ORTModelFor{use.stock}.from_pretrained({folder}), AutoTokenizer.from_pretrained({folder}{cut})",
            f'classify = pipeline("{task}", model=model, tokenizer=tokenizer{grouped})',
            f"print({pipeline_call(example, length, answers)})",
        ]
    )


def tokenizer_texts(example: str | tuple[str, str], answers: Mapping[str, Any] | None = None) -> str:
    """Return a row as a tokenizer takes a batch of it: a list of texts, or two, or a list of words."""
    if use_of(answers).by_word:
        return f"[{_words(example)}], is_split_into_words=True"
    texts = [example] if isinstance(example, str) else example
    return ", ".join(f"[{json.dumps(text, ensure_ascii=False)}]" for text in texts)


def use_of(answers: Mapping[str, Any] | None) -> Use:
    """Return how the answers are had of which settings or a result say this; one label where they say nothing."""
    return USES[(answers or {}).get("kind", SINGLE_LABEL)]


def snippet(
    directory: str, example: str | tuple[str, str] = EXAMPLE, *, answers: Mapping[str, Any] | None = None
) -> str:
    """Return the lines of Python that classify a text with the ONNX folder or the cascade in `directory`.

    `example` is a text, or two of them for a model of pairs; `answers` see `use_of`.
    """
    shown = json.dumps(example, ensure_ascii=False) if isinstance(example, str) else f"[{_pair(example)}]"
    shown = f"[{_words(example)}]" if use_of(answers).by_word else shown
    if (answers or {}).get("kind") == RANKING and not isinstance(example, str):
        query, document = (json.dumps(text, ensure_ascii=False) for text in example)
        call, returned = f'classify.rank({query}, [{document}, "..."])', "[{'index': ..., 'score': ...}]"
    else:
        call, returned = f"classify({shown})", use_of(answers).returned
    return "\n".join(
        [
            "from compressor.runtime import Classifier",
            "",
            f"classify = Classifier({json.dumps(directory)})",
            f"print({call})  # {returned}",
        ]
    )


def torch_lines(
    path: str,
    precision: str,
    max_length: int,
    example: str | tuple[str, str] = EXAMPLE,
    *,
    answers: Mapping[str, Any] | None = None,
) -> str:
    """Return lines of Python that classify a text with the saved model in `path` and transformers alone; see `snippet`."""
    half = "" if precision == "float32" else f", dtype=torch.{precision}"
    shown, stock = tokenizer_texts(example, answers), f"AutoModelFor{use_of(answers).stock}"
    apply = ".sigmoid()" if (answers or {}).get("sigmoid") else ""
    return "\n".join(
        [
            "import torch",
            f"from transformers import {stock}, AutoTokenizer",
            "",
            f'tokenizer = AutoTokenizer.from_pretrained("{path}")',
            f'model = {stock}.from_pretrained("{path}"{half}).eval()',
            f'inputs = tokenizer({shown}, truncation=True, max_length={max_length}, padding=True, return_tensors="pt")',
            "with torch.inference_mode():",
            "    logits = model(**inputs).logits",
            f"print({use_of(answers).torch.format(apply=apply)})",
        ]
    )


def page(variant: str, settings: Mapping[str, Any], weights: Sequence[str] = ()) -> str:
    """Return the README.md of an exported folder from what its settings say (`compressor/runtime/folder.py`).

    `weights` are the files beside model.onnx that hold its weights, where it is large. The lines are to run in the folder
    itself, wherever it is moved.
    """
    row, length, answers = example(settings["texts"]), settings["max_length"], settings.get("answers")
    kind = KINDS[variant]
    text = PAGE.format(
        variant=variant,
        kind=kind[0].upper() + kind[1:],
        texts="texts" if isinstance(row, str) else "pairs of texts",
        length=length,
        labels=json.dumps(settings["label_names"], ensure_ascii=False),
        gives=use_of(answers).gives,
        lines=snippet(".", row, answers=answers),
        threads=threads_advice(settings["threads"]),
        gpu="" if variant in CPU_ONLY else GPU,
    )
    if variant == "cascade":  # several files, which only their own runtime puts together
        return text
    text += "\n" + OPTIMUM.format(lines=optimum_lines('"."', row, length, answers))
    count = settings["threads"]
    more = "" if count is None else TRITON_THREADS.format(threads=count, count=_threads(count))
    data = "".join(f"\n    {name}" for name in weights)
    return text + TRITON.format(data=data, length=length, pad=settings["pad_id"], threads=more)


def threads_advice(threads: int | None) -> str:
    """Return what to do about threads: a sentence or two; None where no run timed the folder with several numbers."""
    if threads is None:
        return "ONNX Runtime chooses how many threads compute, usually one a core; `threads=` says otherwise."
    return (
        f"It takes {_threads(threads)}, the fastest for one text at a time on the machine of the run; "
        f"`threads=` says otherwise."
    )


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _words(example: str | tuple[str, str]) -> str:
    """Return the words of a row, which has one text alone, as a list."""
    return json.dumps((example if isinstance(example, str) else example[0]).split(), ensure_ascii=False)


def _pair(pair: tuple[str, str]) -> str:
    return f"({', '.join(json.dumps(text, ensure_ascii=False) for text in pair)})"
