"""The blocks of the networks: what each computes, and beside it what it makes of rows (``through_…``).

A function in lower case (``cbr``, ``res_block`` …) gives the Step of the block in a plan.
"""

import contextlib
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from medi2i.common.choices import Activation, Norm, SampleKind, Sampling, Second
from medi2i.common.compat import Array, ArrayOrVariable, F, L, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.layers import ACTIVATIONS, NORMS, Convolution, activated, same, shortcut
from medi2i.common.networks.network import Misfit, Rows, Step, unchanged
from medi2i.common.networks.spec import ConvStyle

NORM_EPS = 1e-12


def sampled_dropout() -> contextlib.AbstractContextManager[None]:
    """Context in which networks in test mode drop out as in training; all else stays in test mode. For one thread."""
    return chainer.using_config("medi2i_sampled_dropout", True)


def doubled_by(function: Callable | None) -> contextlib.AbstractContextManager[None]:
    """Context in which ``function`` is what ``double_bilinear`` does, None for no change. For one thread."""
    return chainer.using_config("medi2i_doubling", function)


def drop_out(x: ArrayOrVariable, ratio: float) -> chainer.Variable:
    """``F.dropout``: while training, and within ``sampled_dropout``."""
    sampled = getattr(chainer.config, "medi2i_sampled_dropout", False)
    with chainer.using_config("train", sampled or chainer.config.train):
        return F.dropout(x, ratio=ratio)


def double_bilinear(x: ArrayOrVariable) -> chainer.Variable:
    """(N, C, H, W) → (N, C, 2H, 2W), bilinear with the corner pixels on the corner pixels; see ``doubled_by``."""
    other = getattr(chainer.config, "medi2i_doubling", None)
    if other is not None:
        return other(x)
    size = 2 * x.shape[2], 2 * x.shape[3]
    # resize_images takes float32 only; a cast to what an array already is costs nothing.
    return F.cast(F.resize_images(F.cast(x, np.float32), size), x.dtype)


def double_nearest(x: ArrayOrVariable) -> chainer.Variable:
    """(N, C, H, W) → (N, C, 2H, 2W), each pixel becoming a 2×2 square."""
    return F.unpooling_2d(x, 2, 2, cover_all=False)


_POOLINGS: dict[SampleKind, Callable] = {
    SampleKind.MAXPOOL: lambda x: F.max_pooling_2d(x, 2, 2),
    SampleKind.AVGPOOL: lambda x: F.average_pooling_2d(x, 2, 2),
}
_UPSAMPLINGS: dict[SampleKind, Callable] = {
    SampleKind.RESIZE: double_bilinear,
    SampleKind.PIXEL_SHUFFLE: partial(F.depth2space, r=2),  # channel 2·dy + dx: row dy, column dx of a 2×2 square
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
    ) -> None:
        super().__init__()
        kind, second = sample.kind, sample.second
        ksize, pad = _window(sample, ksize, pad)
        self.in_ch, self.out_ch, self.sample, self.norm, self.dropout = in_ch, out_ch, sample, norm, dropout
        self.activation_kind = activation
        self.pool = _POOLINGS.get(kind, same)
        self.upsample = _UPSAMPLINGS.get(kind, same)
        inner = 4 * out_ch if kind is SampleKind.PIXEL_SHUFFLE else out_ch
        with self.init_scope():
            stride = 2 if kind in (SampleKind.DOWN, SampleKind.DECONV) else 1
            self.c1 = Convolution(in_ch, inner, ksize, stride, pad, style, transposed=kind is SampleKind.DECONV)
            self.n1 = NORMS[norm](inner)
            if second is not Second.NONE:
                self.c2 = Convolution(inner, inner, 3, 1, 1, style)
                self.n2 = NORMS[norm](inner)
            if second is Second.RESIDUAL:
                self.skip = shortcut(in_ch, inner, sample.halves, style)

    def forward(self, x: ArrayOrVariable) -> chainer.Variable:
        _check_size(self.sample, self.c1.ksize, self.c1.pad, x.shape[2:])
        second = self.sample.second
        h = self.c1(x)
        if second is Second.NONE:
            h = self._finish(self.n1, h, self.pool)
        else:
            h = self.pool(activated(self.n1, h, self.activation_kind))
            h = self._finish(self.n2, self.c2(h), same)
        if second is Second.RESIDUAL:
            added = self.skip(x)
            h = h + (double_nearest(added) if self.sample.kind is SampleKind.DECONV else added)
        return self.upsample(h)

    def _finish(self, norm: chainer.Link, h: chainer.Variable, pool: Callable) -> chainer.Variable:
        """Normalisation, pooling, dropout and activation; in one function where nothing lies between the two."""
        if pool is same and self.dropout == 0:
            return activated(norm, h, self.activation_kind)
        h = pool(norm(h))
        if self.dropout > 0:
            h = drop_out(h, self.dropout)
        return ACTIVATIONS[self.activation_kind](h)

    def describe(self) -> str:
        """One line: channels, kernel, change of size, normalisation, activation."""
        return (
            f"CBR {self.in_ch} -> {self.out_ch}, {self.c1.ksize}x{self.c1.ksize}, {self.sample.name}, "
            f"{self.norm.value}, {self.activation_kind.value}"
        )


@lru_cache(1024)
def _check_size(sample: Sampling, ksize: int, pad: int, size: tuple[int, int]) -> None:
    try:
        for n in size:
            through_cbr(sample, ksize, pad, Rows.of(n))
    except Misfit as error:
        raise UserError(
            f"{size[0]}x{size[1]} pixels (height x width) before a layer: {error}; larger images, or "
            "others by a pixel, or other kernels would be needed"
        ) from None


def _window(sample: Sampling, ksize: int, pad: int) -> tuple[int, int]:
    """(kernel size, padding) of the first convolution of a CBR."""
    return (7, 3) if sample.kind is SampleKind.NONE_7 and sample.second is Second.NONE else (ksize, pad)


def through_cbr(sample: Sampling, ksize: int, pad: int, rows: Rows) -> Rows:
    """What a CBR makes of ``rows``. Raises Misfit where nothing is left or its shortcut has others."""
    kind, second = sample.kind, sample.second
    ksize, pad = _window(sample, ksize, pad)
    x = Rows.of(rows.size)
    stride = 2 if kind is SampleKind.DOWN else 1
    h = x.spread(ksize, pad) if kind is SampleKind.DECONV else x.windows(ksize, stride, pad)
    if kind in _POOLINGS:
        h = h.windows(2, 2, covers_all=kind is SampleKind.MAXPOOL)
    if h.size < 1:
        raise Misfit(f"{sample.name} with kernels of {ksize} leaves nothing of {rows.size} rows")
    if second is not Second.NONE:
        h = h.windows(3, pad=1)
    if second is Second.RESIDUAL:
        added = x.windows(3, 2, 1) if sample.halves else x.doubled() if kind is SampleKind.DECONV else x
        if added.size != h.size:
            raise Misfit(
                f"{sample.name} with kernels of {ksize} makes {h.size} rows of {rows.size} "
                f"and its shortcut {added.size}"
            )
        h = h.joined(added)
    if kind in _UPSAMPLINGS:
        h = h.stretched() if kind is SampleKind.RESIZE else h.doubled()
    return rows.made(h.size, h.needs)


def cbr(
    in_ch: int,
    out_ch: int,
    ksize: int,
    pad: int,
    norm: Norm,
    sample: Sampling,
    activation: Activation,
    dropout: float,
    style: ConvStyle,
) -> Step:
    """A CBR."""
    return Step(
        partial(CBR, in_ch, out_ch, ksize, pad, norm, sample, activation, dropout, style),
        partial(through_cbr, sample, ksize, pad),
    )


class ResBlock(chainer.Chain):
    """x + norm1(c1(activation(norm0(c0(x))))), both convolutions 3×3; the shape stays (He et al., arXiv 1512.03385)."""

    def __init__(self, channels: int, norm: Norm, activation: Activation, style: ConvStyle) -> None:
        super().__init__()
        self.channels, self.norm, self.activation_kind = channels, norm, activation
        with self.init_scope():
            self.c0 = Convolution(channels, channels, 3, 1, 1, style)
            self.c1 = Convolution(channels, channels, 3, 1, 1, style)
            self.norm0 = NORMS[norm](channels)
            self.norm1 = NORMS[norm](channels)

    def forward(self, x: ArrayOrVariable) -> chainer.Variable:
        return x + self.norm1(self.c1(activated(self.norm0, self.c0(x), self.activation_kind)))

    def describe(self) -> str:
        """One line: channels, normalisation, activation."""
        return f"ResBlock {self.channels}, {self.norm.value}, {self.activation_kind.value}"


def res_block(channels: int, norm: Norm, activation: Activation, style: ConvStyle) -> Step:
    """A ResBlock."""
    return Step(
        partial(ResBlock, channels, norm, activation, style), lambda rows: rows.windows(3, pad=1).windows(3, pad=1)
    )


class FullyConnected(chainer.Chain):
    """Linear ``l0``, then an activation: (N, …) → (N, out_size). ``in_size`` None: known once the first input is."""

    def __init__(self, in_size: int | None, out_size: int, activation: Activation) -> None:
        super().__init__()
        self.in_size, self.out_size, self.activation_kind = in_size, out_size, activation
        with self.init_scope():
            self.l0 = L.Linear(in_size, out_size)

    def forward(self, x: ArrayOrVariable) -> chainer.Variable:
        return ACTIVATIONS[self.activation_kind](self.l0(x))

    def describe(self) -> str:
        """One line: sizes and activation."""
        size = self.in_size if self.l0.W.array is None else self.l0.W.shape[1]
        return f"Linear {size or '?'} -> {self.out_size}, {self.activation_kind.value}"


def fully_connected(in_size: int | None, out_size: int, activation: Activation) -> Step:
    """A FullyConnected."""
    return Step(partial(FullyConnected, in_size, out_size, activation), unchanged)


class SpectralConvolution(chainer.Link):
    """Convolution whose weight W (out, in, k, k), seen as a matrix (out, in k k), is divided by its largest singular
    value. Miyato et al., arXiv 1802.05957.

    One power iteration from ``u`` (1, out) estimates that value in each call; the new ``u`` is kept, and saved, only
    while training, so that a network at test time gives the same answer twice.
    """

    def __init__(
        self, in_ch: int, out_ch: int, ksize: int = 1, stride: int = 1, pad: int = 0, nobias: bool = True
    ) -> None:
        super().__init__()
        self.in_ch, self.out_ch, self.stride, self.pad = in_ch, out_ch, stride, pad
        with self.init_scope():
            self.W = chainer.Parameter(chainer.initializers.LeCunNormal(), (out_ch, in_ch, ksize, ksize))
            self.b = None if nobias else chainer.Parameter(0, (out_ch,))
        self.add_persistent("u", np.random.standard_normal((1, out_ch)).astype(self.W.dtype))

    def normalized_weight(self) -> chainer.Variable:
        """W / σ with σ = u W v; u and v count as constants in the gradient."""
        W = F.reshape(self.W, (self.out_ch, -1))
        matrix = W.array
        # Norms of fp16 vectors overflow; the iteration is tiny, so it always runs wider.
        wide = matrix if matrix.dtype == np.float64 else matrix.astype(np.float32)
        v = _unit(self.u.astype(wide.dtype) @ wide)
        u = _unit(v @ wide.T)
        if chainer.config.train:
            self.u[...] = u
        sigma = F.sum(F.matmul(u.astype(matrix.dtype), W) * v.astype(matrix.dtype))
        return F.reshape(W / F.broadcast_to(sigma, W.shape), self.W.shape)

    def forward(self, x: ArrayOrVariable) -> chainer.Variable:
        return F.convolution_2d(x, self.normalized_weight(), self.b, self.stride, self.pad)


def _unit(vector: Array) -> Array:
    xp = chainer.backend.get_array_module(vector)
    return vector / (xp.sqrt((vector * vector).sum()) + NORM_EPS).astype(vector.dtype)


class Scalar(chainer.Link):
    """One learned number ``W`` of shape ()."""

    def __init__(self, value: float) -> None:
        super().__init__()
        with self.init_scope():
            self.W = chainer.Parameter(value, ())


class Attention(chainer.Chain):
    """x + gamma · o_conv(attended g), shape kept; gamma starts at 0, so the block does nothing at first.

    A non-local block with spectrally normalised 1×1 convolutions (Zhang et al., arXiv 1805.08318).

    theta: every pixel, ch/8 channels; phi: 2×2 max-pooled, ch/8; g: 2×2 max-pooled, ch/2. Each pixel takes the mean of
    g over the pooled positions, weighted by softmax(theta · phi).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        with self.init_scope():
            self.theta = SpectralConvolution(channels, channels // 8)
            self.phi = SpectralConvolution(channels, channels // 8)
            self.g = SpectralConvolution(channels, channels // 2)
            self.o_conv = SpectralConvolution(channels // 2, channels)
            self.gamma = Scalar(0)

    def forward(self, x: ArrayOrVariable) -> chainer.Variable:
        n, _, height, width = x.shape
        theta = F.reshape(self.theta(x), (n, self.channels // 8, height * width))
        pooled = (F.max_pooling_2d(link(x), 2, 2) for link in (self.phi, self.g))
        phi, g = (F.reshape(h, (n, h.shape[1], -1)) for h in pooled)
        weight = F.softmax(F.matmul(theta, phi, transa=True), axis=2)
        attended = F.reshape(F.matmul(g, weight, transb=True), (n, self.channels // 2, height, width))
        h = self.o_conv(attended)
        return x + F.broadcast_to(F.cast(self.gamma.W, h.dtype), h.shape) * h

    def describe(self) -> str:
        """One line: channels."""
        return f"Attention {self.channels}"


def attention(channels: int) -> Step:
    """An Attention."""
    return Step(partial(Attention, channels), unchanged)


def cast_in(x: ArrayOrVariable, link: chainer.Link) -> ArrayOrVariable:
    """``x`` in the dtype of the weights of ``link``, so that fp16 networks take fp32 images."""
    dtype = next(p.dtype for p in link.params() if p.ndim != 1 and p.dtype is not None)
    return x if x.dtype == dtype else F.cast(x, dtype)


def cast_out(x: chainer.Variable) -> chainer.Variable:
    """fp16 as fp32, so that sums over images in a loss do not overflow; anything else unchanged."""
    return F.cast(x, np.float32) if x.dtype == np.float16 else x
