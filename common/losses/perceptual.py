"""Distance in the features of a network trained to recognise things."""
from medi2i.common.compat import F
from medi2i.common.losses.precision import in_float32


def perceptual(features, x, y, colour):
    """mean((f(x) - f(y))^2) (Johnson et al., 2016). The gradient flows into both images.

    Args: features: callable, (N, 3, H, W) to any feature; its parameters are not meant to be trained. It gets values
    in [-1, 1] as they are, as in the released code. x, y (N, C, H, W). colour: the three channels are one colour
    image; otherwise each channel is a grey image, repeated to three, and the mean is over channels too.
    """
    x, y = (_three_channels(v, colour) for v in (x, y))
    fx, fy = in_float32(features(x), features(y))
    return F.mean(F.square(fx - fy))


def _three_channels(x, colour):
    n, channels, height, width = x.shape
    if not colour:
        return F.tile(F.reshape(x, (n * channels, 1, height, width)), (1, 3, 1, 1))
    if channels != 3:
        raise ValueError(f"a colour image has three channels, not {channels}")
    return x
