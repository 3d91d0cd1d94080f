"""Shrink fine-tuned BERT-like classifiers by skipping layers, with the evidence of what it costs and gains.

```python
from compressor import compress

done = compress("my-model", train="reviews.csv")
print(done.line)
```
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.errors import UserError
    from compressor.model.load import load_model
    from compressor.pipeline.compress import compress
    from compressor.pipeline.finished import RunResult, open_run
    from compressor.pipeline.pipeline import run_recipe
    from compressor.recipe.compression import Recipe
    from compressor.recipe.file import load_recipe
    from compressor.runtime import Classifier
    from compressor.sweep.result import open_sweep
    from compressor.sweep.sweep import run_sweep

    __version__: str

__all__ = [
    "Classifier",
    "Recipe",
    "RunResult",
    "UserError",
    "__version__",
    "compress",
    "load_model",
    "load_recipe",
    "open_run",
    "open_sweep",
    "run_recipe",
    "run_sweep",
]

_HOMES = {
    "Classifier": "compressor.runtime",
    "Recipe": "compressor.recipe.compression",
    "RunResult": "compressor.pipeline.finished",
    "UserError": "compressor.errors",
    "compress": "compressor.pipeline.compress",
    "load_model": "compressor.model.load",
    "load_recipe": "compressor.recipe.file",
    "open_run": "compressor.pipeline.finished",
    "open_sweep": "compressor.sweep.result",
    "run_recipe": "compressor.pipeline.pipeline",
    "run_sweep": "compressor.sweep.sweep",
}

QUIET = {
    "ORT_DISABLE_TELEMETRY": "1",  # from 1.29 on each session of ONNX Runtime writes an id below HOME and reports usage
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
}
"""Nothing reports home. Every entry passes this file before it imports a library that would; who wants it sets 0."""
for name, value in QUIET.items():
    os.environ.setdefault(name, value)


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # PEP 562: `import compressor` stays instant, torch and transformers come with the first use
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("compressor")
        except PackageNotFoundError:  # run from its source alone
            return "not installed"
    if name not in _HOMES:
        raise AttributeError(f"module 'compressor' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
