"""Resizing of float32 images on the CPU as products with narrow matrices.

Rows and columns are interpolated one after the other. Along one axis the result is A x, where A has two numbers in a
row (bilinear) or one (nearest), close to its diagonal: a few output rows at a time need only a few input rows, so the
product is made of small dense ones, which oneDNN computes at the speed of memory. The gradient is A's transpose.
"""

import functools

import numpy as np

from medi2i.common.kernels.cpu import onednn
from medi2i.common.kernels.cpu.arrays import PLANS, channels_last, empty_images, product

ROWS = 32


def weights(out_size: int, in_size: int, mode: str, align_corners: bool) -> np.ndarray:
    """A of shape (out_size, in_size), float32, as ``chainer.functions.resize_images`` defines it."""
    if mode == "nearest":
        place = np.minimum(np.floor(np.arange(out_size) * (in_size / out_size)), in_size - 1)
    elif align_corners:
        place = np.linspace(0, in_size - 1, num=out_size)
    else:
        place = np.maximum((np.arange(out_size) + 0.5) * (in_size / out_size) - 0.5, 0)
    fraction, low = np.modf(place)
    low, fraction = low.astype(np.intp), fraction.astype(np.float32)
    matrix = np.zeros((out_size, in_size), np.float32)
    rows = np.arange(out_size)
    np.add.at(matrix, (rows, low), 1 - fraction)
    np.add.at(matrix, (rows, np.minimum(low + 1, in_size - 1)), fraction)
    return matrix


class _Bands:
    """Products of A, or of its transpose, with (batch, K, columns) -> (batch, M, columns)."""

    def __init__(
        self, out_size: int, in_size: int, mode: str, align_corners: bool, transposed: bool, batch: int, columns: int
    ) -> None:
        matrix = weights(out_size, in_size, mode, align_corners)
        if transposed:
            matrix = matrix.T
        m, k = matrix.shape
        self._steps = []
        for top in range(0, m, ROWS):
            rows = matrix[top : top + ROWS]
            used = np.flatnonzero(rows.any(axis=0))
            first, last = (used[0], used[-1] + 1) if len(used) else (0, 1)
            band = np.ascontiguousarray(rows[:, first:last])
            height, width = band.shape
            primitive = product(
                ((1, height, width), (batch, width, columns), (batch, height, columns)),
                ((band.size, width, 1), (k * columns, columns, 1), (m * columns, columns, 1)),
            )
            self._steps.append((primitive, band, 4 * columns * int(first), 4 * columns * top))

    def run(self, x: int, y: int) -> None:
        """x and y: addresses."""
        for primitive, band, x_offset, y_offset in self._steps:
            primitive.run(band.ctypes.data, x + x_offset, y + y_offset)


_bands = functools.lru_cache(PLANS)(_Bands)


def resize(x: np.ndarray, out_size: tuple[int, ...], mode: str, align_corners: bool = False) -> np.ndarray:
    """(N, C, H, W) -> (N, C, H', W'), ``out_size`` being (H', W')."""
    n, c, h, w = x.shape
    out_h, out_w = out_size
    columns = _bands(out_w, w, mode, align_corners, False, n * h, c)
    rows = _bands(out_h, h, mode, align_corners, False, n, out_w * c)
    return _two_products(columns, rows, x, (n, c, h, out_w), (n, c, out_h, out_w))


def resize_backward(gy: np.ndarray, size: tuple[int, ...], mode: str, align_corners: bool = False) -> np.ndarray:
    """The gradient by the input of :func:`resize`: (N, C, H', W') -> (N, C, H, W), ``size`` being (H, W)."""
    n, c, out_h, out_w = gy.shape
    h, w = size
    rows = _bands(out_h, h, mode, align_corners, True, n, out_w * c)
    columns = _bands(out_w, w, mode, align_corners, True, n * h, c)
    return _two_products(rows, columns, gy, (n, c, h, out_w), (n, c, h, w))


def _two_products(
    first: _Bands, second: _Bands, source: np.ndarray, middle_shape: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:
    source, middle, target = channels_last(source), empty_images(middle_shape), empty_images(shape)
    with onednn.loaded().lock:
        first.run(source.ctypes.data, middle.ctypes.data)
        second.run(middle.ctypes.data, target.ctypes.data)
    return target
