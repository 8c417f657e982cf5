"""Resizing of float32 images on the CPU as products with narrow matrices.

Rows and columns are interpolated one after the other. Along one axis the result is A x, where A has two numbers in a
row (bilinear) or one (nearest), close to its diagonal: a few output rows at a time need only a few input rows, so the
product is made of small dense ones, which oneDNN computes at the speed of memory. The gradient is A's transpose.
"""
import functools
from dataclasses import dataclass

import numpy

from medi2i.common.kernels.cpu import onednn
from medi2i.common.kernels.cpu.layout import PLANS, channels_last, empty_images

ROWS = 32


def weights(out_size, in_size, mode, align_corners):
    """A of shape (out_size, in_size), float32, as ``chainer.functions.resize_images`` defines it."""
    if mode == "nearest":
        place = numpy.minimum(numpy.floor(numpy.arange(out_size) * (in_size / out_size)), in_size - 1)
    elif align_corners:
        place = numpy.linspace(0, in_size - 1, num=out_size)
    else:
        place = numpy.maximum((numpy.arange(out_size) + 0.5) * (in_size / out_size) - 0.5, 0)
    fraction, low = numpy.modf(place)
    low, fraction = low.astype(numpy.intp), fraction.astype(numpy.float32)
    matrix = numpy.zeros((out_size, in_size), numpy.float32)
    rows = numpy.arange(out_size)
    numpy.add.at(matrix, (rows, low), 1 - fraction)
    numpy.add.at(matrix, (rows, numpy.minimum(low + 1, in_size - 1)), fraction)
    return matrix


@dataclass(frozen=True)
class Resizing:
    """From images of ``size`` to images of ``out_size``, both (H, W)."""

    size: tuple
    out_size: tuple
    mode: str
    align_corners: bool


class _Bands:
    """Products of A, or of its transpose, with (batch, K, columns) -> (batch, M, columns)."""

    def __init__(self, out_size, in_size, mode, align_corners, transposed, batch, columns):
        dnnl = onednn.library()
        matrix = weights(out_size, in_size, mode, align_corners)
        if transposed:
            matrix = matrix.T
        m, k = matrix.shape
        self._steps = []
        for top in range(0, m, ROWS):
            rows = matrix[top:top + ROWS]
            used = numpy.flatnonzero(rows.any(axis=0))
            first, last = (used[0], used[-1] + 1) if len(used) else (0, 1)
            band = numpy.ascontiguousarray(rows[:, first:last])
            a = dnnl.descriptor((1, *band.shape), (band.size, band.shape[1], 1))
            x = dnnl.descriptor((batch, band.shape[1], columns), (k * columns, columns, 1))
            y = dnnl.descriptor((batch, band.shape[0], columns), (m * columns, columns, 1))
            made = dnnl.create("dnnl_matmul_primitive_desc_create", dnnl.engine, a, x, None, y, None)
            primitive = onednn.Primitive(dnnl, made, [(onednn.SRC, a), (onednn.WEIGHTS, x), (onednn.DST, y)])
            self._steps.append((primitive, band, 4 * columns * int(first), 4 * columns * top))

    def run(self, x, y):
        """x and y: addresses."""
        for primitive, band, x_offset, y_offset in self._steps:
            primitive.run(band.ctypes.data, x + x_offset, y + y_offset)


_bands = functools.lru_cache(PLANS)(_Bands)


def resize(x, resizing):
    """(N, C, H, W) -> (N, C, H', W')."""
    n, c, h, w = x.shape
    out_h, out_w = resizing.out_size
    kind = resizing.mode, resizing.align_corners
    wide = empty_images((n, c, h, out_w))
    y = empty_images((n, c, out_h, out_w))
    _two_products(_bands(out_w, w, *kind, False, n * h, c), _bands(out_h, h, *kind, False, n, out_w * c),
                  channels_last(x), wide, y)
    return y


def resize_backward(gy, resizing):
    """The gradient by the input of :func:`resize`: (N, C, H', W') -> (N, C, H, W)."""
    n, c, out_h, out_w = gy.shape
    h, w = resizing.size
    kind = resizing.mode, resizing.align_corners
    wide = empty_images((n, c, h, out_w))
    gx = empty_images((n, c, h, w))
    _two_products(_bands(out_h, h, *kind, True, n, out_w * c), _bands(out_w, w, *kind, True, n * h, c),
                  channels_last(gy), wide, gx)
    return gx


def _two_products(first, second, source, middle, target):
    with onednn.library().lock:
        first.run(source.ctypes.data, middle.ctypes.data)
        second.run(middle.ctypes.data, target.ctypes.data)
