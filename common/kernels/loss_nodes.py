"""Losses of one array as functions of Chainer, each value and each gradient in one go.

On a GPU by :mod:`~medi2i.common.kernels.gpu.loss_kernels`, on the CPU by :mod:`~medi2i.common.kernels.reference` unless
Chainer's own code is asked for.
"""

from collections.abc import Callable
from types import ModuleType

import numpy as np

from medi2i.common.compat import Array, ArrayOrVariable, F, chainer
from medi2i.common.kernels.gpu import loss_kernels


def in_float32(value: ArrayOrVariable) -> chainer.Variable:
    """``value`` as a Variable, float16 as float32; wider numbers stay (float64 is for gradient checks)."""
    variable = chainer.as_variable(value)
    return F.cast(variable, np.float32) if variable.dtype == np.float16 else variable


class LossEngines:
    """What computes: ``gpu`` for CuPy's arrays, ``cpu`` for NumPy's (None: the formula in Chainer's functions)."""

    gpu: ModuleType | None = loss_kernels
    cpu: ModuleType | None = None


def loss_of(
    name: str, formula: Callable[[chainer.Variable], chainer.Variable], y: ArrayOrVariable, *constants: float | None
) -> chainer.Variable:
    """A scalar Variable: the loss ``name`` (of the engines' modules) of y, or ``formula``, where it is not for them.

    Args: formula: Variable y -> the same loss in Chainer's functions; it is also what is differentiated when a
    gradient is to be differentiated again. constants: further arguments of the engine's functions.
    """
    y = chainer.as_variable(y)
    on_cpu = isinstance(y.array, np.ndarray)
    engine = LossEngines.cpu if on_cpu else LossEngines.gpu
    known = y.dtype == np.float32 or (y.dtype == np.float16 and not on_cpu)
    if engine is None or not known or y.size == 0:
        return formula(y)
    return Loss(engine, name, formula, constants).apply((y,))[0]


class Loss(chainer.FunctionNode):
    """See :func:`loss_of`."""

    def __init__(
        self,
        engine: ModuleType,
        name: str,
        formula: Callable[[chainer.Variable], chainer.Variable],
        constants: tuple[float | None, ...],
    ) -> None:
        super().__init__()
        self.value, self.gradient = getattr(engine, name), getattr(engine, f"{name}_gradient")
        self.formula, self.constants = formula, constants

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        self.retain_inputs((0,))
        value = self.value(inputs[0], *self.constants)
        return (chainer.backend.get_array_module(inputs[0]).asarray(value, dtype=np.float32),)

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable, ...]
    ) -> tuple[chainer.Variable, ...]:
        (y,) = self.get_retained_inputs()
        (g,) = grad_outputs
        if chainer.config.enable_backprop:
            # Not y itself: what y was made of is not to be differentiated here.
            inner = F.identity(y)
            return chainer.grad([self.formula(inner)], [inner], [g], enable_double_backprop=True)
        return (chainer.as_variable(self.gradient(y.array, *self.constants, g.array)),)
