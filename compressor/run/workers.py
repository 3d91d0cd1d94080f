"""Work that is divided: how many processes with how many threads, on this machine or as tasks of a Ray cluster."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, TypeVar

from compressor.errors import UserError, first_line
from compressor.measurement.machine.environment import usable_cores
from compressor.recipe.engine import EngineSpec

if TYPE_CHECKING:
    import ray

GIGABYTE = 2**30
Job = TypeVar("Job")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Share:
    """How the cores of this machine are divided."""

    workers: int
    threads: int

    def cores(self, worker: int) -> list[int]:
        """Return the cores of a worker: threads of two models on one core would time each other."""
        usable = usable_cores()
        return [usable[place % len(usable)] for place in range(worker * self.threads, (worker + 1) * self.threads)]


def share_of(spec: EngineSpec, points: int) -> Share:
    """Return how many points run at a time with how many threads: on this machine never more than the cores in all.

    Of a Ray cluster nobody here knows the cores: what the recipe does not say is 1. Raises UserError where it asks for more.
    """
    if spec.kind == "ray":
        return Share(spec.workers or 1, spec.threads or 1)
    cores = len(usable_cores())
    workers = spec.workers or max(1, min(points, cores // (spec.threads or 1)))
    threads = spec.threads or max(1, cores // workers)
    if workers * threads > cores:
        raise UserError(
            f"engine: {workers} workers of {threads} thread{'s' * (threads > 1)} take {workers * threads} cores, and there are "
            f"{cores}; times measured on shared cores mean nothing."
        )
    return Share(workers, threads)


def check_engine(spec: EngineSpec | None) -> None:
    """Raise UserError where a recipe asks for more processes than there are cores for."""
    if spec is not None:
        share_of(spec, spec.workers or 1)


def spread(function: Callable[[Job], Made], jobs: Sequence[Job], spec: EngineSpec) -> Iterator[Made]:
    """Yield what `function` makes of each job, in their order; job and function must be such that they can be pickled.

    A single job runs in this process. What a function raises is raised here. Raises UserError where a process is killed more
    often than it is started again, and as `connected`.
    """
    if len(jobs) == 1 and spec.kind == "local":
        yield function(jobs[0])
    elif spec.kind == "local":
        yield from _processes(function, jobs, share_of(spec, len(jobs)).workers, spec.retries)
    else:
        with connected(spec) as ray:
            task = ray.remote(function).options(**needs(spec, share_of(spec, len(jobs)).threads))
            waiting = [task.remote(job) for job in jobs]
            try:
                yield from (ray.get(one) for one in waiting)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                raise UserError(f"engine: a Ray task was lost ({first_line(error)}); start it again.") from error


def _processes(function: Callable[[Job], Made], jobs: Sequence[Job], workers: int, retries: int) -> Iterator[Made]:
    """Yield the same from processes of this machine; the jobs of a pool that broke are handed to another."""
    made: dict[int, Made] = {}
    for attempt in range(1 + retries):
        left = [place for place in range(len(jobs)) if place not in made]
        # processes that start anew: a fork of one with threads of PyTorch may wait for ever
        with ProcessPoolExecutor(min(workers, len(left)), mp_context=get_context("spawn")) as pool:
            waiting = {place: pool.submit(function, jobs[place]) for place in left}
            try:
                for place, future in waiting.items():
                    made[place] = future.result()
            except BrokenProcessPool as error:
                if attempt == retries:
                    raise UserError(
                        "engine: a process was killed, as it is where memory runs out; set fewer engine.workers."
                    ) from error
                continue
        break
    yield from (made[place] for place in range(len(jobs)))


def needs(spec: EngineSpec, threads: int) -> dict[str, Any]:
    """Return what a task asks a Ray cluster for; it is started again where a node or a process dies."""
    return {
        "num_cpus": threads,
        "num_gpus": spec.gpus,
        "memory": None if spec.memory_gb is None else int(spec.memory_gb * GIGABYTE),
        "max_retries": spec.retries,
        "retry_exceptions": False,
    }


@contextmanager
def connected(spec: EngineSpec) -> Iterator["ray"]:
    """Yield Ray, connected to the cluster that the recipe names; raises UserError where it is missing or none answers.

    A connection that is made here ends here: a cluster of this machine dies with the thread that started it, and who found
    it still connected would wait for it in vain.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "engine.kind: ray is not installed; `pip install 'compressor[ray]'`, or set engine.kind: local."
        ) from error
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing reports home
    given: dict[str, Any] = {"address": spec.address} if spec.address else {"num_cpus": len(usable_cores())}
    try:
        ray.init(
            **given, include_dashboard=False if not spec.address else None, log_to_driver=False, logging_level="ERROR"
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        words = first_line(error)
        raise UserError(f"engine.address: {spec.address}: no Ray cluster answers there ({words}).") from error
    try:
        yield ray
    finally:
        ray.shutdown()
