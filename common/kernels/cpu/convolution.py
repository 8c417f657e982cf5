"""Convolution and its two gradients on the CPU by oneDNN, for float32 arrays.

Images have their channels last in memory (see ``layout``). That was the quickest for nearly every layer tried, so it is
a rule and not measured at run time: the same training gives the same numbers. Only weights change their layout, to the
one oneDNN asks for; next to the images they are small.
"""

import functools
from collections.abc import Iterable

import numpy as np

from medi2i.common.kernels.cpu import narrow, onednn
from medi2i.common.kernels.cpu.arithmetic import sum_of_pixels
from medi2i.common.kernels.cpu.layout import PLANS, channels_last, empty_images
from medi2i.common.kernels.geometry import Geometry

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
            onednn.dims(values)
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
    if narrow.fits(geometry, narrow_axis=0):
        return narrow.forward(x, weights, bias, geometry)
    y = empty_images(geometry.out_shape)
    _plan("forward", geometry, bias is not None)(np.ascontiguousarray(weights), channels_last(x), y, *_given(bias))
    return y


def backward_data(gy: np.ndarray, weights: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The gradient by the input: ``gy`` has ``out_shape``, the result ``shape``. Raises OnednnError."""
    if narrow.fits(geometry, narrow_axis=1):
        return narrow.backward_data(gy, weights, geometry)
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
    if narrow.fits(geometry, narrow_axis=0):
        return narrow.backward_weights(x, gy, geometry), (sum_of_pixels(channels_last(gy)) if with_bias else None)
    gw = np.empty(geometry.weights, np.float32)
    gb = np.empty(geometry.weights[0], np.float32) if with_bias else None
    _plan("backward_weights", geometry, with_bias)(gw, channels_last(x), channels_last(gy), *_given(gb))
    return gw, gb


def _given(bias: np.ndarray | None) -> Iterable[np.ndarray]:
    return () if bias is None else (np.ascontiguousarray(bias),)
