"""What the updates of pix2pix and CycleGAN have in common: batches on their way to the device, terms, steps, targets of
the discriminator, saved state, the history pool, the loss scale of half precision.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from medi2i.common import losses
from medi2i.common.compat import Array, chainer
from medi2i.common.errors import UserError
from medi2i.common.kernels.gpu import augment
from medi2i.common.options.reading import AnyTraining
from medi2i.common.outputs import write_text
from medi2i.common.training import profiling
from medi2i.common.training.distributed import ALONE, Ranks
from medi2i.common.training.optimizers import Eve, missing_states_allowed, serialize_float32_copies
from medi2i.common.training.randomness import RandomState
from medi2i.datasets.augment import Uncut

_LARGEST = 65536.0
_SMALLEST = 1.0 / 65536.0
DEPTH = 2  # buffers for each place in a batch: one is copied from while the other is filled


@dataclasses.dataclass(eq=False)
class LossScale:
    """A factor on the loss that keeps small float16 gradients from vanishing (Micikevicius et al., 2018).

    Gradients that are not finite make it half as large and the update is left out; after ``interval`` updates without
    one it is doubled. Looking at the gradients waits for the device, so float32 training does without.

    Args: value: first factor; interval: updates between two doublings.
    """

    value: float = 1024.0
    interval: int = 1000
    good: int = dataclasses.field(default=0, init=False)

    def accept(self, links: Iterable[chainer.Link], everywhere: Callable[[Any], bool] = bool) -> bool:
        """Whether all gradients of ``links`` are finite; adapts the factor for the next update.

        everywhere: makes of the answer of one rank that of all (medi2i.common.training.distributed).
        """
        gradients = [p.grad for link in links for p in link.params() if p.grad is not None]
        xp = chainer.backend.get_array_module(*gradients)
        # One number for all: the only one in an update for which the CPU waits.
        if gradients and not everywhere(xp.stack([xp.isfinite(gradient).all() for gradient in gradients]).all()):
            self.value = max(self.value / 2.0, _SMALLEST)
            self.good = 0
            return False
        self.good += 1
        if self.good == self.interval:
            self.value = min(self.value * 2.0, _LARGEST)
            self.good = 0
        return True

    def serialize(self, serializer: chainer.AbstractSerializer) -> None:
        self.value = serializer("value", self.value)
        self.good = serializer("good", self.good)


@dataclasses.dataclass(frozen=True)
class Term:
    """One term of a loss: the name under which ``value`` is reported, and its weight in the sum.

    ``value`` is a scalar Variable, or a number where there is nothing to differentiate.
    """

    name: str
    weight: float
    value: object


def terms_of(*candidates: tuple[str, float, Callable[[], object]]) -> list[Term]:
    """Terms of (name, weight, function that gives the value): those that have a weight, in this order."""
    return [Term(name, weight, value()) for name, weight, value in candidates if weight > 0]


class AdversarialUpdater(chainer.training.updaters.StandardUpdater):
    """Base of both updaters. ``weighted``: least squares of a discriminator that weights its answer by place.

    Args:
        iterator: Chainer iterator, or a dict of them; "main" counts the epochs.
        optimizers: dict name -> optimizer, set up; names are the networks'.
        networks: object with links of these names.
        options: of the training. The loss terms and their weights are read from it.
        random: RandomState of this run; saved and restored with the updater.
        device: Chainer device, its name or number, or None for where the networks are.
        ranks: of medi2i.common.training.distributed, whose optimizers these are.
    """

    weighted: Callable

    def __init__(
        self,
        iterator: Any,
        optimizers: Mapping[str, chainer.Optimizer],
        networks: Any,
        options: AnyTraining,
        random: RandomState,
        device: chainer.backend.Device | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(iterator, dict(optimizers), converter=PinnedConverter(), device=device, auto_new_epoch=False)
        self.networks = networks
        self.options: Any = options  # which of both classes, the application knows
        self.random = random
        self.ranks = ranks
        self.least_squares = self.weighted if getattr(options, "dis_reg_weighting", 0) > 0 else losses.least_squares
        self.profile = profiling.profile_of(options, device)
        self.pools: dict[str, HistoryPool] = {}
        # What kept images from being loaded: nothing of that update was done.
        self.failure: Exception | None = None
        self.graphs: Path | None = None  # the folder where the first update of each network leaves its graph
        self.elapsed: Callable[[], float] = lambda: 0.0  # seconds of training; the trainer says them
        self._graphed: set[str] = set()
        self._drawn: list[str] = []
        self._checked = False
        # Half precision only: float32 gradients need no scale, and looking at them waits for the device.
        half = any(p.dtype == np.float16 for o in self.get_all_optimizers().values() for p in o.target.params())
        self.loss_scales: dict[str, LossScale] | None = {} if half else None

    def update(self) -> None:
        """One update, after which running statistics are the same on all ranks.

        Chainer checks types and shapes in the first one only: it would do so in every function of every one. What joins
        later (a discriminator that waits) was built for what these networks give.
        """
        self._drawn = []
        check = chainer.config.type_check and not self._checked
        with self.profile(profiling.FORWARD), chainer.using_config("type_check", check):  # all that is nothing else
            super().update()
        self._checked = True
        self.ranks.share_statistics([optimizer.target for optimizer in self.get_all_optimizers().values()])

    def progress(self) -> float:
        """How much of the whole training is done, from 0 to 1."""
        s = self.options
        if s.minutes is not None:
            return self.elapsed() / (60 * s.minutes)
        return max(self.epoch_detail / s.epoch, self.iteration / (getattr(s, "iteration", None) or np.inf))

    def next_batch(self, name: str = "main") -> Any:
        """The next batch of an iterator on the device: one array (N, C, H, W), or a tuple of them."""
        with self.profile(profiling.WAITING):
            try:
                examples = self.get_iterator(name).next()
            except (UserError, OSError, MemoryError) as error:
                for drawn in self._drawn:  # so that all iterators are where this update began
                    self.get_iterator(drawn).step_back()
                self.failure = error
                raise
            self._drawn.append(name)
        with self.profile(profiling.TRANSFER):
            return self.converter(examples, self.input_device)

    def with_noise(self, x: Array, sigma: float) -> Array:
        """x + N(0, sigma), for an array x of any shape. No draw is made for sigma 0."""
        if sigma == 0:
            return x
        return x + (self.random.normal_array(x.shape) * float(sigma)).astype(x.dtype, copy=False)

    def minimise(self, names: Iterable[str], terms: Iterable[Term]) -> None:
        """Report every term and take one step of the optimizers ``names``, in this order, on their weighted sum.

        Terms of weight 0 are reported only. Nothing is done where no term has a weight.
        """
        names, terms = tuple(names), tuple(terms)
        chainer.report({term.name: term.value for term in terms})
        costs = [
            float(term.weight) * term.value
            for term in terms
            if term.weight > 0 and isinstance(term.value, chainer.Variable)
        ]
        if not costs:
            return
        total = sum(costs[1:], start=costs[0])
        optimizers = [self.get_optimizer(name) for name in names]
        links = [optimizer.target for optimizer in optimizers]
        for link in links:
            link.cleargrads()
        if self.graphs is not None and names[0] not in self._graphed:
            self._graphed.add(names[0])
            graph = chainer.computational_graph.build_computational_graph([total]).dump()
            write_text(self.graphs / ("cg.dot" if names[0].startswith("enc") else f"cg_{names[0]}.dot"), graph)
        with self.profile(profiling.BACKWARD):
            if self.loss_scales is None:
                total.backward()
            else:
                scale = self.loss_scales.setdefault(names[0], LossScale())
                total.backward(loss_scale=scale.value)
                if not scale.accept(links, self.ranks.everywhere):
                    return
        with self.profile(profiling.UPDATE):
            for optimizer in optimizers:
                if isinstance(getattr(optimizer, "actual_optimizer", optimizer), Eve):
                    optimizer.update(loss=self.ranks.mean(total))
                else:
                    optimizer.update()

    def cost(self, answer: chainer.Variable, target: float) -> chainer.Variable:
        """Least squares of a discriminator's answer to ``target`` plus N(0, ``dis_jitter``), drawn once a call."""
        return self.least_squares(answer, target + self.random.normal(self.options.dis_jitter))

    def anatomy(self, segmentor: Any, image: chainer.Variable, original: Array) -> chainer.Variable:
        """How far the features that ``segmentor``, of medi2i.common.networks.checkpoint, has of two images (N, C, H, W)
        are apart."""
        with chainer.no_backprop_mode():
            truth = segmentor.judge(original)
        return losses.feature_distance(segmentor.judge(image), truth)

    def penalty_term(self, name: str, dis: chainer.Chain, fake: Array, real: Array, weight: float) -> Term:
        """The gradient penalty of the critic ``dis``, reported with its weight under ``name``/loss_gp."""
        penalty = losses.gradient_penalty(dis, real, fake, self.random.uniform_array(len(real)))
        return Term(f"{name}/loss_gp", 1.0, float(weight) * penalty)

    def serialize(self, serializer: chainer.AbstractSerializer) -> None:
        """Iterators, networks, optimizers and the iteration (Chainer's), pools, random state and loss scales."""
        optimizers = self.get_all_optimizers()
        reading = isinstance(serializer, chainer.Deserializer)
        with missing_states_allowed(optimizers.values()) if reading else contextlib.nullcontext():
            super().serialize(serializer)
        for name, optimizer in optimizers.items():
            serialize_float32_copies(serializer["float32:" + name], optimizer)
        self.serialize_own(serializer)
        if self.loss_scales is not None:
            for name in optimizers:
                self.loss_scales.setdefault(name, LossScale()).serialize(serializer["loss_scale:" + name])

    def serialize_own(self, serializer: chainer.AbstractSerializer) -> None:
        """What each rank of a distributed training has of its own: random state and pools."""
        self.random.serialize(serializer["random"])
        for name, pool in self.pools.items():
            pool.serialize(serializer["pool:" + name])


@dataclasses.dataclass(eq=False)
class HistoryPool:
    """The last images in random order, up to ``size`` of them, on the device on which they were made: the discriminator
    also sees what the generator made some time ago (Shrivastava et al., 2017).

    Args:
        size: number of images kept; 0 keeps none and gives every batch back as it is.
        random: :class:`medi2i.common.training.randomness.RandomState`.
    """

    size: int
    random: RandomState
    images: list[Array] = dataclasses.field(default_factory=list, init=False)

    def __len__(self) -> int:
        return len(self.images)

    def query(self, batch: Array) -> Array:
        """A batch (N, C, H, W) for the discriminator, given the batch (N, C, H, W) that was just made.

        While the pool is not full every image is kept and given back. Once it is full, with probability 1/2 an old one
        comes back and the new one takes its place; otherwise the new one comes back and is not kept.
        """
        return chainer.backend.get_array_module(batch).stack([self._exchange(image) for image in batch])

    def _exchange(self, image: Array) -> Array:
        if len(self.images) < self.size:
            self.images.append(image.copy())
        elif self.size and self.random.integer(2):
            place = self.random.integer(self.size)
            image, self.images[place] = self.images[place], image.copy()
        return image

    def sample(self, count: int) -> Array:
        """``count`` different images of the pool, which holds as many, as a batch."""
        chosen = [self.images[i] for i in self.random.generator.permutation(len(self.images))[:count]]
        return chainer.backend.get_array_module(chosen[0]).stack(chosen)

    def serialize(self, serializer: chainer.AbstractSerializer) -> None:
        """Save or restore the images through a Chainer serializer, as one array (count, C, H, W)."""
        count = serializer("count", len(self.images))
        if isinstance(serializer, chainer.Serializer):
            if count:
                serializer("images", chainer.backend.get_array_module(self.images[0]).stack(self.images))
            return
        if count > self.size:
            raise ValueError(f"the saved pool holds {count} images; this one has room for {self.size}")
        stored = np.asarray(serializer("images", None)) if count else ()
        self.images = [self.random.xp.asarray(image) for image in stored]


class PinnedConverter(chainer.dataset.Converter):
    """Converts a list of examples as Chainer's ``concat_examples`` does, by pinned buffers where the device is a GPU.

    A buffer is filled anew only once its last copy is done; with two of them that is a wait for a copy of the batch
    before last. The copy runs on the current stream: what is computed next waits for it, the CPU does not.
    Images that come uncut (``datasets.augment.Uncut``) are copied one by one and finished on the device, be it the CPU.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, Any], tuple[np.ndarray, Any]] = {}
        self._turn = 0

    def __call__(self, batch: Sequence, device: chainer.backend.Device | None = None) -> Any:
        if device is None or device.xp is np:
            return chainer.dataset.concat_examples([_finished(example) for example in batch], device)
        self._turn = (self._turn + 1) % DEPTH
        with chainer.using_device(device):
            if isinstance(batch[0], tuple):
                return tuple(
                    self._send(place, arrays, device.xp) for place, arrays in enumerate(zip(*batch, strict=True))
                )
            return self._send(0, batch, device.xp)

    def _send(self, place: Any, examples: Sequence, xp: ModuleType) -> Array:
        if not isinstance(examples[0], Uncut):
            return self._copy(place, examples, xp)
        return xp.stack(
            [
                augment.finish(self._copy((place, number), [example.values], xp)[0], example)
                for number, example in enumerate(examples)
            ]
        )

    def _copy(self, place: Any, arrays: Sequence[np.ndarray], xp: ModuleType) -> Array:
        shape, dtype = (len(arrays), *arrays[0].shape), arrays[0].dtype
        key, cuda = (self._turn, place), chainer.backends.cuda.cupy.cuda
        buffer, copied = self._buffers.get(key, (None, None))
        if copied is not None:
            copied.synchronize()
        if buffer is None or copied is None or buffer.shape != shape or buffer.dtype != dtype:
            buffer, copied = _pinned(shape, dtype), cuda.Event(disable_timing=True)
            self._buffers[key] = buffer, copied
        np.stack(arrays, out=buffer)
        result = xp.empty(shape, dtype)
        result.set(buffer, stream=cuda.get_current_stream())  # without a stream, CuPy may wait for the copy
        copied.record()
        return result


def _finished(example: Any) -> Any:
    if isinstance(example, tuple):
        return tuple(_finished(part) for part in example)
    return augment.finish(example.values, example) if isinstance(example, Uncut) else example


def _pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    import cupyx

    return cupyx.empty_pinned(shape, dtype)
