"""One update of pix2pix (Isola et al., 2017, and the additions of Kaji and Kida, 2019)."""

from collections.abc import Mapping

from medi2i.common import losses
from medi2i.common.compat import Array, F, chainer
from medi2i.common.errors import UserError
from medi2i.common.losses.similarity import WIDTH
from medi2i.common.networks.checkpoint import Segmentor
from medi2i.common.networks.network import constant_weights
from medi2i.common.options import PairedOptions
from medi2i.common.training.adversarial import AdversarialUpdater, HistoryPool, Term, terms_of
from medi2i.common.training.distributed import ALONE, Ranks
from medi2i.common.training.randomness import RandomState
from medi2i.pix2pix import net

_MISPAIR_FROM = 40


def check_terms(options: PairedOptions) -> None:
    """Raises UserError where a loss term does not fit the images."""
    for name in ("lambda_ssim", "lambda_msssim"):
        side = min(options.crop_height or WIDTH, options.crop_width or WIDTH)
        if getattr(options, name) > 0 and (options.class_num > 0 or side < WIDTH):
            what = "classes have no structure" if options.class_num > 0 else f"a crop of {side} pixels is too small"
            raise UserError(f"--{name}: {what}; it takes images of at least {WIDTH}×{WIDTH} pixels")
    if options.lambda_anatomy > 0 and options.class_num > 0:
        raise UserError("--lambda_anatomy: compares images, and classes are none; --lambda_dice compares these")


class Pix2pixUpdater(AdversarialUpdater):
    """Encoder and decoder first, with all their terms; then the discriminator, on the history pool.

    Args:
        iterator: gives pairs (x (C, H, W), t (C', H, W)) in [-1, 1]; with classes t is one-hot, slice by slice.
        optimizers: dict with "enc_x", "dec_y" and, for an adversarial loss, "dis".
        networks: object with ``enc_x``, ``dec_y`` and ``dis`` (None without adversarial loss).
        options: PairedOptions. Raises UserError where a term does not fit the images.
        random, device, ranks: see :class:`medi2i.common.training.adversarial.AdversarialUpdater`.
        segmentor: gives the features of ``lambda_anatomy``; None without that loss.

    Reported, each without its weight: ``enc_x/loss_reg``, ``dec_y/loss_CE``, ``loss_L1``, ``loss_L2``, ``loss_dice``,
    ``loss_SSIM`` (1 - SSIM), ``loss_MSSSIM``, ``loss_anatomy``, ``loss_tv``, ``loss_dis`` (adversarial),
    ``dis/loss_fake``, ``loss_real``, ``loss_mispair``; ``dis/loss_gp`` is reported with its weight, as in the released
    code.
    """

    weighted = staticmethod(losses.sigmoid_weighted_least_squares)

    def __init__(
        self,
        iterator: chainer.dataset.Iterator,
        optimizers: Mapping[str, chainer.Optimizer],
        networks: net.Networks,
        options: PairedOptions,
        random: RandomState,
        device: chainer.backend.Device | None = None,
        ranks: Ranks = ALONE,
        segmentor: Segmentor | None = None,
    ) -> None:
        check_terms(options)
        self.segmentor = segmentor
        super().__init__(iterator, optimizers, networks, options, random, device, ranks)
        if options.lambda_dis > 0:
            self.pools["xy"] = HistoryPool(50 * options.batch_size, random)

    def update_core(self) -> None:
        x, t = self.next_batch()
        adversarial = self.options.lambda_dis > 0 and self.iteration >= self.options.dis_warmup
        fake = self.update_generator(x, t, adversarial)
        if adversarial:
            self.minimise(("dis",), self.discriminator_terms(x, t, fake))

    def update_generator(self, x: Array, t: Array, adversarial: bool) -> Array:
        """One step of encoder and decoder. Returns the pair [x, y] as an array.

        No Variable is returned, so that the graph's memory is free when the discriminator starts.
        """
        latent, y = self.translate(x)
        fake = F.concat([x, y], axis=1)
        terms = self.generator_terms(latent, y, t)
        self.minimise(("enc_x", "dec_y"), terms + self.adversarial_terms(fake) if adversarial else terms)
        return fake.array

    def translate(self, x: Array) -> tuple[chainer.Variable, chainer.Variable]:
        """The deepest feature of x (N, C, H, W), and its translation: (N, C', H, W), probabilities with classes."""
        features = self.networks.enc_x(self.with_noise(x, self.options.noise))
        y = self.networks.dec_y(features)
        if self.options.class_num > 0:
            stack = self.options.stack
            y = losses.fold_stack(losses.class_probabilities(y, stack), stack)
        return features[-1], y

    def generator_terms(self, latent: chainer.Variable, y: chainer.Variable, t: Array) -> list[Term]:
        """All terms of encoder and decoder but the adversarial one. y, t (N, C', H, W), latent of any shape."""
        s = self.options
        weight = losses.channel_weight(s.class_weight, self.random.xp)
        if s.targets != "files":  # nan is what does not count: there the answer is right as it is
            t = self.random.xp.where(self.random.xp.isnan(t), y.array, t)
        if s.class_num > 0:
            y, t = losses.unfold_stack(y, s.stack), losses.unfold_stack(t, s.stack)
        return terms_of(
            ("enc_x/loss_reg", s.lambda_reg, lambda: losses.mean_square(latent)),
            ("dec_y/loss_CE", s.lambda_rec_ce, lambda: losses.focal_cross_entropy(y, t, s.focal_gamma, weight)),
            ("dec_y/loss_dice", s.lambda_dice, lambda: losses.dice(y, t, weight)),
            ("dec_y/loss_L1", s.lambda_rec_l1, lambda: losses.mean_absolute(y, t, weight)),
            ("dec_y/loss_L2", s.lambda_rec_l2, lambda: losses.mean_squared(y, t, weight)),
            ("dec_y/loss_SSIM", s.lambda_ssim, lambda: losses.structural_dissimilarity(y, t)),
            ("dec_y/loss_MSSSIM", s.lambda_msssim, lambda: losses.multiscale_dissimilarity(y, t)),
            ("dec_y/loss_anatomy", s.lambda_anatomy, lambda: self.anatomy(self.segmentor, y, t)),
            ("dec_y/loss_tv", s.lambda_tv, lambda: losses.total_variation(y, "abs")),
        )

    def adversarial_terms(self, fake: chainer.Variable) -> list[Term]:
        """What the discriminator's answer to the pair ``fake`` = [x, y] (N, C + C', H, W) costs the generator."""
        with constant_weights(self.networks.dis) as dis:
            answer = dis(fake)
        cost = -losses.mean_answer(answer) if self.options.dis_wgan else self.cost(answer, 1.0)
        return [Term("dec_y/loss_dis", self.options.lambda_dis, cost)]

    def discriminator_terms(self, x: Array, t: Array, fake: Array) -> list[Term]:
        """All terms of the discriminator. x, t and fake = [x, y] are arrays: no gradient flows into the generator."""
        s, dis, pool = self.options, self.networks.dis, self.pools["xy"]
        real = self.random.xp.concatenate([x, t], axis=1)
        old = pool.query(fake)
        if s.dis_wgan:
            return [
                Term("dis/loss_real", 0.5, -losses.mean_answer(dis(real))),
                Term("dis/loss_fake", 0.5, losses.mean_answer(dis(old))),
                self.penalty_term("dis", dis, old, real, s.lambda_wgan_gp),
            ]
        terms = [
            Term("dis/loss_real", 0.5, self.cost(dis(real), 1.0)),
            Term("dis/loss_fake", 0.5, self.cost(dis(old), 0.0)),
        ]
        if s.lambda_mispair > 0 and len(pool) > _MISPAIR_FROM:
            mispair = self.random.xp.concatenate([pool.sample(len(x))[:, : x.shape[1]], t], axis=1)
            terms.append(Term("dis/loss_mispair", s.lambda_mispair, self.cost(dis(mispair), 0.0)))
        return terms
