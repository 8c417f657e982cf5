"""Batch normalisation and (leaky) ReLU on the CPU by oneDNN, for float32 images (N, C, H, W), channels last."""
import functools

import numpy

from medi2i.common.kernels.cpu import onednn
from medi2i.common.kernels.cpu.layout import PLANS, channels_last, empty_images
from medi2i.common.kernels.geometry import last_strides

SUMS, SHORT = 1024, 32  # sums for the statistics of an image, at most; pixels in each, at least


@functools.lru_cache(PLANS)
def _normalise(shape, eps, fixed):
    dnnl = onednn.library()
    images, channels = dnnl.descriptor(shape, last_strides(shape)), dnnl.descriptor((shape[1],), (1,))
    flags = onednn.USE_SCALE | onednn.USE_SHIFT | (onednn.USE_GLOBAL_STATS if fixed else 0)
    kind = onednn.FORWARD_INFERENCE if fixed else onednn.FORWARD_TRAINING
    made = dnnl.create("dnnl_batch_normalization_forward_primitive_desc_create", dnnl.engine, kind, images, images,
                       eps, flags, None)
    return made, onednn.Primitive(dnnl, made, [
        (onednn.SRC, images), (onednn.DST, images), (onednn.MEAN, channels), (onednn.VARIANCE, channels),
        (onednn.SCALE, channels), (onednn.SHIFT, channels)])


@functools.lru_cache(PLANS)
def _share(channels, pixels):
    """Into how many shares to divide ``pixels``: a divisor, with up to ``SUMS`` sums of at least ``SHORT`` pixels."""
    fits = (n for n in range(1, max(SUMS // channels, 1) + 1) if pixels % n == 0 and pixels // n >= min(SHORT, pixels))
    return max(fits)


@functools.lru_cache(PLANS)
def statistics(shape, eps):
    """A function (address, address of as much space) -> mean and variance, float32 (C,), of dense images there.

    oneDNN adds up pixel after pixel: over 512 x 512 of them a variance comes out wrong by 6e-5 of itself, as NumPy's
    does in this layout. So every n-th pixel gets sums of its own: in memory, n pixels of C channels are one of n C.
    They are put together in float64 (Chan, Golub and LeVeque, 1979). To be called with the library's lock held.
    """
    channels, pixels = shape[1], shape[0] * shape[2] * shape[3]
    n = _share(channels, pixels)
    _, primitive = _normalise((1, n * channels, 1, pixels // n), eps, False)
    one = numpy.ones(n * channels, numpy.float32)

    def measure(address, space):
        mean, variance = numpy.empty((2, n, channels), numpy.float32)
        primitive.run(address, space, *(a.ctypes.data for a in (mean, variance, one, one)))
        if n == 1:
            return mean[0], variance[0]
        middle = mean.sum(axis=0, dtype=numpy.float64) / n
        apart = mean - middle
        apart *= apart
        apart += variance
        spread = apart.sum(axis=0) / n
        return middle.astype(numpy.float32), spread.astype(numpy.float32)

    return measure


@functools.lru_cache(PLANS)
def _normalise_backward(shape, eps):
    dnnl = onednn.library()
    images, channels = dnnl.descriptor(shape, last_strides(shape)), dnnl.descriptor((shape[1],), (1,))
    hint, _ = _normalise(shape, eps, False)
    made = dnnl.create("dnnl_batch_normalization_backward_primitive_desc_create", dnnl.engine, onednn.BACKWARD, images,
                       images, images, eps, onednn.USE_SCALE | onednn.USE_SHIFT, hint, None)
    return onednn.Primitive(dnnl, made, [
        (onednn.SRC, images), (onednn.MEAN, channels), (onednn.VARIANCE, channels), (onednn.DIFF_DST, images),
        (onednn.SCALE, channels), (onednn.DIFF_SRC, images), (onednn.DIFF_SCALE, channels),
        (onednn.DIFF_SHIFT, channels)])


def normalise(x, gamma, beta, eps):
    """(gamma (x - mean) / sqrt(variance + eps) + beta, mean (C,), variance (C,)), both over (N, H, W)."""
    x = channels_last(x)
    y = empty_images(x.shape)
    with onednn.library().lock:
        mean, variance = statistics(x.shape, eps)(x.ctypes.data, y.ctypes.data)
    return normalise_fixed(x, gamma, beta, mean, variance, eps, y), mean, variance


def normalise_fixed(x, gamma, beta, mean, variance, eps, y=None):
    """The same with given statistics. ``y``: an array for the result, as ``empty_images`` gives it."""
    dnnl = onednn.library()
    x = channels_last(x)
    y = empty_images(x.shape) if y is None else y
    channels = [numpy.ascontiguousarray(a) for a in (mean, variance, gamma, beta)]
    _, primitive = _normalise(x.shape, eps, True)
    with dnnl.lock:
        primitive.run(*(a.ctypes.data for a in (x, y, *channels)))
    return y


def normalise_backward(x, gamma, mean, variance, gy, eps):
    """Gradients by x, gamma and beta."""
    dnnl = onednn.library()
    x, gy, gamma = channels_last(x), channels_last(gy), numpy.ascontiguousarray(gamma)
    gx, ggamma, gbeta = empty_images(x.shape), numpy.empty_like(gamma), numpy.empty_like(gamma)
    primitive = _normalise_backward(x.shape, eps)
    with dnnl.lock:
        primitive.run(*(a.ctypes.data for a in (x, mean, variance, gy, gamma, gx, ggamma, gbeta)))
    return gx, ggamma, gbeta


@functools.lru_cache(PLANS)
def _rectify(size, slope):
    dnnl = onednn.library()
    line = dnnl.descriptor((size,), (1,))
    made = dnnl.create("dnnl_eltwise_forward_primitive_desc_create", dnnl.engine, onednn.FORWARD_TRAINING,
                       onednn.ELTWISE_RELU, line, line, slope, 0.0, None)
    return made, onednn.Primitive(dnnl, made, [(onednn.SRC, line), (onednn.DST, line)])


@functools.lru_cache(PLANS)
def _rectify_backward(size, slope):
    dnnl = onednn.library()
    line = dnnl.descriptor((size,), (1,))
    hint, _ = _rectify(size, slope)
    made = dnnl.create("dnnl_eltwise_backward_primitive_desc_create", dnnl.engine, onednn.ELTWISE_RELU, line, line,
                       line, slope, 0.0, hint, None)
    return onednn.Primitive(dnnl, made, [(onednn.SRC, line), (onednn.DIFF_DST, line), (onednn.DIFF_SRC, line)])


def normalisation(shape, eps):
    """By given statistics: to be run on x, y, mean, variance, gamma, beta; x and y dense and channels last."""
    return _normalise(shape, eps, True)[1]


def normalisation_backward(shape, eps):
    """Its gradient, on x, mean, variance, gy, gamma, gx, ggamma, gbeta; gx may be gy."""
    return _normalise_backward(shape, eps)


def rectification(size, slope):
    """(Leaky) ReLU of ``size`` numbers, on x and y; y may be x."""
    return _rectify(size, float(slope))[1]


def rectification_backward(size, slope):
    """Its gradient, on the signs (x, or y), gy and gx; gx may be gy."""
    return _rectify_backward(size, float(slope))


def rectify(x, slope):
    """x where x > 0, else slope x; images of any dense layout keep theirs."""
    dnnl = onednn.library()
    x = dense(x)
    y = numpy.empty_like(x)
    _, primitive = _rectify(x.size, slope)
    with dnnl.lock:
        primitive.run(x.ctypes.data, y.ctypes.data)
    return y


def rectify_backward(sign, gy, slope):
    """gy where ``sign`` > 0, else slope gy."""
    dnnl = onednn.library()
    sign = dense(sign)
    gy = channels_last(gy) if sign.ndim == 4 and sign is channels_last(sign) else numpy.ascontiguousarray(gy)
    if gy.strides != sign.strides:
        sign = numpy.ascontiguousarray(sign)
        gy = numpy.ascontiguousarray(gy)
    gx = numpy.empty_like(gy)
    primitive = _rectify_backward(gy.size, slope)
    with dnnl.lock:
        primitive.run(sign.ctypes.data, gy.ctypes.data, gx.ctypes.data)
    return gx


def dense(x):
    """``x`` if it fills its memory in one of the two layouts, else a copy that does."""
    if x.flags.c_contiguous:
        return x
    return channels_last(x) if x.ndim == 4 else numpy.ascontiguousarray(x)
