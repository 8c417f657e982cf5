"""Receptive fields: which rows of the image one pixel of a result can depend on.

Worked out backwards, exactly: an interval of rows of a layer's output becomes the interval of its input that it is made
from. Rows and columns are alike. Layers that see the whole image (instance normalisation, attention, fully connected
layers) are left out here; ``global_layers`` names them.
"""

from fractions import Fraction
from math import ceil, floor

from medi2i.common.networks.blocks import CBR
from medi2i.common.networks.convolutions import Convolution, SeparableConvolution
from medi2i.common.networks.extent import fitting, level_sizes
from medi2i.common.networks.pretrained import RESNET50_LAYERS, VGG16_LAYERS
from medi2i.common.networks.spec import Norm, Pretrained, SampleKind, Second, Unet

GLOBAL_NORMS = {Norm.INSTANCE, Norm.LAYER, Norm.GROUP}
_LEVEL_SIZE = 1 << 10  # rows of the deepest level of the image imagined, or more: its borders are far away


def window(interval, ksize, stride, pad):
    """Rows that a convolution or pooling makes the rows ``interval`` (first, last) from."""
    first, last = interval
    return first * stride - pad, last * stride - pad + ksize - 1


def transposed_window(interval, ksize, stride, pad):
    """The same for a transposed convolution."""
    first, last = interval
    return ceil(Fraction(first + pad - ksize + 1, stride)), floor(Fraction(last + pad, stride))


def doubled_nearest(interval):
    """The same for repeated pixels and for depth to space."""
    return interval[0] // 2, interval[1] // 2


def doubled_bilinear(interval, size):
    """The same for bilinear doubling of ``size`` rows with the corners on the corners."""
    scale = Fraction(size - 1, 2 * size - 1)
    return floor(interval[0] * scale), ceil(interval[1] * scale)


def union(*intervals):
    """The smallest interval that holds all; None stands for nothing."""
    given = [i for i in intervals if i is not None]
    return (min(i[0] for i in given), max(i[1] for i in given)) if given else None


def through_convolution(conv: Convolution | SeparableConvolution, interval):
    """Backwards through a convolution of this project."""
    if conv.transposed:
        return transposed_window(interval, conv.ksize, conv.stride, conv.pad)
    return window(interval, conv.ksize, conv.stride, conv.pad)


def through_cbr(block: CBR, interval, size):
    """Backwards through a CBR whose input has ``size`` rows."""
    kind = block.sample.kind
    if kind is SampleKind.RESIZE:
        interval = doubled_bilinear(interval, size)
    elif kind in (SampleKind.UNPOOL, SampleKind.PIXEL_SHUFFLE):
        interval = doubled_nearest(interval)
    shortcut = None
    if block.sample.second is Second.RESIDUAL:
        shortcut = through_convolution(block.skip, doubled_nearest(interval) if kind is SampleKind.DECONV else interval)
    if block.sample.second is not Second.NONE:
        interval = through_convolution(block.c2, interval)
    if kind in (SampleKind.MAXPOOL, SampleKind.AVGPOOL):
        interval = window(interval, 2, 2, 0)
    return union(shortcut, through_convolution(block.c1, interval))


def _through_resblock(interval):
    return window(window(interval, 3, 1, 1), 3, 1, 1)


def _through_pretrained(spec, needed):
    """``needed``: interval at each level, shallowest first; returns that of the image."""
    interval = None
    for level in range(len(spec.widths) - 1, -1, -1):
        interval = union(interval, needed[level])
        if interval is None:
            continue
        if spec.kind is Pretrained.VGG16:
            for _ in range(VGG16_LAYERS[level]):
                interval = window(interval, 3, 1, 1)
            interval = window(interval, 2, 2, 0) if level else interval
        elif level == 0:
            interval = window(interval, 7, 2, 3)
        else:
            for _ in range(RESNET50_LAYERS[level - 1]):
                interval = window(interval, 3, 1, 1)
            interval = window(interval, 3, 2, 0) if level == 1 else window(interval, 1, 2, 0)
    return interval


def generator_interval(encoder, decoder, interval, size):
    """Rows of an image of ``size`` rows that the rows ``interval`` of the translated image are made from."""
    spec = encoder.spec
    sizes = level_sizes(spec, size)
    needed = [None] * len(spec.chs)
    h = through_cbr(decoder.ul, interval, sizes[0])
    for level, name in enumerate(reversed(decoder.level_names)):
        h = through_cbr(decoder[name], h, sizes[level])
        if spec.unet is Unet.CONV:
            needed[level] = through_cbr(encoder[encoder.skip_names[level]], h, sizes[level])
        elif spec.unet is not Unet.NONE:
            needed[level] = h
    for _ in (*decoder.res_names, *encoder.res_names):
        h = _through_resblock(h)
    needed[-1] = union(needed[-1], h)
    if spec.pretrained is not None:
        return _through_pretrained(spec.pretrained, needed)
    h = None
    for level in range(len(spec.chs) - 1, -1, -1):
        h = through_cbr(encoder[encoder.level_names[level]], union(h, needed[level]), [size, *sizes][level])
    return h


def generator_field(encoder, decoder) -> int:
    """Height (and width) in pixels of the largest part of the image that one pixel of the translation depends on."""
    steps = 2 ** len(encoder.spec.chs)  # rows after which what they depend on repeats, at most
    fit, size = fitting(encoder.spec, decoder.spec), _LEVEL_SIZE * steps
    size = size if fit is None else fit.above(size)
    spans = [generator_interval(encoder, decoder, (row, row), size) for row in range(size // 2, size // 2 + steps)]
    return max(last - first + 1 for first, last in spans)


def discriminator_field(discriminator) -> int:
    """Height (and width) in pixels of the patch that one judgement of the discriminator depends on."""
    spec = discriminator.spec
    interval = (0, 0)
    blocks = [discriminator[name] for name in (*discriminator.level_names, "csl")]
    if not spec.wasserstein:
        blocks.append(discriminator.cl)
    for block in reversed(blocks):
        interval = through_cbr(block, interval, _LEVEL_SIZE)
    if spec.pretrained is not None:
        interval = _through_pretrained(spec.pretrained, [None] * (len(spec.chs) - 1) + [interval])
    return interval[1] - interval[0] + 1


def global_layers(spec) -> list[str]:
    """What in a network of ``spec`` sees the whole image, in words."""
    found = [f"{spec.norm.value} normalisation"] if spec.norm in GLOBAL_NORMS else []
    if getattr(spec, "attention", False):
        found.append("attention")
    if getattr(spec, "fc_layers", 0) or getattr(spec, "latent_dim", 0) > 0 or getattr(spec, "wasserstein", False):
        found.append("fully connected layers")
    return found
