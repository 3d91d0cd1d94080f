"""A clock that only the test moves, and a benchmark under it."""

import numpy as np

from compressor.measurement.timing.latency import Cell, benchmark

BATCHES = [{"input_ids": np.full((1, 4), index)} for index in range(3)]


class Clock:
    """Nanoseconds that pass only while a subject works; `calls` records (subject, batch) in order."""

    def __init__(self):
        self.now, self.calls = 0, []

    def __call__(self):
        return self.now

    def subject(self, name, *milliseconds):
        def run(batch):
            done = sum(called == name for called, _ in self.calls)
            self.calls.append((name, int(batch["input_ids"][0, 0])))
            self.now += int(milliseconds[done % len(milliseconds)] * 1e6)

        return run


def run_benchmark(clock, subjects, against, **limits):
    cells = [Cell(1, 4, BATCHES), Cell(1, "workload", BATCHES[:1])]
    settings = {"min_seconds": 0, "min_runs": 40, "max_seconds": 1e9, "warmup": 0, **limits}
    return benchmark(subjects, against, dict.fromkeys(subjects, "fake"), cells, **settings, clock=clock)
