"""Quick CPU code behind Chainer's own functions: ``enable()`` puts it there, ``disable()`` takes it away.

Chainer's function nodes stay what they are, with their backward and double backward; only what their ``forward``
computes with float32 NumPy arrays is replaced. What a replacement does not take goes to Chainer's code as before.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from medi2i.common.choices import CPU_ENGINES
from medi2i.common.compat import Array, chainer
from medi2i.common.kernels import nodes, reference, steps
from medi2i.common.kernels.convolution_nodes import banded, by_onednn
from medi2i.common.kernels.cpu import normalisation, onednn
from medi2i.common.kernels.cpu.arrays import (
    add,
    can_add,
    can_concatenate,
    channels_last,
    concatenate,
    plain_float32,
    plain_images,
    sum_of_pixels,
)
from medi2i.common.kernels.cpu.resize import resize, resize_backward
from medi2i.common.kernels.replacing import Replaced, Replacement, forward_by, instead, quick_apply

_functions = chainer.functions
_batch = _functions.normalization.batch_normalization
_leaky = _functions.activation.leaky_relu
_relu = _functions.activation.relu
_resize = _functions.array.resize_images
_unpool = _functions.pooling.unpooling_2d

IMAGES = (0, 2, 3)


def replacements(with_onednn: bool) -> tuple[Replacement, ...]:
    """What takes the place of Chainer's code on the CPU."""
    update = steps.adam_step_by_onednn if with_onednn else steps.adam_step
    engine = normalisation if with_onednn else reference
    always = (
        (nodes.NORMALISATION, "cpu", lambda original: engine),
        (nodes.LOSSES, "cpu", lambda original: reference),
        (chainer.optimizers.adam.AdamRule, "update_core_cpu", functools.partial(_adam, update)),
        (chainer.FunctionNode, "apply", quick_apply),
    )
    if not with_onednn:
        return *banded(), *always
    return (
        *by_onednn(),
        *always,
        (_batch.GeneralBatchNormalizationImpl, "forward", instead(_batch_normalization)),
        (_batch.GeneralBatchNormalizationImpl, "backward", instead(_batch_normalization_backward)),
        *(
            (owner, name, forward_by(compute))
            for owner, name, compute in (
                (_batch.FixedBatchNormalization, "forward", _fixed_batch_normalization),
                (_relu.ReLU, "forward_cpu", _rectifier),
                (_relu.ReLUGrad2, "forward_cpu", _rectifier_backward),
                (_leaky.LeakyReLU, "forward_cpu", _rectifier),
                (_leaky._LeakyReLUGrad, "forward_cpu", _rectifier_backward),
                (_resize.ResizeImages, "forward", _resize_images),
                (_resize.ResizeImagesGrad, "forward", _resize_images_backward),
                (_unpool.Unpooling2D, "forward", _unpooling),
                (_unpool.Unpooling2DGrad, "forward", _unpooling_backward),
                (_functions.math.sum.Sum, "forward", _sum),
                (_functions.math.basic_math.Add, "forward", _add),
                (_functions.array.concat.Concat, "forward", _concatenation),
            )
        ),
    )


def _batch_normalization(
    implementation: Any,
    *,
    axis: Any,
    gamma: Array,
    x: Array,
    x_layout: Any,
    beta: Array,
    eps: float,
    decay: float,
    running_mean: Array,
    running_var: Array,
    **others: Any,
) -> tuple | None:
    own_statistics = type(implementation) is _batch.GeneralBatchNormalizationImpl  # ChainerMN's are of all ranks
    images = x_layout is None and tuple(axis) == IMAGES and plain_images(x)
    if not (own_statistics and images and plain_float32(gamma, beta)):
        return None
    y, *statistics = normalisation.forward(x, gamma, beta, eps, 1, False)
    mean, variance, inv_std = (a.reshape(-1) for a in statistics)
    if running_mean is not None:
        count = x.size // gamma.size
        reference.update_running(running_mean, running_var, mean, variance, decay, count / max(count - 1.0, 1.0))
    # The last is handed to backward as it is; this class leaves it empty otherwise.
    return y, None, running_mean, running_var, mean, variance, inv_std, variance


def _batch_normalization_backward(
    implementation: Any,
    axis: Any,
    gamma: Array,
    gy: Array,
    x: Array,
    x_layout: Any,
    xp: Any,
    expander: Any,
    mean: Array,
    inv_std: Array,
    eps: float,
    var: Array,
    forward_data: Array | None,
) -> tuple | None:
    if forward_data is None or not plain_images(x, gy):
        return None
    mean, variance = (a.reshape(1, -1, 1, 1) for a in (mean, forward_data))
    gx, ggamma, gbeta = normalisation.backward(x, gamma, mean, variance, gy, None, eps, 1)
    return gx, None, ggamma.reshape(-1), gbeta.reshape(-1)


def _fixed_batch_normalization(node: Any, x: Array, *channels: Array) -> Array | None:
    axis = _batch._compute_axis(x.ndim, channels[0].ndim, node.axis)
    # Its backward needs what Chainer's forward keeps; conversion has no backward.
    if chainer.config.enable_backprop or tuple(axis) != IMAGES or not plain_images(x) or not plain_float32(*channels):
        return None
    gamma, beta, mean, variance = channels
    return normalisation.apply_fixed(x, gamma, beta, mean, variance, node.eps, 1)


def _slope(node: Any) -> float:
    return float(getattr(node, "slope", 0.0))  # only the leaky ones have it


def _rectifier(node: Any, x: Array) -> Array | None:
    if _slope(node) < 0 or not plain_images(x):
        return None
    node.retain_outputs((0,))
    return normalisation.rectify(x, _slope(node))


def _rectifier_backward(node: Any, gy: Array) -> Array | None:
    signs = node.cond if hasattr(node, "cond") else node.b
    if _slope(node) < 0 or not plain_images(gy, signs):
        return None
    return normalisation.rectify_backward(signs, gy, _slope(node))


def _resize_images(node: Any, x: Array) -> Array | None:
    if not plain_images(x) or node.out_H < 1 or node.out_W < 1:
        return None
    return resize(x, (node.out_H, node.out_W), node.mode, node.align_corners)


def _resize_images_backward(node: Any, gy: Array) -> Array | None:
    return resize_backward(gy, node.input_shape[2:], node.mode, node.align_corners) if plain_images(gy) else None


def _doubles(node: Any, shape: tuple[int, ...], out_shape: tuple[int, ...]) -> bool:
    """Whether an unpooling node repeats each pixel a whole number of times and leaves nothing out."""
    return (
        (node.kh, node.kw) == (node.sy, node.sx)
        and node.ph == node.pw == 0
        and (out_shape == (shape[0] * node.kh, shape[1] * node.kw))
    )


def _unpooling(node: Any, x: Array) -> Array | None:
    size = x.shape[2] * node.kh, x.shape[3] * node.kw
    if (
        not plain_images(x)
        or (node.outh, node.outw) not in ((None, None), size)
        or not _doubles(node, x.shape[2:], size)
        or (node.cover_all and node.outh is None)
    ):
        return None
    node.outh, node.outw = size
    # Chainer's own backward asks this.
    node._use_int_scale_forward = True
    return resize(x, size, "nearest")


def _unpooling_backward(node: Any, gy: Array) -> Array | None:
    size = gy.shape[2] // node.kh, gy.shape[3] // node.kw
    return resize_backward(gy, size, "nearest") if plain_images(gy) and _doubles(node, size, gy.shape[2:]) else None


def _sum(node: Any, x: Array) -> Array | None:
    if node.axis != IMAGES or node.keepdims or not plain_images(x) or channels_last(x) is not x:
        return None
    return sum_of_pixels(x)  # the gradient of a bias


def _add(node: Any, a: Array, b: Array) -> Array | None:
    return add(a, b) if plain_float32(a, b) and can_add(a, b) else None


def _concatenation(node: Any, *inputs: Array) -> Array | None:
    if node.axis != 1 or not plain_images(*inputs) or not can_concatenate(inputs):
        return None
    return concatenate(inputs)


def _adam(update: Callable, original: Callable) -> Callable:
    @functools.wraps(original)
    def update_core_cpu(self: Any, param: Any) -> None:
        hyperparam = self.hyperparam
        arrays = (param.array, param.grad, self.state.get("m"), self.state.get("v"))
        if (
            hyperparam.amsgrad
            or hyperparam.adabound
            or not plain_float32(*arrays)
            or not all(a.flags.c_contiguous for a in arrays)
        ):
            original(self, param)
        else:
            update(*arrays, self.alpha_t, hyperparam)

    return update_core_cpu


_replaced = Replaced()


def enable(engine: str = "auto") -> str:
    """Use the quick code. Doing so twice is the same as once.

    Args:
        engine: "onednn" or "auto": oneDNN where its wheel is installed, else NumPy in bands of rows; "numpy": that
            anyway; "chainer": Chainer's own code.

    Returns: what is in use now, for the log: "oneDNN 3.2.0", "NumPy" or "Chainer". Raises ValueError for
    another ``engine``, and OnednnError where "onednn" is asked for and is not there.
    """
    if engine not in CPU_ENGINES:
        raise ValueError(f"CPU engine {engine!r} is unknown; it can be {', '.join(CPU_ENGINES)}")
    disable()
    if engine == "chainer":
        return "Chainer"
    dnnl = None if engine == "numpy" else onednn.loaded() if engine == "onednn" else onednn.library()
    _replaced.replace(replacements(with_onednn=dnnl is not None))
    return "NumPy" if dnnl is None else "oneDNN " + ".".join(map(str, dnnl.version))


def disable() -> None:
    """Chainer's own code again, everywhere."""
    _replaced.put_back()


@contextlib.contextmanager
def using(engine: str) -> Iterator[str]:
    """``enable(engine)`` for a block, and what was before afterwards; for tests and benchmarks."""
    with _replaced.kept():
        yield enable(engine)
