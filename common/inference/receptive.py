"""How far a generator looks: the margin that makes tiles equal to the whole image."""

import dataclasses

from medi2i.common.networks.extent import PAD
from medi2i.common.networks.spec import DecoderSpec, EncoderSpec, Norm, Pretrained, SampleKind, Sampling, Second

GLOBAL_NORMS = frozenset({Norm.INSTANCE, Norm.LAYER, Norm.GROUP})
_VGG_CONVOLUTIONS = (2, 2, 3, 3, 3)  # 3×3 convolutions at each level of VGG16
_RESNET_BLOCKS = (3, 4, 6, 3)  # bottlenecks, one 3×3 convolution each, at res2 … res5 of ResNet50


@dataclasses.dataclass(frozen=True)
class Reach:
    """``radius``: pixels of the input around an output pixel that can change it, an upper bound.

    ``whole_image``: the layers that look at all of the image whatever its size, as words; then no radius is enough.
    """

    radius: int
    whole_image: tuple[str, ...]


def reach(encoder: EncoderSpec, decoder: DecoderSpec) -> Reach:
    """The receptive field of a generator, added up over its longest path: down to the deepest feature and up again."""
    scale, radius = 1, 0
    if encoder.pretrained is None:
        for index in range(len(encoder.chs)):
            sampling = encoder.down if index else encoder.first
            gained, scale = _block(sampling, encoder.ksize if index else 3, scale)
            radius += gained
    elif encoder.pretrained.kind is Pretrained.VGG16:
        for index in range(len(encoder.chs)):
            radius += (_VGG_CONVOLUTIONS[index] + (1 if index else 0)) * scale * (2 if index else 1)
            scale *= 2 if index else 1
    else:
        radius, scale = 3 + 2, 4
        for index in range(len(encoder.chs) - 1):
            scale *= 2 if index else 1
            radius += _RESNET_BLOCKS[index] * scale
    radius += 2 * (encoder.res_blocks + decoder.res_blocks) * scale
    radius += scale  # a stride-2 grid may lie up to one deep pixel off
    for index in range(len(decoder.chs), 0, -1):
        sampling, ksize = (decoder.up, decoder.ksize) if index > 1 else (decoder.full, 3)
        gained, scale = _block(sampling, ksize, scale)
        radius += gained
    gained, _ = _block(decoder.last, 3, max(scale, 1))
    return Reach(radius + gained, _looks_at_everything(encoder, decoder))


def _block(sampling: Sampling, ksize: int, scale: float):
    """Radius that one CBR adds, in pixels of the image, and the scale after it. ``scale``: image pixels a pixel."""
    kind = sampling.kind
    second = 0 if sampling.second is Second.NONE else 1
    if kind is SampleKind.NONE_7 and not second:
        return 3 * scale, scale
    if kind is SampleKind.DECONV:
        return (ksize // 2 + 1 + second) * scale, _half(scale)
    gained = max(PAD, ksize - 1 - PAD) * scale
    if sampling.halves:
        pooled = 0 if kind is SampleKind.DOWN else scale
        return gained + pooled + second * 2 * scale, scale * 2
    gained += second * scale
    if kind is SampleKind.RESIZE:
        gained += scale
    return gained, _half(scale) if sampling.doubles else scale


def _half(scale):
    return max(scale // 2, 1)


def _looks_at_everything(encoder, decoder):
    found = []
    if encoder.norm in GLOBAL_NORMS:
        found.append(f"{encoder.norm.value} normalisation")
    if decoder.norm in GLOBAL_NORMS and decoder.norm is not encoder.norm:
        found.append(f"{decoder.norm.value} normalisation")
    if encoder.attention:
        found.append("attention")
    if encoder.latent_dim > 0:
        found.append("a latent vector")
    if encoder.fc_layers:
        found.append("AUTOMAP layers")
    return tuple(found)
