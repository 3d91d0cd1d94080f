"""What runs the points of a sweep: processes of this machine, or the tasks of a Ray cluster."""

import os
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.errors import UserError
from compressor.recipe.sweep import EngineSpec
from compressor.sweep.work import Job, Outcome, work

if TYPE_CHECKING:
    import ray

GIGABYTE = 2**30


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


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
    """Return how many points run at a time with how many threads, never more than the cores in all.

    Raises UserError where the recipe asks for more.
    """
    cores = len(usable_cores())
    workers = spec.workers or max(1, min(points, cores // (spec.threads or 1)))
    threads = spec.threads or max(1, cores // workers)
    if workers * threads > cores:
        raise UserError(
            f"engine: {workers} workers of {threads} thread{'s' * (threads > 1)} take {workers * threads} cores, and there are "
            f"{cores}; times measured on shared cores mean nothing."
        )
    return Share(workers, threads)


def threads_of(spec: EngineSpec, points: int) -> int:
    """Return the threads of a point, on which its times depend. Raises UserError where there are not as many cores."""
    return spec.threads or 1 if spec.kind == "ray" else share_of(spec, points).threads


def local(jobs: Sequence[Job], spec: EngineSpec) -> Iterator[Outcome]:
    """Yield how each point ended, as they end: processes of this machine, each on cores of its own."""
    share = share_of(spec, len(jobs))
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for worker in range(share.workers):
        free.put(worker)

    def one(job: Job) -> Outcome:
        worker = free.get()
        try:
            return work(job, threads=share.threads, cores=share.cores(worker), attempts=1 + spec.retries)
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(share.workers)
    try:
        yield from (future.result() for future in as_completed([pool.submit(one, job) for job in jobs]))
    finally:  # interrupted: what has not begun does not begin
        pool.shutdown(wait=False, cancel_futures=True)


def on_ray(jobs: Sequence[Job], spec: EngineSpec) -> Iterator[Outcome]:
    """Yield how each point ended, as they end: tasks of a Ray cluster, started again where a node or a process dies.

    Raises UserError where Ray is not installed, or the cluster cannot be reached.
    """
    ray = _ray(spec)
    threads = threads_of(spec, len(jobs))
    task = ray.remote(
        work
    ).options(
        num_cpus=threads,
        num_gpus=spec.gpus,
        memory=None if spec.memory_gb is None else int(spec.memory_gb * GIGABYTE),
        max_retries=spec.retries,  # of a node or worker that dies; a run that fails is started again by the worker itself
        retry_exceptions=False,
    )
    waiting = {task.remote(job, threads=threads, attempts=1 + spec.retries): job for job in jobs}
    while waiting:
        (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
        job = waiting.pop(ready)
        try:
            yield ray.get(ready)
        except ray.exceptions.RayError as error:  # died more often than it is started again
            words = str(error).strip().splitlines()[0]
            yield Outcome(job.name, -1, 0.0, f"the Ray task was lost ({words}).", 1 + spec.retries)


def _ray(spec: EngineSpec) -> "ray":
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "engine.kind: ray is not installed; `pip install 'compressor[ray]'`, or set engine.kind: local."
        ) from error
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing reports home
        given: dict[str, Any] = {"address": spec.address} if spec.address else {"num_cpus": len(usable_cores())}
        try:
            ray.init(
                **given,
                include_dashboard=False if not spec.address else None,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            words = str(error).strip().splitlines()[0]
            raise UserError(f"engine.address: {spec.address}: no Ray cluster answers there ({words}).") from error
    return ray


ENGINES: Mapping[str, Callable[[Sequence[Job], EngineSpec], Iterator[Outcome]]] = {"local": local, "ray": on_ray}
"""EngineSpec.kind -> what runs the jobs."""
