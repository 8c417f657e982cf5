"""What a forward pass costs: multiply-adds, arrays kept for the backward pass, the largest workspace.

``shapes_only`` makes convolutions and matrix products return zeros of the right shape, so that a network of any size is
counted in a second.
"""

import contextlib
import math
from dataclasses import dataclass, field

import numpy

from medi2i.common.compat import F, chainer

_CONV = F.connection.convolution_2d.Convolution2DFunction
_DECONV = F.connection.deconvolution_2d.Deconvolution2DFunction
_LINEAR = F.connection.linear.LinearFunction
_MATMUL = F.math.matmul.MatMul


def _conv_shape(function, x, w):
    size = chainer.utils.conv.get_conv_outsize
    return (
        len(x),
        len(w),
        size(x.shape[2], w.shape[2], function.sy, function.ph, cover_all=function.cover_all, d=function.dy),
        size(x.shape[3], w.shape[3], function.sx, function.pw, cover_all=function.cover_all, d=function.dx),
    )


def _deconv_shape(function, x, w):
    size = chainer.utils.conv.get_deconv_outsize
    return (
        len(x),
        w.shape[1] * function.groups,
        size(x.shape[2], w.shape[2], function.sy, function.ph, d=function.dy),
        size(x.shape[3], w.shape[3], function.sx, function.pw, d=function.dx),
    )


def _conv_zeros(self, inputs):
    self.retain_inputs((0, 1))
    # What the real forward pass would have worked out and the backward pass reads is not needed: nothing goes back.
    return (numpy.zeros(_conv_shape(self, *inputs[:2]), inputs[0].dtype),)


def _deconv_zeros(self, inputs):
    self.retain_inputs((0, 1))
    return (numpy.zeros(_deconv_shape(self, *inputs[:2]), inputs[0].dtype),)


def _linear_zeros(self, inputs):
    self.retain_inputs((0, 1))
    return (numpy.zeros((len(inputs[0]), len(inputs[1])), inputs[0].dtype),)


@contextlib.contextmanager
def shapes_only():
    """While the block runs, convolutions and linear layers on the CPU give zeros, at no cost."""
    replaced = (
        (_CONV, "forward_cpu", _conv_zeros),
        (_DECONV, "forward_cpu", _deconv_zeros),
        (_LINEAR, "forward", _linear_zeros),
    )
    before = [cls.__dict__[name] for cls, name, _ in replaced]
    for cls, name, stand_in in replaced:
        setattr(cls, name, stand_in)
    try:
        yield
    finally:
        for (cls, name, _), original in zip(replaced, before, strict=True):
            setattr(cls, name, original)


@dataclass
class Cost:
    """Of one forward pass: multiply-adds, and bytes of the largest matrix that a convolution unfolds into."""

    multiply_adds: int = 0
    workspace: int = 0


@dataclass
class CostHook(chainer.FunctionHook):
    """Adds up the cost of all functions called while it is active: ``with CostHook() as hook``."""

    name = "medi2i.CostHook"
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self):
        super().__init__()

    def forward_preprocess(self, function, in_data):
        if isinstance(function, (_CONV, _DECONV)):
            x, w = in_data[:2]
            transposed = isinstance(function, _DECONV)
            out = _deconv_shape(function, x, w) if transposed else _conv_shape(function, x, w)
            # Each pixel of the smaller image meets the whole kernel, for each output channel of its group.
            pixels = x.shape[2:] if transposed else out[2:]
            columns = len(x) * math.prod(pixels) * math.prod(w.shape[2:])
            self.cost.multiply_adds += columns * x.shape[1] * out[1] // function.groups
            self.cost.workspace = max(
                self.cost.workspace, columns * (out[1] if transposed else x.shape[1]) * x.dtype.itemsize
            )
        elif isinstance(function, _LINEAR):
            self.cost.multiply_adds += len(in_data[0]) * in_data[1].size
        elif isinstance(function, _MATMUL):
            a, b = in_data
            rows = a.shape[-1] if function.transa else a.shape[-2]
            self.cost.multiply_adds += rows * b.size


def kept_bytes(outputs, links) -> int:
    """Bytes of the arrays that the graph behind ``outputs`` keeps for the backward pass, the weights of ``links`` not.

    Besides inputs and outputs that functions retain these are what they remember themselves (masks, pooling places).
    """
    weights = {id(p.array) for link in links for p in link.params()}
    seen, total = set(weights), 0
    functions, pending = set(), [v.creator_node for v in outputs if v.creator_node is not None]
    while pending:
        function = pending.pop()
        if id(function) in functions:
            continue
        functions.add(id(function))
        nodes = [*function.inputs, *(ref() for ref in function.outputs)]
        arrays = [node.data for node in nodes if node is not None]
        arrays += [value for value in vars(function).values() if isinstance(value, numpy.ndarray)]
        for array in arrays:
            if array is not None and id(_owner(array)) not in seen:
                seen.add(id(_owner(array)))
                total += array.nbytes
        pending += [node.creator_node for node in function.inputs if node.creator_node is not None]
    return total


def _owner(array):
    """The array whose memory ``array`` shows: reshaped and sliced arrays take none of their own."""
    while isinstance(array.base, numpy.ndarray):
        array = array.base
    return array
