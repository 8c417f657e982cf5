"""Batches for the Trainer: loaded ahead, the same for any number of workers, and exactly continued after a resume."""

import collections
import concurrent.futures
import functools
import multiprocessing
import signal
import time

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.datasets.examples import ImageDataset, load_in_worker, load_numbered, start_worker

BATCHES_AHEAD = 2


class ImageIterator(chainer.dataset.Iterator):
    """Iterates over a dataset whose ``load(index, rng)`` gives an example (medi2i.datasets.paired, .unpaired).

    It does not end, and a batch may cross the border of two epochs.

    seed: the n-th example drawn has its own generator made of (seed, n), and the order of an epoch is made of
    (seed, epoch). So batches depend neither on ``workers`` nor on what was loaded ahead, and the state to save is one
    number: how many examples were drawn.
    uncut: examples are what the dataset's ``uncut`` gives, for a device to cut and change.
    workers: how many load ahead; 0 loads in the caller. Threads share one cache; decoding and augmentation let other
    threads run. ``processes`` takes processes instead (the dataset must be picklable and divides its cache by them).
    crops: how many of each example make an epoch. Each is drawn once before any is drawn again, as over so many epochs.
    rank, ranks: the one sequence is dealt in turn to ``ranks`` processes, ``batch_size`` examples to each; this is
    number ``rank``. Together their batches are those of one process with ``ranks`` times the batch size, and epochs are
    counted of all of them, so the state is the same on each.
    Raises what ``load`` raises.
    """

    _pool: concurrent.futures.Executor | None = None  # Chainer finalises iterators whose __init__ failed, too

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        seed: int = 0,
        *,
        uncut: bool = False,
        workers: int = 0,
        processes: bool = False,
        crops: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.per_epoch = len(dataset) * crops
        self._rank, self._ranks = rank, ranks
        self._workers = workers
        self._processes = processes and workers > 0
        self._load = functools.partial(load_numbered, dataset.uncut if uncut else dataset.load, len(dataset))
        self.idle = IdleTime()
        self.loading = 0.0  # seconds that workers spent on the examples given so far
        self._ahead: collections.deque[concurrent.futures.Future] = collections.deque()
        self._drawn = 0
        self.is_new_epoch = False
        self._previous_epoch_detail = -1.0

    @property
    def examples_per_update(self) -> int:
        """How many examples all ranks draw together at a time."""
        return self.batch_size * self._ranks

    def _go_to(self, drawn: int) -> None:
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._drawn = drawn

    @property
    def epoch(self) -> int:
        """Completed epochs."""
        return self._drawn // self.per_epoch

    @property
    def epoch_detail(self) -> float:
        """Epochs, with the fraction of the one begun."""
        return self._drawn / self.per_epoch

    @property
    def previous_epoch_detail(self) -> float | None:
        """``epoch_detail`` before the last batch; None before the first."""
        return None if self._previous_epoch_detail < 0 else self._previous_epoch_detail

    def __next__(self) -> list:
        asked = time.perf_counter()
        batch = self._take()
        self.idle.add(asked, time.perf_counter())
        before = self.epoch
        self._before = self._drawn, self.is_new_epoch, self._previous_epoch_detail
        self._previous_epoch_detail = self.epoch_detail
        self._drawn += self.examples_per_update
        self.is_new_epoch = self.epoch > before
        return batch

    next = __next__

    def step_back(self) -> None:
        """Forget the last batch: the next one is the same again. Once only, and not after a state was restored."""
        drawn, self.is_new_epoch, self._previous_epoch_detail = self._before
        self._go_to(drawn)

    def _number(self, drawn: int, own: int) -> int:
        """Which one of the whole sequence is the ``own``-th example of this rank, once all have drawn ``drawn``."""
        batch, place = divmod(own, self.batch_size)
        return drawn + (batch * self._ranks + self._rank) * self.batch_size + place

    def _take(self) -> list:
        if self._workers == 0:
            numbers = [self._number(self._drawn, own) for own in range(self.batch_size)]
            return [self._load(self.seed, number)[0] for number in numbers]
        try:
            ahead = max(BATCHES_AHEAD * self.batch_size, self._workers)
            self._load_ahead(self.batch_size + ahead, self._drawn)
            loaded = [self._ahead.popleft().result() for _ in range(self.batch_size)]
            # Begin the next ones before the caller is busy with these.
            self._load_ahead(ahead, self._drawn + self.examples_per_update)
        except concurrent.futures.BrokenExecutor:
            raise self._loader_died() from None
        except BaseException:
            self._go_to(self._drawn)  # what is left of the queue no longer starts at the next example
            raise
        self.loading += sum(seconds for _, seconds in loaded)
        return [example for example, _ in loaded]

    def _loader_died(self) -> UserError:
        """The UserError that says how. Python ends the other processes of the pool by SIGTERM."""
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self.finalize()
        ends = [process.exitcode for process in processes if process.exitcode not in (None, 0)]
        how = next((end for end in ends if end != -signal.SIGTERM), ends[0] if ends else None)
        killed = how is not None and how < 0
        said = "" if how is None else f" ({signal.Signals(-how).name if killed else f'status {how}'})"
        return UserError(
            f"--worker_processes: a process that loads images died{said}"
            + (
                ", as the system ends one where memory runs out: a smaller --cache_mb, fewer --workers, or "
                "threads (without --worker_processes) need less"
                if how == -signal.SIGKILL
                else ""
            )
        )

    def _load_ahead(self, wanted: int, drawn: int) -> None:
        if self._pool is None:
            self._pool = self._make_pool()
        load = load_in_worker if self._processes else self._load
        for own in range(len(self._ahead), wanted):
            self._ahead.append(self._pool.submit(load, self.seed, self._number(drawn, own)))

    def _make_pool(self) -> concurrent.futures.Executor:
        if not self._processes:
            return concurrent.futures.ThreadPoolExecutor(self._workers, thread_name_prefix="medi2i-load")
        # A forked child would inherit the GPU context and held locks of its parent; a spawned one does not.
        context = multiprocessing.get_context("spawn")
        self.dataset.share_cache()
        return concurrent.futures.ProcessPoolExecutor(
            self._workers,
            mp_context=context,
            initializer=start_worker,
            initargs=(self._load, self.dataset.share_cache, self._workers),
        )

    def finalize(self) -> None:
        """End the workers. Iterating again would start new ones."""
        if self._pool is not None:
            self._go_to(self._drawn)
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def serialize(self, serializer: chainer.AbstractSerializer) -> None:
        """State for Chainer's serializers: numbers only. What was loaded ahead is loaded again.

        Raises UserError if the state is of a dataset with another number of examples.
        """
        n = int(serializer("examples", len(self.dataset)))
        if n != len(self.dataset):
            raise UserError(
                f"--resume: the run was made with {n} examples, now there are {len(self.dataset)}; "
                f"resume it with the same data"
            )
        seed = int(serializer("seed", np.int64(self.seed)))
        drawn = int(serializer("drawn", np.int64(self._drawn)))
        self.is_new_epoch = bool(serializer("is_new_epoch", self.is_new_epoch))
        self._previous_epoch_detail = float(serializer("previous_epoch_detail", float(self._previous_epoch_detail)))
        if isinstance(serializer, chainer.serializer.Deserializer):
            self.seed = seed
            self._go_to(drawn)


class IdleTime:
    """How long the caller waited for images, as a share of its time since it got the first batch.

    The first batch is not counted: there is nothing to load it behind.
    """

    def __init__(self) -> None:
        self.waited = self.seconds = 0.0
        """Of these seconds, and from the first batch to the last."""
        self.batches = 0
        self._start: float | None = None

    def add(self, asked: float, got: float) -> None:
        """The caller asked for a batch and got it, by the clock in seconds."""
        if self._start is None:
            self._start = got
            return
        self.waited += got - asked
        self.batches += 1
        self.seconds = got - self._start

    @property
    def fraction(self) -> float:
        """Waiting time / all time, 0 to 1; 0 before the second batch."""
        return self.waited / self.seconds if self.batches else 0.0
