"""Convolutions between many channels and one or two, where oneDNN computes sixteen because its vectors are that long.

With one output channel a k x k convolution is k^2 maps, each a weighted sum of the input's channels, which are shifted
and added: a product of two matrices and 2 k additions. The same holds for the gradient by a narrow input, and
the gradient by the weights is a product with shifted copies of the narrow image. All go in bands of rows that stay in
the cache. Images are (N, C, H, W), channels last; stride and dilation 1, one group.
"""

import numpy as np

from medi2i.common.kernels.cpu.arithmetic import matmul
from medi2i.common.kernels.cpu.layout import channels_last, empty_images
from medi2i.common.kernels.geometry import Geometry

NARROW, WIDE, TAPS = 2, 16, 9
BAND = 1 << 18  # numbers in a band's maps: 1 MB, half of a core's cache


def fits(geometry: Geometry, narrow_axis: int) -> bool:
    """Whether the channels on one side of the weights (0: output, 1: input) are few, on the other many."""
    out_ch, in_ch, kh, kw = geometry.weights
    few, many = (out_ch, in_ch) if narrow_axis == 0 else (in_ch, out_ch)
    return (
        geometry.stride == geometry.dilate == (1, 1)
        and geometry.groups == 1
        and few <= NARROW
        and many >= WIDE
        and kh * kw >= TAPS
    )


def forward(x: np.ndarray, weights: np.ndarray, bias: np.ndarray | None, geometry: Geometry) -> np.ndarray:
    """As ``convolution.forward``, for few output channels."""
    out_ch, in_ch, kh, kw = geometry.weights
    taps = np.ascontiguousarray(weights.transpose(0, 2, 3, 1)).reshape(-1, in_ch)
    top, left = geometry.pad
    y = _spread(channels_last(x), taps, [top - i for i in range(kh)], [left - j for j in range(kw)], geometry.out_shape)
    if bias is not None:
        y += bias[:, None, None]
    return _with_channels_last(y)


def backward_data(gy: np.ndarray, weights: np.ndarray, geometry: Geometry) -> np.ndarray:
    """As ``convolution.backward_data``, for few input channels."""
    out_ch, in_ch, kh, kw = geometry.weights
    taps = np.ascontiguousarray(weights.transpose(1, 2, 3, 0)).reshape(-1, out_ch)
    top, left = geometry.pad
    return _with_channels_last(
        _spread(channels_last(gy), taps, [i - top for i in range(kh)], [j - left for j in range(kw)], geometry.shape)
    )


def backward_weights(x: np.ndarray, gy: np.ndarray, geometry: Geometry) -> np.ndarray:
    """As ``convolution.backward_weights``, for few output channels."""
    out_ch, in_ch, kh, kw = geometry.weights
    top, left = geometry.pad
    x = channels_last(x)
    n, _, h, w = x.shape
    gw = np.zeros((out_ch * kh * kw, in_ch), np.float32)
    # padded[o, r, c] = gy[o, r + top - kh + 1, c + left - kw + 1], 0 outside: tap (i, j) of pixel (r, c) is the number
    # at (r + kh - 1 - i, c + kw - 1 - j).
    padded = np.zeros((out_ch, h + kh - 1, w + kw - 1), np.float32)
    above, before = kh - 1 - top, kw - 1 - left
    rows, columns = (
        _overlap(size, room, by) for size, room, by in zip(gy.shape[2:], padded.shape[1:], (above, before), strict=True)
    )
    if rows is None or columns is None:  # so much padding that no output sees the image
        return gw.reshape(geometry.weights)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(1, 2))[:, :, :, ::-1, ::-1]
    for sample in range(n):
        padded[:, rows[1], columns[1]] = gy[sample][:, rows[0], columns[0]]
        for start, stop in _bands(h, w, out_ch * kh * kw):
            copies = np.ascontiguousarray(windows[:, start:stop].transpose(0, 3, 4, 1, 2))
            pixels = x[sample, :, start:stop].transpose(1, 2, 0).reshape(-1, in_ch)
            gw += matmul(copies.reshape(out_ch * kh * kw, -1), pixels)
    return np.ascontiguousarray(gw.reshape(out_ch, kh, kw, in_ch).transpose(0, 3, 1, 2))


def _spread(
    x: np.ndarray, taps: np.ndarray, down: list[int], right: list[int], out_shape: tuple[int, ...]
) -> np.ndarray:
    """y[o] = the sum over i and j of (taps[o, i, j] x) shifted by (down[i], right[j]); taps (O I J, C), rows in order.

    A dense (N, O, H', W') array. Columns are shifted for all i at once, then rows.
    """
    n, channels, h, w = x.shape
    y = np.zeros(out_shape, np.float32)
    columns = [_overlap(w, out_shape[3], by) for by in right]
    for start, stop in _bands(h, w, len(taps)):
        rows = [_overlap(stop - start, out_shape[2], start + by) for by in down]
        for sample in range(n):
            pixels = x[sample, :, start:stop].transpose(1, 2, 0).reshape(-1, channels)
            maps = matmul(taps, pixels.T).reshape(-1, len(down), len(right), stop - start, w)
            wide = np.zeros((*maps.shape[:2], stop - start, out_shape[3]), np.float32)
            for j, part in enumerate(columns):
                if part is not None:
                    wide[..., part[1]] += maps[:, :, j, :, part[0]]
            for i, part in enumerate(rows):
                if part is not None:
                    y[sample, :, part[1]] += wide[:, i, part[0]]
    return y


def _bands(h: int, w: int, maps: int) -> list[tuple[int, int]]:
    rows = max(1, BAND // (maps * w))
    return [(start, min(start + rows, h)) for start in range(0, h, rows)]


def _overlap(size: int, target_size: int, by: int) -> tuple[slice, slice] | None:
    """(part of the source, part of the target) where something of ``size``, moved by ``by``, meets the target."""
    first, last = max(0, by), min(target_size, size + by)
    return None if first >= last else (slice(first - by, last - by), slice(first, last))


def _with_channels_last(y: np.ndarray) -> np.ndarray:
    if y.shape[1] == 1:
        return y
    z = empty_images(y.shape)
    z[...] = y
    return z
