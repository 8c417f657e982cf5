"""The layers of networks, with the parameter names of the released files: normalisations, activations, convolutions of
every style (``c``, ``depthwise``, ``se``…). Images are (N, C, H, W)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from medi2i.common.choices import Activation, Norm, Padding
from medi2i.common.compat import Array, ArrayOrVariable, F, L, chainer
from medi2i.common.kernels.nodes import is_fused, normalise, normalise_features, rectified, update_running
from medi2i.common.networks.spec import ConvStyle

BATCH_EPS = 2e-5
BATCH_DECAY = 0.9
FEATURE_EPS = 1e-8
LEAKY_SLOPE = 0.2
_SLOPES = {Activation.RELU: 0.0, Activation.LEAKY_RELU: LEAKY_SLOPE, Activation.NONE: 1.0}


def same(x: ArrayOrVariable) -> ArrayOrVariable:
    """``x`` itself."""
    return x


# Variable → Variable of the same shape.
ACTIVATIONS: dict[Activation, Callable] = {
    Activation.RELU: F.relu,
    Activation.LEAKY_RELU: partial(F.leaky_relu, slope=LEAKY_SLOPE),
    Activation.TANH: F.tanh,
    Activation.SIGMOID: F.sigmoid,
    Activation.SOFTMAX: partial(F.softmax, axis=1),
    Activation.NONE: same,
}


class Unchanged(chainer.Link):
    """No normalisation."""

    def forward(self, x: ArrayOrVariable) -> chainer.Variable:
        return x


class FeatureNormalization(chainer.Link):
    """x / sqrt(mean of x² over the channels + 1e-8), pixel by pixel (Karras et al., arXiv 1710.10196, 4.2)."""

    def forward(self, x: ArrayOrVariable, slope: float = 1.0) -> chainer.Variable:
        return normalise_features(x, FEATURE_EPS, slope)


class InstanceNormalization(chainer.Link):
    """(x − mean) / sqrt(variance + 2e-5) per sample and channel, at test time too; no learned scale or shift.

    avg_mean, avg_var (C,) and N are in the released files, where nothing reads them; they are kept so that the files
    are the same, and left as they are.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        dtype = chainer.get_dtype(None, map_mixed16=np.float32)
        self.add_persistent("avg_mean", np.zeros(channels, dtype))
        self.add_persistent("avg_var", np.ones(channels, dtype))
        self.add_persistent("N", 0)

    def forward(self, x: ArrayOrVariable, slope: float = 1.0) -> chainer.Variable:
        if is_fused(x):
            return normalise(x, None, None, BATCH_EPS, slope, each=True)[0]
        n, c, h, w = x.shape
        xp = chainer.backend.get_array_module(x)
        dtype = np.float32 if x.dtype == np.float16 else x.dtype
        with chainer.using_device(chainer.backend.get_device_from_array(getattr(x, "array", x))):
            gamma, beta = xp.ones(n * c, dtype=dtype), xp.zeros(n * c, dtype=dtype)
        # Each (sample, channel) becomes a channel of one image: the means over a batch of one are those wanted.
        y = F.batch_normalization(F.reshape(x, (1, n * c, h, w)), gamma, beta, eps=BATCH_EPS)
        return rectified(F.reshape(y, x.shape), slope)


class BatchNormalization(L.BatchNormalization):
    """Chainer's, followed by (leaky) ReLU of ``slope`` (1: none), in one function where there is one.

    ``shared``: None, or a function (link, x) that takes the place of both in training (``--sync_bn``).
    """

    shared: Callable | None = None

    def forward(self, x: ArrayOrVariable, slope: float = 1.0, overwrite: bool = False) -> chainer.Variable:
        if self.shared is not None and chainer.config.train:
            return rectified(self.shared(self, x), slope)
        if not is_fused(x):
            return rectified(super().forward(x), slope)
        fixed = None if chainer.config.train else (self.avg_mean, self.avg_var)
        y, node = normalise(x, self.gamma, self.beta, self.eps, slope, fixed=fixed, overwrite=overwrite)
        if fixed is None and not chainer.config.in_recomputing:
            update_running(self.avg_mean, self.avg_var, node, x, self.decay)
        return y


class BatchRenormalization(L.BatchRenormalization):
    """Chainer's, which takes images of another dtype than its shift (mixed16) only when they are cast for it."""

    def forward(self, x: ArrayOrVariable) -> chainer.Variable:
        return F.cast(super().forward(F.cast(x, self.beta.dtype)), x.dtype)


def activated(norm: chainer.Link, x: ArrayOrVariable, kind: Activation) -> chainer.Variable:
    """activation(norm(x)) for a link of ``NORMS``, as one function where there is one for both.

    ``x`` is a convolution's result that nothing else needs; it may be overwritten.
    """
    if kind in _SLOPES and isinstance(norm, BatchNormalization):
        return norm(x, _SLOPES[kind], overwrite=True)
    if kind in _SLOPES and isinstance(norm, (InstanceNormalization, FeatureNormalization)):
        return norm(x, _SLOPES[kind])
    return ACTIVATIONS[kind](norm(x))


_batch = partial(BatchNormalization, decay=BATCH_DECAY, eps=BATCH_EPS)
NORMS: dict[Norm, Callable[[int], chainer.Link]] = {
    Norm.NONE: lambda channels: Unchanged(),
    Norm.FEATURE: lambda channels: FeatureNormalization(),
    Norm.INSTANCE: InstanceNormalization,
    Norm.GROUP: partial(L.GroupNormalization, 1),
    Norm.LAYER: partial(L.GroupNormalization, 1),
    Norm.BATCH: partial(_batch, use_gamma=False, use_beta=False),
    Norm.BATCH_AFFINE: _batch,
    Norm.BATCH_RENORM: partial(BatchRenormalization, decay=BATCH_DECAY, eps=BATCH_EPS, use_gamma=False),
}
"""Number of channels of the images → link.

batch: eps 2e-5, running statistics with decay 0.9, without (BATCH) or with (BATCH_AFFINE) scale and shift.
rbatch: batch renormalisation with shift only (Ioffe, arXiv 1702.03275).
group: one group, so mean and variance over (C, H, W), with scale and shift per channel.
layer: over (C, H, W) as well. In the released code it fails on images, so there are no files to be equal to.
"""


SQUEEZE_RATIO = 16
SQUEEZE_ABOVE = 15


def reflect_pad(x: ArrayOrVariable, before: int, after: int) -> ArrayOrVariable:
    """(N, C, H, W) → (N, C, H + before + after, W + before + after), mirrored at the border pixels.

    Raises ValueError where the image has too few pixels to mirror.
    """
    if max(before, after) >= min(x.shape[2:]):
        raise ValueError(
            f"an image of {x.shape[2]}x{x.shape[3]} cannot mirror {max(before, after)} pixels; "
            f"it needs at least {max(before, after) + 1} in each direction"
        )
    return Mirror(before, after).apply((x,))[0]


class Mirror(chainer.FunctionNode):
    """What :func:`reflect_pad` computes, or, ``folded``, its gradient: what is outside added to what it mirrors."""

    def __init__(self, before: int, after: int, folded: bool = False) -> None:
        super().__init__()
        self.before, self.after, self.folded = before, after, folded

    def forward(self, inputs: tuple[Array]) -> tuple[Array]:
        (x,), added = inputs, self.before + self.after
        n, c, h, w = x.shape
        if self.folded:
            y, h, w = x.copy(order="K"), h - added, w - added
        else:
            y = chainer.backend.get_array_module(x).empty_like(x, shape=(n, c, h + added, w + added))
        rows, columns = (slice(self.before, self.before + size) for size in (h, w))
        if self.folded:
            for outside, inside in (*self._borders(y.swapaxes(2, 3)), *self._borders(y[..., columns])):
                inside += outside
            return (y[:, :, rows, columns].copy(order="K"),)
        y[:, :, rows, columns] = x
        for outside, inside in (*self._borders(y[..., columns]), *self._borders(y.swapaxes(2, 3))):
            outside[...] = inside
        return (y,)

    def _borders(self, y: Array) -> Iterator[tuple[Array, Array]]:
        """Views of each row of ``y`` (N, C, H, W) that is added, and of the one that it mirrors."""
        last = y.shape[2] - 1 - self.after
        for edge, direction, count in ((self.before, -1, self.before), (last, 1, self.after)):
            for i in range(1, count + 1):
                yield y[:, :, edge + direction * i], y[:, :, edge - direction * i]

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable, ...]
    ) -> tuple[chainer.Variable, ...]:
        return Mirror(self.before, self.after, not self.folded).apply(grad_outputs)


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
