"""A training's steps through arrays, in place: Adam's on the CPU, and those of an average on any device.

Adam: Kingma and Ba, arXiv 1412.6980; weight decay decoupled, arXiv 1711.05101. Chainer's takes a dozen passes through
memory. NumPy does here the very same operations, and so gives the same bits, in pieces that stay in the cache; oneDNN
needs three passes, on all threads: a quarter of that time. An average is one kernel on a GPU.
"""

import functools
from typing import Any

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.kernels.cpu import onednn
from medi2i.common.kernels.cpu.arrays import PLANS
from medi2i.common.kernels.gpu.sources import CudaSource

PIECE = 1 << 15  # numbers: two arrays and the scratch of 128 kB each stay in a core's cache
SMALLEST = 1 << 13  # below, NumPy is as quick


def adam_step(param: np.ndarray, grad: np.ndarray, m: np.ndarray, v: np.ndarray, step: float, hyperparam: Any) -> None:
    """One step for float32 arrays of one shape, all C-contiguous; ``param``, ``m`` and ``v`` change in place.

    step: alpha_t, the rate with its bias correction. hyperparam: of ``chainer.optimizers.Adam``, without amsgrad and
    adabound. What Chainer's own code gives, to the last bit.
    """
    p, g, m, v = (a.reshape(-1) for a in (param, grad, m, v))
    scratch = np.empty(min(PIECE, p.size), np.float32)
    for start in range(0, p.size, PIECE):
        part = slice(start, start + PIECE)
        _update(p[part], g[part], m[part], v[part], scratch[: p.size - start], step, hyperparam)


def _update(
    p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, t: np.ndarray, step: float, hyperparam: Any
) -> None:
    np.subtract(g, m, out=t)
    np.multiply(t, 1.0 - hyperparam.beta1, out=t)
    np.add(m, t, out=m)
    np.multiply(g, g, out=t)
    np.subtract(t, v, out=t)
    np.multiply(t, 1.0 - hyperparam.beta2, out=t)
    np.add(v, t, out=v)
    np.sqrt(v, out=t)
    np.add(t, hyperparam.eps, out=t)
    np.divide(step, t, out=t)
    np.multiply(t, m, out=t)
    np.multiply(t, -hyperparam.eta, out=t)
    if (shrink := _shrink(hyperparam)) != 1:
        np.multiply(p, shrink, out=p)
    np.add(p, t, out=p)


def _shrink(hyperparam: Any) -> float:
    return 1.0 - hyperparam.eta * hyperparam.weight_decay_rate


@functools.lru_cache(PLANS)
def _plans(size: int, beta1: float, beta2: float, eps: float) -> list[onednn.Primitive]:
    """The three steps, none where oneDNN has no quick code for one of them."""
    dnnl = onednn.loaded()
    line, scalar = dnnl.dense((size,)), dnnl.dense((1,))
    made = (
        # m + (1 - beta1) (g - m)
        dnnl.binary(onednn.BINARY_SUB, line, [(onednn.ELTWISE_LINEAR, 1.0 - beta1, 0.0), (onednn.SUM, 1.0)]),
        # v + (1 - beta2) (g g - v)
        dnnl.binary(
            onednn.BINARY_MUL,
            line,
            [(onednn.BINARY_SUB, line), (onednn.ELTWISE_LINEAR, 1.0 - beta2, 0.0), (onednn.SUM, 1.0)],
        ),
        # shrink (p + rate / shrink m / (sqrt(v) + eps)); the quick code is for two arrays, so v is max(v, v)
        dnnl.binary(
            onednn.BINARY_MAX,
            line,
            [
                (onednn.ELTWISE_SQRT, 0.0, 0.0),
                (onednn.ELTWISE_LINEAR, 1.0, eps),
                (onednn.ELTWISE_POW, 1.0, -1.0),
                (onednn.BINARY_MUL, line),
                (onednn.BINARY_MUL, scalar),
                (onednn.SUM, 1.0),
                (onednn.BINARY_MUL, scalar),
            ],
        ),
    )
    steps = [step for step in made if step is not None]
    return steps if len(steps) == len(made) else []


def adam_step_by_onednn(
    param: np.ndarray, grad: np.ndarray, m: np.ndarray, v: np.ndarray, step: float, hyperparam: Any
) -> None:
    """As :func:`adam_step`, with the same bits in ``m`` and ``v`` and the same but for rounding in ``param``."""
    shrink = _shrink(hyperparam)
    plans = (
        []
        if param.size < SMALLEST or shrink == 0
        else _plans(param.size, hyperparam.beta1, hyperparam.beta2, hyperparam.eps)
    )
    if not plans:
        adam_step(param, grad, m, v, step, hyperparam)
        return
    first, second, last = plans
    factors = np.array([-hyperparam.eta * step / shrink, shrink], np.float32)
    p, g, mean, square, rate = (a.ctypes.data for a in (param, grad, m, v, factors))
    with onednn.loaded().lock:
        first.run(g, mean, mean)
        second.run(g, g, square, square)
        last.run(square, square, p, mean, rate, rate + factors.itemsize)


_STEP = CudaSource(
    "average_step",
    "elementwise",
    in_params="float32 value, float32 rate",
    out_params="float32 average",
    operation="average += rate * (value - average);",
)


def step_towards(average: Array, value: Array, rate: float) -> None:
    """Move the float32 array ``average`` towards ``value`` (float32, the same shape and device) by ``rate``, 0 to 1."""
    by = np.float32(rate)
    if chainer.backend.get_array_module(average) is not np:
        _STEP(value, by, average)
        return
    if not (average.flags.c_contiguous and value.flags.c_contiguous):
        average += by * (value - average)
        return
    average, value = average.reshape(-1), value.reshape(-1)
    scratch = np.empty(min(PIECE, average.size), np.float32)
    for start in range(0, average.size, PIECE):
        piece = average[start : start + PIECE]
        part = scratch[: piece.size]
        np.subtract(value[start : start + PIECE], piece, out=part)
        part *= by
        piece += part
