"""What makes images of noise, and what tells them from real ones: DCGAN, and PGGAN, which grows while it learns.

Images are (N, C, H, W) in [-1, 1], latent vectors (N, latent) from N(0, 1), answers of discriminators (N, 1).
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medi2i.common.choices import KEEP, SAMPLINGS, Activation, Norm, Padding
from medi2i.common.compat import Array, ArrayOrVariable, F, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.blocks import CBR, SpectralConvolution, double_nearest
from medi2i.common.networks.checkpoint import find_run
from medi2i.common.networks.files import load_link
from medi2i.common.networks.layers import ACTIVATIONS, Convolution, FeatureNormalization
from medi2i.common.networks.spec import ConvStyle
from medi2i.common.options.learned import PGGAN, SynthesisOptions
from medi2i.common.options.reading import load_training

SMALLEST = 4  # pixels that all begins with
GROUP = 4  # images whose deviation the minibatch layer measures
PLAIN, EQUALISED = (ConvStyle(one, separable=False, squeeze=False, padding=Padding.ZERO) for one in (False, True))
leaky = ACTIVATIONS[Activation.LEAKY_RELU]


def levels_of(size: int) -> int:
    """How many resolutions there are from 4x4 to ``size``, a power of 2."""
    return int(math.log2(size // SMALLEST)) + 1


class DcganGenerator(chainer.Sequential):
    """(N, latent) -> (N, out_ch, size, size) (Radford, Metz and Chintala, arXiv 1511.06434).

    A layer to 4x4 pixels, then pixels doubled and a 3x3 convolution at each size, in place of the transposed
    convolutions of the paper, which leave checkerboards (Odena et al., 2016); batch normalisation, ReLU, tanh.
    ``channels``: half of those that the image is made of.
    """

    def __init__(self, size: int, out_ch: int, channels: int, latent: int) -> None:
        doublings = levels_of(size) - 1
        widths = [channels * 2**number for number in range(doublings, 0, -1)]
        up = partial(CBR, norm=Norm.BATCH_AFFINE, sample=SAMPLINGS["unpool"], activation=Activation.RELU, dropout=0)
        layers: list = [_as_image, up(latent, widths[0], SMALLEST, SMALLEST - 1, style=PLAIN)]
        layers += [up(before, after, 3, 1, style=PLAIN) for before, after in zip(widths, widths[1:], strict=False)]
        super().__init__(*layers, CBR(widths[-1], out_ch, 3, 1, Norm.NONE, KEEP, Activation.TANH, 0, PLAIN))


class DcganDiscriminator(chainer.Sequential):
    """(N, in_ch, size, size) -> (N, 1): 4x4 convolutions that halve the size to 4x4 pixels, leaky ReLU.

    With batch normalisation but in the first layer; or all of them spectrally normalised (Miyato et al., 2018).
    """

    def __init__(self, size: int, in_ch: int, channels: int, spectral: bool) -> None:
        widths = [in_ch, *(channels * 2**number for number in range(levels_of(size) - 1))]
        layers: list = []
        for number, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            norm = Norm.BATCH_AFFINE if number else Norm.NONE
            if spectral:
                layers += [SpectralConvolution(before, after, 4, 2, 1, nobias=False), leaky]
            else:
                layers.append(CBR(before, after, 4, 1, norm, SAMPLINGS["down"], Activation.LEAKY_RELU, 0, PLAIN))
        last = SpectralConvolution(widths[-1], 1, SMALLEST, nobias=False)
        super().__init__(*layers, last if spectral else Convolution(widths[-1], 1, SMALLEST, 1, 0, PLAIN), _as_answer)


def _as_image(z: ArrayOrVariable) -> chainer.Variable:
    return F.reshape(z, (*z.shape, 1, 1))


def _as_answer(x: chainer.Variable) -> chainer.Variable:
    return F.reshape(x, (len(x), 1))


@dataclass(eq=False)
class Growth:
    """How far a growing network is, by the images ``shown`` so far: 4x4 pixels for a ``phase`` of images, then for each
    of the other ``levels`` a phase in which it fades in, and one in which it is all there.

    Both networks, and averages of them, share one; it is in their files, and so in every snapshot.
    """

    levels: int
    phase: int
    shown: int = 0

    def __deepcopy__(self, memo: dict) -> "Growth":
        return self

    @property
    def stage(self) -> tuple[int, float]:
        """(level, alpha): that of the resolution, counted from 0, and its share in what is mixed, 1 for all of it."""
        phases, rest = divmod(self.shown, self.phase)
        level = (phases + 1) // 2
        if level >= self.levels:
            return self.levels - 1, 1.0
        return level, rest / self.phase if phases % 2 else 1.0

    @property
    def side(self) -> int:
        """Rows and columns of images at this stage."""
        return SMALLEST << self.stage[0]

    def serialize(self, serializer: chainer.AbstractSerializer) -> None:
        self.shown = serializer("shown", self.shown)


class Halving(chainer.FunctionNode):
    """Means of 2x2 pixels, as ``F.average_pooling_2d``, whose way on the CPU is by columns, there and back."""

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        rows = inputs[0][:, :, ::2] + inputs[0][:, :, 1::2]
        return (0.25 * (rows[..., ::2] + rows[..., 1::2]),)

    def backward(
        self, indexes: tuple[int, ...], gradients: tuple[chainer.Variable, ...]
    ) -> tuple[chainer.Variable, ...]:
        return (0.25 * double_nearest(gradients[0]),)


def halved(x: ArrayOrVariable) -> chainer.Variable:
    """(N, C, H, W) -> (N, C, H/2, W/2): means of 2x2 pixels."""
    return Halving().apply((x,))[0]


def mixed(new: ArrayOrVariable, old: ArrayOrVariable, alpha: float) -> chainer.Variable:
    """alpha new + (1 - alpha) old."""
    return alpha * chainer.as_variable(new) + (1 - alpha) * old


def faded(images: Array, growth: Growth) -> Array:
    """Real images (N, C, H, W) as a growing generator makes them at this stage: (N, C, side, side).

    Means of pixels; while a resolution fades in, mixed with those of the one before, doubled again.
    """
    factor, alpha = images.shape[2] // growth.side, growth.stage[1]
    with chainer.no_backprop_mode():
        x = F.average_pooling_2d(images, factor, factor) if factor > 1 else chainer.as_variable(images)
        return (x if alpha == 1 else mixed(x, double_nearest(halved(x)), alpha)).array


class Growing(chainer.Chain):
    """A network whose ``growth`` is in its files."""

    def __init__(self, growth: Growth) -> None:
        super().__init__()
        self.growth = growth

    def serialize(self, serializer: chainer.AbstractSerializer) -> None:
        super().serialize(serializer)
        self.growth.serialize(serializer)


def _conv(in_ch: int, out_ch: int, ksize: int, pad: int) -> Convolution:
    """With an equalised learning rate, for the leaky ReLU behind it."""
    return Convolution(in_ch, out_ch, ksize, 1, pad, EQUALISED)


def _linear(in_ch: int, out_ch: int) -> Convolution:
    """1x1, the same with nothing behind it: of gain 1."""
    made = _conv(in_ch, out_ch, 1, 0)
    made.scale = 1 / math.sqrt(in_ch)
    return made


class PgganGenerator(Growing):
    """(N, latent) -> (N, out_ch, side, side) (Karras et al., arXiv 1710.10196, table 2).

    Latent vectors are brought to one length; at each resolution two 3x3 convolutions (at 4x4 pixels the first is fully
    connected), leaky ReLU and pixel normalisation; ``to_image`` is 1x1 and linear.
    """

    def __init__(self, growth: Growth, out_ch: int, widths: list[int], latent: int) -> None:
        super().__init__(growth)
        self.norm = FeatureNormalization()
        pairs = zip([latent, *widths], widths, strict=False)
        with self.init_scope():
            self.first = chainer.ChainList(
                *(_conv(a, b, *((3, 1) if number else (SMALLEST, SMALLEST - 1))) for number, (a, b) in enumerate(pairs))
            )
            self.second = chainer.ChainList(*(_conv(width, width, 3, 1) for width in widths))
            self.to_image = chainer.ChainList(*(_linear(width, out_ch) for width in widths))

    def forward(self, z: ArrayOrVariable) -> chainer.Variable:
        level, alpha = self.growth.stage
        x = before = self.norm(_as_image(z))
        for number in range(level + 1):
            before = double_nearest(x) if number else x
            x = before
            for layer in (self.first[number], self.second[number]):
                x = self.norm(leaky(layer(x)))
        image = self.to_image[level](x)
        return image if alpha == 1 else mixed(image, self.to_image[level - 1](before), alpha)


class PgganDiscriminator(Growing):
    """(N, in_ch, side, side) -> (N, 1), the generator's mirror, with the minibatch layer before its last ones."""

    def __init__(self, growth: Growth, in_ch: int, widths: list[int]) -> None:
        super().__init__(growth)
        first = widths[0]
        with self.init_scope():
            self.from_image = chainer.ChainList(*(_conv(in_ch, width, 1, 0) for width in widths))
            self.first = chainer.ChainList(
                *(_conv(width + (not number), width, 3, 1) for number, width in enumerate(widths))
            )
            self.second = chainer.ChainList(
                _conv(first, first, SMALLEST, 0), *(_conv(a, b, 3, 1) for a, b in zip(widths[1:], widths, strict=False))
            )
            self.last = _linear(first, 1)

    def forward(self, image: ArrayOrVariable) -> chainer.Variable:
        level, alpha = self.growth.stage
        x = leaky(self.from_image[level](image))
        for number in range(level, -1, -1):
            x = minibatch_deviation(x) if number == 0 else x
            for layer in (self.first[number], self.second[number]):
                x = leaky(layer(x))
            x = halved(x) if number else x
            if number == level and alpha < 1:
                x = mixed(x, leaky(self.from_image[level - 1](halved(image))), alpha)
        return _as_answer(self.last(x))


def minibatch_deviation(x: chainer.Variable) -> chainer.Variable:
    """(N, C, H, W) -> (N, C + 1, H, W): one more channel, of one number for each group of 4 images.

    That is the mean over channels and pixels of sqrt(variance within the group + 1e-8) (Karras et al., section 3).
    Where 4 does not divide N, a group has 3 or 2 images, or is one image alone.
    """
    n, _, height, width = x.shape
    size = next(size for size in range(GROUP, 0, -1) if n % size == 0)
    groups = F.reshape(x, (size, n // size, -1))
    off = groups - F.broadcast_to(F.mean(groups, axis=0, keepdims=True), groups.shape)
    deviation = F.mean(F.sqrt(F.mean(F.square(off), axis=0) + 1e-8), axis=1)  # one number for each of n // size groups
    channel = F.broadcast_to(F.reshape(F.tile(deviation, size), (n, 1, 1, 1)), (n, 1, height, width))
    return F.concat([x, channel], axis=1)


@dataclass
class Networks:
    """``gen`` makes images of latent vectors, ``dis`` judges; ``growth`` is of both, None where they do not grow."""

    gen: chainer.Chain
    dis: chainer.Chain
    latent: int
    growth: Growth | None = None

    def as_dict(self) -> dict[str, chainer.Chain]:
        """Name, as in file names, -> network."""
        return {"gen": self.gen, "dis": self.dis}

    def seen(self, images: Array) -> Array:
        """Real images (N, C, H, W) as they are to be compared with those made at this stage."""
        return images if self.growth is None else faded(images, self.growth)

    def generate(self, z: Array) -> np.ndarray:
        """(N, latent) -> (N, C, H, W) within [-1, 1], NumPy, in test mode; one image at a time, to save memory."""
        with chainer.using_config("train", False), chainer.no_backprop_mode():
            images = [self.gen(one[None]).array for one in z]
        return np.clip(np.concatenate([chainer.backends.cuda.to_cpu(image) for image in images]), -1, 1)


def widths_of(channels: int, levels: int) -> list[int]:
    """Channels at 4x4, 8x8 … pixels: ``channels`` up to 32x32, from there half of those before at each."""
    return [max(1, min(channels, 32 * channels // (SMALLEST << level))) for level in range(levels)]


def build(options: SynthesisOptions) -> Networks:
    """The networks that the options name, with fresh weights, for images of ``options.ch`` channels."""
    o = options
    if o.network == PGGAN:
        growth = Growth(levels_of(o.size), o.phase_images)
        widths = widths_of(o.channels, growth.levels)
        return Networks(
            PgganGenerator(growth, o.ch, widths, o.latent), PgganDiscriminator(growth, o.ch, widths), o.latent, growth
        )
    generator = DcganGenerator(o.size, o.ch, o.channels, o.latent)
    return Networks(generator, DcganDiscriminator(o.size, o.ch, o.channels, o.spectral), o.latent)


def load(run: str | Path, epoch: int | str = "last") -> tuple[Networks, SynthesisOptions, Path]:
    """The networks of a run folder of synthesis/train.py, its options, and the generator's file. Raises UserError."""
    found = find_run(run)
    options = load_training(found.args)
    if not isinstance(options, SynthesisOptions):
        raise UserError(f"{run}: is a run of {options.APPLICATION}/train.py; one of synthesis/train.py would be right")
    if options.ch is None:
        raise UserError(f"{found.args}: it has no ch, the channels of the images; training writes it")
    networks = build(options)
    file = found.folder / f"gen{found.epoch(epoch)}.npz"
    load_link(file, networks.gen)
    return networks, options, file
