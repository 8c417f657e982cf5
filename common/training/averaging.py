"""An exponential moving average of the generator's weights beside the weights that are trained."""
import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.kernels.averaging import step_towards


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
        for name, link, averaged in self._pairs:
            others = dict(averaged.namedparams())
            for path, param in sorted(link.namedparams()):
                other = others[path]
                if other.array is None and param.array is not None:
                    other.initialize(param.shape)
                if param.array is not None:
                    yield name + path, _master(param), other.array
            others = dict(averaged.namedlinks())
            for path, part in sorted(link.namedlinks()):
                for key in sorted(part._persistent):
                    value = getattr(part, key)
                    if isinstance(value, chainer.get_array_types()):
                        yield f"{name}{path}/{key}", value, getattr(others[path], key)

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
