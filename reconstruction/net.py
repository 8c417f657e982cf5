"""What learns to reconstruct: an unrolled primal-dual method, and a critic that tells true images from others.

Both take images with water = 1. The projection within the first is scaled to norm 1, so that its layers see numbers of
one size whatever the geometry.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medi2i.common.compat import Array, ArrayOrVariable, F, L, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.checkpoint import find_run
from medi2i.common.networks.files import load_link
from medi2i.common.options.learned import PRIMAL_DUAL, LearnedOptions
from medi2i.common.options.reading import load_training
from medi2i.reconstruction import geometry as geometries
from medi2i.reconstruction.fbp import filtered
from medi2i.reconstruction.geometry import Geometry
from medi2i.reconstruction.nodes import back_project, project, ramp
from medi2i.reconstruction.operator import Operator
from medi2i.reconstruction.scans import GEOMETRY


class Update(chainer.Sequential):
    """Three 3x3 convolutions, (N, in_ch, H, W) -> (N, out_ch, H, W); the last begins small, so that little changes."""

    def __init__(self, in_ch: int, channels: int, out_ch: int) -> None:
        initial = chainer.initializers.HeNormal()
        super().__init__(
            L.Convolution2D(in_ch, channels, 3, pad=1, initialW=initial),
            F.relu,
            L.Convolution2D(channels, channels, 3, pad=1, initialW=initial),
            F.relu,
            L.Convolution2D(channels, out_ch, 3, pad=1, initialW=chainer.initializers.HeNormal(0.1)),
        )


class PrimalDual(chainer.Chain):
    """Learned primal-dual (Adler and Öktem, IEEE Trans. Med. Imaging 37, 2018): ``unrolled`` iterations, each with
    layers of its own, that hand on ``memory`` images and sinograms.

    What goes from rays to the image is filtered, so that it is of the size of the error in the image already: with Aᵀ
    alone, as published, a training takes about three times as long to be as good.

    (N, 1, views, bins), line integrals, and images to begin with (N, 1, H, W), water = 1 -> (N, 1, H, W).
    """

    def __init__(self, operator: Operator, unrolled: int, memory: int, channels: int) -> None:
        super().__init__()
        self.operator, self.memory = operator, memory
        self.scale = float(1 / operator.norm())
        self.back_scale = float(_of_one(operator) / self.scale)
        with self.init_scope():
            self.of_rays = chainer.ChainList(*(Update(memory + 2, channels, memory) for _ in range(unrolled)))
            self.of_image = chainer.ChainList(*(Update(memory + 1, channels, memory) for _ in range(unrolled)))

    def forward(self, sinogram: ArrayOrVariable, start: ArrayOrVariable) -> chainer.Variable:
        measured = chainer.as_variable(sinogram) * (self.scale / self.operator.geometry.mu_water)
        images = F.repeat(chainer.as_variable(start), self.memory, axis=1)
        rays = F.repeat(0 * measured, self.memory, axis=1)
        for dual, primal in zip(self.of_rays, self.of_image, strict=True):
            seen = self.scale * project(images[:, 1:2] if self.memory > 1 else images, self.operator)
            rays += dual(F.concat([rays, seen, measured], axis=1))
            back = self.back_scale * back_project(ramp(rays[:, :1], self.operator), self.operator)
            images += primal(F.concat([images, back], axis=1))
        return images[:, :1]


def _of_one(operator: Operator) -> float:
    """What the filtered back-projection of a disc's rays is to be multiplied by to be as bright as the disc."""
    rows, columns = operator.geometry.shape
    y, x = np.mgrid[:rows, :columns]
    disc = np.hypot(y - rows / 2, x - columns / 2) < min(rows, columns) / 4
    rays = filtered(operator.geometry, operator(operator.xp.asarray(disc, dtype=np.float32)), "hann", xp=operator.xp)
    return float(disc.sum() / operator.transposed(rays)[operator.xp.asarray(disc)].sum())


class Critic(chainer.Sequential):
    """The adversarial regulariser Ψ (Lunz, Öktem and Schönlieb, NeurIPS 2018): (N, 1, H, W), water = 1 -> (N,).

    Six convolutions, of which three halve the size, and the mean; low for true images.
    """

    def __init__(self, channels: int) -> None:
        widths = (channels, channels, 2 * channels, 2 * channels, 4 * channels)
        layers: list = []
        for number, (in_ch, out_ch) in enumerate(zip((1, *widths), widths, strict=False)):
            layers += [L.Convolution2D(in_ch, out_ch, 5, stride=1 + number % 2, pad=2), _leaky]
        super().__init__(*layers, L.Convolution2D(widths[-1], 1, 1), _mean)


def _leaky(x: chainer.Variable) -> chainer.Variable:
    return F.leaky_relu(x, 0.1)


def _mean(x: chainer.Variable) -> chainer.Variable:
    return F.mean(x, axis=(1, 2, 3))


@dataclass
class Networks:
    """``net`` reconstructs; ``critic`` tells images apart. One of them is there."""

    net: PrimalDual | None = None
    critic: Critic | None = None

    def as_dict(self) -> dict[str, chainer.Chain]:
        """Name, as in file names, -> network."""
        return {name: link for name, link in vars(self).items() if link is not None}

    def reconstruct(self, sinogram: Array, start: Array) -> chainer.Variable:
        """(N, 1, views, bins), line integrals, and (N, 1, H, W) -> (N, 1, H, W), water = 1."""
        if self.net is None:
            raise TypeError("a critic reconstructs nothing")
        return self.net(sinogram, start)

    def slope(self, image: np.ndarray) -> np.ndarray:
        """The gradient of the critic's answer to an image (H, W), water = 1, of the same shape."""
        if self.critic is None:
            raise TypeError("a network that reconstructs judges nothing")
        x = chainer.Variable(image[None, None].astype(np.float32))
        (gradient,) = chainer.grad([F.sum(self.critic(x))], [x])
        return gradient.array[0, 0]


def build(options: LearnedOptions, operator: Operator) -> Networks:
    """The network that the options name, with fresh weights."""
    if options.learns == PRIMAL_DUAL:
        return Networks(net=PrimalDual(operator, options.unrolled, options.memory, options.channels))
    return Networks(critic=Critic(options.channels))


def load(run: str | Path, learns: str) -> tuple[Networks, Geometry]:
    """The network of a run folder of reconstruction/train.py, and the geometry it was trained for. Raises UserError.

    learns: what it must be. The epoch is the best by validation where there is one, else the last.
    """
    found = find_run(run)
    options = load_training(found.args)
    if not isinstance(options, LearnedOptions) or options.learns != learns:
        raise UserError(f"{run}: a run of reconstruction/train.py --learns {learns} would be right")
    geometry = geometries.load(found.folder / GEOMETRY)
    networks = build(options, Operator(geometry))
    epoch = found.epoch("last" if found.best is None else "best")
    for name, link in networks.as_dict().items():
        load_link(found.folder / f"{name}{epoch}.npz", link)
    return networks, geometry
