"""Averages beside what is trained: an exponential moving average of the generator's weights, and batch statistics
of the finished network over many training crops."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from medi2i.common.compat import Array, L, chainer
from medi2i.common.kernels.steps import step_towards
from medi2i.common.training.distributed import named_arrays
from medi2i.common.training.validation import inference_mode
from medi2i.datasets.paired import PairedDataset
from medi2i.datasets.unpaired import UnpairedDataset


def decay_at(decay: float, count: int) -> float:
    """min(decay, (1 + count) / (10 + count)) after ``count`` updates: the first weights, which are random, fade soon.

    (The warm-up of tf.train.ExponentialMovingAverage.)
    """
    return min(decay, (1.0 + count) / (10.0 + count))


class WeightAverage(chainer.training.Extension):
    """After each iteration: average = d average + (1 - d) weights (Polyak and Juditsky, 1992; for generators Yaz et
    al., 2019), d = ``decay_at``; the first iteration copies the weights.

    networks: dataclass of links as both applications have; all but those called ``dis…`` are averaged. ``averaged`` is
    the same with networks of their own for these: to validate with, to draw and to save. Running statistics of
    normalisations are averaged, too. Averages are float32 whatever the weights are, and are saved with the snapshots,
    beside the weights themselves, so that a resumed run has the same.

    It only reads the weights, so it fits any optimizer, and an update that loss scaling left out moves nothing.
    Make it once the networks are on their device and before optimizers are set up on them.
    """

    phase = "update"
    priority = 900  # after the update, before all that looks at the averaged networks
    name = "weight_average"

    def __init__(self, networks: Any, decay: float) -> None:
        self.decay = decay
        self.count = 0
        own = {name: link for name, link in networks.as_dict().items() if not name.startswith("dis")}
        copies = copy.deepcopy(own)  # together, so that one encoder under two names stays one
        self.averaged = dataclasses.replace(networks, **copies)
        pairs = {id(link): (name, link, copies[name]) for name, link in reversed(own.items())}
        self._pairs = sorted(pairs.values(), key=lambda pair: pair[0])
        self._wide: dict[str, Array] = {}  # float32 averages of float16 weights, whose steps would be lost in rounding

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        rate = 1.0 if self.count == 0 else 1.0 - decay_at(self.decay, self.count)
        for key, value, shown in self._arrays():
            if shown.dtype.kind != "f":
                shown[...] = value
                continue
            average = self._average(key, shown)
            step_towards(average, value.astype(np.float32, copy=False), rate)
            if average is not shown:
                shown[...] = average
        self.count += 1

    def _average(self, key: str, shown: Array) -> Array:
        if shown.dtype == np.float32:
            return shown
        if key not in self._wide:
            self._wide[key] = shown.astype(np.float32)
        return self._wide[key]

    def _arrays(self) -> Iterator[tuple[str, Array, Array]]:
        """(key, what is averaged, the averaged network's array) of every weight and every array that is saved."""
        seen: set[int] = set()  # blocks that two networks share are averaged once
        for name, link, averaged in self._pairs:
            params, others = dict(link.namedparams()), dict(averaged.namedparams())
            for path, param in params.items():
                if others[path].array is None and param.array is not None:
                    others[path].initialize(param.shape)
            shown = dict(named_arrays(averaged))
            for path, value in named_arrays(link):
                if id(value) not in seen:
                    seen.add(id(value))
                    yield name + path, _master(params[path]) if path in params else value, shown[path]

    def serialize(self, serializer: chainer.AbstractSerializer) -> None:
        """Save or restore the averages and how many updates they are of."""
        self.count = int(serializer("count", np.int64(self.count)))
        for key, _, shown in self._arrays():
            average = shown if shown.dtype.kind != "f" else self._average(key, shown)
            serializer(key, average)
            if average is not shown and isinstance(serializer, chainer.Deserializer):
                shown[...] = average


def _master(param: chainer.Parameter) -> Array:
    """The weights as the optimizer keeps them: its float32 copy of float16 ones, once there is one."""
    rule = param.update_rule
    if rule is not None and param.dtype == np.float16 and rule._fp32_param is not None:
        return rule._fp32_param.array
    return param.array


_CROPS = 2  # a stream of random numbers of its own, beside those of medi2i.datasets.examples
_BATCH_NORMS = (L.BatchNormalization, L.BatchRenormalization)


@dataclasses.dataclass(eq=False)
class Reestimation(chainer.training.Extension):
    """Sets running means and variances of batch normalisations to those of ``crops``, at the end of each epoch and of
    the training, before the networks are validated, drawn and saved.

    Running averages are of networks that have changed since, seen in batches of one or a few images; conversion then
    normalises otherwise than training did ("precise batch normalisation": Wu and Johnson, arXiv 2105.07576). All crops
    go through together, as at conversion (no dropout, no noise), each layer after the statistics of those before it
    have been set: they are exact for these crops. Nothing learned changes, and training itself does not read them,
    except with ``rbatch``. Memory: a few feature maps of all crops at once.

    forward(*arrays): runs the networks. crops(): the arrays, (N, C, H, W) each; always the same, so that a resumed run
    has the same statistics.
    """

    phase = "statistics of normalisation"
    priority = chainer.training.PRIORITY_WRITER + 100  # before validation, after weights are averaged

    forward: Callable
    crops: Callable[[], list[np.ndarray]]
    device: chainer.backend.Device
    _arrays: list[np.ndarray] | None = dataclasses.field(default=None, init=False)
    _done: int | None = dataclasses.field(default=None, init=False)

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        if trainer.stop_trigger.epoch_over(trainer.updater):
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
            plane = x[:, channel : channel + 1].astype(np.float64)
            link.avg_mean[channel : channel + 1] = plane.mean(axis=axes)
            link.avg_var[channel : channel + 1] = plane.var(axis=axes) * (count / max(count - 1, 1))


def has_batch_statistics(links: Iterable[chainer.Link]) -> bool:
    """Whether any of ``links`` normalises by batch statistics."""
    return any(
        isinstance(part, _BATCH_NORMS) and not getattr(part, "fixed", False) for link in links for part in link.links()
    )


def training_crops(dataset: PairedDataset | UnpairedDataset, count: int, seed: int) -> np.ndarray:
    """``count`` inputs of a data set (datasets.paired, .unpaired), augmented as in training: (count, C, H, W)."""
    streams = (np.random.default_rng((seed, _CROPS, number)) for number in range(count))
    examples = (dataset.load(number % len(dataset), rng) for number, rng in enumerate(streams))
    return np.stack([example[0] if isinstance(example, tuple) else example for example in examples])
