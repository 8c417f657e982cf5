"""Decoded images within a memory budget."""

import collections
import functools
import threading
from collections.abc import Callable, Hashable

import numpy as np

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
    May be used from several threads. Pickled without its content: each process fills its own.
    """

    def __init__(self, megabytes: float):
        self.total = self.budget = int(megabytes * 2**20)
        self._empty()

    def _empty(self) -> None:
        self.used = 0
        self._images: collections.OrderedDict[Hashable, Image] = collections.OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    @functools.cache
    def shared(megabytes: float) -> "ImageCache":
        """The one cache of this process with this budget: data sets that use it keep to the budget together."""
        return ImageCache(megabytes)

    def __getstate__(self) -> dict[str, int]:
        return {"total": self.total, "budget": self.budget}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.total, self.budget = state["total"], state["budget"]
        self._empty()

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
