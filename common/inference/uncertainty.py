"""How sure a network is of its answer: the same image several times, turned or with dropout, and how far they differ.

Turned (test-time augmentation; Wang et al., Neurocomputing 338, 2019): the image is flipped and turned, converted, and
turned back; of a network that has learned what is there, not how it lies, all answers agree. Their mean is a
self-ensemble (Lim et al., EDSR, CVPR workshops 2017) and mostly better than each of them. Dropout (Gal and Ghahramani,
ICML 2016): parts of the network are switched off at random; the result is that of the whole network.

The deviation says how much the answer depends on what should not matter. It is no error bar: an error that all answers
share does not show, and nothing in here was calibrated.
"""

import dataclasses
import logging
import zlib
from collections.abc import Callable, Iterable

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.inference.generator import ConversionOptions, Model, Translate
from medi2i.common.networks.blocks import sampled_dropout
from medi2i.datasets.scaling import Clip

log = logging.getLogger(__name__)

_TINY = 1e-12
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # times powers of ten


def symmetries(height: int, width: int) -> tuple[tuple[int, bool], ...]:
    """(quarter turns, flip) of all symmetries that keep the shape: eight of a square, four of an oblong."""
    return tuple((turns, flip) for turns in range(0, 4, 1 if height == width else 2) for flip in (False, True))


def turned(x: np.ndarray, turns: int, flip: bool) -> np.ndarray:
    """(…, H, W) flipped left to right, then turned counter-clockwise."""
    return np.ascontiguousarray(np.rot90(x[..., ::-1] if flip else x, turns, axes=(-2, -1)))


def turned_back(y: np.ndarray, turns: int, flip: bool) -> np.ndarray:
    """What undoes ``turned``."""
    y = np.rot90(y, -turns, axes=(-2, -1))
    return np.ascontiguousarray(y[..., ::-1] if flip else y)


@dataclasses.dataclass(frozen=True)
class Samples:
    """The network of a conversion that answers several times.

    network: (N, C, H, W) -> (N, C', H, W) in [-1, 1], class scores where there are ``classes``. kind: "tta" or
    "dropout". deviation: whether the standard deviation is wanted beside the result. dropping: the network that
    draws dropout inside of ``sampled_dropout``, ``count`` of its samples, and what seeds its draws. stack: slices in
    the channels.
    """

    network: Translate
    kind: str
    deviation: bool
    stack: int = 1
    classes: int = 0
    dropping: Translate | None = None
    count: int = 0
    seed: Callable[[int], None] = np.random.seed

    def run(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, C', H, W), the mean of the samples (kind "tta") or what the network says ("dropout").

        With ``deviation`` (N, 2 C', H, W): for each slice of the stack its result, then the samples' standard deviation
        (n - 1), in [-1, 1] units, of classes in those of the probability.
        """
        if self.kind == "dropout":
            _, spread = moments(self._dropped(x, number) for number in range(self.count))
            mean = self._answer(x)
        else:
            turns = symmetries(*x.shape[-2:])
            mean, spread = moments(turned_back(self._answer(turned(x, *how)), *how) for how in turns)
        if self.classes:
            mean = np.log(np.maximum(mean, _TINY))  # scores whose softmax is the mean probability
        if not self.deviation:
            return mean
        by_slice = zip(*(np.split(both, self.stack, axis=1) for both in (mean, spread)), strict=True)
        return np.concatenate([part for pair in by_slice for part in pair], axis=1)

    def split(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """One slice (C', H, W) of ``run``'s answer -> (result, deviation or None)."""
        if not self.deviation:
            return y, None
        result, deviation = np.split(y, 2)
        return result, deviation

    @property
    def text(self) -> str:
        """What was sampled, in words."""
        return f"{self.count} samples of dropout" if self.kind == "dropout" else "flips and turns"

    def _answer(self, x: np.ndarray) -> np.ndarray:
        return self._probabilities(self.network(x))

    def _dropped(self, x: np.ndarray, number: int) -> np.ndarray:
        """Each image by itself, its masks drawn by a seed made of its pixels: the same in whatever company it comes."""
        found = []
        for image in x:
            self.seed(zlib.crc32(image.tobytes()) ^ (0x9E3779B9 * (number + 1) & 0xFFFFFFFF))
            with sampled_dropout():
                found.append(self._probabilities((self.dropping or self.network)(image[np.newaxis])))
        return np.concatenate(found)

    def _probabilities(self, y: np.ndarray) -> np.ndarray:
        if not self.classes:
            return y
        slices = y.reshape(-1, self.classes, *y.shape[-2:])
        return np.stack([softmax(scores) for scores in slices]).reshape(y.shape)


def softmax(scores: np.ndarray) -> np.ndarray:
    """(C, H, W) scores -> probabilities of the classes, adding up to 1 along the first axis."""
    shifted = np.exp(scores - scores.max(0))
    return shifted / shifted.sum(0)


def moments(samples: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation with n - 1) of float32 arrays of one shape, one at a time (Welford, 1962)."""
    samples, count = iter(samples), 1
    mean = next(samples).astype(np.float32)
    squares = np.zeros_like(mean)
    for count, sample in enumerate(samples, 2):
        difference = sample - mean
        mean += difference / np.float32(count)
        squares += difference * (sample - mean)
    return mean, np.sqrt(squares / np.float32(max(count - 1, 1)))


def sampled(options: ConversionOptions) -> bool:
    """Whether ``--uncertainty`` or ``--ensemble`` asks for several answers to each image."""
    return bool(options.uncertainty or options.ensemble)


def samples_of(
    options: ConversionOptions,
    model: Model,
    network: Translate,
    dropping: Callable[[], Translate],
    device: chainer.backend.Device,
    *,
    stack: int,
    classes: int = 0,
) -> Samples | None:
    """The Samples that ``--uncertainty`` and ``--ensemble`` ask for, None without them. Raises UserError.

    network: as in ``Samples``. dropping(): makes the network that can drop out, on ``device`` (of Chainer).
    """
    kind = options.uncertainty or ("tta" if options.ensemble else None)
    if kind is None:
        return None
    name = "--ensemble" if options.uncertainty is None else f"--uncertainty {kind}"
    if kind == "dropout":
        if options.ensemble:
            raise UserError("--ensemble: it is the mean over flips and turns, so it goes with --uncertainty tta")
        if model.generator is None or not model.trained.gen_dropout:
            raise UserError(f"{name}: the network was trained without --gen_dropout; --uncertainty tta needs none")
        return Samples(
            network, kind, True, stack, classes, dropping(), options.uncertainty_samples, device.xp.random.seed
        )
    if model.generator is not None:
        if model.trained.gen_fc:
            raise UserError(
                f"{name}: what a network with --gen_fc gets is no image that could be turned"
                + ("; --uncertainty dropout would do" if model.trained.gen_dropout else "")
            )
        if not model.trained.random_rot90:
            log.warning(
                "%s: the network was trained without --random_rot90, so turned images are new to it; measure "
                "whether the mean is better",
                name,
            )
    return Samples(network, kind, options.uncertainty is not None, stack, classes)


def step_for(clip: Clip) -> float:
    """The rescale slope of a map: the finest round one with which 16 bits hold any deviation within the clip.

    Samples within a width w deviate by less than 0.54 w (half of eight at each end; four: 0.58 w).
    """
    width = clip.width if clip.scales else 65535.0
    least = 0.6 * width / 65535
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(f"{step * power:.6g}" for step in STEPS if step * power >= least))
