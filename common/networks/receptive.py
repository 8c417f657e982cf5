"""Sizes of images that a generator gives back, and receptive fields: plans followed with rows.

Both are worked out from plans, before there is a network. Layers that see the whole image (instance normalisation,
attention, fully connected layers) are left out of receptive fields; ``global_layers`` names them.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from medi2i.common.choices import Norm
from medi2i.common.networks.discriminator import DiscriminatorPlan
from medi2i.common.networks.generator import DecoderPlan, EncoderPlan
from medi2i.common.networks.network import Misfit, Rows, RowsWay, Spec
from medi2i.common.networks.spec import DecoderSpec, DiscriminatorSpec, EncoderSpec

GLOBAL_NORMS = {Norm.INSTANCE, Norm.LAYER, Norm.GROUP}
_FIRST, _SOUGHT = 4, 64  # rows of the deepest feature, or of an image, tried: from how many on, and how many
_LEVEL_SIZE = 1 << 10  # rows of the deepest level of the image imagined, or more: its borders are far away


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
        (below, above) = ((self.below(n) for n in size), (self.above(max(n, 1)) for n in size))
        return [(h, w) for h, w in dict.fromkeys((tuple(below), tuple(above))) if min(h, w) > 0]

    def __str__(self) -> str:
        return f"multiples of {self.multiple}" + (f", plus {self.rest}" if self.rest else "")


@dataclass(frozen=True)
class Reach:
    """How far one pixel of a result looks: the side of the largest part of the image that it depends on, and
    ``radius``, how far that reaches to any side; both in pixels.
    """

    field: int
    radius: int


def translated_rows(encoder: EncoderPlan, decoder: DecoderPlan, size: int) -> Rows:
    """The rows of the translation of an image of ``size`` rows. Raises Misfit where it cannot be translated."""
    return decoder.follow(RowsWay(decoder.steps), encoder.follow(RowsWay(encoder.steps), Rows.of(size)))


@functools.lru_cache(64)
def fitting(encoder: EncoderSpec, decoder: DecoderSpec) -> Fitting | None:
    """The sizes of images that come back as they went in; None where none does. Raises Misfit where no image runs.

    They are ``rest`` more than a multiple of ``multiple``: each halving rounds down, each doubling adds a constant, so
    of every ``multiple`` sizes one can come back at most.
    """
    plans = EncoderPlan(encoder), DecoderPlan(decoder)
    found: list[int] = []
    refused = False
    for deepest in range(_FIRST, _FIRST + _SOUGHT):
        try:
            size = plans[1].follow_up(Rows.of(deepest)).size
            if size not in found and translated_rows(*plans, size).size == size:
                found.append(size)
        except Misfit:
            refused = True
        if len(found) == 2:
            return Fitting(found[1] - found[0], found[0] % (found[1] - found[0]))
    if refused:
        _first_that_runs(lambda size: translated_rows(*plans, size), _SOUGHT << len(decoder.chs))
    return None


def _first_that_runs(rows_of: Callable[[int], Rows], size: int) -> Rows:
    """Those of the first image of ``size`` rows or a few more that runs. Raises Misfit where none does."""
    for tried in range(size, size + _SOUGHT):
        try:
            return rows_of(tried)
        except Misfit as error:
            problem = error
    raise problem


def generator_reach(encoder: EncoderSpec, decoder: DecoderSpec) -> Reach:
    """How far one pixel of the translation looks."""
    plans, fit = (EncoderPlan(encoder), DecoderPlan(decoder)), fitting(encoder, decoder)
    steps = 2 ** len(encoder.chs)  # rows after which what they depend on repeats, at most
    size = _LEVEL_SIZE * steps
    rows = _first_that_runs(lambda size: translated_rows(*plans, size), size if fit is None else fit.above(size))
    looked = [(row, *rows.needs((row, row))) for row in range(size // 2, size // 2 + steps)]
    return Reach(
        max(last - first + 1 for _, first, last in looked),
        max(max(row - first, last - row) for row, first, last in looked),
    )


def discriminator_field(spec: DiscriminatorSpec) -> int:
    """Height (and width) in pixels of the patch that one judgement of the discriminator depends on."""
    plan = DiscriminatorPlan(spec)
    rows = _first_that_runs(lambda size: plan.follow(RowsWay(plan.steps), Rows.of(size)), _LEVEL_SIZE << len(spec.chs))
    first, last = rows.needs((0, 0))
    return last - first + 1


def global_layers(spec: Spec) -> list[str]:
    """What in a network of ``spec`` sees the whole image, in words."""
    found = [f"{spec.norm.value} normalisation"] if spec.norm in GLOBAL_NORMS else []
    if getattr(spec, "attention", False):
        found.append("attention")
    if getattr(spec, "fc_layers", 0) or getattr(spec, "latent_dim", 0) > 0 or getattr(spec, "wasserstein", False):
        found.append("fully connected layers")
    return found
