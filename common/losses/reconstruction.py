"""How far an image is from its truth, pixel by pixel or class by class."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from medi2i.common.compat import Array, ArrayOrVariable, F, chainer
from medi2i.common.kernels.nodes import in_float32

PROBABILITY_FLOOR = 1e-7


def channel_weight(weights: Sequence[float] | None, xp: ModuleType = np) -> Array | None:
    """The weights w_c of C channels as a float32 array (1, C, 1, 1); None stays None (all 1)."""
    return None if weights is None else xp.asarray(weights, dtype=np.float32).reshape(1, -1, 1, 1)


def _weighted(values: chainer.Variable, weight: Array | None) -> chainer.Variable:
    return values if weight is None else values * F.broadcast_to(chainer.as_variable(weight), values.shape)


def mean_absolute(y: ArrayOrVariable, t: ArrayOrVariable, weight: Array | None = None) -> chainer.Variable:
    """mean(w_c |y - t|).

    Args: y, t (N, C, H, W); weight: (1, C, 1, 1) or None, see :func:`channel_weight`.
    """
    y, t = in_float32(y), in_float32(t)
    return F.mean(_weighted(F.absolute(y - t), weight))


def mean_squared(y: ArrayOrVariable, t: ArrayOrVariable, weight: Array | None = None) -> chainer.Variable:
    """mean(w_c (y - t)^2); arguments as in :func:`mean_absolute`."""
    y, t = in_float32(y), in_float32(t)
    return F.mean(_weighted(F.square(y - t), weight))


def mean_square(e: ArrayOrVariable) -> chainer.Variable:
    """mean(e^2): what keeps the deepest feature small (``lambda_reg``). Any shape."""
    return F.mean(F.square(in_float32(e)))


def gaussian_divergence(mean: ArrayOrVariable) -> chainer.Variable:
    """KL(N(mean, I) || N(0, I)) by element, mean(mean^2) / 2 (Kingma and Welling, 2014, appendix B, with a deviation of
    1; Liu, Breuel and Kautz, 2017, equation 3). Any shape."""
    return 0.5 * mean_square(mean)


def unfold_stack(y: ArrayOrVariable, stack: int) -> chainer.Variable:
    """(N, stack*C, H, W) to (N*stack, C, H, W): the slices of a stack become images of their own."""
    n, channels, height, width = y.shape
    return F.reshape(y, (n * stack, channels // stack, height, width))


def fold_stack(y: ArrayOrVariable, stack: int) -> chainer.Variable:
    """The way back from :func:`unfold_stack`: (N*stack, C, H, W) to (N, stack*C, H, W)."""
    n, channels, height, width = y.shape
    return F.reshape(y, (n // stack, channels * stack, height, width))


def class_probabilities(scores: ArrayOrVariable, stack: int = 1) -> chainer.Variable:
    """Scores (N, stack*classes, H, W) to probabilities (N*stack, classes, H, W): softmax over each slice's classes."""
    return F.softmax(unfold_stack(in_float32(scores), stack), axis=1)


def focal_cross_entropy(
    p: ArrayOrVariable, t: ArrayOrVariable, gamma: float, weight: Array | None = None
) -> chainer.Variable:
    """mean(w_c (-t log p) (1 - p)^gamma), p and t clipped to [1e-7, 1 - 1e-7] (Lin et al., 2017, for many classes).

    Args: p probabilities, t one-hot truth, both (N, C, H, W); gamma >= 0, where 0 is the plain cross entropy.
    The mean is over all elements, not over pixels, as in the released code.
    """
    p, t = in_float32(p), in_float32(t)
    p = F.clip(p, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
    t = F.clip(t, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
    entropy = -t * F.log(p)
    if gamma:
        entropy = entropy * (1.0 - p) ** float(gamma)
    return F.mean(_weighted(entropy, weight))


def dice(p: ArrayOrVariable, t: ArrayOrVariable, weight: Array | None = None) -> chainer.Variable:
    """-(sum_c w_c) sum_c S_c, S_c = sum(p t) / sum(p^2 + t^2 + 1e-7), both sums over (N, H, W).

    Without weights the factor is 1. With weights every class counts with their sum, not with its own: that is what the
    released code computes (its golden arrays show it), so the weights steer this term against the others only.

    Args: p probabilities, t one-hot truth, both (N, C, H, W); weight: see :func:`channel_weight`.
    """
    p, t = in_float32(p), in_float32(t)
    common = F.sum(p * t, axis=(0, 2, 3))
    size = F.sum(F.square(p) + F.square(t) + PROBABILITY_FLOOR, axis=(0, 2, 3))
    overlap = F.sum(common / size)
    return -overlap if weight is None else -overlap * F.sum(chainer.as_variable(weight))


def class_mismatch(p: ArrayOrVariable, t: ArrayOrVariable) -> chainer.Variable:
    """How far the classes of pixels are apart: mean over pixels of -sum_c t_c log p_c, and 1 - mean_c of the Dice of
    each class, 2 sum(p t) / sum(p^2 + t^2). Near 0 where both are certain and equal.

    Args: p probabilities, t the truth, one-hot or probabilities, too; both (N, C, H, W).
    """
    classes = p.shape[1]
    return classes * focal_cross_entropy(p, t, 0.0) + 1.0 + (2.0 / classes) * dice(p, t)


def air_mismatch(x: ArrayOrVariable, y: ArrayOrVariable, threshold: float) -> chainer.Variable:
    """mean(|x - y| where exactly one of x and y is <= threshold, else 0): air that becomes tissue, or the reverse.

    Args: x, y (N, C, H, W) in [-1, 1]; threshold in [-1, 1]. Which pixels count is taken as constant.
    """
    x, y = in_float32(x), in_float32(y)
    differs = (x.array <= threshold) ^ (y.array <= threshold)
    return F.mean(F.absolute(x - y) * differs.astype(x.dtype))
