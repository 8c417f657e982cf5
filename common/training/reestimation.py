"""Batch statistics of a finished network over many training crops, in place of a running average of the last few."""
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from medi2i.common.compat import L, chainer
from medi2i.common.training.ending import Ending
from medi2i.common.training.validation import inference_mode
from medi2i.datasets.paired import PairedDataset
from medi2i.datasets.unpaired import UnpairedDataset

_CROPS = 2  # a stream of random numbers of its own, beside those of medi2i.datasets.loading
_BATCH_NORMS = (L.BatchNormalization, L.BatchRenormalization)


class Reestimation(chainer.training.Extension):
    """Sets running means and variances of batch normalisations to those of ``crops``, at the end of each epoch and of
    the training, before the networks are validated, drawn and saved.

    Running averages are of networks that have changed since, seen in batches of one or a few images; conversion then
    normalises otherwise than training did ("precise batch normalisation": Wu and Johnson, arXiv 2105.07576). All crops
    go through together, as at conversion (no dropout, no noise), each layer after the statistics of those before it
    have been set: they are exact for these crops. Nothing learned changes, and training itself does not read them,
    except with ``rbatch``. Memory: a few feature maps of all crops at once.

    forward(*arrays): runs the networks. crops(): the arrays, (N, C, H, W) each; always the same, so that a resumed run
    has the same statistics. ending: of medi2i.common.training.ending.
    """

    phase = "statistics of normalisation"
    priority = chainer.training.PRIORITY_WRITER + 100  # before validation, after weights are averaged

    def __init__(self, forward: Callable, crops: Callable[[], list[np.ndarray]], device: chainer.backend.Device,
                 ending: Ending) -> None:
        self.forward = forward
        self.crops = crops
        self.device = device
        self.ending = ending
        self._arrays: list[np.ndarray] | None = None
        self._done: int | None = None

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        if trainer.updater.is_new_epoch or self.ending.complete(trainer.updater):
            self.run(trainer.updater.iteration)

    def run(self, iteration: int) -> None:
        """Set the statistics of the networks as they are at ``iteration``, unless that is done."""
        if self._done == iteration:
            return
        self._done = iteration
        if self._arrays is None:
            self._arrays = self.crops()
        with chainer.using_device(self.device), inference_mode(), _Measure():
            self.forward(*(self.device.send(array) for array in self._arrays))


class _Measure(chainer.LinkHook):
    """Gives each batch normalisation the statistics of what it is about to see."""

    name = "medi2i_batch_statistics"

    def forward_preprocess(self, args: Any) -> None:
        link = args.link
        if not isinstance(link, _BATCH_NORMS) or getattr(link, "fixed", False):
            return
        x = chainer.as_array(args.args[0])
        axes = (0, *range(2, x.ndim))
        count = x.size // x.shape[1]
        # Sums of millions of float32 values need float64; NumPy's variance would copy all of x to it at once.
        for channel in range(x.shape[1]):
            plane = x[:, channel:channel + 1].astype(np.float64)
            link.avg_mean[channel:channel + 1] = plane.mean(axis=axes)
            link.avg_var[channel:channel + 1] = plane.var(axis=axes) * (count / max(count - 1, 1))


def has_batch_statistics(links: Iterable[chainer.Link]) -> bool:
    """Whether any of ``links`` normalises by batch statistics."""
    return any(isinstance(part, _BATCH_NORMS) and not getattr(part, "fixed", False)
               for link in links for part in link.links())


def training_crops(dataset: PairedDataset | UnpairedDataset, count: int, seed: int) -> np.ndarray:
    """``count`` inputs of a data set (datasets.paired, .unpaired), augmented as in training: (count, C, H, W)."""
    crops = []
    for number in range(count):
        example = dataset.load(number % len(dataset), np.random.default_rng((seed, _CROPS, number)))
        crops.append(example[0] if isinstance(example, tuple) else example)
    return np.stack(crops)
