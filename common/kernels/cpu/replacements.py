"""Replacements for methods of Chainer's function nodes, each made around the original that it falls back to."""
import functools

import numpy

from medi2i.common.compat import chainer
from medi2i.common.kernels import loss_nodes, normalisation_nodes, reference
from medi2i.common.kernels.convolution_nodes import banded, by_onednn
from medi2i.common.kernels.cpu import adam as cpu_adam
from medi2i.common.kernels.cpu import joining, pointwise, quick_apply, resize
from medi2i.common.kernels.cpu import normalisation as cpu_normalisation
from medi2i.common.kernels.cpu.layout import channels_last, plain_float32
from medi2i.common.kernels.cpu.matmul import sum_of_pixels

_functions = chainer.functions
_batch = _functions.normalization.batch_normalization
_leaky = _functions.activation.leaky_relu
_relu = _functions.activation.relu
_math = _functions.math.basic_math
_resize = _functions.array.resize_images
_unpool = _functions.pooling.unpooling_2d

IMAGES = (0, 2, 3)


def replacements(with_onednn):
    """Triples (class, name of a method, function original -> replacement)."""
    adam = (chainer.optimizers.adam.AdamRule, "update_core_cpu",
            _adam(cpu_adam.update_by_onednn if with_onednn else cpu_adam.update))
    losses = (loss_nodes.Engines, "cpu", lambda original: reference)
    apply = (chainer.FunctionNode, "apply", quick_apply.replacement)
    if not with_onednn:
        normalisation = (normalisation_nodes.Engines, "cpu", lambda original: reference)
        return (*banded(), normalisation, losses, adam, apply)
    return (
        *by_onednn(),
        (_batch.GeneralBatchNormalizationImpl, "forward", _batch_normalization),
        (_batch.GeneralBatchNormalizationImpl, "backward", _batch_normalization_backward),
        (_batch.FixedBatchNormalization, "forward", _fixed_batch_normalization),
        (_relu.ReLU, "forward_cpu", _rectifier),
        (_relu.ReLUGrad2, "forward_cpu", _rectifier_backward),
        (_leaky.LeakyReLU, "forward_cpu", _leaky_rectifier),
        (_leaky._LeakyReLUGrad, "forward_cpu", _leaky_rectifier_backward),
        (_resize.ResizeImages, "forward", _resize_images),
        (_resize.ResizeImagesGrad, "forward", _resize_images_backward),
        (_unpool.Unpooling2D, "forward", _unpooling),
        (_unpool.Unpooling2DGrad, "forward", _unpooling_backward),
        (_functions.math.sum.Sum, "forward", _sum),
        (_math.Add, "forward", _add),
        (_functions.array.concat.Concat, "forward", _concatenation),
        (normalisation_nodes.Engines, "cpu", lambda original: cpu_normalisation),
        losses,
        adam,
        apply,
    )


def _images(*arrays):
    return plain_float32(*arrays) and all(a.ndim == 4 and a.size for a in arrays)


def _batch_normalization(original):
    @functools.wraps(original)
    def forward(self, axis, gamma, x, x_layout, xp, expander, beta, eps, decay, running_mean, running_var):
        own_statistics = type(self) is _batch.GeneralBatchNormalizationImpl  # ChainerMN's are of all ranks
        if not own_statistics or xp is not numpy or x_layout is not None or tuple(axis) != IMAGES or not _images(
                x) or not plain_float32(gamma, beta):
            return original(self, axis, gamma, x, x_layout, xp, expander, beta, eps, decay, running_mean, running_var)
        y, mean, variance = pointwise.normalise(x, gamma, beta, eps)
        if running_mean is not None:
            count = x.size // gamma.size
            unbiased = count / max(count - 1.0, 1.0)
            running_mean *= decay
            running_mean += (1 - decay) * mean
            running_var *= decay
            running_var += (1 - decay) * unbiased * variance
        inv_std = numpy.reciprocal(numpy.sqrt(variance + eps, dtype=numpy.float32))
        # The last is handed to backward as it is; this class leaves it empty otherwise.
        return y, None, running_mean, running_var, mean, variance, inv_std, variance

    return forward


def _batch_normalization_backward(original):
    @functools.wraps(original)
    def backward(self, axis, gamma, gy, x, x_layout, xp, expander, mean, inv_std, eps, var, forward_data):
        if forward_data is None or not _images(x, gy):
            return original(self, axis, gamma, gy, x, x_layout, xp, expander, mean, inv_std, eps, var, forward_data)
        gx, ggamma, gbeta = pointwise.normalise_backward(x, gamma, mean, forward_data, gy, eps)
        return gx, None, ggamma, gbeta

    return backward


def _fixed_batch_normalization(original):
    @functools.wraps(original)
    def forward(self, inputs):
        x, gamma, beta, mean, variance = inputs
        axis = _batch._compute_axis(x.ndim, gamma.ndim, self.axis)
        # Its backward needs what Chainer's forward keeps; conversion has no backward.
        if chainer.config.enable_backprop or tuple(axis) != IMAGES or not _images(x) or not plain_float32(*inputs):
            return original(self, inputs)
        return pointwise.normalise_fixed(x, gamma, beta, mean, variance, self.eps),

    return forward


def _rectifier(original):
    @functools.wraps(original)
    def forward_cpu(self, inputs):
        x, = inputs
        if not _images(x):
            return original(self, inputs)
        self.retain_outputs((0,))
        return pointwise.rectify(x, 0.0),

    return forward_cpu


def _rectifier_backward(original):
    @functools.wraps(original)
    def forward_cpu(self, inputs):
        gy, = inputs
        if not _images(gy, self.b):
            return original(self, inputs)
        return pointwise.rectify_backward(self.b, gy, 0.0),

    return forward_cpu


def _leaky_rectifier(original):
    @functools.wraps(original)
    def forward_cpu(self, inputs):
        x, = inputs
        if self.slope < 0 or not _images(x):
            return original(self, inputs)
        self.retain_outputs((0,))
        return pointwise.rectify(x, float(self.slope)),

    return forward_cpu


def _leaky_rectifier_backward(original):
    @functools.wraps(original)
    def forward_cpu(self, inputs):
        gy, = inputs
        if self.slope < 0 or not _images(gy, self.cond):
            return original(self, inputs)
        return pointwise.rectify_backward(self.cond, gy, float(self.slope)),

    return forward_cpu


def _resize_images(original):
    @functools.wraps(original)
    def forward(self, inputs):
        x, = inputs
        if not _images(x) or self.out_H < 1 or self.out_W < 1:
            return original(self, inputs)
        resizing = resize.Resizing(x.shape[2:], (self.out_H, self.out_W), self.mode, self.align_corners)
        return resize.resize(x, resizing),

    return forward


def _resize_images_backward(original):
    @functools.wraps(original)
    def forward(self, inputs):
        gy, = inputs
        if not _images(gy):
            return original(self, inputs)
        resizing = resize.Resizing(tuple(self.input_shape[2:]), gy.shape[2:], self.mode, self.align_corners)
        return resize.resize_backward(gy, resizing),

    return forward


def _doubles(node, shape, out_shape):
    """Whether an unpooling node repeats each pixel a whole number of times and leaves nothing out."""
    return (node.kh, node.kw) == (node.sy, node.sx) and node.ph == node.pw == 0 and (
        out_shape == (shape[0] * node.kh, shape[1] * node.kw))


def _unpooling(original):
    @functools.wraps(original)
    def forward(self, inputs):
        x, = inputs
        size = x.shape[2] * self.kh, x.shape[3] * self.kw
        if not _images(x) or (self.outh, self.outw) not in ((None, None), size) or not _doubles(
                self, x.shape[2:], size) or (self.cover_all and self.outh is None):
            return original(self, inputs)
        self.outh, self.outw = size
        # Chainer's own backward asks this.
        self._use_int_scale_forward = True
        return resize.resize(x, resize.Resizing(x.shape[2:], size, "nearest", False)),

    return forward


def _unpooling_backward(original):
    @functools.wraps(original)
    def forward(self, inputs):
        gy, = inputs
        size = gy.shape[2] // self.kh, gy.shape[3] // self.kw
        if not _images(gy) or not _doubles(self, size, gy.shape[2:]):
            return original(self, inputs)
        return resize.resize_backward(gy, resize.Resizing(size, gy.shape[2:], "nearest", False)),

    return forward


def _sum(original):
    @functools.wraps(original)
    def forward(self, inputs):
        x, = inputs
        if self.axis != IMAGES or self.keepdims or not _images(x) or channels_last(x) is not x:
            return original(self, inputs)
        return sum_of_pixels(x),  # the gradient of a bias

    return forward


def _add(original):
    @functools.wraps(original)
    def forward(self, inputs):
        a, b = inputs
        if not plain_float32(a, b) or not joining.can_add(a, b):
            return original(self, inputs)
        return joining.add(a, b),

    return forward


def _concatenation(original):
    @functools.wraps(original)
    def forward(self, inputs):
        if self.axis != 1 or not _images(*inputs) or not joining.takes(inputs):
            return original(self, inputs)
        return joining.concatenate(inputs),

    return forward


def _adam(update):
    def replacement(original):
        @functools.wraps(original)
        def update_core_cpu(self, param):
            hyperparam = self.hyperparam
            arrays = (param.array, param.grad, self.state.get("m"), self.state.get("v"))
            if hyperparam.amsgrad or hyperparam.adabound or not plain_float32(*arrays) or not all(
                    a.flags.c_contiguous for a in arrays):
                return original(self, param)
            update(*arrays, self.alpha_t, hyperparam)

        return update_core_cpu

    return replacement
