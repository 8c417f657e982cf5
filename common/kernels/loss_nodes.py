"""Losses of one array as functions of Chainer, each value and each gradient in one go.

On a GPU by :mod:`~medi2i.common.kernels.gpu.loss_kernels`, on the CPU by :mod:`~medi2i.common.kernels.reference` unless
Chainer's own code is asked for.
"""
import numpy as np

from medi2i.common.compat import F, chainer
from medi2i.common.kernels.gpu import loss_kernels


class Engines:
    """What computes: ``gpu`` for CuPy's arrays, ``cpu`` for NumPy's (None: the formula in Chainer's functions)."""

    gpu = loss_kernels
    cpu = None


def loss_of(name, formula, y, *constants):
    """A scalar Variable: the loss ``name`` (of the engines' modules) of y, or ``formula``, where it is not for them.

    Args: formula: Variable y -> the same loss in Chainer's functions; it is also what is differentiated when a
    gradient is to be differentiated again. constants: further arguments of the engine's functions, numbers.
    """
    y = chainer.as_variable(y)
    on_cpu = isinstance(y.array, np.ndarray)
    engine = Engines.cpu if on_cpu else Engines.gpu
    known = y.dtype == np.float32 or (y.dtype == np.float16 and not on_cpu)
    if engine is None or not known or y.size == 0:
        return formula(y)
    return Loss(engine, name, formula, constants).apply((y,))[0]


class Loss(chainer.FunctionNode):
    """See :func:`loss_of`."""

    def __init__(self, engine, name, formula, constants):
        super().__init__()
        self.value, self.gradient = getattr(engine, name), getattr(engine, f"{name}_gradient")
        self.formula, self.constants = formula, constants

    def forward(self, inputs):
        self.retain_inputs((0,))
        value = self.value(inputs[0], *self.constants)
        return chainer.backend.get_array_module(inputs[0]).asarray(value, dtype=np.float32),

    def backward(self, indexes, grad_outputs):
        y, = self.get_retained_inputs()
        g, = grad_outputs
        if chainer.config.enable_backprop:
            # Not y itself: what y was made of is not to be differentiated here.
            inner = F.identity(y)
            return chainer.grad([self.formula(inner)], [inner], [g], enable_double_backprop=True)
        return chainer.as_variable(self.gradient(y.array, *self.constants, g.array)),
