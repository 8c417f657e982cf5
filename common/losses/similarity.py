"""How alike two images are, not pixel by pixel: in what their windows share, or in the features of a network.

The window of structural similarity is that of Wang et al. (2004) and of ``medi2i.tools.evaluation.metrics``:
Gaussian, 11 x 11 pixels, sigma 1.5, without padding; the data range is 2, for images in [-1, 1].
"""

from collections.abc import Callable, Sequence

import numpy as np

from medi2i.common.compat import ArrayOrVariable, F, chainer
from medi2i.common.kernels.nodes import in_float32

WIDTH, SIGMA, RANGE = 11, 1.5, 2.0
_C1, _C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
# Wang, Simoncelli, Bovik (2003): how much each scale counts, from full size down.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_FLOOR = 1e-6  # contrasts that are opposite have no power; their gradient is 0


def structural_dissimilarity(y: ArrayOrVariable, t: ArrayOrVariable) -> chainer.Variable:
    """1 - SSIM(y, t) (Wang et al., 2004), the mean over windows, channels and images: 0 where both are equal, to 2.

    Args: y, t (N, C, H, W) in [-1, 1], H and W >= 11. Raises ValueError for smaller ones.
    """
    luminance, structure = _terms(*_images(y, t))
    return 1.0 - F.mean(luminance * structure)


def multiscale_dissimilarity(y: ArrayOrVariable, t: ArrayOrVariable) -> chainer.Variable:
    """1 - MS-SSIM(y, t) (Wang, Simoncelli, Bovik, 2003): contrast and structure at up to five scales, each of half
    the size of the one before, luminance at the last.

    Small images have fewer scales (five from 176 pixels on, three from 44): those whose windows fit, and their
    weights are divided by the sum. Arguments as in :func:`structural_dissimilarity`.
    """
    y, t = _images(y, t)
    count = scales(min(y.shape[2:]))
    weights = [weight / sum(SCALE_WEIGHTS[:count]) for weight in SCALE_WEIGHTS[:count]]
    product = None
    for scale, weight in enumerate(weights):
        if scale > 0:
            y, t = (F.average_pooling_2d(image, 2) for image in (y, t))
        luminance, structure = _terms(y, t)
        factor = luminance * structure if scale == count - 1 else structure
        factor = F.clip(F.mean(factor, axis=(1, 2, 3)), _FLOOR, 2.0) ** weight
        product = factor if product is None else product * factor
    return 1.0 - F.mean(product)


def scales(side: int) -> int:
    """How many of the five scales fit images whose shorter side is ``side`` pixels, at least 1."""
    return 1 + sum(side >> halvings >= WIDTH for halvings in range(1, len(SCALE_WEIGHTS)))


def _images(y: ArrayOrVariable, t: ArrayOrVariable) -> tuple[chainer.Variable, chainer.Variable]:
    """Both as (N·C, 1, H, W) Variables: each channel is an image of its own."""
    y, t = in_float32(y), in_float32(t)
    if y.shape != t.shape:
        raise ValueError(f"images of shape {y.shape} cannot be compared with those of {t.shape}")
    if min(y.shape[2:]) < WIDTH:
        raise ValueError(
            f"structural similarity needs images of at least {WIDTH}x{WIDTH} pixels, not {y.shape[2]}x{y.shape[3]}"
        )
    n, c, h, w = y.shape
    return F.reshape(y, (n * c, 1, h, w)), F.reshape(t, (n * c, 1, h, w))


def _terms(y: chainer.Variable, t: chainer.Variable) -> tuple[chainer.Variable, chainer.Variable]:
    """(luminance, contrast and structure) of each window of (N, 1, H, W): two maps (N, 1, H - 10, W - 10)."""
    n = len(y)
    local = _blurred(F.concat([y, t, F.square(y), F.square(t), y * t], axis=0))
    mean_y, mean_t, square_y, square_t, product = (local[i * n : (i + 1) * n] for i in range(5))
    mean_product, mean_squares = mean_y * mean_t, F.square(mean_y) + F.square(mean_t)
    luminance = (2.0 * mean_product + _C1) / (mean_squares + _C1)
    structure = (2.0 * (product - mean_product) + _C2) / (square_y + square_t - mean_squares + _C2)
    return luminance, structure


def _blurred(x: chainer.Variable) -> chainer.Variable:
    """Weighted means over the windows that lie inside: a Gaussian along columns, then along rows."""
    xp = chainer.backend.get_array_module(x)
    distance = xp.arange(WIDTH, dtype=np.float64) - WIDTH // 2  # there, so that nothing is copied to a GPU
    window = xp.exp(-0.5 * (distance / SIGMA) ** 2)
    window = (window / window.sum()).astype(x.dtype)
    return F.convolution_2d(F.convolution_2d(x, window.reshape(1, 1, -1, 1)), window.reshape(1, 1, 1, -1))


def feature_distance(one: Sequence[ArrayOrVariable], other: Sequence[ArrayOrVariable]) -> chainer.Variable:
    """mean over the levels of mean |f - g|, of the features that a frozen segmentation network has of an image and of
    its truth (the anatomical feature-prioritised loss of Longuefosse et al.). Two lists of equal shapes; the gradient
    flows into both.
    """
    distances = [F.mean(F.absolute(in_float32(f) - in_float32(g))) for f, g in zip(one, other, strict=True)]
    return sum(distances[1:], distances[0]) / len(distances)


def perceptual(
    features: Callable[[chainer.Variable], chainer.Variable], x: ArrayOrVariable, y: ArrayOrVariable, colour: bool
) -> chainer.Variable:
    """mean((f(x) - f(y))^2) (Johnson et al., 2016). The gradient flows into both images.

    Args: features: callable, (N, 3, H, W) to any feature; its parameters are not meant to be trained. It gets values
    in [-1, 1] as they are, as in the released code. x, y (N, C, H, W). colour: the three channels are one colour
    image; otherwise each channel is a grey image, repeated to three, and the mean is over channels too.
    """
    x, y = (_three_channels(v, colour) for v in (x, y))
    return F.mean(F.square(in_float32(features(x)) - in_float32(features(y))))


def _three_channels(x: ArrayOrVariable, colour: bool) -> chainer.Variable:
    n, channels, height, width = x.shape
    if not colour:
        return F.tile(F.reshape(x, (n * channels, 1, height, width)), (1, 3, 1, 1))
    if channels != 3:
        raise ValueError(f"a colour image has three channels, not {channels}")
    return x
