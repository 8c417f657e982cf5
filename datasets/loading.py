"""Which example comes when, and the loading of one. No Chainer in here: worker processes import this."""

import dataclasses
import functools
import time

import numpy as np

# Separate streams of one seed.
_ORDER, _EXAMPLE = 0, 1


@dataclasses.dataclass(frozen=True)
class Example:
    """The ``index``-th of a dataset, and the entropy of its random generator (None: nothing random)."""

    index: int
    entropy: tuple[int, ...] | None

    def generator(self):
        """A numpy Generator of its own, or None."""
        return None if self.entropy is None else np.random.default_rng(self.entropy)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The endless sequence of examples from a dataset of ``length``; a pure function of ``seed``."""

    length: int
    seed: int
    shuffle: bool = True
    augment: bool = True

    def example(self, number):
        """The ``number``-th example drawn (0 is the first)."""
        epoch, position = divmod(number, self.length)
        index = int(_order(self.length, self.seed, epoch)[position]) if self.shuffle else position
        return Example(index, (self.seed, _EXAMPLE, number) if self.augment else None)


@functools.lru_cache(maxsize=8)
def _order(length, seed, epoch):
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(length)


def load_here(dataset, example):
    """One example of ``dataset``, loaded by the caller."""
    return dataset.load(example.index, example.generator())


def load_timed(load, *arguments):
    """(what ``load(*arguments)`` gives, seconds that it took)."""
    start = time.perf_counter()
    return load(*arguments), time.perf_counter() - start


_dataset = None


def start_worker(dataset, workers):
    """Called once in each of ``workers`` worker processes."""
    global _dataset
    _dataset = dataset
    dataset.share_cache(workers)


def load_in_worker(example):
    """One example, in a process that ``start_worker`` prepared."""
    return load_here(_dataset, example)
