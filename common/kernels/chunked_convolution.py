"""The sizes that a convolution is made of, whatever computes it, and its computation by matrix products over chunks of
bounded size, for NumPy and CuPy alike.

These are what convolutions run on where a GPU has no cuDNN that Chainer can call, and on the CPU without oneDNN.
Chainer's own way there unfolds the whole batch at once (im2col): 3.3 GB for an image of 512 x 512 in a layer of 64
channels and 7 x 7 taps, and its kernels for a GPU count with 32 bits, which three such images overflow. Here a chunk is
as many whole samples as fit, or a band of rows of one. On the CPU it is at most one sample, multiplied while it is in
the cache. Arguments as in ``cpu.convolution``; any float dtype, any number of groups.
"""

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from medi2i.common.compat import Array, chainer

CHUNK = 1 << 26  # numbers in an unfolded chunk: 256 MiB of float32; also far below what 32 bits can count
BAND = 1 << 20  # the same on the CPU


@dataclass(frozen=True)
class Geometry:
    """A convolution of images (N, C, H, W) to (N, C', H', W'), from ``shape`` to ``out_shape``.

    weights: (C', C / groups, kh, kw). stride, pad (top and left), dilate: (vertical, horizontal), dilate 1 is dense.
    """

    shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    weights: tuple[int, ...]
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilate: tuple[int, int]
    groups: int

    @property
    def pad_after(self) -> tuple[int, ...]:
        """Padding at the bottom and right that the output's size needs; never below 0."""
        return tuple(
            max(0, (out - 1) * s + (k - 1) * d + 1 - size - p)
            for out, s, k, d, size, p in zip(
                self.out_shape[2:], self.stride, self.weights[2:], self.dilate, self.shape[2:], self.pad, strict=True
            )
        )

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compute, which oneDNN does not take."""
        return 0 in self.shape or 0 in self.out_shape or 0 in self.weights


def first_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a dense array in the order of its axes."""
    return tuple(math.prod(shape[axis:]) for axis in range(1, len(shape) + 1))


def chunks(geometry: Geometry, limit: int = CHUNK) -> list[tuple[int, int, int, int]]:
    """(first sample, sample after the last, first output row, row after the last) of every chunk, in order.

    A chunk's unfolded matrix, all groups together, holds at most ``limit`` numbers, or one row where a row is larger.
    """
    samples, out_h, row = geometry.shape[0], geometry.out_shape[2], _row(geometry)
    if row * out_h <= limit:
        step = limit // (row * out_h)
        return [(n, min(n + step, samples), 0, out_h) for n in range(0, samples, step)]
    step = max(1, limit // row)
    return [(n, n + 1, start, min(start + step, out_h)) for n in range(samples) for start in range(0, out_h, step)]


def _row(geometry: Geometry) -> int:
    """Numbers in the unfolded matrix that one row of the output needs, all groups together."""
    return geometry.shape[1] * geometry.weights[2] * geometry.weights[3] * geometry.out_shape[3]


def _limit(xp: ModuleType, geometry: Geometry) -> int:
    return min(BAND, _row(geometry) * geometry.out_shape[2]) if xp is np else CHUNK


def forward(x: Array, weights: Array, bias: Array | None, geometry: Geometry, limit: int | None = None) -> Array:
    """The convolution of ``x`` plus ``bias`` ((C',) or None)."""
    xp = chainer.backend.get_array_module(x)
    groups, out_ch = geometry.groups, len(weights)
    matrix = weights.reshape(groups, out_ch // groups, -1)
    y = xp.empty(geometry.out_shape, x.dtype)
    for first, last, start, stop in chunks(geometry, limit or _limit(xp, geometry)):
        product = xp.matmul(matrix, _unfold(xp, x[first:last], start, stop, geometry))
        y[first:last, :, start:stop] = product.reshape(last - first, out_ch, stop - start, -1)
    if bias is not None:
        y += bias[:, None, None]
    return y


def backward_weights(x: Array, gy: Array, geometry: Geometry, limit: int | None = None) -> Array:
    """The gradient by the weights. Sums over chunks are kept in float32 where arrays are float16."""
    xp = chainer.backend.get_array_module(x)
    groups, out_ch = geometry.groups, geometry.weights[0]
    wide = xp.float32 if x.dtype == xp.float16 else x.dtype
    gw = xp.zeros((groups, out_ch // groups, geometry.weights[1] * geometry.weights[2] * geometry.weights[3]), wide)
    for first, last, start, stop in chunks(geometry, limit or _limit(xp, geometry)):
        columns = _unfold(xp, x[first:last], start, stop, geometry)
        gradient = gy[first:last, :, start:stop].reshape(last - first, groups, out_ch // groups, -1)
        gw += xp.matmul(gradient, columns.transpose(0, 1, 3, 2)).sum(axis=0, dtype=wide)
    return gw.reshape(geometry.weights).astype(x.dtype, copy=False)


def backward_data(gy: Array, weights: Array, geometry: Geometry, limit: int | None = None) -> Array:
    """The gradient by the input."""
    xp = chainer.backend.get_array_module(gy)
    samples, channels, h, w = geometry.shape
    (top, left), (bottom, right), groups = geometry.pad, geometry.pad_after, geometry.groups
    (sy, sx), (dy, dx), (out_ch, _, kh, kw) = geometry.stride, geometry.dilate, geometry.weights
    columns = geometry.out_shape[3]
    padded = xp.zeros((samples, channels, h + top + bottom, w + left + right), gy.dtype)
    matrix = weights.reshape(groups, out_ch // groups, -1).transpose(0, 2, 1)
    for first, last, start, stop in chunks(geometry, limit or _limit(xp, geometry)):
        rows = stop - start
        gradient = gy[first:last, :, start:stop].reshape(last - first, groups, out_ch // groups, -1)
        taps = xp.matmul(matrix, gradient).reshape(last - first, channels, kh, kw, rows, columns)
        for i in range(kh):
            for j in range(kw):
                down, across = start * sy + i * dy, j * dx
                padded[
                    first:last, :, down : down + (rows - 1) * sy + 1 : sy, across : across + (columns - 1) * sx + 1 : sx
                ] += taps[:, :, i, j]
    return xp.ascontiguousarray(padded[:, :, top : top + h, left : left + w])


def _unfold(xp: ModuleType, x: Array, start: int, stop: int, geometry: Geometry) -> Array:
    """(samples, groups, C / groups kh kw, rows W'): what each output pixel of the rows start … stop - 1 sees."""
    samples, channels, h, w = x.shape
    (top, left), (_, right) = geometry.pad, geometry.pad_after
    (sy, sx), (dy, dx), (_, _, kh, kw) = geometry.stride, geometry.dilate, geometry.weights
    columns = geometry.out_shape[3]
    # Only the rows that these outputs see are padded: a copy of one band, not of the batch.
    begin, end = start * sy - top, (stop - 1) * sy + (kh - 1) * dy + 1 - top
    band = xp.zeros((samples, channels, end - begin, w + left + right), x.dtype)
    inside = slice(min(max(begin, 0), h), min(max(end, 0), h))
    band[:, :, inside.start - begin : inside.stop - begin, left : left + w] = x[:, :, inside]
    n, c, y, z = band.strides
    seen = xp.lib.stride_tricks.as_strided(
        band, (samples, channels, kh, kw, stop - start, columns), (n, c, y * dy, z * dx, y * sy, z * sx)
    )
    return xp.ascontiguousarray(seen).reshape(samples, geometry.groups, channels // geometry.groups * kh * kw, -1)
