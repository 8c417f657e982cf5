"""Convolution and its two gradients on the CPU by oneDNN, for float32 arrays.

Images have their channels last in memory (see ``layout``). That was the quickest for nearly every layer tried, so it is
a rule and not measured at run time: the same training gives the same numbers. Only weights change their layout, to the
one oneDNN asks for; next to the images they are small.
"""
import functools

import numpy

from medi2i.common.kernels.cpu import narrow, onednn
from medi2i.common.kernels.cpu.layout import PLANS, channels_last, empty_images
from medi2i.common.kernels.cpu.matmul import sum_of_pixels
from medi2i.common.kernels.geometry import first_strides, last_strides


class _Weights:
    """The weights of a plan: their plain layout, the primitive's own, and the way between them if it is needed."""

    def __init__(self, dnnl, geometry, wanted, into):
        shape = _grouped(geometry)
        plain = dnnl.descriptor(shape, first_strides(shape))
        self._reorder = None
        if not dnnl.same(plain, wanted):
            self._reorder = dnnl.reorder(plain, wanted) if into else dnnl.reorder(wanted, plain)
            self._buffer = numpy.empty(dnnl.size(wanted), numpy.uint8)

    def enter(self, weights):
        """Address of the weights in the primitive's layout."""
        if self._reorder is None:
            return weights.ctypes.data
        self._reorder.run(weights.ctypes.data, self._buffer.ctypes.data)
        return self._buffer.ctypes.data

    def address(self, weights):
        """Where the primitive is to write."""
        return weights.ctypes.data if self._reorder is None else self._buffer.ctypes.data

    def leave(self, weights):
        """Bring what the primitive wrote into ``weights``."""
        if self._reorder is not None:
            self._reorder.run(self._buffer.ctypes.data, weights.ctypes.data)


def _grouped(geometry):
    if geometry.groups == 1:
        return geometry.weights
    out_ch, *rest = geometry.weights
    return geometry.groups, out_ch // geometry.groups, *rest


def _forward_descriptor(dnnl, geometry, bias):
    shapes = geometry.shape, geometry.out_shape
    source, target = (dnnl.descriptor(shape, last_strides(shape)) for shape in shapes)
    weights = dnnl.descriptor(_grouped(geometry))
    made = dnnl.create(
        "dnnl_convolution_forward_primitive_desc_create", dnnl.engine, onednn.FORWARD_TRAINING,
        onednn.CONVOLUTION_DIRECT, source, weights, bias, target, *_window(geometry), None)
    return made, source, weights, target


def _window(geometry):
    return (onednn.dims(geometry.stride), onednn.dims(d - 1 for d in geometry.dilate), onednn.dims(geometry.pad),
            onednn.dims(geometry.pad_after))


class _Forward:
    def __init__(self, geometry, with_bias):
        dnnl = onednn.library()
        bias = dnnl.descriptor((geometry.weights[0],), (1,)) if with_bias else None
        made, source, _, target = _forward_descriptor(dnnl, geometry, bias)
        wanted = dnnl.wanted(made, onednn.WEIGHTS)
        arguments = [(onednn.SRC, source), (onednn.WEIGHTS, wanted), (onednn.DST, target)]
        if with_bias:
            arguments.append((onednn.BIAS, bias))
        self.primitive = onednn.Primitive(dnnl, made, arguments)
        self.weights = _Weights(dnnl, geometry, wanted, into=True)


class _BackwardData:
    def __init__(self, geometry):
        dnnl = onednn.library()
        hint, source, weights, target = _forward_descriptor(dnnl, geometry, None)
        made = dnnl.create(
            "dnnl_convolution_backward_data_primitive_desc_create", dnnl.engine, onednn.CONVOLUTION_DIRECT, source,
            weights, target, *_window(geometry), hint, None)
        wanted = dnnl.wanted(made, onednn.WEIGHTS)
        self.primitive = onednn.Primitive(
            dnnl, made, [(onednn.DIFF_DST, target), (onednn.WEIGHTS, wanted), (onednn.DIFF_SRC, source)])
        self.weights = _Weights(dnnl, geometry, wanted, into=True)


class _BackwardWeights:
    def __init__(self, geometry, with_bias):
        dnnl = onednn.library()
        hint, source, weights, target = _forward_descriptor(dnnl, geometry, None)
        bias = dnnl.descriptor((geometry.weights[0],), (1,)) if with_bias else None
        made = dnnl.create(
            "dnnl_convolution_backward_weights_primitive_desc_create", dnnl.engine, onednn.CONVOLUTION_DIRECT, source,
            weights, bias, target, *_window(geometry), hint, None)
        wanted = dnnl.wanted(made, onednn.DIFF_WEIGHTS)
        arguments = [(onednn.SRC, source), (onednn.DIFF_DST, target), (onednn.DIFF_WEIGHTS, wanted)]
        if with_bias:
            arguments.append((onednn.DIFF_BIAS, bias))
        self.primitive = onednn.Primitive(dnnl, made, arguments)
        self.weights = _Weights(dnnl, geometry, wanted, into=False)


_forward_plan = functools.lru_cache(PLANS)(_Forward)
_backward_data_plan = functools.lru_cache(PLANS)(_BackwardData)
_backward_weights_plan = functools.lru_cache(PLANS)(_BackwardWeights)


def forward(x, weights, bias, geometry):
    """The convolution of ``x`` plus ``bias`` ((C',) or None). Raises OnednnError where oneDNN cannot."""
    if narrow.fits(geometry, narrow_axis=0):
        return narrow.forward(x, weights, bias, geometry)
    dnnl = onednn.library()
    x, weights = channels_last(x), numpy.ascontiguousarray(weights)
    y = empty_images(geometry.out_shape)
    plan = _forward_plan(geometry, bias is not None)
    with dnnl.lock:
        addresses = [x.ctypes.data, plan.weights.enter(weights), y.ctypes.data]
        if bias is not None:
            bias = numpy.ascontiguousarray(bias)
            addresses.append(bias.ctypes.data)
        plan.primitive.run(*addresses)
    return y


def backward_data(gy, weights, geometry):
    """The gradient by the input: ``gy`` has ``out_shape``, the result ``shape``. Raises OnednnError."""
    if narrow.fits(geometry, narrow_axis=1):
        return narrow.backward_data(gy, weights, geometry)
    dnnl = onednn.library()
    gy, weights = channels_last(gy), numpy.ascontiguousarray(weights)
    gx = empty_images(geometry.shape)
    plan = _backward_data_plan(geometry)
    with dnnl.lock:
        plan.primitive.run(gy.ctypes.data, plan.weights.enter(weights), gx.ctypes.data)
    return gx


def backward_weights(x, gy, geometry):
    """The gradient by the weights, in their plain layout. Raises OnednnError."""
    return backward_weights_and_bias(x, gy, geometry, False)[0]


def backward_weights_and_bias(x, gy, geometry, with_bias=True):
    """The gradients by the weights and by the bias ((C',), or None without). Raises OnednnError."""
    if narrow.fits(geometry, narrow_axis=0):
        return narrow.backward_weights(x, gy, geometry), (
            sum_of_pixels(channels_last(gy)) if with_bias else None)
    dnnl = onednn.library()
    x, gy = channels_last(x), channels_last(gy)
    gw = numpy.empty(geometry.weights, numpy.float32)
    gb = numpy.empty(geometry.weights[0], numpy.float32) if with_bias else None
    plan = _backward_weights_plan(geometry, with_bias)
    with dnnl.lock:
        addresses = [x.ctypes.data, gy.ctypes.data, plan.weights.address(gw)]
        if with_bias:
            addresses.append(gb.ctypes.data)
        plan.primitive.run(*addresses)
        plan.weights.leave(gw)
    return gw, gb
