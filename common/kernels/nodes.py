"""Normalisation with (leaky) ReLU as one function of Chainer, differentiable as often as one likes, and losses of one
array, each value and each gradient in one go.

On a GPU they run on :mod:`~medi2i.common.kernels.gpu.normalisation_kernels` and
:mod:`~medi2i.common.kernels.gpu.loss_kernels`. On the CPU normalisation runs on oneDNN
(:mod:`~medi2i.common.kernels.cpu.normalisation`) where that is in use, and losses on
:mod:`~medi2i.common.kernels.reference` unless Chainer's own code is asked for. Elsewhere Chainer's functions one after
the other do the same: :func:`is_fused` tells.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from medi2i.common.compat import Array, ArrayOrVariable, F, chainer
from medi2i.common.kernels import reference
from medi2i.common.kernels.gpu import loss_kernels, normalisation_kernels


class Engines:
    """What computes: ``gpu`` for CuPy's arrays, ``cpu`` for NumPy's; None: Chainer's own functions."""

    def __init__(self, gpu: ModuleType) -> None:
        self.gpu: ModuleType | None = gpu
        self.cpu: ModuleType | None = None

    def of(self, x: Array) -> ModuleType | None:
        """That for the array ``x``."""
        return self.cpu if isinstance(x, np.ndarray) else self.gpu


NORMALISATION, LOSSES = Engines(normalisation_kernels), Engines(loss_kernels)


def is_fused(x: ArrayOrVariable) -> bool:
    """Whether images ``x`` (N, C, H, W; array or Variable) are for the functions here."""
    x = getattr(x, "array", x)
    engine = NORMALISATION.of(x)
    return engine is not None and x.ndim == 4 and x.size > 0 and x.dtype.kind == "f" and _engine(x) is engine


def normalise(
    x: ArrayOrVariable,
    gamma: ArrayOrVariable | None,
    beta: ArrayOrVariable | None,
    eps: float,
    slope: float,
    each: bool = False,
    fixed: tuple[Array, Array] | None = None,
    overwrite: bool = False,
) -> tuple[chainer.Variable, "Normalise"]:
    """f(gamma (x - mean) / sqrt(variance + eps) + beta), with f(v) = v where v > 0, else slope v.

    Args: x (N, C, H, W); gamma, beta (C,), or None both: 1 and 0; slope: 0 ReLU, 1 no activation;
    each: statistics of every sample by itself, over (H, W), else over (N, H, W); fixed: given mean and variance,
    arrays (C,), as batch normalisation has them outside of training; overwrite: nothing else needs ``x``, whose memory
    the result may take where statistics are fixed and no graph is made.

    Returns the Variable and the function node, which has ``mean`` and ``variance`` (N, C, 1, 1) or (1, C, 1, 1).
    """
    node = Normalise(eps, slope, each, fixed, overwrite)
    return node.apply((x,) if gamma is None else (x, gamma, beta))[0], node


def update_running(running_mean: Array, running_variance: Array, node: "Normalise", x: Array, decay: float) -> None:
    """Chainer's running statistics, in place, after ``node`` has normalised images ``x``."""
    count = x.size // running_mean.size
    engine = reference if isinstance(running_mean, np.ndarray) else NORMALISATION.gpu
    engine.update_running(
        running_mean, running_variance, node.mean, node.variance, decay, count / max(count - 1.0, 1.0)
    )


def _engine(*images: Array) -> ModuleType:
    """What computes with them; NumPy's code where oneDNN, which alone says what it ``takes``, does not take them."""
    engine = NORMALISATION.of(images[0])
    return reference if engine is None or (hasattr(engine, "takes") and not engine.takes(*images)) else engine


class Normalise(chainer.FunctionNode):
    """See :func:`normalise`. Inputs x, or x, gamma, beta."""

    mean: Array
    variance: Array
    inv_std: Array

    def __init__(
        self,
        eps: float,
        slope: float,
        each: bool,
        fixed: tuple[Array, Array] | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        self.eps, self.slope, self.each, self.fixed, self.overwrite = float(eps), float(slope), each, fixed, overwrite

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        self.retain_inputs(tuple(range(len(inputs))))
        x, gamma, beta = _three(inputs)
        self.engine = engine = _engine(x)
        if self.fixed is None:
            y, self.mean, self.variance, self.inv_std = engine.forward(x, gamma, beta, self.eps, self.slope, self.each)
            if self._needs_output:
                self.retain_outputs((0,))
            return (y,)
        mean, variance = self.fixed
        if hasattr(engine, "takes"):
            if not chainer.config.enable_backprop:
                return (engine.apply_fixed(x, gamma, beta, mean, variance, self.eps, self.slope, self.overwrite),)
            self.engine = reference
        wide = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
        self.mean, self.variance = (v.astype(wide, copy=False).reshape(1, -1, 1, 1) for v in (mean, variance))
        self.inv_std = 1 / (self.variance + wide.type(self.eps)) ** wide.type(0.5)
        return (self.engine.apply(x, gamma, beta, self.mean, self.inv_std, self.slope),)

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable | None, ...]
    ) -> tuple[chainer.Variable | None, ...]:
        inputs = self.get_retained_inputs()
        y = self.get_retained_outputs()[0].array if self._needs_output else None
        gx, with_x, plain = NormaliseGrad(self, y).apply((*inputs, *grad_outputs))
        if len(inputs) == 1:
            return (gx,)
        return (gx, *(F.cast(_by_channel(sums), inputs[1].dtype) for sums in (with_x, plain)))

    @property
    def by_onednn(self) -> bool:
        """Whether oneDNN made the output; its backward then takes the signs of the activation from there."""
        return self.fixed is None and hasattr(self.engine, "takes")

    @property
    def _needs_output(self) -> bool:
        return self.by_onednn and self.slope != 1


class NormaliseGrad(chainer.FunctionNode):
    """The gradient of :class:`Normalise` ``node``: inputs x (, gamma, beta) and gy.

    Outputs gx, sum(g (x - mean) inv_std) and sum(g) of each group of statistics, g being gy times the slope of f.
    """

    def __init__(self, node: Normalise, y: Array | None = None) -> None:
        super().__init__()
        self.node, self.y = node, y

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        self.retain_inputs(tuple(range(len(inputs))))
        node = self.node
        *rest, gy = inputs
        x, gamma, beta = _three(rest)
        if node.by_onednn and node.engine.takes(x, gy):
            return node.engine.backward(x, gamma, node.mean, node.variance, gy, self.y, node.eps, node.slope)
        engine = reference if isinstance(x, np.ndarray) else node.engine
        return engine.backward(x, gamma, beta, node.mean, node.inv_std, gy, node.slope, node.fixed is not None)

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable | None, ...]
    ) -> tuple[chainer.Variable | None, ...]:
        """With n = (x - mean) r, r = inv_std, m the size of a group and P(u) = u - mean(u) - n mean(u n),

        the outputs are gamma r P(g), sum(g n) and sum(g). P is symmetric, dr/dx = -n r^2 / m, and the derivative of n
        is r P. Given gradients a, b, c of the outputs, that by g is gamma r P(a) + b n + c, and that by x is
        r P(h) - gamma r sum(a r P(g)) n / m with h = b g - gamma r (a sum(g n) + g sum(a n)) / m.
        """
        node = self.node
        *rest, gy = self.get_retained_inputs()
        x, gamma, beta = _three(rest)
        wide = node.mean.dtype
        dtypes = [v.dtype for v in (*rest, gy)]
        x, g = F.cast(x, wide), F.cast(gy, wide)
        xp = chainer.backend.get_array_module(x)
        a, b, c = (
            xp.zeros(shape, wide) if v is None else F.cast(v, wide)
            for v, shape in zip(grad_outputs, (x.shape, node.mean.shape, node.mean.shape), strict=True)
        )
        plain = Normalise(node.eps, 1, node.each, node.fixed)
        (normal,) = plain.apply((x,))
        factor = 1.0 if gamma is None else F.reshape(F.cast(gamma, wide), (1, -1, 1, 1))
        slopes = None
        if node.slope != 1:
            v = normal if gamma is None else normal * factor + F.reshape(F.cast(beta, wide), (1, -1, 1, 1))
            # Not xp.where of two numbers: CuPy may take those for float16.
            slopes = (v.array > 0).astype(wide) * (1.0 - node.slope) + node.slope
            g = g * slopes
        r = _inverse_deviation(x, node)
        if node.fixed is not None:
            a_r = a * r
            by_g, by_x, inner = factor * a_r, b * r * g, F.sum(a_r * g, axis=(0, 2, 3))
        else:
            a_r, a_sum, _ = NormaliseGrad(plain).apply((x, a))
            g_r, g_sum, _ = NormaliseGrad(plain).apply((x, g))
            inner = F.sum(a * g_r, axis=(2, 3) if node.each else (0, 2, 3), keepdims=True)
            scale = factor * r * float(node.mean.size / x.size)
            h = b * g - scale * (a * g_sum + g * a_sum)
            by_x = NormaliseGrad(plain).apply((x, h))[0] - scale * inner * normal
            by_g = factor * a_r
            inner = _by_channel(inner)
        by_g = by_g + b * normal + c
        if slopes is not None:
            by_g = by_g * slopes
        outputs = [by_x, by_g] if gamma is None else [by_x, inner, None, by_g]
        return tuple(None if v is None else F.cast(v, dtype) for v, dtype in zip(outputs, dtypes, strict=True))


def _by_channel(sums: chainer.Variable) -> chainer.Variable:
    """(N, C, 1, 1) -> (C,), summed over samples; (1, C, 1, 1) needs no sum."""
    return F.reshape(sums, (-1,)) if len(sums) == 1 else F.sum(sums, axis=(0, 2, 3))


def _three(inputs: Sequence[Any]) -> tuple[Any, Any, Any]:
    return (*inputs, None, None) if len(inputs) == 1 else tuple(inputs)


def _inverse_deviation(x: chainer.Variable, node: Normalise) -> chainer.Variable:
    """inv_std of ``node`` as a function of x where a third derivative is asked for, else as an array."""
    if node.fixed is not None or not chainer.config.enable_backprop:
        return chainer.as_variable(node.inv_std)
    axis = (2, 3) if node.each else (0, 2, 3)
    apart = x - F.mean(x, axis=axis, keepdims=True)
    return F.rsqrt(F.mean(apart * apart, axis=axis, keepdims=True) + node.eps)


def rectified(y: ArrayOrVariable, slope: float) -> chainer.Variable:
    """y where y > 0, else slope y: 0 is ReLU, 1 ``y`` itself."""
    if slope == 1:
        return chainer.as_variable(y)
    return F.relu(y) if slope == 0 else F.leaky_relu(y, slope)


def normalise_features(x: ArrayOrVariable, eps: float, slope: float = 1.0) -> chainer.Variable:
    """f(x / sqrt(mean of x² over the channels + eps)) of x (N, C, H, W), with f(v) = v where v > 0, else slope v."""
    return NormaliseFeatures(eps, slope).apply((x,))[0]


class NormaliseFeatures(chainer.FunctionNode):
    """See :func:`normalise_features`. Half precision is computed in single: squares overflow above 256, and eps may be
    nothing there."""

    def __init__(self, eps: float, slope: float) -> None:
        super().__init__()
        self.eps, self.slope = eps, slope

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        self.retain_inputs((0,))
        y, _ = self._normal(inputs[0])
        if self.slope != 1:
            xp = chainer.backend.get_array_module(y)
            xp.maximum(y, y * y.dtype.type(self.slope), out=y)
        return (y.astype(inputs[0].dtype, copy=False),)

    def _normal(self, x: Array) -> tuple[Array, Array]:
        """x scale and scale (N, 1, H, W), in single precision at least."""
        x = x.astype(np.float32, copy=False) if x.dtype == np.float16 else x
        scale = (_mean_product(x, x) + x.dtype.type(self.eps)) ** x.dtype.type(-0.5)
        return x * scale, scale

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable, ...]
    ) -> tuple[chainer.Variable, ...]:
        (x,), (g,) = self.get_retained_inputs(), grad_outputs
        if chainer.config.enable_backprop:
            inner = F.identity(x)  # what x was made of is not to be differentiated here
            return chainer.grad([self._formula(inner)], [inner], [g], enable_double_backprop=True)
        normal, scale = self._normal(x.array)
        inner_g = g.array.astype(normal.dtype, copy=False)
        if self.slope != 1:
            inner_g = inner_g * reference.slopes(normal, self.slope)
        normal *= _mean_product(inner_g, normal)
        gx = inner_g - normal
        gx *= scale
        return (chainer.as_variable(gx.astype(x.dtype, copy=False)),)

    def _formula(self, x: chainer.Variable) -> chainer.Variable:
        wide = in_float32(x)
        scale = F.rsqrt(F.mean(wide * wide, axis=1, keepdims=True) + self.eps)
        return F.cast(rectified(wide * F.broadcast_to(scale, wide.shape), self.slope), x.dtype)


def _mean_product(x: Array, y: Array) -> Array:
    """The mean of x y over the channels (N, C, H, W) -> (N, 1, H, W); on CPUs in one pass over memory."""
    return chainer.backend.get_array_module(x).einsum("nchw,nchw->nhw", x, y)[:, None] / x.dtype.type(x.shape[1])


def in_float32(value: ArrayOrVariable) -> chainer.Variable:
    """``value`` as a Variable, float16 as float32; wider numbers stay (float64 is for gradient checks)."""
    variable = chainer.as_variable(value)
    return F.cast(variable, np.float32) if variable.dtype == np.float16 else variable


def loss_of(
    name: str, formula: Callable[[chainer.Variable], chainer.Variable], y: ArrayOrVariable, *constants: float | None
) -> chainer.Variable:
    """A scalar Variable: the loss ``name`` (of the engines' modules) of y, or ``formula``, where it is not for them.

    Args: formula: Variable y -> the same loss in Chainer's functions; it is also what is differentiated when a
    gradient is to be differentiated again. constants: further arguments of the engine's functions.
    """
    y = chainer.as_variable(y)
    engine = LOSSES.of(y.array)
    known = y.dtype == np.float32 or (y.dtype == np.float16 and not isinstance(y.array, np.ndarray))
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
