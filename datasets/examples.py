"""The examples of a data set: which comes when, how one is loaded, and what data sets of stacks of images share.

No Chainer in here: worker processes import this.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from medi2i.common.errors import UserError
from medi2i.datasets.augment import STILL, Augmentation, Draw
from medi2i.datasets.cache import ImageCache
from medi2i.datasets.catalogue import Source, stacks

# Separate streams of one seed.
_ORDER, _EXAMPLE = 0, 1


Image = TypeVar("Image")


class ImageDataset(Generic[Image]):
    """Examples made of ``stack`` neighbouring ``images`` (or pairs of them), cut to ``size`` (H, W).

    cache: what the images are read through. named: what each is called by and the neighbour of, the image itself or the
    first of a pair. Raises UserError where no series has so many images.
    """

    WORKERS: ClassVar[int] = 1  # data sets that have worker processes of their own and share one cache

    def __init__(
        self,
        images: Sequence[Image],
        named: Sequence[Source],
        cache: ImageCache,
        stack: int,
        size: tuple[int, int],
        augmentation: Augmentation,
    ):
        self.images, self.named, self.cache = images, named, cache
        self.stack, self.size, self.augmentation = stack, size, augmentation
        self.windows = stacks(named, stack)
        if not self.windows:
            raise UserError(f"--stack: {stack} neighbours are needed and no series has so many images")

    def __len__(self) -> int:
        return len(self.windows)

    def files(self) -> list[tuple[Path, ...]]:
        """The files of each image, or pair of images."""
        return [source.paths for source in self.named]

    def __getitem__(self, index: int) -> Any:
        return self.load(index, None)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Any:
        """Example ``index``. Without a numpy Generator the centre crop, nothing random. Raises Unreadable."""
        raise NotImplementedError

    def uncut(self, index: int, rng: np.random.Generator | None) -> Any:
        """What ``load`` would cut and change, for a device to do so: one ``Uncut`` or a tuple. Raises Unreadable."""
        raise NotImplementedError

    def members(self, index: int) -> list[Image]:
        """The images (or pairs) of each slice of example ``index``."""
        return [self.images[position] for position in self.windows[index]]

    def name(self, index: int) -> str:
        """What example ``index`` is called: its middle slice's file, below the root, without suffix."""
        return self.named[self.windows[index][self.stack // 2]].stem

    def share_cache(self, processes: int | None = None) -> None:
        """Keep the budget of the cache together with worker processes: half of it is theirs, in equal shares.

        Called in each worker with their number, and without it in the process that starts them.
        """
        self.cache.take_share(2 if processes is None else 2 * self.WORKERS * processes)

    def draw(self, rng: np.random.Generator | None, within: tuple | None = None) -> Draw:
        """What the augmentation draws; without a generator nothing."""
        return STILL if rng is None else self.augmentation.draw(rng, within)


class UncutExamples:
    """A data set whose examples are the ``augment.Uncut`` of ``dataset``."""

    def __init__(self, dataset: ImageDataset):
        self.dataset, self.share_cache, self.load = dataset, dataset.share_cache, dataset.uncut

    def __len__(self) -> int:
        return len(self.dataset)


Dataset = ImageDataset | UncutExamples


def examples_for(dataset: ImageDataset, where: str) -> Dataset:
    """What the iterator of a training takes its examples from; where: "loader" or "device"."""
    return UncutExamples(dataset) if where == "device" else dataset


@dataclasses.dataclass(frozen=True)
class Example:
    """The ``index``-th of a dataset, and the entropy of its random generator (None: nothing random)."""

    index: int
    entropy: tuple[int, ...] | None

    def generator(self) -> np.random.Generator | None:
        """A numpy Generator of its own, or None."""
        return None if self.entropy is None else np.random.default_rng(self.entropy)


def load_here(dataset: Dataset, example: Example) -> Any:
    """One example of ``dataset``, loaded by the caller."""
    return dataset.load(example.index, example.generator())


@dataclasses.dataclass(frozen=True)
class Order:
    """The endless sequence of examples from a dataset of ``length``; a pure function of ``seed``."""

    length: int
    seed: int
    shuffle: bool = True
    augment: bool = True

    def example(self, number: int) -> Example:
        """The ``number``-th example drawn (0 is the first)."""
        epoch, position = divmod(number, self.length)
        index = int(_order(self.length, self.seed, epoch)[position]) if self.shuffle else position
        return Example(index, (self.seed, _EXAMPLE, number) if self.augment else None)


@functools.lru_cache(maxsize=8)
def _order(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(length)


def load_timed(load: Callable[[Example], Any], example: Example) -> tuple[Any, float]:
    """(what ``load`` gives, seconds that it took)."""
    start = time.perf_counter()
    return load(example), time.perf_counter() - start


_load: Callable[[Example], Any]


def start_worker(dataset: Dataset, workers: int) -> None:
    """Called once in each of ``workers`` worker processes."""
    global _load
    _load = functools.partial(load_here, dataset)
    dataset.share_cache(workers)


def load_in_worker(example: Example) -> Any:
    """One example, in a process that ``start_worker`` prepared."""
    return _load(example)
