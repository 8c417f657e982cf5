"""What a discriminator's answer costs: least squares, plain or weighted by place, logistic, hinge and Wasserstein.

A patch discriminator answers D of shape (N, 1, h, w). With ``dis_reg_weighting`` it answers (N, 2, h, w): the second
channel is how much it trusts its own decision at each place.
"""

from collections.abc import Callable

from medi2i.common.compat import Array, ArrayOrVariable, F, chainer
from medi2i.common.kernels.nodes import in_float32, loss_of


def _decision(d: ArrayOrVariable, channels: int) -> chainer.Variable:
    d = in_float32(d)
    if d.shape[1] != channels:
        raise ValueError(f"the discriminator answers {d.shape[1]} channels; this loss needs {channels}")
    return d


def least_squares(d: ArrayOrVariable, target: float) -> chainer.Variable:
    """mean((D - target)^2) (LSGAN; Mao et al., 2017). d (N, 1, h, w), target a number."""
    target = float(target)
    return loss_of("least_squares", lambda d: F.mean(F.square(d - target)), _decision(d, 1), target)


def sigmoid_weighted_least_squares(d: ArrayOrVariable, target: float) -> chainer.Variable:
    """mean((D - target)^2 W) + mean((W - 1)^2), W = sigmoid(second channel); the released pix2pix. d (N, 2, h, w)."""
    d = _decision(d, 2)
    weight = F.sigmoid(d[:, 1])
    return F.mean(F.square(d[:, 0] - float(target)) * weight) + F.mean(F.square(weight - 1.0))


def tanh_weighted_least_squares(d: ArrayOrVariable, target: float) -> chainer.Variable:
    """mean((D - target)^2 W), W = tanh(second channel) + 1; the released CycleGAN. d (N, 2, h, w).

    What keeps W from vanishing is :func:`weight_magnitude`, a term of the discriminator alone.
    """
    d = _decision(d, 2)
    return F.mean(F.square(d[:, 0] - float(target)) * (F.tanh(d[:, 1]) + 1.0))


def weight_magnitude(d: ArrayOrVariable) -> chainer.Variable:
    """mean |second channel| of a weighted discriminator's answer (N, 2, h, w)."""
    return F.mean(F.absolute(_decision(d, 2)[:, 1]))


def logistic(d: ArrayOrVariable, real: bool) -> chainer.Variable:
    """mean log(1 + exp(-D)) where the answer should be ``real``, with D for -D where not. Any shape.

    Of a discriminator, and non-saturating of a generator with ``real`` (Goodfellow et al., 2014).
    """
    d = in_float32(d)
    return F.mean(F.softplus(-d if real else d))


def hinge(d: ArrayOrVariable, real: bool) -> chainer.Variable:
    """mean max(0, 1 - D) where the answer should be ``real``, with 1 + D where not (Lim and Ye, 2017). Any shape."""
    d = in_float32(d)
    return F.mean(F.relu(1.0 - d if real else 1.0 + d))


def wasserstein(d: ArrayOrVariable, real: bool) -> chainer.Variable:
    """-mean D where the answer should be ``real``, mean D where not (see ``mean_answer``)."""
    return -mean_answer(d) if real else mean_answer(d)


def mean_answer(d: ArrayOrVariable) -> chainer.Variable:
    """mean D, of which Wasserstein losses are made (Arjovsky et al., 2017). Any shape.

    Generator: -mean D(fake). Critic: mean D(fake) - mean D(real), as negative as its slope of 1 allows.
    """
    return F.mean(in_float32(d))


def gradient_penalty(
    dis: Callable[[chainer.Variable], chainer.Variable], real: Array, fake: Array, mix: Array
) -> chainer.Variable:
    """mean((|grad D(m)| - 1)^2), m = mix real + (1 - mix) fake (Gulrajani et al., 2017, algorithm 1).

    Differentiable with respect to the parameters of ``dis`` (second order), on the CPU and the GPU.

    Args: dis: callable on (N, C, H, W); real, fake: arrays (N, C, H, W), no gradient flows into them;
    mix: array (N,) uniform in [0, 1]. The norm of a sample's gradient is sqrt(sum g^2 + 1e-6), smooth at 0.
    """
    mix = mix.reshape((-1,) + (1,) * (real.ndim - 1)).astype(real.dtype)
    middle = chainer.Variable(mix * real + (1 - mix) * fake)
    (gradient,) = chainer.grad([F.sum(in_float32(dis(middle)))], [middle], enable_double_backprop=True)
    norm = F.sqrt(F.batch_l2_norm_squared(in_float32(gradient)) + 1e-6)
    return F.mean(F.square(norm - 1.0))


def squared_slope(dis: Callable[[chainer.Variable], chainer.Variable], x: Array) -> chainer.Variable:
    """mean |grad D(x)|^2 over the images x (N, C, H, W); of real ones R1 (Mescheder et al., 2018) but for gamma / 2.

    Differentiable with respect to the parameters of ``dis`` (second order), as ``gradient_penalty``.
    """
    image = chainer.Variable(x)
    (gradient,) = chainer.grad([F.sum(in_float32(dis(image)))], [image], enable_double_backprop=True)
    return F.mean(F.batch_l2_norm_squared(in_float32(gradient)))
