"""Convolutions of every style, with the parameter names of the released files (``c``, ``depthwise``, ``se``…)."""
import math

from medi2i.common.compat import F, L, chainer
from medi2i.common.networks.spec import ConvStyle, Padding

SQUEEZE_RATIO = 16
SQUEEZE_ABOVE = 15


def reflect_pad(x, before: int, after: int):
    """(N, C, H, W) → (N, C, H + before + after, W + before + after), mirrored at the border pixels.

    Raises ValueError where the image has too few pixels to mirror.
    """
    for axis in (2, 3):
        size = x.shape[axis]
        if max(before, after) >= size:
            raise ValueError(f"an image of {x.shape[2]}x{x.shape[3]} cannot mirror {max(before, after)} pixels; "
                             f"it needs at least {max(before, after) + 1} in each direction")

        def line(i, axis=axis, x=x):
            return x[:, :, i:i + 1] if axis == 2 else x[:, :, :, i:i + 1]

        top = [line(i) for i in range(before, 0, -1)]
        bottom = [line(size - 2 - i) for i in range(after)]
        if top or bottom:
            x = F.concat([*top, x, *bottom], axis=axis)
    return x


class SqueezeExcitation(chainer.Chain):
    """Channels weighted by sigmoid(l2(relu(l1(mean over the image)))), Hu et al., arXiv 1709.01507."""

    def __init__(self, channels: int):
        super().__init__()
        with self.init_scope():
            self.l1 = L.Linear(channels, channels // SQUEEZE_RATIO)
            self.l2 = L.Linear(channels // SQUEEZE_RATIO, channels)

    def forward(self, x):
        weight = F.sigmoid(self.l2(F.relu(self.l1(F.mean(x, axis=(2, 3))))))
        return x * F.broadcast_to(weight[:, :, None, None], x.shape)


class Convolution(chainer.Chain):
    """A convolution with bias: plain or equalised, transposed or not, with squeeze-excitation or without.

    Plain weights are He-normal, equalised ones N(0, 1) with the input scaled instead; biases start at 0.
    ``stride`` 2 ``transposed`` doubles the size: with ``ksize`` 3 the result is a row and a column short, and one
    mirrored row and column are appended, as in the released code.
    """

    def __init__(self, in_ch: int, out_ch: int, ksize: int, stride: int, pad: int, style: ConvStyle, transposed: bool):
        super().__init__()
        self.in_ch, self.out_ch, self.ksize, self.stride, self.pad = in_ch, out_ch, ksize, stride, pad
        self.transposed = transposed
        self.reflect = style.padding is Padding.REFLECT and not transposed and pad > 0
        self.scale = math.sqrt(2.0 / in_ch) / ksize if style.equalised else None
        initial = chainer.initializers.Normal(1.0) if style.equalised else chainer.initializers.HeNormal()
        with self.init_scope():
            if transposed:
                self.c = L.Deconvolution2D(in_ch, out_ch, ksize, stride, pad, initialW=initial)
            else:
                self.c = L.Convolution2D(in_ch, out_ch, ksize, stride, 0 if self.reflect else pad, initialW=initial)
            if style.squeeze and out_ch > SQUEEZE_ABOVE:
                self.se = SqueezeExcitation(out_ch)
        self.squeezed = style.squeeze and out_ch > SQUEEZE_ABOVE

    def forward(self, x):
        if self.scale is not None:
            x = x * self.scale
        if self.reflect:
            x = reflect_pad(x, self.pad, self.pad)
        h = self.c(x)
        if self.transposed and self.ksize == 3:
            h = reflect_pad(h, 0, 1)
        return self.se(h) if self.squeezed else h


class SeparableConvolution(chainer.Chain):
    """Depthwise convolution (ksize, stride, pad, no bias), then a pointwise one with bias; He-normal weights."""

    def __init__(self, in_ch: int, out_ch: int, ksize: int, stride: int, pad: int, padding: Padding):
        super().__init__()
        self.in_ch, self.out_ch, self.ksize, self.stride, self.pad = in_ch, out_ch, ksize, stride, pad
        self.reflect = padding is Padding.REFLECT and pad > 0
        initial = chainer.initializers.HeNormal()
        with self.init_scope():
            self.depthwise = L.Convolution2D(in_ch, in_ch, ksize, stride, 0 if self.reflect else pad, nobias=True,
                                             initialW=initial, groups=in_ch)
            self.pointwise = L.Convolution2D(in_ch, out_ch, 1, initialW=initial)

    def forward(self, x):
        if self.reflect:
            x = reflect_pad(x, self.pad, self.pad)
        return self.pointwise(self.depthwise(x))


def convolution(in_ch: int, out_ch: int, ksize: int, stride: int, pad: int, style: ConvStyle) -> chainer.Chain:
    """The convolution of this style. A separable one is neither equalised nor squeezed, as in the released code."""
    if style.separable:
        return SeparableConvolution(in_ch, out_ch, ksize, stride, pad, style.padding)
    return Convolution(in_ch, out_ch, ksize, stride, pad, style, transposed=False)
