"""Replacements for the three functions that Chainer's convolutions, and all their derivatives, are made of."""
import functools

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.kernels.cpu import bands, convolution
from medi2i.common.kernels.cpu.convolution import Geometry
from medi2i.common.kernels.cpu.layout import plain_float32
from medi2i.common.kernels.cpu.onednn import OnednnError
from medi2i.common.kernels.cpu.quick_apply import no_graph

_conv = chainer.functions.connection.convolution_2d
_deconv = chainer.functions.connection.deconvolution_2d


def by_onednn():
    """Triples (class, name of a method, function original -> replacement) on oneDNN."""
    return (*_triples(convolution, lambda geometry, *arrays: plain_float32(*arrays)),
            (_conv.Convolution2DFunction, "backward", _all_gradients))


def banded():
    """The same on NumPy in bands of rows."""
    return _triples(bands, lambda geometry, *arrays: geometry.groups == 1 and _plain(*arrays))


def on_gpu(code):
    """The same for arrays on a GPU. code: as the modules above, with any number of groups."""
    def takes(geometry, *arrays):
        return all(a.dtype == arrays[0].dtype and a.dtype.kind == "f" for a in arrays)

    return _triples(code, takes, "forward_gpu")


def _plain(*arrays):
    return all(type(a) is np.ndarray and a.dtype == arrays[0].dtype and a.dtype.kind == "f" and a.itemsize > 2
               for a in arrays)


def _triples(code, takes, method="forward_cpu"):
    """code: has forward, backward_data and backward_weights; takes: which arrays it is for; method: is replaced."""
    return ((_conv.Convolution2DFunction, method, functools.partial(_convolution, code, takes)),
            (_conv.Convolution2DGradW, method, functools.partial(_gradient_of_weights, code, takes)),
            (_deconv.Deconvolution2DFunction, method, functools.partial(_deconvolution, code, takes)))


def _geometry(node, shape, out_shape, weights):
    return Geometry(shape, out_shape, weights, (node.sy, node.sx), (node.ph, node.pw), (node.dy, node.dx), node.groups)


def _standard(node):
    """Whether all inputs have Chainer's standard layout."""
    return all(layout is None for layout in node.input_layouts)


def _convolution(code, takes, original):
    @functools.wraps(original)
    def forward_cpu(self, inputs):
        x, weights = inputs[:2]
        bias = inputs[2] if len(inputs) == 3 else None
        out_shape = (len(x), len(weights), *self._get_out_size(x.shape, weights.shape))
        geometry = _geometry(self, x.shape, out_shape, weights.shape)
        if geometry.empty or not takes(geometry, *inputs) or not _standard(self) or self.cudnn_fast:
            return original(self, inputs)
        try:
            y = code.forward(x, weights, bias, geometry)
        except OnednnError:
            return original(self, inputs)
        self.retain_inputs((0, 1))
        return y,

    return forward_cpu


def _all_gradients(original):
    """The three gradients in two calls of oneDNN and no function node, where they are not to be differentiated."""
    @functools.wraps(original)
    def backward(self, indexes, grad_outputs):
        if not no_graph(self) or not _standard(self):
            return original(self, indexes, grad_outputs)
        arrays = [v.array for v in (*self.get_retained_inputs(), *grad_outputs)]
        if not plain_float32(*arrays):
            return original(self, indexes, grad_outputs)
        x, weights, gy = arrays
        geometry = _geometry(self, x.shape, gy.shape, weights.shape)
        if geometry.empty:
            return original(self, indexes, grad_outputs)
        try:
            gradients = []
            if 0 in indexes:
                gradients.append(convolution.backward_data(gy, weights, geometry))
            if 1 in indexes or 2 in indexes:
                gw, gb = convolution.backward_weights_and_bias(x, gy, geometry, 2 in indexes)
                gradients += [gradient for index, gradient in ((1, gw), (2, gb)) if index in indexes]
        except OnednnError:
            return original(self, indexes, grad_outputs)
        return tuple([chainer.Variable(gradient, requires_grad=False) for gradient in gradients])

    return backward


def _gradient_of_weights(code, takes, original):
    @functools.wraps(original)
    def forward_cpu(self, inputs):
        x, gy = inputs
        geometry = _geometry(self, x.shape, gy.shape, tuple(self.W_shape))
        if geometry.empty or not takes(geometry, x, gy) or self.W_dtype != x.dtype:
            return original(self, inputs)
        try:
            gw = code.backward_weights(x, gy, geometry)
        except OnednnError:
            return original(self, inputs)
        self.retain_inputs((0, 1))
        return gw,

    return forward_cpu


def _deconvolution(code, takes, original):
    @functools.wraps(original)
    def forward_cpu(self, inputs):
        x, weights = inputs[:2]
        bias = inputs[2] if len(inputs) == 3 else None
        if not _standard(self):
            return original(self, inputs)
        self._calc_out_size(x.shape, weights.shape)
        shape = (len(x), weights.shape[1] * self.groups, self.outh, self.outw)
        geometry = _geometry(self, shape, x.shape, weights.shape)
        if geometry.empty or not takes(geometry, *inputs):
            return original(self, inputs)
        try:
            y = code.backward_data(x, weights, geometry)
        except OnednnError:
            return original(self, inputs)
        if bias is not None:
            y += bias[:, None, None]
        self.retain_inputs((0, 1))
        return y,

    return forward_cpu
