"""Replacements for the three functions that Chainer's convolutions, and all their derivatives, are made of."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.kernels import chunked_convolution
from medi2i.common.kernels.chunked_convolution import Geometry
from medi2i.common.kernels.cpu import convolution
from medi2i.common.kernels.cpu.arrays import plain_float32
from medi2i.common.kernels.replacing import Replacement, forward_by, instead, no_graph

_conv = chainer.functions.connection.convolution_2d
_deconv = chainer.functions.connection.deconvolution_2d


class Convolutions(Protocol):
    """What computes: a module or an object. Where a function raises OnednnError, Chainer's own code computes."""

    def forward(self, x: Array, weights: Array, bias: Array | None, geometry: Geometry) -> Array:
        """The convolution of ``x`` plus ``bias`` ((C',) or None)."""

    def backward_data(self, gy: Array, weights: Array, geometry: Geometry) -> Array:
        """The gradient by the input."""

    def backward_weights(self, x: Array, gy: Array, geometry: Geometry) -> Array:
        """The gradient by the weights."""


def by_onednn() -> tuple[Replacement, ...]:
    """Replacements on oneDNN."""
    return (
        *_replacements(convolution, lambda geometry, *arrays: plain_float32(*arrays)),
        (_conv.Convolution2DFunction, "backward", instead(_all_gradients)),
    )


def banded() -> tuple[Replacement, ...]:
    """The same on NumPy in bands of rows."""
    return _replacements(
        chunked_convolution,
        lambda geometry, *arrays: (
            geometry.groups == 1
            and all(type(a) is np.ndarray and a.itemsize > 2 for a in arrays)
            and _one_float(*arrays)
        ),
    )


def on_gpu(code: Convolutions) -> tuple[Replacement, ...]:
    """The same for arrays on a GPU. code: as the modules above, with any number of groups."""
    return _replacements(code, lambda geometry, *arrays: _one_float(*arrays), "forward_gpu")


def _one_float(*arrays: Array) -> bool:
    return all(a.dtype == arrays[0].dtype and a.dtype.kind == "f" for a in arrays)


def _replacements(
    code: Convolutions, takes: Callable[..., bool], method: str = "forward_cpu"
) -> tuple[Replacement, ...]:
    """takes: (geometry, *arrays) -> whether ``code`` is for them; method: is replaced."""
    return tuple(
        (owner, method, forward_by(functools.partial(compute, code, takes)))
        for owner, compute in (
            (_conv.Convolution2DFunction, _convolution),
            (_conv.Convolution2DGradW, _gradient_of_weights),
            (_deconv.Deconvolution2DFunction, _deconvolution),
        )
    )


def _geometry(node: Any, shape: tuple[int, ...], out_shape: tuple[int, ...], weights: tuple[int, ...]) -> Geometry:
    return Geometry(shape, out_shape, weights, (node.sy, node.sx), (node.ph, node.pw), (node.dy, node.dx), node.groups)


def _standard(node: Any) -> bool:
    """Whether all inputs have Chainer's standard layout."""
    return all(layout is None for layout in node.input_layouts)


def _convolution(
    code: Convolutions, takes: Callable[..., bool], node: Any, x: Array, weights: Array, *bias: Array
) -> Array | None:
    out_shape = (len(x), len(weights), *node._get_out_size(x.shape, weights.shape))
    geometry = _geometry(node, x.shape, out_shape, weights.shape)
    if geometry.empty or not takes(geometry, x, weights, *bias) or not _standard(node) or node.cudnn_fast:
        return None
    y = code.forward(x, weights, bias[0] if bias else None, geometry)
    node.retain_inputs((0, 1))
    return y


def _gradient_of_weights(
    code: Convolutions, takes: Callable[..., bool], node: Any, x: Array, gy: Array
) -> Array | None:
    geometry = _geometry(node, x.shape, gy.shape, tuple(node.W_shape))
    if geometry.empty or not takes(geometry, x, gy) or node.W_dtype != x.dtype:
        return None
    gw = code.backward_weights(x, gy, geometry)
    node.retain_inputs((0, 1))
    return gw


def _deconvolution(
    code: Convolutions, takes: Callable[..., bool], node: Any, x: Array, weights: Array, *bias: Array
) -> Array | None:
    if not _standard(node):
        return None
    node._calc_out_size(x.shape, weights.shape)
    shape = (len(x), weights.shape[1] * node.groups, node.outh, node.outw)
    geometry = _geometry(node, shape, x.shape, weights.shape)
    if geometry.empty or not takes(geometry, x, weights, *bias):
        return None
    y = code.backward_data(x, weights, geometry)
    if bias:
        y += bias[0][:, None, None]
    node.retain_inputs((0, 1))
    return y


def _all_gradients(
    node: Any, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable, ...]
) -> tuple[chainer.Variable, ...] | None:
    """The three gradients in two calls of oneDNN and no function node, where they are not to be differentiated."""
    if not no_graph(node) or not _standard(node):
        return None
    arrays = [v.array for v in (*node.get_retained_inputs(), *grad_outputs)]
    if not plain_float32(*arrays):
        return None
    x, weights, gy = arrays
    geometry = _geometry(node, x.shape, gy.shape, weights.shape)
    if geometry.empty:
        return None
    gradients: dict[int, Array | None] = {}
    if 0 in indexes:
        gradients[0] = convolution.backward_data(gy, weights, geometry)
    if 1 in indexes or 2 in indexes:
        gradients[1], gradients[2] = convolution.backward_weights_and_bias(x, gy, geometry, 2 in indexes)
    return tuple([chainer.Variable(gradients[index], requires_grad=False) for index in sorted(indexes)])
