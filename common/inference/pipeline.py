"""Reading, running the network and writing at the same time: threads around one engine.

Decoding, resampling and encoding spend their time in C code that lets other threads run, so that a network on a GPU, or
on some of the cores, seldom waits. Order is kept: jobs are run in the order given, so results do not depend on timing.
"""
import dataclasses
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from medi2i.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class Job:
    """One input of the network and what becomes of its result.

    load() -> (C, H, W) float32, in a reading thread; a UserError or OSError means that this job is skipped.
    collect(y (C', H, W) or None) -> what is ready to be written now: callables, run in writing threads. It is called in
    order and from one thread; None says that the job was skipped. ``skipped(error)`` is told why.
    """

    load: Callable[[], np.ndarray]
    collect: Callable[[Any], list[Callable[[], None]]]
    skipped: Callable[[Exception], None]


def run(jobs: Iterable[Job], network: Callable[[np.ndarray], np.ndarray], *, batch_size: int, workers: int,
        progress: Callable[[int], None] = lambda count: None) -> None:
    """Run all ``jobs`` through ``network`` ((N, C, H, W) -> (N, C', H, W)), ``batch_size`` of equal shape at a time.

    ``progress`` is told how many jobs were dealt with. Any other error ends the run: what is
    being written is finished, nothing new is begun, and the error is raised.
    """
    readers = ThreadPoolExecutor(workers, "read")
    writers = ThreadPoolExecutor(workers, "write")
    writing: deque = deque()
    batch: list[tuple[Job, np.ndarray]] = []

    def write(callables):
        for call in callables:
            writing.append(writers.submit(call))
        while len(writing) > 2 * workers + batch_size:
            writing.popleft().result()

    def flush():
        if not batch:
            return
        results = network(np.stack([x for _, x in batch]))
        for (job, _), y in zip(batch, results, strict=True):
            write(job.collect(y))
        progress(len(batch))
        batch.clear()

    try:
        for job, future in _ahead(jobs, readers, workers + batch_size):
            try:
                x = future.result()
            except (UserError, OSError) as error:
                flush()  # collect() is called in order
                job.skipped(error)
                write(job.collect(None))
                progress(1)
                continue
            if batch and batch[0][1].shape != x.shape:
                flush()
            batch.append((job, x))
            if len(batch) == batch_size:
                flush()
        flush()
        while writing:
            writing.popleft().result()
    finally:
        readers.shutdown(wait=True, cancel_futures=True)
        writers.shutdown(wait=True, cancel_futures=True)


def _ahead(jobs, readers, count):
    """(job, future of its input) in order, with up to ``count`` being read beyond the one that is given."""
    waiting: deque = deque()
    for job in jobs:
        waiting.append((job, readers.submit(job.load)))
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
