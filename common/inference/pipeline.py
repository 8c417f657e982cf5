"""Reading, running the network and writing at the same time, threads around one engine; and the jobs of 2.5-D stacks.

Decoding, resampling and encoding spend their time in C code that lets other threads run, so that a network on a GPU, or
on some of the cores, seldom waits. Order is kept: jobs are run in the order given, so results do not depend on timing.
What is between reading and the disk is bounded by ``ROOM``.
"""

import dataclasses
import enum
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from medi2i.common.errors import UserError
from medi2i.common.inference.slices import Slice, SliceCache

ROOM = 3 << 28
"""Bytes of images that may be under way together; one that is larger goes alone."""


class NoResult(UserError):
    """What was read has no result: the network cannot be run on it, or says what is no number."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One input of the network and what becomes of its result.

    load() -> (C, H, W) float32, in a reading thread; a UserError or OSError means that this job is skipped.
    collect(y (C', H, W)) -> what is ready to be written now: callables, run in writing threads. It is called in order
    and from one thread, with an error in place of y where the job was skipped: NoResult where the network raised a
    UserError or MemoryError. size: bytes, about, that it takes from its reading until it is written.
    """

    load: Callable[[], np.ndarray]
    collect: Callable[[np.ndarray | Exception], list[Callable[[], None]]]
    size: int = 0


def run(
    jobs: Iterable[Job],
    network: Callable[[np.ndarray], np.ndarray],
    *,
    batch_size: int,
    workers: int,
    at_once: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run all ``jobs`` through ``network`` ((N, C, H, W) -> (N, C', H, W)), ``batch_size`` of equal shape at a time.

    at_once: so many batches are in the network together, each in a thread of its own; 1 is the caller's thread. The
    first batch is alone there in any case: a network may have something to decide by it.
    Once ``stop()`` is true, what is in the network and what is
    being written is finished, the rest is left out. What the network cannot do with a batch it tries with each of its
    images. Any other error ends the run: what is being written is finished, nothing new is begun, and the error is
    raised.
    """
    readers = ThreadPoolExecutor(workers, "read")
    writers = ThreadPoolExecutor(workers, "write")
    networks = ThreadPoolExecutor(at_once, "network")
    begun = False
    reading: deque[tuple[Job, Future[np.ndarray]]] = deque()
    batch: list[tuple[Job, np.ndarray]] = []
    running: deque[tuple[list[Job], Callable[[], list[np.ndarray | NoResult]]]] = deque()
    writing: deque[tuple[Future[None], int]] = deque()

    def full(job: Job) -> bool:
        """Whether there is no room for one more."""
        under_way = [*(job for job, _ in (*reading, *batch)), *(job for together, _ in running for job in together)]
        return sum(job.size for job in (job, *under_way)) + sum(size for _, size in writing) > ROOM

    def ahead() -> Iterator[tuple[Job, Future[np.ndarray]]]:
        """(job, future of its input) in order, some more being read beyond the one that is given."""
        for job in jobs:
            while reading and full(job):
                yield reading.popleft()
            if full(job):
                flush()
                collect(0)
            while writing and full(job):
                writing.popleft()[0].result()
            reading.append((job, readers.submit(job.load)))
            if len(reading) > workers + batch_size:
                yield reading.popleft()
        while reading:
            yield reading.popleft()

    def flush() -> None:
        nonlocal begun
        if not batch:
            return
        x = batch[0][1][np.newaxis] if len(batch) == 1 else np.stack([x for _, x in batch])
        in_order = [job for job, _ in batch]
        batch.clear()
        if at_once == 1 or not begun:
            begun = True
            running.append((in_order, functools.partial(_results, network, x)))
            collect(0)
        else:
            running.append((in_order, networks.submit(_results, network, x).result))
            collect(at_once)  # one more than run, so that no thread waits for this one

    def collect(left: int) -> None:
        while len(running) > left:
            together, results = running.popleft()
            for job, y in zip(together, results(), strict=True):
                write(job, y)

    def write(job: Job, y: np.ndarray | Exception) -> None:
        size = job.size
        for call in job.collect(y):
            writing.append((writers.submit(call), size))
            size = 0
        while len(writing) > 2 * workers + batch_size:
            writing.popleft()[0].result()

    try:
        for job, future in ahead():
            if stop():
                batch.clear()
                break
            try:
                x = future.result()
            except (UserError, OSError) as error:
                flush()
                collect(0)  # in order
                write(job, error)
                continue
            if batch and batch[0][1].shape != x.shape:
                flush()
            batch.append((job, x))
            del future, x  # the image is to go once it was in the network
            if len(batch) == batch_size:
                flush()
        flush()
        collect(0)
        while writing:
            writing.popleft()[0].result()
    finally:
        for pool in (networks, readers, writers):
            pool.shutdown(wait=True, cancel_futures=True)


def _results(network: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> list[np.ndarray | NoResult]:
    """[(C', H, W), or NoResult] of each image of ``x`` (N, C, H, W)."""
    try:
        return list(network(x))
    except (UserError, MemoryError) as error:
        if len(x) > 1:
            return [one for i in range(len(x)) for one in _results(network, x[i : i + 1])]
        if not isinstance(error, MemoryError):
            return [NoResult(str(error))]
        size = " x ".join(map(str, x.shape[2:]))
        return [
            NoResult(
                f"out of memory at {size} pixels ({' '.join(str(error).split())[:200]}); --tile 512, or a "
                "smaller one, needs less"
            )
        ]


class Combine(enum.Enum):
    """Which slices of a converted stack are used."""

    MIDDLE = "the middle slice of the stack around it"
    AVERAGE = "the mean over all stacks that hold the slice"


def middle_stack(index: int, count: int, size: int) -> list[int]:
    """Indices of the ``size`` slices around ``index`` of ``count``; at the ends of the volume the last is repeated."""
    first = index - size // 2
    return [min(max(i, 0), count - 1) for i in range(first, first + size)]


def whole_stacks(count: int, size: int) -> list[list[int]]:
    """All stacks of ``size`` neighbours in a volume of ``count`` slices; a shorter one gives one, its last repeated."""
    return [[min(i, count - 1) for i in range(first, first + size)] for first in range(max(count - size, 0) + 1)]


def jobs(
    cache: SliceCache,
    size: int,
    combine: Combine,
    wanted: set[int],
    deliver: Callable[[int, np.ndarray, dict[int, Slice]], Callable[[], None]],
    failed: Callable[[int, Exception], None],
) -> Iterator[Job]:
    """The pipeline jobs that convert the slices ``wanted`` (their indices) of the volume of ``cache``, by stacks of
    ``size``.

    deliver(index, y (C', h, w), slices that went in, by index) -> what writes it; y is the caller's.
    failed(index, error) is told of a slice that cannot be converted.
    """
    count = len(cache.sources)
    if combine is Combine.MIDDLE:
        stacks = [(middle_stack(index, count, size), {size // 2: index}) for index in sorted(wanted)]
    else:  # a slice that is repeated in a stack counts once
        stacks = [
            (members, {members.index(index): index for index in members if index in wanted})
            for members in whole_stacks(count, size)
            if wanted.intersection(members)
        ]
    last_of = {index: number for number, (_, places) in enumerate(stacks) for index in places.values()}
    results: dict[int, list[np.ndarray]] = {}  # of each slice, one from each stack
    went_in: dict[int, dict[int, Slice]] = {}
    errors: dict[int, Exception] = {}

    def job_of(number: int, members: list[int], places: dict[int, int]) -> Job:
        own: dict[int, Slice] = {}

        def collect(y: np.ndarray | Exception) -> list[Callable[[], None]]:
            if isinstance(y, Exception):
                errors.update(dict.fromkeys(places.values(), y))
            else:
                parts = np.split(y, size)
                for place, index in places.items():
                    results.setdefault(index, []).append(parts[place])
                    went_in.setdefault(index, {}).update(own)
            ready = []
            for index in sorted(index for index in places.values() if last_of[index] == number):
                if index not in results:
                    failed(index, errors[index])
                    continue
                first, *others = results.pop(index)
                y = sum(others, first) / np.float32(1 + len(others)) if others else first
                ready.append(deliver(index, y, went_in.pop(index)))
            return ready

        return Job(lambda: _stacked(cache, members, own), collect, sum(map(cache.size, members)))

    for number, (members, places) in enumerate(stacks):
        yield job_of(number, members, places)


def _stacked(cache: SliceCache, members: list[int], slices: dict[int, Slice]) -> np.ndarray:
    """The network's input of a stack, whose Slices are put into ``slices``."""
    slices.update({index: cache.get(index) for index in members})
    images = [slices[index].unit for index in members]
    if len({image.shape for image in images}) > 1:
        raise UserError(f"slices {members} of one volume have different sizes; a stack needs equal ones")
    return images[0] if len(images) == 1 else np.concatenate(images)
