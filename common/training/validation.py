"""Validation over a whole data set at the end of each epoch, in HU (or whatever unit the images have)."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.options.reading import AnyOptions


class Measure(Protocol):
    """What says how good the networks are; both applications have one."""

    @property
    def count(self) -> int:
        """How many images there are."""

    def __call__(self, indices: Iterable[int] | None = None) -> dict[str, float]:
        """The measures over the images ``indices``, by default all."""


@dataclasses.dataclass(eq=False)
class Validation(chainer.training.Extension):
    """Reports ``measure()``, a dict name -> number, as ``validation/<name>`` at the end of each epoch, and of the
    training within one.

    Networks run in test mode: statistics of normalisations are used and not changed, nothing random is drawn.
    """

    priority = chainer.training.PRIORITY_WRITER
    phase = "validation"

    measure: Measure

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        if trainer.stop_trigger.epoch_over(trainer.updater):
            with inference_mode():
                values = self.measure()
            chainer.report({f"validation/{name}": value for name, value in values.items()})


def error_sums(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What ``rmse_and_mae`` is made of, for two arrays of equal shape, in HU: sums of squares and of absolute values of
    the difference, and the pixels; float64 (3,). Those of several images are added up."""
    if image.shape != truth.shape:
        raise ValueError(f"an image of {image.shape} cannot be compared with one of {truth.shape}")
    difference = np.subtract(image, truth, dtype=np.float64)
    return np.array([np.sum(difference**2), np.sum(np.abs(difference)), difference.size])


def rmse_and_mae(sums: np.ndarray) -> tuple[float, float]:
    """Root of the mean squared and mean absolute difference, by ``error_sums``; NaN where nothing was summed."""
    squares, absolutes, count = sums.tolist()
    return ((squares / count) ** 0.5, absolutes / count) if count else (math.nan, math.nan)


def overlap_counts(labels: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """What ``dice_and_accuracy`` is made of, for two arrays of labels 0 … classes - 1, of equal shape: how many pixels
    of each class are right, are said to be, and are; int (3, classes). Those of several images are added up."""
    parts = labels[labels == truth], labels.ravel(), truth.ravel()
    return np.stack([np.bincount(part, minlength=classes) for part in parts])


def dice_and_accuracy(counts: np.ndarray) -> tuple[float, float]:
    """By ``overlap_counts``: the mean over the classes that occur in either of 2 |A and B| / (|A| + |B|), and the
    fraction of pixels with the right label."""
    both, predicted, true = counts
    total = predicted + true
    there = total > 0
    dice = float(np.mean(2.0 * both[there] / total[there])) if there.any() else math.nan
    return dice, float(both.sum() / true.sum()) if true.any() else math.nan


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
