"""Reading, running the network and writing at the same time, threads around one engine; and the jobs of 2.5-D stacks.

Decoding, resampling and encoding spend their time in C code that lets other threads run, so that a network on a GPU, or
on some of the cores, seldom waits. Order is kept: jobs are run in the order given, so results do not depend on timing.
What is between reading and the disk is bounded by ``ROOM``.
"""

import dataclasses
import enum
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
    begun, taken = False, 0
    waiting: deque[tuple[Job, Future[np.ndarray]]] = deque()
    writing: deque[tuple[Future[None], int]] = deque()
    running: deque[tuple[list[Job], Future[list[np.ndarray | NoResult]]]] = deque()
    batch: list[tuple[Job, np.ndarray]] = []

    def ahead() -> Iterator[tuple[Job, Future[np.ndarray]]]:
        """(job, future of its input) in order, some more being read beyond the one that is given."""
        nonlocal taken
        for job in jobs:
            while waiting and taken + job.size > ROOM:
                yield waiting.popleft()
            if taken + job.size > ROOM:
                flush()
                collect(0)
            while writing and taken + job.size > ROOM:
                written()
            taken += job.size
            waiting.append((job, readers.submit(job.load)))
            if len(waiting) > workers + batch_size:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

    def write(callables: list[Callable[[], None]], size: int) -> None:
        nonlocal taken
        for call in callables:
            writing.append((writers.submit(call), size))
            size = 0
        taken -= size  # where nothing is written
        while len(writing) > 2 * workers + batch_size:
            written()

    def written() -> None:
        nonlocal taken
        done, size = writing.popleft()
        done.result()
        taken -= size

    def flush() -> None:
        nonlocal begun
        if not batch:
            return
        x = batch[0][1][np.newaxis] if len(batch) == 1 else np.stack([x for _, x in batch])
        in_order = [job for job, _ in batch]
        batch.clear()
        if at_once == 1 or not begun:
            begun = True
            collected(in_order, _results(network, x))
        else:
            running.append((in_order, networks.submit(_results, network, x)))
            collect(at_once)  # one more than run, so that no thread waits for this one

    def collect(left: int) -> None:
        while len(running) > left:
            jobs, results = running.popleft()
            collected(jobs, results.result())

    def collected(jobs: list[Job], results: list[np.ndarray | NoResult]) -> None:
        for job, y in zip(jobs, results, strict=True):
            write(job.collect(y), job.size)

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
                write(job.collect(error), job.size)
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
            written()
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
    sums: dict[int, tuple[np.ndarray, int]] = {}
    went_in: dict[int, dict[int, Slice]] = {}
    errors: dict[int, Exception] = {}

    def job_of(number: int, members: list[int], places: dict[int, int]) -> Job:
        own: dict[int, Slice] = {}

        def collect(y: np.ndarray | Exception) -> list[Callable[[], None]]:
            parts: list[np.ndarray] = []
            if isinstance(y, Exception):
                errors.update(dict.fromkeys(places.values(), y))
            elif len(y) % size:
                raise ValueError(f"a network for stacks of {size} gave {len(y)} channels")
            else:
                parts = np.split(y, size)
            for place, index in places.items() if parts else ():
                if index in sums:
                    total, so_far = sums[index]
                    total += parts[place]
                    sums[index] = total, so_far + 1
                else:  # what others are added to is to be no part of ``y``, which it outlives
                    sums[index] = parts[place] if last_of[index] == number else parts[place].copy(), 1
                went_in.setdefault(index, {}).update(own)
            ready = []
            for index in sorted(index for index in places.values() if last_of[index] == number):
                if index not in sums:
                    failed(index, errors[index])
                    continue
                total, stacked = sums.pop(index)
                y = total if stacked == 1 else total / np.float32(stacked)
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
