"""Validation over a whole data set at the end of each epoch, in HU (or whatever unit the images have)."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.options.reading import AnyOptions
from medi2i.common.training.ending import Ending


class Measure(Protocol):
    """What says how good the networks are; both applications have one."""

    @property
    def count(self) -> int:
        """How many images there are."""

    def __call__(self, indices: Iterable[int] | None = None) -> dict[str, float]:
        """The measures over the images ``indices``, by default all."""


@dataclasses.dataclass(eq=False)
class Validation(chainer.training.Extension):
    """Reports ``measure()``, a dict name -> number, as ``validation/<name>`` at the end of each epoch.

    ``ending``: also when the training is complete within an epoch.

    Networks run in test mode: statistics of normalisations are used and not changed, nothing random is drawn.
    """

    priority = chainer.training.PRIORITY_WRITER
    phase = "validation"

    measure: Measure
    ending: Ending

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        if self.ending.epoch_over(trainer.updater):
            with inference_mode():
                values = self.measure()
            chainer.report({f"validation/{name}": value for name, value in values.items()})


class ErrorSum:
    """RMSE and MAE over all pixels of any number of images, summed in float64."""

    def __init__(self) -> None:
        self.squares = self.absolutes = 0.0
        self.count = 0

    def add(self, image: np.ndarray, truth: np.ndarray) -> None:
        """Add two arrays of equal shape, in HU."""
        if image.shape != truth.shape:
            raise ValueError(f"an image of {image.shape} cannot be compared with one of {truth.shape}")
        difference = np.subtract(image, truth, dtype=np.float64)
        self.squares += float(np.sum(difference**2))
        self.absolutes += float(np.sum(np.abs(difference)))
        self.count += difference.size

    def merge(self, other: "ErrorSum") -> None:
        """Add what ``other``, an ErrorSum, has summed."""
        self.squares += other.squares
        self.absolutes += other.absolutes
        self.count += other.count

    @property
    def rmse(self) -> float:
        """Root of the mean squared difference; NaN when nothing was added."""
        return (self.squares / self.count) ** 0.5 if self.count else float("nan")

    @property
    def mae(self) -> float:
        """Mean absolute difference; NaN when nothing was added."""
        return self.absolutes / self.count if self.count else float("nan")


class OverlapSum:
    """Dice of each class and accuracy over all pixels of any number of label images."""

    def __init__(self, classes: int) -> None:
        self.both = np.zeros(classes, np.int64)
        self.predicted = np.zeros(classes, np.int64)
        self.true = np.zeros(classes, np.int64)

    def add(self, labels: np.ndarray, truth: np.ndarray) -> None:
        """Add two arrays of labels 0 … classes - 1, of equal shape."""
        classes = len(self.both)
        self.predicted += np.bincount(labels.ravel(), minlength=classes)
        self.true += np.bincount(truth.ravel(), minlength=classes)
        self.both += np.bincount(labels[labels == truth], minlength=classes)

    def merge(self, other: "OverlapSum") -> None:
        """Add what ``other``, an OverlapSum, has counted."""
        self.both += other.both
        self.predicted += other.predicted
        self.true += other.true

    @property
    def dice(self) -> float:
        """Mean over the classes that occur in either of 2 |A and B| / (|A| + |B|)."""
        total = self.predicted + self.true
        there = total > 0
        return float(np.mean(2.0 * self.both[there] / total[there])) if there.any() else float("nan")

    @property
    def accuracy(self) -> float:
        """Fraction of pixels with the right label."""
        return float(self.both.sum() / self.true.sum()) if self.true.any() else float("nan")


def measured(entry: Mapping[str, Any], *names: str) -> list[float] | None:
    """What an entry of the log has under ``validation/<name>``; None unless all are there, and finite."""
    values = [entry.get(f"validation/{name}") for name in names]
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return numbers if len(numbers) == len(names) else None


def validation_batch(options: AnyOptions) -> int:
    """How many images are validated at once: whole images need more memory than crops."""
    return 1 if options.random_translate < 0 else options.batch_size


@contextlib.contextmanager
def inference_mode() -> Iterator[None]:
    """Context in which networks run as at conversion: test mode, no graph."""
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        yield


def apply(function: Callable, images: Iterable[np.ndarray], device: chainer.backend.Device) -> np.ndarray:
    """``function`` (of links, (N, C, H, W) -> Variable) on a list of (C, H, W) arrays: NumPy float32 (N, C', H, W)."""
    batch = np.stack([np.asarray(image, np.float32) for image in images])
    with chainer.using_device(device), inference_mode():
        output = function(device.send(batch))
    return np.asarray(chainer.backends.cuda.to_cpu(chainer.as_array(output)), np.float32)


def batches(count: int, size: int) -> list[range]:
    """Slices of at most ``size`` that together are range(count)."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
