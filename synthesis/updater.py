"""One update of what makes images of noise and of what tells them from real ones."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medi2i.common import losses
from medi2i.common.compat import Array, ArrayOrVariable, F, chainer
from medi2i.common.networks.network import constant_weights
from medi2i.common.training.adversarial import AdversarialUpdater, Term
from medi2i.common.training.optimizers import begin_anew
from medi2i.common.training.randomness import RandomState

Cost = Callable[[chainer.Variable, bool], chainer.Variable]
# --loss: (what an answer costs the discriminator, and what it costs the generator)
COSTS: dict[str, tuple[Cost, Cost]] = {
    "logistic": (losses.logistic, losses.logistic),
    "hinge": (losses.hinge, losses.wasserstein),
    "wgan-gp": (losses.wasserstein, losses.wasserstein),
}
SHIFT, HOLE, BRIGHTNESS = 1 / 8, 1 / 2, 0.5  # shares of the size, and of half of the range [-1, 1]


class Shift(chainer.FunctionNode):
    """Each image of (N, C, H, W) moved by its own ``down`` and ``right``, (N,) whole numbers; what comes in is 0.

    It is linear, and its gradient the shift back.
    """

    def __init__(self, down: np.ndarray, right: np.ndarray) -> None:
        self.down, self.right = down, right

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        (x,) = inputs
        y = chainer.backend.get_array_module(x).zeros_like(x)
        for number, offsets in enumerate(zip(self.down, self.right, strict=True)):
            to, of = zip(
                *(_overlap(offset, size) for offset, size in zip(offsets, x.shape[2:], strict=True)), strict=True
            )
            y[(number, slice(None), *to)] = x[(number, slice(None), *of)]
        return (y,)

    def backward(
        self, indexes: tuple[int, ...], gradients: tuple[chainer.Variable, ...]
    ) -> tuple[chainer.Variable, ...]:
        return Shift(-self.down, -self.right).apply(gradients)


def _overlap(offset: int, size: int) -> tuple[slice, slice]:
    """Where what is moved by ``offset`` comes to lie, and where it was."""
    return slice(max(offset, 0), size + min(offset, 0)), slice(max(-offset, 0), size - max(offset, 0))


@dataclass(frozen=True)
class Changes:
    """One draw of DiffAugment (Zhao et al., arXiv 2006.10738) for a batch: shifts by up to 1/8 of the size, a square
    hole of half of it, brightness within ±0.5. Shifted in and in holes is -1, which is air in CT.

    It is applied to real images and to made ones, and gradients flow through it.
    """

    down: np.ndarray
    right: np.ndarray
    kept: Array
    brightness: Array

    @classmethod
    def draw(cls, random: RandomState, count: int, side: int) -> "Changes":
        """For ``count`` square images of ``side`` pixels."""
        reach, hole = round(SHIFT * side), round(HOLE * side)
        down, right = random.generator.integers(-reach, reach, (2, count), endpoint=True)
        centres = random.generator.integers(0, side, (2, count))
        inside = [abs(np.arange(side) - (centre[:, None] - 0.5)) < hole / 2 for centre in centres]
        kept = 1 - (inside[0][:, None, :, None] & inside[1][:, None, None, :])
        brightness = BRIGHTNESS * (2 * random.uniform_array((count, 1, 1, 1)) - 1)
        return cls(down, right, random.xp.asarray(kept, dtype=np.float32), brightness)

    def __call__(self, x: ArrayOrVariable) -> chainer.Variable:
        """(N, C, H, W) -> the same shape."""
        (moved,) = Shift(self.down, self.right).apply((chainer.as_variable(x) + 1,))
        kept = chainer.backend.get_array_module(self.kept).broadcast_to(self.kept, moved.shape)
        return moved * kept - 1 + F.broadcast_to(self.brightness, moved.shape)


class SynthesisUpdater(AdversarialUpdater):
    """The discriminator first, then the generator, both on one batch of made images.

    A growing pair is told how many images were shown; where a resolution begins, both optimizers begin anew.

    Reported: ``dis/loss_real``, ``dis/loss_fake``, ``gen/loss_dis``; with their weights ``dis/loss_gp``,
    ``dis/loss_drift``, ``dis/loss_r1``; ``gen/side``, the rows of the images, where they grow.
    """

    def update_core(self) -> None:
        images = self.next_batch()
        growth = self.networks.growth
        real = self.networks.seen(images)
        fake = self.networks.gen(self.random.normal_array((len(real), self.networks.latent)))
        change = (
            Changes.draw(self.random, len(real), real.shape[2]) if self.options.diffaugment else chainer.as_variable
        )
        self.minimise(("dis",), self.discriminator_terms(real, fake.array, change))
        with constant_weights(self.networks.dis) as dis:
            answer = dis(change(fake))
        self.minimise(("gen",), [Term("gen/loss_dis", 1.0, COSTS[self.options.loss][1](answer, True))])
        if growth is not None:
            chainer.report({"gen/side": growth.side})
            self.grow(len(images))

    def discriminator_terms(
        self, real: Array, fake: Array, change: Callable[[ArrayOrVariable], chainer.Variable]
    ) -> list[Term]:
        """All terms of the discriminator. real, fake: (N, C, H, W). change: what it sees of them."""
        s, dis, cost = self.options, self.networks.dis, COSTS[self.options.loss][0]
        answer = dis(change(real))
        terms = [
            Term("dis/loss_real", 1.0, cost(answer, True)),
            Term("dis/loss_fake", 1.0, cost(dis(change(fake)), False)),
        ]
        if s.loss == "wgan-gp":
            terms.append(self.penalty_term("dis", lambda x: dis(change(x)), fake, real, s.lambda_gp))
            terms.append(Term("dis/loss_drift", 1.0, s.lambda_drift * losses.mean_square(answer)))
        if s.lambda_r1 > 0:
            slope = losses.squared_slope(lambda x: dis(change(x)), real)
            terms.append(Term("dis/loss_r1", 1.0, s.lambda_r1 / 2 * slope))
        return terms

    def grow(self, count: int) -> None:
        """``count`` images more were shown on each rank."""
        growth = self.networks.growth
        level = growth.stage[0]
        growth.shown += count * self.ranks.count
        if growth.stage[0] != level:
            for optimizer in self.get_all_optimizers().values():
                begin_anew(optimizer)
