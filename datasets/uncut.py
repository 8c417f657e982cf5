"""Training images as they were read, for a device that cuts, scales and changes them itself (``--augment_on device``).

No Chainer in here: worker processes import this.
"""
import dataclasses

import numpy as np

from medi2i.datasets.augment import Draw
from medi2i.datasets.scaling import Clip


@dataclasses.dataclass(frozen=True)
class Uncut:
    """One image and what is to become of it.

    values: (C, H, W) in the unit of ``clip`` (CT: HU), int16 where that holds them exactly, else float32.
    draw, size: as for ``augment.apply``. noise: sd of the Gaussian noise to add, in [-1, 1], made of ``key``.
    class_num: above 0, ``values`` are class numbers and the result is one-hot, (C * class_num, h, w).
    """

    values: np.ndarray
    clip: Clip
    draw: Draw
    size: tuple[int, int]
    noise: float = 0.0
    key: int = 0
    class_num: int = 0


class UncutExamples:
    """A data set whose examples are the :class:`Uncut` of ``dataset`` (medi2i.datasets.paired, .unpaired)."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def load(self, index, rng):
        """Example ``index``: one Uncut, or a tuple of them. Raises Unreadable."""
        return self.dataset.uncut(index, rng)

    def share_cache(self, processes=None):
        """As the data set's."""
        self.dataset.share_cache(processes)


def examples_for(dataset, where):
    """What the iterator of a training takes its examples from; where: "loader" or "device"."""
    return UncutExamples(dataset) if where == "device" else dataset


def noise_and_key(noise, rng):
    """``noise`` and ``key`` of an Uncut: none without a numpy Generator, and nothing is drawn for none."""
    return (0.0, 0) if noise == 0 or rng is None else (noise, int(rng.integers(2 ** 63)))


def joined(stored):
    """(values, Clip) of many images as channels of one. Where their clips differ, all come in [-1, 1]."""
    arrays, clips = zip(*stored, strict=True)
    if len(set(clips)) > 1:
        return np.concatenate([clip.to_unit(array) for array, clip in zip(arrays, clips, strict=True)]), Clip()
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0], clips[0]
