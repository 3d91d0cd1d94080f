"""What runs the points of a sweep: processes of this machine, or the tasks of a Ray cluster."""

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from compressor.errors import first_line
from compressor.recipe.engine import EngineSpec
from compressor.run.workers import connected, needs, share_of
from compressor.sweep.work import Job, Outcome, work


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
    with connected(spec) as ray:
        threads = share_of(spec, len(jobs)).threads
        # a run that fails is started again by the worker itself
        task = ray.remote(work).options(**needs(spec, threads))
        waiting = {task.remote(job, threads=threads, attempts=1 + spec.retries): job for job in jobs}
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:  # died more often than it is started again
                words = first_line(error)
                yield Outcome(job.name, -1, 0.0, f"the Ray task was lost ({words}).", 1 + spec.retries)


ENGINES: Mapping[str, Callable[[Sequence[Job], EngineSpec], Iterator[Outcome]]] = {"local": local, "ray": on_ray}
"""EngineSpec.kind -> what runs the jobs."""
