"""Convolutions of every style, with the parameter names of the released files (``c``, ``depthwise``, ``se``…)."""

import math
from dataclasses import replace
from functools import partial

from medi2i.common.choices import Padding
from medi2i.common.compat import ArrayOrVariable, F, L, chainer
from medi2i.common.networks.spec import ConvStyle

SQUEEZE_RATIO = 16
SQUEEZE_ABOVE = 15


def reflect_pad(x: ArrayOrVariable, before: int, after: int) -> ArrayOrVariable:
    """(N, C, H, W) → (N, C, H + before + after, W + before + after), mirrored at the border pixels.

    Raises ValueError where the image has too few pixels to mirror.
    """
    for axis in (2, 3):
        size, every = x.shape[axis], (slice(None),) * axis
        if max(before, after) >= size:
            raise ValueError(
                f"an image of {x.shape[2]}x{x.shape[3]} cannot mirror {max(before, after)} pixels; "
                f"it needs at least {max(before, after) + 1} in each direction"
            )
        mirrored = range(before, 0, -1), range(size - 2, size - 2 - after, -1)
        top, bottom = ([x[(*every, slice(i, i + 1))] for i in rows] for rows in mirrored)
        if top or bottom:
            x = F.concat([*top, x, *bottom], axis=axis)
    return x


def append_mirrored(x: chainer.Variable) -> chainer.Variable:
    """(N, C, H, W) → (N, C, H + 1, W + 1): the last but one row and column repeated at the end.

    Their gradient is dropped, not added to that of the row and column they came from, as ``chainer.functions.pad``
    has it. One row is repeated itself.
    """
    x = F.concat([x, x.array[:, :, -2:][:, :, :1]], axis=2)
    return F.concat([x, x.array[:, :, :, -2:][:, :, :, :1]], axis=3)


class SqueezeExcitation(chainer.Chain):
    """Channels weighted by sigmoid(l2(relu(l1(mean over the image)))), Hu et al., arXiv 1709.01507."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        with self.init_scope():
            self.l1 = L.Linear(channels, channels // SQUEEZE_RATIO)
            self.l2 = L.Linear(channels // SQUEEZE_RATIO, channels)

    def forward(self, x: ArrayOrVariable) -> chainer.Variable:
        weight = F.sigmoid(self.l2(F.relu(self.l1(F.mean(x, axis=(2, 3))))))
        return x * F.broadcast_to(weight[:, :, None, None], x.shape)


class Convolution(chainer.Chain):
    """A convolution with bias, ``c``: plain or equalised, transposed or not, with squeeze-excitation or without.

    Separable, it is two: ``depthwise`` (ksize, stride, pad, no bias), then ``pointwise`` with bias.
    Plain weights are He-normal, equalised ones N(0, 1) with the input scaled instead, once; biases start at 0.
    ``stride`` 2 ``transposed`` doubles the size: with ``ksize`` 3 the result is a row and a column short, and one
    mirrored row and column are appended. Squeeze-excitation follows convolutions to more than 15 channels, transposed
    ones never. Both as in the released code.
    """

    def __init__(
        self, in_ch: int, out_ch: int, ksize: int, stride: int, pad: int, style: ConvStyle, transposed: bool = False
    ) -> None:
        super().__init__()
        self.in_ch, self.out_ch, self.ksize, self.stride, self.pad = in_ch, out_ch, ksize, stride, pad
        self.transposed, self.separable = transposed, style.separable
        self.reflect = style.padding is Padding.REFLECT and not transposed and pad > 0
        self.inner_pad = 0 if self.reflect else pad  # zeros that the convolution itself adds at each border
        self.scale = math.sqrt(2.0 / in_ch) / ksize if style.equalised else None
        self.squeezed = style.squeeze and not transposed and out_ch > SQUEEZE_ABOVE
        initial = chainer.initializers.Normal(1.0) if style.equalised else chainer.initializers.HeNormal()
        layer = partial(L.Deconvolution2D if transposed else L.Convolution2D, in_ch, initialW=initial)
        with self.init_scope():
            if self.squeezed:
                self.se = SqueezeExcitation(out_ch)
            if self.separable:
                self.depthwise = layer(in_ch, ksize, stride, self.inner_pad, nobias=True, groups=in_ch)
                self.pointwise = layer(out_ch, 1)
            else:
                self.c = layer(out_ch, ksize, stride, self.inner_pad)

    def forward(self, x: ArrayOrVariable) -> chainer.Variable:
        if self.scale is not None:
            x = x * self.scale
        if self.reflect:
            x = reflect_pad(x, self.pad, self.pad)
        h = self.pointwise(self.depthwise(x)) if self.separable else self.c(x)
        if self.transposed and self.ksize == 3:
            h = append_mirrored(h)
        return self.se(h) if self.squeezed else h


def shortcut(in_ch: int, out_ch: int, halves: bool, style: ConvStyle) -> Convolution:
    """What a ``_res`` block adds of its input: a separable convolution, never squeezed; 3×3 where the size halves."""
    ksize, stride, pad = (3, 2, 1) if halves else (1, 1, 0)
    return Convolution(in_ch, out_ch, ksize, stride, pad, replace(style, separable=True, squeeze=False))
