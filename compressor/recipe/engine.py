"""What runs work that can be divided: processes of this machine, or the tasks of a Ray cluster."""

from typing import Annotated, Literal

from pydantic import Field

from compressor.recipe.base import Float, PositiveInt, Spec


class EngineSpec(Spec):
    """What runs the points of a sweep, or the parts of an archive."""

    kind: Literal["local", "ray"] = "local"
    """`local`: processes of this machine. `ray`: tasks of a Ray cluster whose nodes share the folder of the sweep or the run."""
    workers: PositiveInt | None = None
    """Processes at a time on this machine; null: as many as there are `threads` for. A Ray cluster decides by its resources."""
    threads: PositiveInt | None = None
    """Threads of a process, in a sweep pinned to cores of its own; null: the cores, divided by `workers` (by 1 where both are
    null)."""
    address: str | None = None
    """Address of the Ray cluster: `auto` for the one of this machine; null starts one here."""
    gpus: Annotated[Float, Field(ge=0)] = 0.0
    """GPUs of a task; 0 runs it on the CPU."""
    memory_gb: Annotated[Float, Field(gt=0)] | None = None
    """Memory that a task asks a Ray cluster for."""
    retries: Annotated[int, Field(ge=0)] = 1
    """How often work whose process or node died is started again; points resume. A wrong recipe is not tried again."""
