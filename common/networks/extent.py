"""How rows (or columns, which are alike) become more and fewer on their way through a generator.

Worked out from the specs, before there is a network. Sizes that come back as they went in are ``rest`` more than a
multiple of ``multiple``: each halving rounds down, each doubling adds a constant, so of every ``multiple`` sizes one
can come back at most.
"""

from dataclasses import dataclass

from medi2i.common.errors import UserError
from medi2i.common.networks.spec import (
    DecoderSpec,
    EncoderSpec,
    Pretrained,
    SampleKind,
    Sampling,
    Second,
    Unet,
)

# Zeros at each border in the generator's levels, whatever their kernel: so the released code has it.
PAD = 1
_FIRST, _SOUGHT = 4, 64  # rows of the deepest feature tried: from how many on, and how many


class Misfit(UserError):
    """Two images that are to be joined have different sizes."""


@dataclass(frozen=True)
class Fitting:
    """Sizes that come back: ``rest``, ``rest + multiple``, ``rest + 2 multiple`` and so on."""

    multiple: int
    rest: int = 0

    def above(self, size: int) -> int:
        """The smallest that is not below ``size``."""
        return size + (self.rest - size) % self.multiple

    def below(self, size: int) -> int:
        """The largest that is not above ``size``; 0 or less where there is none."""
        return size - (size - self.rest) % self.multiple

    def around(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """The nearest (height, width) below, where there is one, and above ``size``."""
        candidates = tuple(map(self.below, size)), tuple(self.above(max(n, 1)) for n in size)
        return [s for s in dict.fromkeys(candidates) if min(s) > 0]

    def __str__(self):
        return f"multiples of {self.multiple}" + (f", plus {self.rest}" if self.rest else "")


def after_block(sample: Sampling, ksize: int, pad: int, size: int) -> int:
    """Rows that a CBR makes of ``size`` rows. Raises Misfit where its shortcut has others."""
    kind = sample.kind
    if kind is SampleKind.NONE_7 and sample.second is Second.NONE:
        ksize, pad = 7, 3
    if kind is SampleKind.DECONV:
        h = 2 * (size - 1) - 2 * pad + ksize + (ksize == 3)
    else:
        h = (size + 2 * pad - ksize) // (2 if kind is SampleKind.DOWN else 1) + 1
    if kind is SampleKind.MAXPOOL:
        h = -(-h // 2)
    elif kind is SampleKind.AVGPOOL:
        h //= 2
    if h < 1:
        raise Misfit(f"{sample.name} with kernels of {ksize} leaves nothing of {size} rows")
    if sample.second is Second.RESIDUAL:
        added = -(-size // 2) if sample.halves else 2 * size if kind is SampleKind.DECONV else size
        if added != h:
            raise Misfit(f"{sample.name} with kernels of {ksize} makes {h} rows of {size} and its shortcut {added}")
    return 2 * h if kind in (SampleKind.RESIZE, SampleKind.PIXEL_SHUFFLE, SampleKind.UNPOOL) else h


def level_sizes(spec: EncoderSpec, size: int) -> list[int]:
    """Rows of each level of the encoder for an image of ``size`` rows, shallowest first. Raises Misfit."""
    if spec.pretrained is None:
        sizes = [after_block(spec.first, 3, PAD, size)]
        for _ in spec.chs[1:]:
            sizes.append(after_block(spec.down, spec.ksize, PAD, sizes[-1]))
        return sizes
    if spec.pretrained.kind is Pretrained.VGG16:
        sizes = [size]
    else:
        first = -(-size // 2)
        sizes = [first, first // 2][: len(spec.chs)]
    while len(sizes) < len(spec.chs):
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def latent_size(levels: int, size: int) -> int:
    """Rows of the feature that a latent vector becomes, whatever the levels did: that is the released rule."""
    return size // 2 ** (levels - 1)


def output_size(encoder: EncoderSpec, decoder: DecoderSpec, size: int) -> int:
    """Rows of the translation of an image of ``size`` rows. Raises Misfit where it cannot be translated."""
    levels = level_sizes(encoder, size)
    h = latent_size(len(levels), size) if decoder.latent_dim > 0 else levels[-1]
    for level in range(len(levels) - 1, -1, -1):
        if decoder.unet is not Unet.NONE and h != levels[level]:
            raise Misfit(f"level {level} of the encoder has {levels[level]} rows where the decoder has {h}")
        h = after_block(decoder.up, decoder.ksize, PAD, h) if level else after_block(decoder.full, 3, PAD, h)
    return after_block(decoder.last, 3, PAD, h)


def fitting(encoder: EncoderSpec, decoder: DecoderSpec) -> Fitting | None:
    """The sizes of images that come back as they went in; None where none does. Raises Misfit where no image runs."""
    found, problem = [], None
    for deepest in range(_FIRST, _FIRST + _SOUGHT):
        try:
            h = deepest
            for _ in decoder.chs[1:]:
                h = after_block(decoder.up, decoder.ksize, PAD, h)
            size = after_block(decoder.last, 3, PAD, after_block(decoder.full, 3, PAD, h))
            if size not in found and output_size(encoder, decoder, size) == size:
                found.append(size)
        except Misfit as error:
            problem = error
        if len(found) == 2:
            return Fitting(found[1] - found[0], found[0] % (found[1] - found[0]))
    if problem is not None:
        _some_size_runs(encoder, decoder, problem)
    return None


def _some_size_runs(encoder, decoder, problem):
    large = _SOUGHT << len(decoder.chs)
    for size in range(large, large + _SOUGHT):
        try:
            output_size(encoder, decoder, size)
            return
        except Misfit as error:
            problem = error
    raise problem
