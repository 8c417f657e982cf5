"""Losses on neighbouring pixels and on a discriminator's answer in NumPy, each as value and gradient.

What the CUDA kernels of :mod:`medi2i.common.kernels.loss_cuda` are compared with; values are those of
:mod:`medi2i.common.losses`. Images are (N, C, H, W), H and W >= 2.
"""
import numpy


def absolute_variation(y):
    """mean |dx| + mean |dy| of differences to the next row and column."""
    down, right = _differences(y)
    return numpy.abs(down).mean() + numpy.abs(right).mean()


def absolute_variation_gradient(y, g):
    """Gradient of ``g`` times that by y; where a difference is 0 its slope is taken as 0."""
    down, right = _differences(y)
    gy = numpy.zeros_like(y)
    _add_down(gy, numpy.sign(down) * y.dtype.type(g / down.size))
    _add_right(gy, numpy.sign(right) * y.dtype.type(g / right.size))
    return gy


def variation(y, tau):
    """mean sqrt(dx^2 + dy^2 + tau^2) where both differences exist, (H - 1) x (W - 1)."""
    return _length(*_both(y), tau).mean()


def variation_gradient(y, tau, g):
    """Gradient of ``g`` times that by y; 0 from places where the root is 0."""
    down, right = _both(y)
    length = _length(down, right, tau)
    factor = numpy.divide(y.dtype.type(g / length.size), length, out=numpy.zeros_like(length), where=length > 0)
    gy = numpy.zeros_like(y)
    _add_down(gy[:, :, :, :-1], down * factor)
    _add_right(gy[:, :, :-1, :], right * factor)
    return gy


def least_squares(d, target):
    """mean (d - target)^2, d of any shape."""
    return numpy.square(d - d.dtype.type(target)).mean()


def least_squares_gradient(d, target, g):
    """Gradient of ``g`` times that by d."""
    return (d - d.dtype.type(target)) * d.dtype.type(2.0 * g / d.size)


def _differences(y):
    return y[:, :, 1:] - y[:, :, :-1], y[:, :, :, 1:] - y[:, :, :, :-1]


def _both(y):
    down, right = _differences(y)
    return down[:, :, :, :-1], right[:, :, :-1, :]


def _length(down, right, tau):
    return numpy.sqrt(numpy.square(down) + numpy.square(right) + down.dtype.type(tau * tau))


def _add_down(gy, g):
    gy[:, :, 1:] += g
    gy[:, :, :-1] -= g


def _add_right(gy, g):
    gy[:, :, :, 1:] += g
    gy[:, :, :, :-1] -= g
