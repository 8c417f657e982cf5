"""Terms on differences between neighbouring pixels: total variation, and edges kept through a translation."""

from medi2i.common.compat import ArrayOrVariable, F, chainer
from medi2i.common.kernels.nodes import in_float32, loss_of

TV_METHODS = ("usual", "abs", "sobel")
_TINY = 1e-6


def _down(x: chainer.Variable) -> chainer.Variable:
    return x[:, :, 1:, :] - x[:, :, :-1, :]


def _right(x: chainer.Variable) -> chainer.Variable:
    return x[:, :, :, 1:] - x[:, :, :, :-1]


def total_variation(y: ArrayOrVariable, method: str, tau: float = 0.0) -> chainer.Variable:
    """Total variation (Rudin, Osher, Fatemi, 1992) of images (N, C, H, W), H and W >= 2.

    With dx, dy the differences to the next row and column:
    ``abs``: mean |dx| + mean |dy|, each on its own grid.
    ``usual``: mean sqrt(dx^2 + dy^2 + tau^2) where both exist, (H-1) x (W-1).
    ``sobel``: the same by 2x2 kernels over all channels together: dx and dy are sums over channels.
    """
    if method == "abs":
        return loss_of("variation", _absolute_variation, y, None)
    if method == "sobel":
        y = F.sum(in_float32(y), axis=1, keepdims=True)
    elif method != "usual":
        raise ValueError(f"total variation {method!r} is unknown; it can be {', '.join(TV_METHODS)}")
    return loss_of("variation", lambda y: _variation(y, tau), y, float(tau))


def _absolute_variation(y: ArrayOrVariable) -> chainer.Variable:
    y = in_float32(y)
    return F.mean(F.absolute(_down(y))) + F.mean(F.absolute(_right(y)))


def _variation(y: ArrayOrVariable, tau: float) -> chainer.Variable:
    y = in_float32(y)
    dx, dy = _down(y)[:, :, :, :-1], _right(y)[:, :, :-1, :]
    return F.mean(F.sqrt(F.square(dx) + F.square(dy) + float(tau) ** 2))


def channel_variation(y: ArrayOrVariable) -> chainer.Variable:
    """mean |y[c+1] - y[c]| over neighbouring channels of (N, C, H, W): slices of a stack stay close. C >= 2."""
    y = in_float32(y)
    return F.mean(F.absolute(y[:, 1:] - y[:, :-1]))


def gradient_difference(x: ArrayOrVariable, y: ArrayOrVariable) -> chainer.Variable:
    """mean |dx(x) - dx(y)| + mean |dy(x) - dy(y)| with forward differences; the released ``lambda_grad``."""
    x, y = in_float32(x), in_float32(y)
    return loss_of("variation", _absolute_variation, x - y, None)


def gradient_consistency(x: ArrayOrVariable, y: ArrayOrVariable) -> chainer.Variable:
    """1 - GC(x, y), GC = (NCC(dx x, dx y) + NCC(dy x, dy y)) / 2; Hiasa et al., SASHIMI 2018.

    NCC is the normalised cross-correlation over the pixels of one channel of one image, then averaged. 0 where edges
    agree up to a scale and an offset, 1 where they have nothing in common, 2 where they are opposite; so unlike
    :func:`gradient_difference` it also fits domains of different contrast (MR and CT). An image without any edge
    correlates with nothing.
    """
    x, y = in_float32(x), in_float32(y)
    return 1.0 - 0.5 * (_correlation(_down(x), _down(y)) + _correlation(_right(x), _right(y)))


def _correlation(a: chainer.Variable, b: chainer.Variable) -> chainer.Variable:
    """Mean over images and channels of sum(a' b') / sqrt(sum a'^2 sum b'^2), a' and b' without their means."""
    a, b = (v - F.broadcast_to(F.mean(v, axis=(2, 3), keepdims=True), v.shape) for v in (a, b))
    product = F.mean(a * b, axis=(2, 3))
    # The root is taken of each factor: their product falls below what float32 can hold for nearly flat images.
    norm = F.sqrt(F.mean(F.square(a), axis=(2, 3)) + _TINY**2) * F.sqrt(F.mean(F.square(b), axis=(2, 3)) + _TINY**2)
    return F.mean(product / norm)
