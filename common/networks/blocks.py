"""The blocks all networks are built from: CBR (convolution, normalisation, activation), ResBlock, fully connected."""

import contextlib

import numpy

from medi2i.common.compat import F, L, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.activations import activation as activation_of
from medi2i.common.networks.convolutions import convolution, shortcut
from medi2i.common.networks.extent import Misfit, after_block
from medi2i.common.networks.norms import activated, normalization
from medi2i.common.networks.spec import Activation, ConvStyle, Norm, SampleKind, Sampling, Second


@contextlib.contextmanager
def sampled_dropout():
    """Context in which networks in test mode drop out as in training; all else stays in test mode. For one thread."""
    with chainer.using_config("medi2i_sampled_dropout", True):
        yield


def drop_out(x, ratio):
    """``F.dropout``: while training, and within ``sampled_dropout``."""
    if not getattr(chainer.config, "medi2i_sampled_dropout", False):
        return F.dropout(x, ratio=ratio)
    with chainer.using_config("train", True):
        return F.dropout(x, ratio=ratio)


def depth_to_space(x):
    """(N, 4C, H, W) → (N, C, 2H, 2W), channel 2·dy + dx of each four going to row dy, column dx of its 2×2 square."""
    return F.depth2space(x, 2)


def double_bilinear(x):
    """(N, C, H, W) → (N, C, 2H, 2W), bilinear with the corner pixels on the corner pixels."""
    size = 2 * x.shape[2], 2 * x.shape[3]
    # resize_images takes float32 only; a cast to what an array already is costs nothing.
    return F.cast(F.resize_images(F.cast(x, numpy.float32), size), x.dtype)


def double_nearest(x):
    """(N, C, H, W) → (N, C, 2H, 2W), each pixel becoming a 2×2 square."""
    return F.unpooling_2d(x, 2, 2, cover_all=False)


def _unchanged(x):
    return x


_POOLINGS = {
    SampleKind.MAXPOOL: lambda x: F.max_pooling_2d(x, 2, 2),
    SampleKind.AVGPOOL: lambda x: F.average_pooling_2d(x, 2, 2),
}
_UPSAMPLINGS = {
    SampleKind.RESIZE: double_bilinear,
    SampleKind.PIXEL_SHUFFLE: depth_to_space,
    SampleKind.UNPOOL: double_nearest,
}


class CBR(chainer.Chain):
    """Convolution c1, normalisation n1, activation and a change of size, optionally a second convolution c2 with n2.

    (N, in_ch, H, W) → (N, out_ch, H', W'). The order is that of the released code: c1, n1, (activation if there is a
    c2), pooling, (c2, n2), dropout, activation, (+ skip of the input), upsampling.
    ``none-7`` alone is 7×7, padded by 3: with a second convolution, ``ksize`` and ``pad`` count.
    The ``_res`` kind of a transposed convolution, where the released code has shapes that do not fit, doubles the
    shortcut by repeating pixels. Raises UserError for an image that is too small, or
    whose shortcut has another size.
    """

    def __init__(
        self,
        in_ch: int,
        out_ch: int,
        ksize: int,
        pad: int,
        norm: Norm,
        sample: Sampling,
        activation: Activation,
        dropout: float,
        style: ConvStyle,
    ):
        super().__init__()
        kind, second = sample.kind, sample.second
        if kind is SampleKind.NONE_7 and second is Second.NONE:
            ksize, pad = 7, 3
        self.in_ch, self.out_ch, self.sample, self.norm, self.dropout = in_ch, out_ch, sample, norm, dropout
        self.activation_kind = activation
        self.activation = activation_of(activation)
        self.pool = _POOLINGS.get(kind, _unchanged)
        self.upsample = _UPSAMPLINGS.get(kind, _unchanged)
        inner = 4 * out_ch if kind is SampleKind.PIXEL_SHUFFLE else out_ch
        with self.init_scope():
            stride = 2 if kind in (SampleKind.DOWN, SampleKind.DECONV) else 1
            self.c1 = convolution(in_ch, inner, ksize, stride, pad, style, transposed=kind is SampleKind.DECONV)
            self.n1 = normalization(norm, inner)
            if second is not Second.NONE:
                self.c2 = convolution(inner, inner, 3, 1, 1, style)
                self.n2 = normalization(norm, inner)
            if second is Second.RESIDUAL:
                self.skip = shortcut(in_ch, inner, sample.halves, style)

    def forward(self, x):
        self._check_size(x.shape[2:])
        second = self.sample.second
        h = self.c1(x)
        if second is Second.NONE:
            h = self._finish(self.n1, h, self.pool)
        else:
            h = self.pool(activated(self.n1, h, self.activation_kind))
            h = self._finish(self.n2, self.c2(h), _unchanged)
        if second is Second.RESIDUAL:
            added = self.skip(x)
            h = h + (double_nearest(added) if self.sample.kind is SampleKind.DECONV else added)
        return self.upsample(h)

    def _check_size(self, size):
        try:
            for n in size:
                after_block(self.sample, self.c1.ksize, self.c1.pad, n)
        except Misfit as error:
            raise UserError(
                f"{size[0]}x{size[1]} pixels (height x width) before a layer: {error}; larger images, or "
                "others by a pixel, or other kernels would be needed"
            ) from None

    def _finish(self, norm, h, pool):
        """Normalisation, pooling, dropout and activation; in one function where nothing lies between the two."""
        if pool is _unchanged and self.dropout == 0:
            return activated(norm, h, self.activation_kind)
        h = pool(norm(h))
        if self.dropout > 0:
            h = drop_out(h, self.dropout)
        return self.activation(h)

    def describe(self) -> str:
        """One line: channels, kernel, change of size, normalisation, activation."""
        return (
            f"CBR {self.in_ch} -> {self.out_ch}, {self.c1.ksize}x{self.c1.ksize}, {self.sample.name}, "
            f"{self.norm.value}, {self.activation_kind.value}"
        )


class ResBlock(chainer.Chain):
    """x + norm1(c1(activation(norm0(c0(x))))), both convolutions 3×3; the shape stays (He et al., arXiv 1512.03385)."""

    def __init__(self, channels: int, norm: Norm, activation: Activation, style: ConvStyle):
        super().__init__()
        self.channels, self.norm, self.activation_kind = channels, norm, activation
        with self.init_scope():
            self.c0 = convolution(channels, channels, 3, 1, 1, style)
            self.c1 = convolution(channels, channels, 3, 1, 1, style)
            self.norm0 = normalization(norm, channels)
            self.norm1 = normalization(norm, channels)

    def forward(self, x):
        return x + self.norm1(self.c1(activated(self.norm0, self.c0(x), self.activation_kind)))

    def describe(self) -> str:
        """One line: channels, normalisation, activation."""
        return f"ResBlock {self.channels}, {self.norm.value}, {self.activation_kind.value}"


class FullyConnected(chainer.Chain):
    """Linear ``l0``, then an activation: (N, …) → (N, out_size). ``in_size`` None: known once the first input is."""

    def __init__(self, in_size: int | None, out_size: int, activation: Activation):
        super().__init__()
        self.in_size, self.out_size, self.activation_kind = in_size, out_size, activation
        self.activation = activation_of(activation)
        with self.init_scope():
            self.l0 = L.Linear(in_size, out_size)

    def forward(self, x):
        return self.activation(self.l0(x))

    def describe(self) -> str:
        """One line: sizes and activation."""
        size = self.in_size if self.l0.W.array is None else self.l0.W.shape[1]
        return f"Linear {size or '?'} -> {self.out_size}, {self.activation_kind.value}"


def cast_in(x, link: chainer.Link):
    """``x`` in the dtype of the weights of ``link``, so that fp16 networks take fp32 images."""
    dtype = next(p.dtype for p in link.params() if p.ndim != 1 and p.dtype is not None)
    return x if x.dtype == dtype else F.cast(x, dtype)


def cast_out(x):
    """fp16 as fp32, so that sums over images in a loss do not overflow; anything else unchanged."""
    return F.cast(x, numpy.float32) if x.dtype == numpy.float16 else x
