"""The examples of a data set: which comes when, how one is loaded, what data sets of stacks of images share, and the
decoded images that are kept within a budget of memory.

No Chainer in here: worker processes import this.
"""

import collections
import functools
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from medi2i.common.errors import UserError
from medi2i.datasets.augment import STILL, Augmentation, Draw, Uncut, add_noise
from medi2i.datasets.catalogue import Source, stacks
from medi2i.datasets.reading import Image

_INT16 = np.iinfo(np.int16)


def compact(array: np.ndarray) -> np.ndarray:
    """``array`` (float32) as int16 where that holds every value exactly, which CT in whole HU and most pictures allow.

    Half the memory means twice the images in the budget. Otherwise the array itself.
    """
    if array.size and array.min() >= _INT16.min and array.max() <= _INT16.max:
        integers = array.astype(np.int16)
        if np.array_equal(integers, array):
            return integers
    return array


class ImageCache:
    """Images by key, least recently used dropped first, never more than ``megabytes`` of arrays (MB of 2**20 bytes).

    Arrays are kept compact: they may come back as int16 instead of float32, with equal values, and are read-only.
    May be used from several threads. Pickled with its first budget alone: each process fills its own.
    """

    def __init__(self, megabytes: float):
        self.total = self.budget = int(megabytes * 2**20)
        self.used = 0
        self._images: collections.OrderedDict[Hashable, Image] = collections.OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    @functools.cache
    def shared(megabytes: float) -> "ImageCache":
        """The one cache of this process with this budget: data sets that use it keep to the budget together."""
        return ImageCache(megabytes)

    def __reduce__(self) -> tuple[type["ImageCache"], tuple[float]]:
        return ImageCache, (self.total / 2**20,)

    def __len__(self) -> int:
        return len(self._images)

    def take_share(self, parts: int) -> None:
        """Keep to 1 / ``parts`` of the first budget from now on: the others are of other processes."""
        with self._lock:
            self.budget = self.total // parts
            self._drop()

    def get(self, key: Hashable, read: Callable[[], Image]) -> Image:
        """The image of ``key``, from ``read()`` (-> Image) where it is not there. Errors of ``read`` are not kept."""
        with self._lock:
            image = self._images.get(key)
            if image is not None:
                self._images.move_to_end(key)
                return image
        # Read outside the lock: others go on meanwhile. Two threads may read one file at once; both get the same.
        image = read()
        image = Image(compact(image.array), image.mask, image.bits)
        for array in (image.array, image.mask):
            if array is not None:
                array.flags.writeable = False
        with self._lock:
            if key not in self._images and memory(image) <= self.budget:
                self._images[key] = image
                self.used += memory(image)
                self._drop()
        return image

    def _drop(self) -> None:
        while self.used > self.budget:
            _, oldest = self._images.popitem(last=False)
            self.used -= memory(oldest)


def memory(image: Image) -> int:
    """Bytes of the arrays of an image."""
    return image.array.nbytes + (0 if image.mask is None else image.mask.nbytes)


# Separate streams of one seed.
_ORDER, _EXAMPLE = 0, 1


Item = TypeVar("Item")  # a Source, or a pair of them


class ImageDataset(Generic[Item]):
    """Examples made of ``stack`` neighbouring ``images`` (or pairs of them), cut to ``size`` (H, W).

    cache: what the images are read through. named: what each is called by and the neighbour of, the image itself or the
    first of a pair. Raises UserError where no series has so many images.
    """

    WORKERS: ClassVar[int] = 1  # data sets that have worker processes of their own and share one cache

    def __init__(
        self,
        images: Sequence[Item],
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

    def load(self, index: int, rng: np.random.Generator | None = None) -> Any:
        """Example ``index``. Without a numpy Generator the centre crop, nothing random. Raises Unreadable."""
        x, *others = self.parts(index, rng)
        image = add_noise(x.cut(), self.augmentation.noise, rng)
        return (image, *(other.cut() for other in others)) if others else image

    def uncut(self, index: int, rng: np.random.Generator | None) -> Any:
        """What ``load`` would cut and change, for a device to do so: one ``Uncut`` or a tuple. Raises Unreadable."""
        x, *others = self.parts(index, rng)
        noisy = x.noisy(self.augmentation.noise, rng)
        return (noisy, *others) if others else noisy

    def parts(self, index: int, rng: np.random.Generator | None) -> tuple[Uncut, ...]:
        """The images that example ``index`` is made of: one alone is the example. Noise is for the first."""
        raise NotImplementedError

    def members(self, index: int) -> list[Item]:
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


def load_numbered(
    load: Callable[[int, np.random.Generator], Any], length: int, seed: int, number: int
) -> tuple[Any, float]:
    """(the ``number``-th example that is drawn, from 0 on; seconds that it took).

    load: of a data set of ``length`` examples, with the index of one and its generator. The endless sequence of both is
    a pure function of ``seed``.
    """
    start = time.perf_counter()
    epoch, position = divmod(number, length)
    index = int(_order(length, seed, epoch)[position])
    return load(index, np.random.default_rng((seed, _EXAMPLE, number))), time.perf_counter() - start


@functools.lru_cache(maxsize=8)
def _order(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(length)


_load: Callable[[int, int], tuple[Any, float]]


def start_worker(
    load: Callable[[int, int], tuple[Any, float]], share_cache: Callable[[int], None], workers: int
) -> None:
    """Called once in each of ``workers`` worker processes. load: ``load_numbered`` of a data set, share_cache: its."""
    global _load
    _load = load
    share_cache(workers)


def load_in_worker(seed: int, number: int) -> tuple[Any, float]:
    """``load_numbered``, in a process that ``start_worker`` prepared."""
    return _load(seed, number)
