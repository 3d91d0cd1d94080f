"""What answers are, as results and manifests wrote it down."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, field_validator

from compressor.data.answers.kinds import KINDS, Task


class _Told(BaseModel):
    kind: str
    tolerance: float = 0.0
    thresholds: tuple[float, ...] = ()
    sigmoid: bool = False
    names: tuple[str, ...] = ()

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"no kind of answers is called {kind!r}")
        return kind


def task_told(told: Mapping[str, Any]) -> Task:
    """Return the task of what `Task.told` gave; raises ValueError where it says none. What else stands there is ignored."""
    return Task(**_Told.model_validate(dict(told)).model_dump())
