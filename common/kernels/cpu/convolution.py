"""Convolution and its two gradients on the CPU by oneDNN, for float32 arrays.

Images have their channels last in memory (see ``arrays``). That was the quickest for nearly every layer tried, so it is
a rule and not measured at run time: the same training gives the same numbers. Only weights change their layout, to the
one oneDNN asks for; next to the images they are small.

Between many channels and one or two oneDNN computes sixteen, because its vectors are that long. There, with one output
channel, a k x k convolution is k^2 maps, each a weighted sum of the input's channels, which are shifted and added: a
product of two matrices and 2 k additions. The same holds for the gradient by a narrow input, and the gradient by the
weights is a product with shifted copies of the narrow image. All go in bands of rows that stay in the cache.
"""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np

from medi2i.common.kernels.chunked_convolution import Geometry
from medi2i.common.kernels.cpu import onednn
from medi2i.common.kernels.cpu.arrays import PLANS, channels_last, empty_images, matmul, sum_of_pixels

NARROW, WIDE, TAPS = 2, 16, 9
BAND = 1 << 18  # numbers in a band's maps: 1 MB, half of a core's cache

# What each product is called with; the weights, or their gradient, come first.
_ARGUMENTS = {
    "forward": (onednn.WEIGHTS, onednn.SRC, onednn.DST, onednn.BIAS),
    "backward_data": (onednn.WEIGHTS, onednn.DIFF_DST, onednn.DIFF_SRC),
    "backward_weights": (onednn.DIFF_WEIGHTS, onednn.SRC, onednn.DIFF_DST, onednn.DIFF_BIAS),
}


class _Plan:
    """One of the three products, and the way of the weights between their plain layout and the one oneDNN asks for."""

    def __init__(self, kind: str, geometry: Geometry, with_bias: bool) -> None:
        self._dnnl = dnnl = onednn.loaded()
        out_ch, *rest = geometry.weights
        grouped = (out_ch, *rest) if geometry.groups == 1 else (geometry.groups, out_ch // geometry.groups, *rest)
        source, target = dnnl.images(geometry.shape), dnnl.images(geometry.out_shape)
        weights, bias = dnnl.descriptor(grouped), dnnl.dense((out_ch,)) if with_bias else None
        window = [
            onednn.Dims(*values)
            for values in (geometry.stride, (d - 1 for d in geometry.dilate), geometry.pad, geometry.pad_after)
        ]
        made = dnnl.create(
            "dnnl_convolution_forward_primitive_desc_create",
            dnnl.engine,
            onednn.FORWARD_TRAINING,
            onednn.CONVOLUTION_DIRECT,
            source,
            weights,
            bias if kind == "forward" else None,
            target,
            *window,
            None,
        )
        if kind != "forward":
            layouts = (source, weights, target) if kind == "backward_data" else (source, weights, bias, target)
            made = dnnl.create(
                f"dnnl_convolution_{kind}_primitive_desc_create",
                dnnl.engine,
                onednn.CONVOLUTION_DIRECT,
                *layouts,
                *window,
                made,
                None,
            )
        first, *others = _ARGUMENTS[kind]
        plain, own = dnnl.dense(grouped), dnnl.wanted(made, first)
        known = {onednn.SRC: source, onednn.DIFF_SRC: source, onednn.DST: target, onednn.DIFF_DST: target}
        if bias is not None:
            known |= {onednn.BIAS: bias, onednn.DIFF_BIAS: bias}
        self._primitive = onednn.Primitive(
            dnnl, made, {first: own} | {number: known[number] for number in others if number in known}
        )
        self._way = None
        if not dnnl.same(plain, own):
            self._result = first == onednn.DIFF_WEIGHTS
            self._way = dnnl.reorder(own, plain) if self._result else dnnl.reorder(plain, own)
            self._buffer = np.empty(dnnl.size(own), np.uint8)

    def __call__(self, weights: np.ndarray, *arrays: np.ndarray) -> None:
        """The arrays are those of ``_ARGUMENTS``, the bias only if the plan is made with it."""
        addresses = [a.ctypes.data for a in arrays]
        plain = weights.ctypes.data
        with self._dnnl.lock:
            if self._way is None:
                self._primitive.run(plain, *addresses)
                return
            own = self._buffer.ctypes.data
            if not self._result:
                self._way.run(plain, own)
            self._primitive.run(own, *addresses)
            if self._result:
                self._way.run(own, plain)


_plan = functools.lru_cache(PLANS)(_Plan)


def forward(x: np.ndarray, weights: np.ndarray, bias: np.ndarray | None, geometry: Geometry) -> np.ndarray:
    """The convolution of ``x`` plus ``bias`` ((C',) or None). Raises OnednnError where oneDNN cannot."""
    if is_narrow(geometry, narrow_axis=0):
        y = _narrow(x, weights, geometry, 1, geometry.out_shape)
        if bias is not None:
            y += bias[:, None, None]
        return channels_last(y)
    y = empty_images(geometry.out_shape)
    _plan("forward", geometry, bias is not None)(np.ascontiguousarray(weights), channels_last(x), y, *_given(bias))
    return y


def backward_data(gy: np.ndarray, weights: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The gradient by the input: ``gy`` has ``out_shape``, the result ``shape``. Raises OnednnError."""
    if is_narrow(geometry, narrow_axis=1):
        return channels_last(_narrow(gy, weights.transpose(1, 0, 2, 3), geometry, -1, geometry.shape))
    gx = empty_images(geometry.shape)
    _plan("backward_data", geometry, False)(np.ascontiguousarray(weights), channels_last(gy), gx)
    return gx


def backward_weights(x: np.ndarray, gy: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The gradient by the weights, in their plain layout. Raises OnednnError."""
    return backward_weights_and_bias(x, gy, geometry, False)[0]


def backward_weights_and_bias(
    x: np.ndarray, gy: np.ndarray, geometry: Geometry, with_bias: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """The gradients by the weights and by the bias ((C',), or None without). Raises OnednnError."""
    if is_narrow(geometry, narrow_axis=0):
        return _narrow_backward_weights(x, gy, geometry), (sum_of_pixels(channels_last(gy)) if with_bias else None)
    if geometry.weights[2:] == (1, 1) and geometry.stride != (1, 1) and geometry.pad == (0, 0):
        # Of the pixels that count oneDNN 2023.2 makes a copy, which runs beyond its end where channels fill no vector.
        rows, columns = (slice(None, size * s, s) for size, s in zip(gy.shape[2:], geometry.stride, strict=True))
        x = x[:, :, rows, columns]
        geometry = dataclasses.replace(geometry, shape=x.shape, stride=(1, 1))
    gw = np.empty(geometry.weights, np.float32)
    gb = np.empty(geometry.weights[0], np.float32) if with_bias else None
    _plan("backward_weights", geometry, with_bias)(gw, channels_last(x), channels_last(gy), *_given(gb))
    return gw, gb


def _given(bias: np.ndarray | None) -> Iterable[np.ndarray]:
    return () if bias is None else (np.ascontiguousarray(bias),)


def is_narrow(geometry: Geometry, narrow_axis: int) -> bool:
    """Whether the channels on one side of the weights (0: output, 1: input) are few, on the other many.

    Stride and dilation 1, one group.
    """
    out_ch, in_ch, kh, kw = geometry.weights
    few, many = (out_ch, in_ch) if narrow_axis == 0 else (in_ch, out_ch)
    return (
        geometry.stride == geometry.dilate == (1, 1)
        and geometry.groups == 1
        and few <= NARROW
        and many >= WIDE
        and kh * kw >= TAPS
    )


def _narrow(x: np.ndarray, weights: np.ndarray, geometry: Geometry, sign: int, shape: tuple[int, ...]) -> np.ndarray:
    """As ``forward`` without bias, for few output channels, into an array of ``shape``; with a ``sign`` of -1 and the
    first axes of ``weights`` exchanged as ``backward_data``, for few input channels."""
    taps = np.ascontiguousarray(weights.transpose(0, 2, 3, 1)).reshape(-1, weights.shape[1])
    down, right = (
        [sign * (pad - i) for i in range(size)] for pad, size in zip(geometry.pad, geometry.weights[2:], strict=True)
    )
    return _spread(channels_last(x), taps, down, right, shape)


def _narrow_backward_weights(x: np.ndarray, gy: np.ndarray, geometry: Geometry) -> np.ndarray:
    """As ``backward_weights``, for few output channels."""
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
