"""How an exported folder is used: the lines that a reader copies, and the page that lies in the folder."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

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

{kind}. It gives one of these labels{each}, and cuts {texts} to {length} tokens:

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
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

model, tokenizer = ORTModelForSequenceClassification.from_pretrained("."), AutoTokenizer.from_pretrained(".")
classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
print(classify({example}, truncation=True, max_length={length}))
```

"""
OPTIMUM_TOKENS = """## Transformers and Optimum

With `pip install 'optimum-onnx[onnxruntime]' transformers`, in this folder:

```python
from optimum.onnxruntime import ORTModelForTokenClassification
from transformers import AutoTokenizer, pipeline

model = ORTModelForTokenClassification.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".", model_max_length={length})
label = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")
print(label({example}))
```

"""
GPU = """

On a GPU install `onnxruntime-gpu` in the place of `onnxruntime`, and add
`providers=("CUDAExecutionProvider",)`."""


def snippet(directory: str, example: str | tuple[str, str] = EXAMPLE, *, by_word: bool = False) -> str:
    """Return the lines of Python that classify a text with the ONNX folder or the cascade in `directory`.

    `example` is a text, or two of them for a model of pairs. A text `by_word` is a list of words.
    """
    if by_word:
        return "\n".join(
            [
                "from compressor.runtime import Classifier",
                "",
                f"label = Classifier({json.dumps(directory)})",
                f"words = {json.dumps(example.split(), ensure_ascii=False)}",
                "print(label([words]))  # [{'words': [...], 'labels': [...], 'scores': [...]}], and 'entities' of BIO labels",
            ]
        )
    shown = json.dumps(example, ensure_ascii=False) if isinstance(example, str) else f"[{_pair(example)}]"
    return "\n".join(
        [
            "from compressor.runtime import Classifier",
            "",
            f"classify = Classifier({json.dumps(directory)})",
            f"print(classify({shown}))  # [{{'label': ..., 'score': ...}}]",
        ]
    )


def page(variant: str, settings: Mapping[str, Any], weights: Sequence[str] = ()) -> str:
    """Return the README.md of an exported folder from what its settings say (`compressor/runtime/folder.py`).

    `weights` are the files beside model.onnx that hold its weights, where it is large. The lines are to run in the folder
    itself, wherever it is moved.
    """
    pairs, length = settings["texts"] == 2, settings["max_length"]
    by_word = settings.get("answers", {}).get("kind") == "tokens"
    kind = KINDS[variant]
    text = PAGE.format(
        variant=variant,
        kind=kind[0].upper() + kind[1:],
        each=" for each word" if by_word else "",
        texts="pairs of texts" if pairs else "texts",
        length=length,
        labels=json.dumps(settings["label_names"], ensure_ascii=False),
        lines=snippet(".", PAIR if pairs else EXAMPLE, by_word=by_word),
        threads=threads_advice(settings["threads"]),
        gpu="" if variant in CPU_ONLY else GPU,
    )
    if variant == "cascade":  # several files, which only their own runtime puts together
        return text
    example = json.dumps(dict(zip(("text", "text_pair"), PAIR, strict=True)) if pairs else EXAMPLE)
    text += "\n" + (OPTIMUM_TOKENS if by_word else OPTIMUM).format(example=example, length=length)
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


def _pair(pair: tuple[str, str]) -> str:
    return f"({', '.join(json.dumps(text, ensure_ascii=False) for text in pair)})"
