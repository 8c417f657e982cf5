"""Normalisation with (leaky) ReLU on the CPU by oneDNN, for float32 images (N, C, H, W), channels last.

As :mod:`medi2i.common.kernels.reference`. The activation works in place on what was just normalised, sample
by sample where the statistics are, while that is in the cache and without another array of that size.
"""
import numpy

from medi2i.common.kernels.cpu import onednn
from medi2i.common.kernels.cpu.layout import channels_last, empty_images, plain_float32
from medi2i.common.kernels.cpu.pointwise import (
    normalisation,
    normalisation_backward,
    normalise_fixed,
    rectification,
    rectification_backward,
    statistics,
)


def takes(*images):
    """Whether all are what this module computes with."""
    return plain_float32(*images) and all(x.ndim == 4 and x.size for x in images)


def _parts(x, each):
    """Shape of what is normalised at once, how many there are, and how many bytes apart."""
    n, c, h, w = x.shape
    return ((1, c, h, w), n, 4 * c * h * w) if each else (x.shape, 1, 0)


def _channels(values, channels, stand_in):
    return numpy.full(channels, stand_in, numpy.float32) if values is None else numpy.ascontiguousarray(
        values, numpy.float32)


def forward(x, gamma, beta, eps, slope, each):
    """See :func:`medi2i.common.kernels.reference.forward`."""
    dnnl = onednn.library()
    x = channels_last(x)
    shape, count, step = _parts(x, each)
    channels = shape[1]
    gamma, beta = _channels(gamma, channels, 1), _channels(beta, channels, 0)
    y = empty_images(x.shape)
    mean, variance = (numpy.empty((count, channels, 1, 1), numpy.float32) for _ in range(2))
    measure, normalise = statistics(shape, eps), normalisation(shape, eps)
    rectify = None if slope == 1 else rectification(y.size // count, slope)
    with dnnl.lock:
        for i in range(count):
            out = y.ctypes.data + i * step
            mean[i, :, 0, 0], variance[i, :, 0, 0] = measure(x.ctypes.data + i * step, out)
            normalise.run(x.ctypes.data + i * step, out, mean[i].ctypes.data, variance[i].ctypes.data,
                          gamma.ctypes.data, beta.ctypes.data)
            if rectify is not None:
                rectify.run(out, out)
    return y, mean, variance, numpy.reciprocal(numpy.sqrt(variance + numpy.float32(eps)))


def apply_fixed(x, gamma, beta, mean, variance, eps, slope):
    """The same with given mean and variance (C,): y."""
    channels = x.shape[1]
    y = normalise_fixed(x, _channels(gamma, channels, 1), _channels(beta, channels, 0), mean, variance, eps)
    if slope != 1:
        dnnl = onednn.library()
        rectify = rectification(y.size, slope)
        with dnnl.lock:
            rectify.run(y.ctypes.data, y.ctypes.data)
    return y


def backward(x, gamma, mean, variance, gy, y, eps, slope):
    """gx and the sums, see :func:`medi2i.common.kernels.reference.backward`; y is what forward gave."""
    dnnl = onednn.library()
    x, gy = channels_last(x), channels_last(gy)
    each = len(mean) > 1
    shape, count, step = _parts(x, each)
    gamma = _channels(gamma, shape[1], 1)
    gx = empty_images(x.shape)
    with_x, plain = numpy.empty_like(mean), numpy.empty_like(mean)
    normalise = normalisation_backward(shape, eps)
    rectify = None if slope == 1 else rectification_backward(gx.size // count, slope)
    if rectify is not None:
        y = channels_last(y)
    with dnnl.lock:
        for i in range(count):
            at = i * step
            g, out = gy.ctypes.data + at, gx.ctypes.data + at
            if rectify is not None:
                rectify.run(y.ctypes.data + at, g, out)
                g = out
            normalise.run(x.ctypes.data + at, mean[i].ctypes.data, variance[i].ctypes.data, g, gamma.ctypes.data, out,
                          with_x[i].ctypes.data, plain[i].ctypes.data)
    return gx, with_x, plain
