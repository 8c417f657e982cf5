"""Replacements for methods of Chainer's function nodes, each made around the original that it falls back to."""
import functools

import numpy

from medi2i.common.compat import chainer
from medi2i.common.kernels import cpu_convolution as convolution
from medi2i.common.kernels.onednn import OnednnError

_conv = chainer.functions.connection.convolution_2d
_deconv = chainer.functions.connection.deconvolution_2d


def replacements():
    """Triples (class, name of a method, function original -> replacement)."""
    return (
        (_conv.Convolution2DFunction, "forward_cpu", _convolution),
        (_conv.Convolution2DGradW, "forward_cpu", _gradient_of_weights),
        (_deconv.Deconvolution2DFunction, "forward_cpu", _deconvolution),
    )


def plain_float32(*arrays):
    """Whether all are NumPy float32: neither another precision nor another library's arrays."""
    return all(type(a) is numpy.ndarray and a.dtype == numpy.float32 for a in arrays)


def _geometry(node, shape, out_shape, weights):
    return convolution.Geometry(shape, out_shape, weights, (node.sy, node.sx), (node.ph, node.pw), (node.dy, node.dx),
                                node.groups)


def _convolution(original):
    @functools.wraps(original)
    def forward_cpu(self, inputs):
        x, weights = inputs[:2]
        bias = inputs[2] if len(inputs) == 3 else None
        if not plain_float32(*inputs) or any(layout is not None for layout in self.input_layouts) or self.cudnn_fast:
            return original(self, inputs)
        out_shape = (len(x), len(weights), *self._get_out_size(x.shape, weights.shape))
        geometry = _geometry(self, x.shape, out_shape, weights.shape)
        if geometry.empty:
            return original(self, inputs)
        try:
            y = convolution.forward(x, weights, bias, geometry)
        except OnednnError:
            return original(self, inputs)
        self.retain_inputs((0, 1))
        return y,

    return forward_cpu


def _gradient_of_weights(original):
    @functools.wraps(original)
    def forward_cpu(self, inputs):
        x, gy = inputs
        geometry = _geometry(self, x.shape, gy.shape, tuple(self.W_shape))
        if not plain_float32(x, gy) or self.W_dtype != numpy.float32 or geometry.empty:
            return original(self, inputs)
        try:
            gw = convolution.backward_weights(x, gy, geometry)
        except OnednnError:
            return original(self, inputs)
        self.retain_inputs((0, 1))
        return gw,

    return forward_cpu


def _deconvolution(original):
    @functools.wraps(original)
    def forward_cpu(self, inputs):
        x, weights = inputs[:2]
        bias = inputs[2] if len(inputs) == 3 else None
        if not plain_float32(*inputs) or any(layout is not None for layout in self.input_layouts):
            return original(self, inputs)
        self._calc_out_size(x.shape, weights.shape)
        shape = (len(x), weights.shape[1] * self.groups, self.outh, self.outw)
        geometry = _geometry(self, shape, x.shape, weights.shape)
        if geometry.empty:
            return original(self, inputs)
        try:
            y = convolution.backward_data(x, weights, geometry)
        except OnednnError:
            return original(self, inputs)
        if bias is not None:
            y += bias[:, None, None]
        self.retain_inputs((0, 1))
        return y,

    return forward_cpu
