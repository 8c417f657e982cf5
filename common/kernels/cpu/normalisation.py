"""Normalisation and (leaky) ReLU on the CPU by oneDNN, for float32 images (N, C, H, W), channels last.

As :mod:`medi2i.common.kernels.reference`. The activation works in place on what was just normalised, sample
by sample where the statistics are, while that is in the cache and without another array of that size.
"""

import functools
from collections.abc import Callable

import numpy as np

from medi2i.common.kernels.cpu import onednn
from medi2i.common.kernels.cpu.arrays import PLANS, channels_last, dense, empty_images, plain_images

SUMS, SHORT = 1024, 32  # sums for the statistics of an image, at most; pixels in each, at least

Shape = tuple[int, ...]


takes = plain_images  # what this module computes with


@functools.lru_cache(PLANS)
def _normalising(shape: Shape, eps: float, fixed: bool) -> onednn.Primitive:
    """On x, y, mean, variance (given if ``fixed``, else results), gamma, beta; x and y dense and channels last."""
    dnnl = onednn.loaded()
    images, channels = dnnl.images(shape), dnnl.dense(shape[1:2])
    flags = onednn.USE_SCALE | onednn.USE_SHIFT | (onednn.USE_GLOBAL_STATS if fixed else 0)
    kind = onednn.FORWARD_INFERENCE if fixed else onednn.FORWARD_TRAINING
    return dnnl.primitive(
        "batch_normalization_forward",
        kind,
        images,
        images,
        eps,
        flags,
        None,
        of={
            onednn.SRC: images,
            onednn.DST: images,
            onednn.MEAN: channels,
            onednn.VARIANCE: channels,
            onednn.SCALE: channels,
            onednn.SHIFT: channels,
        },
    )


@functools.lru_cache(PLANS)
def _normalising_backward(shape: Shape, eps: float) -> onednn.Primitive:
    """On x, mean, variance, gy, gamma, gx, ggamma, gbeta; gx may be gy."""
    dnnl = onednn.loaded()
    images, channels = dnnl.images(shape), dnnl.dense(shape[1:2])
    hint = _normalising(shape, eps, False).descriptor
    return dnnl.primitive(
        "batch_normalization_backward",
        onednn.BACKWARD,
        images,
        images,
        images,
        eps,
        onednn.USE_SCALE | onednn.USE_SHIFT,
        hint,
        None,
        of={
            onednn.SRC: images,
            onednn.MEAN: channels,
            onednn.VARIANCE: channels,
            onednn.DIFF_DST: images,
            onednn.SCALE: channels,
            onednn.DIFF_SRC: images,
            onednn.DIFF_SCALE: channels,
            onednn.DIFF_SHIFT: channels,
        },
    )


@functools.lru_cache(PLANS)
def _rectifying(size: int, slope: float) -> onednn.Primitive:
    """On ``size`` numbers x, and y; y may be x."""
    dnnl = onednn.loaded()
    line = dnnl.dense((size,))
    return dnnl.primitive(
        "eltwise_forward",
        onednn.FORWARD_TRAINING,
        onednn.ELTWISE_RELU,
        line,
        line,
        slope,
        0.0,
        None,
        of={onednn.SRC: line, onednn.DST: line},
    )


@functools.lru_cache(PLANS)
def _rectifying_backward(size: int, slope: float) -> onednn.Primitive:
    """On the signs (x, or y), gy and gx; gx may be gy."""
    dnnl = onednn.loaded()
    line, hint = dnnl.dense((size,)), _rectifying(size, slope).descriptor
    return dnnl.primitive(
        "eltwise_backward",
        onednn.ELTWISE_RELU,
        line,
        line,
        line,
        slope,
        0.0,
        hint,
        None,
        of={onednn.SRC: line, onednn.DIFF_DST: line, onednn.DIFF_SRC: line},
    )


def _share(channels: int, pixels: int) -> int:
    """Into how many shares to divide ``pixels``: a divisor, with up to ``SUMS`` sums of at least ``SHORT`` pixels."""
    fits = (n for n in range(1, max(SUMS // channels, 1) + 1) if pixels % n == 0 and pixels // n >= min(SHORT, pixels))
    return max(fits)


@functools.lru_cache(PLANS)
def _statistics(shape: Shape, eps: float) -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """A function (address, address of as much space) -> mean and variance, float32 (C,), of dense images there.

    oneDNN adds up pixel after pixel: over 512 x 512 of them a variance comes out wrong by 6e-5 of itself, as NumPy's
    does in this layout. So every n-th pixel gets sums of its own: in memory, n pixels of C channels are one of n C.
    They are put together in float64 (Chan, Golub and LeVeque, 1979). To be called with the library's lock held.
    """
    channels, pixels = shape[1], shape[0] * shape[2] * shape[3]
    n = _share(channels, pixels)
    primitive = _normalising((1, n * channels, 1, pixels // n), eps, False)
    one = np.ones(n * channels, np.float32)

    def measure(address: int, space: int) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = np.empty((2, n, channels), np.float32)
        primitive.run(address, space, *(a.ctypes.data for a in (mean, variance, one, one)))
        if n == 1:
            return mean[0], variance[0]
        middle = mean.sum(axis=0, dtype=np.float64) / n
        apart = mean - middle
        apart *= apart
        apart += variance
        spread = apart.sum(axis=0) / n
        return middle.astype(np.float32), spread.astype(np.float32)

    return measure


def _parts(x: np.ndarray, each: bool) -> tuple[Shape, int, int]:
    """Shape of what is normalised at once, how many there are, and how many bytes apart."""
    n, c, h, w = x.shape
    return ((1, c, h, w), n, 4 * c * h * w) if each else (x.shape, 1, 0)


def _channels(values: np.ndarray | None, channels: int, stand_in: float) -> np.ndarray:
    return np.full(channels, stand_in, np.float32) if values is None else np.ascontiguousarray(values, np.float32)


def forward(
    x: np.ndarray, gamma: np.ndarray | None, beta: np.ndarray | None, eps: float, slope: float, each: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """See :func:`medi2i.common.kernels.reference.forward`."""
    x = channels_last(x)
    shape, count, step = _parts(x, each)
    channels = shape[1]
    gamma, beta = _channels(gamma, channels, 1), _channels(beta, channels, 0)
    y = empty_images(x.shape)
    mean, variance = (np.empty((count, channels, 1, 1), np.float32) for _ in range(2))
    measure, normalise = _statistics(shape, eps), _normalising(shape, eps, True)
    rectify = None if slope == 1 else _rectifying(y.size // count, float(slope))
    with onednn.loaded().lock:
        for i in range(count):
            out = y.ctypes.data + i * step
            mean[i, :, 0, 0], variance[i, :, 0, 0] = measure(x.ctypes.data + i * step, out)
            normalise.run(
                x.ctypes.data + i * step,
                out,
                mean[i].ctypes.data,
                variance[i].ctypes.data,
                gamma.ctypes.data,
                beta.ctypes.data,
            )
            if rectify is not None:
                rectify.run(out, out)
    return y, mean, variance, np.reciprocal(np.sqrt(variance + np.float32(eps)))


def apply_fixed(
    x: np.ndarray,
    gamma: np.ndarray | None,
    beta: np.ndarray | None,
    mean: np.ndarray,
    variance: np.ndarray,
    eps: float,
    slope: float,
    overwrite: bool = False,
) -> np.ndarray:
    """The same with given mean and variance (C,): y, in the memory of ``x`` where that may be overwritten."""
    given, x = x, channels_last(x)
    y = x if x is not given or overwrite else empty_images(x.shape)
    channels = (
        _channels(values, x.shape[1], stand_in)
        for values, stand_in in ((mean, 0), (variance, 1), (gamma, 1), (beta, 0))
    )
    _normalising(x.shape, eps, True)(x, y, *channels)
    if slope != 1:
        _rectifying(y.size, float(slope))(y, y)
    return y


def backward(
    x: np.ndarray,
    gamma: np.ndarray | None,
    mean: np.ndarray,
    variance: np.ndarray,
    gy: np.ndarray,
    y: np.ndarray | None,
    eps: float,
    slope: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """gx and the sums, see :func:`medi2i.common.kernels.reference.backward`.

    y is what ``forward`` gave; None where slope is 1.
    """
    x, gy = channels_last(x), channels_last(gy)
    shape, count, step = _parts(x, len(mean) > 1)
    gamma = _channels(gamma, shape[1], 1)
    gx = empty_images(x.shape)
    with_x, plain = np.empty_like(mean), np.empty_like(mean)
    normalise = _normalising_backward(shape, eps)
    rectify = None if y is None else _rectifying_backward(gx.size // count, float(slope))
    signs = gy if y is None else channels_last(y)
    with onednn.loaded().lock:
        for i in range(count):
            at = i * step
            g, out = gy.ctypes.data + at, gx.ctypes.data + at
            if rectify is not None:
                rectify.run(signs.ctypes.data + at, g, out)
                g = out
            normalise.run(
                x.ctypes.data + at,
                mean[i].ctypes.data,
                variance[i].ctypes.data,
                g,
                gamma.ctypes.data,
                out,
                with_x[i].ctypes.data,
                plain[i].ctypes.data,
            )
    return gx, with_x, plain


def rectify(x: np.ndarray, slope: float) -> np.ndarray:
    """x where x > 0, else slope x; images of any dense layout keep theirs."""
    x = dense(x)
    y = np.empty_like(x)
    _rectifying(x.size, slope)(x, y)
    return y


def rectify_backward(sign: np.ndarray, gy: np.ndarray, slope: float) -> np.ndarray:
    """gy where ``sign`` > 0, else slope gy."""
    sign = dense(sign)
    gy = channels_last(gy) if sign is channels_last(sign) else np.ascontiguousarray(gy)
    if gy.strides != sign.strides:
        sign, gy = np.ascontiguousarray(sign), np.ascontiguousarray(gy)
    gx = np.empty_like(gy)
    _rectifying_backward(gy.size, slope)(sign, gy, gx)
    return gx
