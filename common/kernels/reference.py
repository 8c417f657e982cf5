"""Normalisation with (leaky) ReLU, and losses, in NumPy: what CUDA kernels are compared with, and the CPU's own code.

Losses are those of :mod:`medi2i.common.losses` on neighbouring pixels and on a discriminator's answer, each as value
and gradient. Images are (N, C, H, W); variations need H and W >= 2.
"""

import numpy as np

_AXES = {True: (2, 3), False: (0, 2, 3)}


def forward(
    x: np.ndarray, gamma: np.ndarray | None, beta: np.ndarray | None, eps: float, slope: float, each: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """f(gamma (x - mean) / sqrt(variance + eps) + beta), with f(v) = v where v > 0, else slope v.

    Args: x (N, C, H, W); gamma, beta (C,) or None (1 and 0); slope: 0 is ReLU, 1 no activation; each: statistics of
    every sample by itself (over H, W: instance normalisation), else over (N, H, W).

    Returns: y; mean, variance (biased) and 1 / sqrt(variance + eps), (N, C, 1, 1) or (1, C, 1, 1), float32 for
    float16 images.
    """
    wide = _wide(x)
    mean = wide.mean(axis=_AXES[each], keepdims=True)
    variance = np.square(wide - mean).mean(axis=_AXES[each], keepdims=True)
    inv_std = 1 / np.sqrt(variance + wide.dtype.type(eps))
    return apply(x, gamma, beta, mean, inv_std, slope), mean, variance, inv_std


def apply(
    x: np.ndarray,
    gamma: np.ndarray | None,
    beta: np.ndarray | None,
    mean: np.ndarray,
    inv_std: np.ndarray,
    slope: float,
) -> np.ndarray:
    """The same with given statistics: y."""
    v = (_wide(x) - mean) * inv_std
    if gamma is not None and beta is not None:
        v *= _by_channel(gamma, v)
        v += _by_channel(beta, v)
    if slope == 0:
        np.maximum(v, 0, out=v)
    elif slope != 1:
        v *= slopes(v, slope)
    return v.astype(x.dtype, copy=False)


def backward(
    x: np.ndarray,
    gamma: np.ndarray | None,
    beta: np.ndarray | None,
    mean: np.ndarray,
    inv_std: np.ndarray,
    gy: np.ndarray,
    slope: float,
    fixed: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients, given that of y: by x, and sum(g (x - mean) inv_std) and sum(g) of each group of statistics.

    g is gy times the slope of f there. The sums have the shape of mean; added up over samples they are the gradients
    by gamma and beta. fixed: mean and inv_std are constants, not statistics of x.
    """
    normal = (_wide(x) - mean) * inv_std
    g = _wide(gy)
    if slope != 1:
        v = normal
        if gamma is not None and beta is not None:
            v = normal * _by_channel(gamma, normal) + _by_channel(beta, normal)
        g = g * slopes(v, slope)
    axes = _AXES[len(mean) > 1]
    with_x, plain = (g * normal).sum(axis=axes, keepdims=True), g.sum(axis=axes, keepdims=True)
    gx = g
    if not fixed:
        inv_count = normal.dtype.type(mean.size / x.size)
        gx = g - (normal * (with_x * inv_count) + plain * inv_count)
    gx = gx * (inv_std if gamma is None else inv_std * _by_channel(gamma, normal))
    return gx.astype(x.dtype, copy=False), with_x, plain


def update_running(
    running_mean: np.ndarray,
    running_variance: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    decay: float,
    adjust: float,
) -> None:
    """Chainer's running statistics, in place: decay old + (1 - decay) new, the variance times ``adjust``.

    adjust = m / max(m - 1, 1), of m values, makes the variance the unbiased one.
    """
    running_mean *= decay
    running_mean += (1 - decay) * mean.reshape(-1)
    running_variance *= decay
    running_variance += (1 - decay) * adjust * variance.reshape(-1)


def variation(y: np.ndarray, tau: float | None) -> np.floating:
    """mean sqrt(dx^2 + dy^2 + tau^2) of differences to the next row and column where both exist, (H - 1) x (W - 1).

    tau None: mean |dx| + mean |dy|, each on its own grid.
    """
    down, right = _differences(y)
    if tau is None:
        return np.abs(down).mean() + np.abs(right).mean()
    return _length(down[:, :, :, :-1], right[:, :, :-1, :], tau).mean()


def variation_gradient(y: np.ndarray, tau: float | None, g: float) -> np.ndarray:
    """Gradient of ``g`` times that by y; 0 from places where the root is 0, and of |d| where d is 0."""
    down, right = _differences(y)
    gy = np.zeros_like(y)
    if tau is None:
        _add_down(gy, np.sign(down) * y.dtype.type(g / down.size))
        _add_right(gy, np.sign(right) * y.dtype.type(g / right.size))
        return gy
    down, right = down[:, :, :, :-1], right[:, :, :-1, :]
    length = _length(down, right, tau)
    factor = np.divide(y.dtype.type(g / length.size), length, out=np.zeros_like(length), where=length > 0)
    _add_down(gy[:, :, :, :-1], down * factor)
    _add_right(gy[:, :, :-1, :], right * factor)
    return gy


def least_squares(d: np.ndarray, target: float) -> np.floating:
    """mean (d - target)^2, d of any shape."""
    return np.square(d - d.dtype.type(target)).mean()


def least_squares_gradient(d: np.ndarray, target: float, g: float) -> np.ndarray:
    """Gradient of ``g`` times that by d."""
    return (d - d.dtype.type(target)) * d.dtype.type(2.0 * g / d.size)


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _by_channel(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return values.reshape(1, -1, 1, 1).astype(like.dtype, copy=False)


def slopes(v: np.ndarray, slope: float) -> np.ndarray:
    """1 where v > 0, else ``slope``, in the precision of v."""
    # Quicker than np.where of two numbers.
    slopes = (v > 0).astype(v.dtype)
    slopes *= 1.0 - slope
    slopes += slope
    return slopes


def _differences(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return y[:, :, 1:] - y[:, :, :-1], y[:, :, :, 1:] - y[:, :, :, :-1]


def _length(down: np.ndarray, right: np.ndarray, tau: float) -> np.ndarray:
    return np.sqrt(np.square(down) + np.square(right) + down.dtype.type(tau * tau))


def _add_down(gy: np.ndarray, g: np.ndarray) -> None:
    gy[:, :, 1:] += g
    gy[:, :, :-1] -= g


def _add_right(gy: np.ndarray, g: np.ndarray) -> None:
    gy[:, :, :, 1:] += g
    gy[:, :, :, :-1] -= g
