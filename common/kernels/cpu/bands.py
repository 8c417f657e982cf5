"""Convolution and its two gradients by NumPy alone, a band of output rows at a time.

For machines without oneDNN. Chainer unfolds the whole batch (im2col) before it multiplies: 1.8 GB for one image of
512 x 512 in the last layer of the tutorial's network. A band is unfolded here and multiplied while it is in the cache,
so memory stays bounded and less of it moves. Arguments as in ``cpu.convolution``, any float dtype, one group.
"""
from collections.abc import Iterator

import numpy as np

from medi2i.common.kernels.geometry import Geometry

BAND = 1 << 20  # numbers in an unfolded band


def forward(x: np.ndarray, weights: np.ndarray, bias: np.ndarray | None, geometry: Geometry) -> np.ndarray:
    """The convolution of ``x`` plus ``bias`` ((C',) or None)."""
    out_ch = len(weights)
    y = np.empty(geometry.out_shape, x.dtype)
    matrix = weights.reshape(out_ch, -1)
    for sample, start, stop, unfolded in _unfolded(x, geometry):
        y[sample, :, start:stop] = (matrix @ unfolded).reshape(out_ch, stop - start, -1)
    if bias is not None:
        y += bias[:, None, None]
    return y


def backward_weights(x: np.ndarray, gy: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The gradient by the weights."""
    out_ch = geometry.weights[0]
    gw = np.zeros((out_ch, geometry.weights[1] * geometry.weights[2] * geometry.weights[3]), x.dtype)
    for sample, start, stop, unfolded in _unfolded(x, geometry):
        gw += gy[sample, :, start:stop].reshape(out_ch, -1) @ unfolded.T
    return gw.reshape(geometry.weights)


def backward_data(gy: np.ndarray, weights: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The gradient by the input."""
    n, channels, h, w = geometry.shape
    (top, left), (bottom, right) = geometry.pad, geometry.pad_after
    (sy, sx), (dy, dx), (_, _, kh, kw) = geometry.stride, geometry.dilate, geometry.weights
    out_ch, columns = geometry.weights[0], geometry.out_shape[3]
    padded = np.zeros((n, channels, h + top + bottom, w + left + right), gy.dtype)
    matrix = weights.reshape(out_ch, -1).T
    for sample in range(n):
        for start, stop in _bands(geometry):
            rows = stop - start
            taps = (matrix @ gy[sample, :, start:stop].reshape(out_ch, -1)).reshape(channels, kh, kw, rows, columns)
            for i in range(kh):
                for j in range(kw):
                    down, across = start * sy + i * dy, j * dx
                    padded[sample, :, down:down + (rows - 1) * sy + 1:sy,
                           across:across + (columns - 1) * sx + 1:sx] += taps[:, i, j]
    return np.ascontiguousarray(padded[:, :, top:top + h, left:left + w])


def _bands(geometry: Geometry) -> list[tuple[int, int]]:
    channels, kh, kw = geometry.weights[1:]
    _, _, out_h, out_w = geometry.out_shape
    rows = max(1, BAND // (channels * kh * kw * out_w))
    return [(start, min(start + rows, out_h)) for start in range(0, out_h, rows)]


def _unfolded(x: np.ndarray, geometry: Geometry) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """Yields (sample, first row, row after the last, matrix (C kh kw, rows W') of what each output pixel sees)."""
    n, channels, h, w = geometry.shape
    (top, left), (bottom, right) = geometry.pad, geometry.pad_after
    (sy, sx), (dy, dx), (_, _, kh, kw) = geometry.stride, geometry.dilate, geometry.weights
    columns = geometry.out_shape[3]
    for sample in range(n):
        padded = np.zeros((channels, h + top + bottom, w + left + right), x.dtype)
        padded[:, top:top + h, left:left + w] = x[sample]
        windows = np.lib.stride_tricks.sliding_window_view(
            padded, ((kh - 1) * dy + 1, (kw - 1) * dx + 1), axis=(1, 2))[:, ::sy, ::sx, ::dy, ::dx]
        for start, stop in _bands(geometry):
            seen = windows[:, start:stop, :columns].transpose(0, 3, 4, 1, 2)
            yield sample, start, stop, np.ascontiguousarray(seen).reshape(channels * kh * kw, -1)
