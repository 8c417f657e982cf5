"""One update of CycleGAN (Zhu et al., 2017, and the additions of Kaji and Kida, 2019)."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from medi2i.common import losses
from medi2i.common.compat import Array, ArrayOrVariable, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.checkpoint import Segmentor
from medi2i.common.networks.network import constant_weights
from medi2i.common.options import UnpairedOptions
from medi2i.common.training.adversarial import AdversarialUpdater, HistoryPool, Term, terms_of
from medi2i.common.training.distributed import ALONE, Ranks
from medi2i.common.training.look_up import LookUp
from medi2i.common.training.randomness import RandomState
from medi2i.cyclegan import net

log = logging.getLogger(__name__)

_SLICE_KINDS = ("dcm", "auto")
_GENERATORS = ("enc_x", "dec_x", "enc_y", "dec_y")
ACTIVE = 0.01  # variance of a latent channel that says something
SHAPE_FROM, TRANSLATED_FROM = 0.2, 0.8
"""Of the training: from when on translations are to keep shapes, and segmentors learn from these as well. Earlier they
would learn, of shapes that are wrong as yet, to tell a translation by its looks and call it right."""
LOOK_UP_UNTIL, LOOK_UP_WEIGHT = 0.15, 10.0
"""Of the training: until when translations are drawn to what a table of levels makes of their images, and how much: as
by a cycle. Longer, and they stay as wrong as the table is."""
COLLAPSED = 0.1, 0.5  # mean square of the latent and share of active channels below which images are forgotten


def check_terms(options: UnpairedOptions) -> None:
    """Raises UserError where a loss term does not fit the channels."""
    for field in dataclasses.fields(options):
        if field.metadata["same_channels"] and options.ch != options.out_ch and getattr(options, field.name) > 0:
            raise UserError(
                f"--{field.name}: it compares images of both domains, which have {options.ch} and {options.out_ch} "
                f"channels; --{field.name} 0 would do"
            )
    if options.look_up != "none" and options.ch != options.out_ch:
        raise UserError(
            f"--look_up {options.look_up}: a table of grey levels needs as many channels in both domains, which have "
            f"{options.ch} and {options.out_ch}; --look_up none would do"
        )
    if options.lambda_kl > 0 and (options.unet != "none" or options.gen_residual > 0):
        raise UserError(
            "--lambda_kl: what --unet or --gen_residual lets pass by the latent needs no latent; --unet none and "
            "--gen_residual 0 would do"
        )


@dataclasses.dataclass(frozen=True)
class Translated:
    """A batch of both domains (arrays), what the encoders answered, and what the decoders made of it.

    features_x, features_y: before the decoders, which add ``noise_z`` to theirs; z_x, z_y: the deepest maps after them.
    x_x, y_y: back in the own domain; x_y, y_x: translations. plain_y_x: as it was before ``noise_x``. classes_x,
    classes_y: what the pixels of x and y are, one-hot (N * stack, classes, H, W), where there are labels.
    """

    x: Array
    y: Array
    features_x: list
    features_y: list
    z_x: Any
    z_y: Any
    x_x: Any
    y_y: Any
    x_y: Any
    y_x: Any
    plain_y_x: Any
    classes_x: Array | None = None
    classes_y: Array | None = None

    def arrays(self) -> "Translated":
        """The same without the graph that made it."""
        made = {name: getattr(self, name).array for name in ("z_x", "z_y", "x_x", "y_y", "x_y", "y_x", "plain_y_x")}
        features_x, features_y = ([one.array for one in features] for features in (self.features_x, self.features_y))
        return dataclasses.replace(self, features_x=features_x, features_y=features_y, **made)


class CycleganUpdater(AdversarialUpdater):
    """Encoders and decoders first, with all their terms; then each discriminator, on its history pool, and segmentors.

    Args:
        iterators: dict "main" (domain A, called x) and "second" (domain B, called y); examples (C, H, W) in [-1, 1],
            or pairs of such and their classes, one-hot (stack * classes, H, W).
        optimizers: dict with "enc_x", "dec_x", "enc_y", "dec_y", "dis_x", "dis_y" and, where its loss has a weight,
            "dis_z"; "seg_x" and "seg_y" with classes. With one encoder for both domains there is no "enc_y".
        networks: object with links of these names.
        options: UnpairedOptions. Raises UserError where a term does not fit the channels.
        random, device, ranks: see :class:`medi2i.common.training.adversarial.AdversarialUpdater`.
        features: callable for the perceptual loss, as
            :class:`medi2i.common.networks.pretrained.PerceptualFeatures`; None without that loss.
        segmentors: dict "x", "y" -> Segmentor of that domain, for ``lambda_anatomy`` and, where there are no labels,
            ``lambda_shape``; without these losses none.
        tables: dict "x", "y" -> LookUp of images of the other domain into that one; without ``look_up`` none.

    Reported, each without its weight, under enc_x, enc_y, dec_x, dec_y: ``loss_reg``, ``loss_adv``, ``loss_cycle``,
    ``loss_id`` (a thousandth of it, as in the released code), ``loss_idem``, ``loss_dom``, ``loss_air``,
    ``loss_level``, ``loss_grad``, ``loss_gc``, ``loss_tv``, ``loss_anatomy``, ``loss_shape``, ``loss_kl``,
    ``loss_kl_cycle``, ``latent_square``, ``latent_active``; under seg_x and seg_y: ``loss_real``, ``loss_fake``; under
    dis_x and dis_y: ``loss_fake``, ``loss_real``, ``loss_reg``; under dis_z: ``loss_x``, ``loss_y``, ``loss_reg``.
    Critics (WGAN): ``loss_dis`` and, with its weight, ``loss_gp``.
    """

    weighted = staticmethod(losses.tanh_weighted_least_squares)

    def __init__(
        self,
        iterators: dict[str, chainer.dataset.Iterator],
        optimizers: Mapping[str, chainer.Optimizer],
        networks: net.Networks,
        options: UnpairedOptions,
        random: RandomState,
        device: chainer.backend.Device | None = None,
        features: Any = None,
        ranks: Ranks = ALONE,
        segmentors: Mapping[str, Segmentor] | None = None,
        tables: Mapping[str, LookUp] | None = None,
    ) -> None:
        check_terms(options)
        super().__init__(iterators, optimizers, networks, options, random, device, ranks)
        self.features = features
        self.segmentors = segmentors or {}
        self.tables = tables or {}
        self._warned = False
        for name, weight in (("y", options.lambda_dis_y), ("x", options.lambda_dis_x)):
            if weight > 0:
                self.pools[name] = HistoryPool(50 * options.batch_size, random)

    def update_core(self) -> None:
        s = self.options
        (x, classes_x), (y, classes_y) = self.next_images("main"), self.next_images("second")
        made = self.update_generators(x, y, classes_x, classes_y)
        fakes = {"y": made.x_y, "x": made.y_x}
        old = {name: pool.query(fakes[name]) for name, pool in self.pools.items()}
        # Critics learn at every update, whatever learning_freq_d says: so the released code has it.
        if s.dis_wgan or self.iteration % s.learning_freq_d == 0:
            for name, fake in old.items():
                self.minimise((f"dis_{name}",), self.discriminator_terms(f"dis_{name}", fake, getattr(made, name)))
            if s.lambda_dis_z > 0:
                self.minimise(("dis_z",), self.discriminator_terms("dis_z", made.z_x, made.z_y, ("loss_x", "loss_y")))
        for name in "xy":
            if getattr(self.networks, f"seg_{name}") is not None:
                self.minimise((f"seg_{name}",), self.segmentor_terms(name, made))

    def next_images(self, name: str) -> tuple[Array, Array | None]:
        """The next batch of an iterator: images (N, C, H, W) and, where there are labels, classes, slice by slice."""
        batch = self.next_batch(name)
        if not isinstance(batch, tuple):
            return batch, None
        return batch[0], losses.unfold_stack(batch[1], self.options.stack).array

    def update_generators(
        self, x: Array, y: Array, classes_x: Array | None = None, classes_y: Array | None = None
    ) -> Translated:
        """One step of encoders and decoders. Returns what they made, as arrays.

        No Variable is returned, so that the graph's memory is free when the discriminators start.
        """
        images = dataclasses.replace(self.translate(x, y), classes_x=classes_x, classes_y=classes_y)
        if self.options.lambda_kl > 0:
            self.report_latents(images)
        generators = [name for name in _GENERATORS if name in self.get_all_optimizers()]
        self.minimise(generators, self.generator_terms(images))
        return images.arrays()

    def report_latents(self, images: Translated) -> None:
        """Report of both latents the mean square and the share of active channels; warn once, at the end of an epoch,
        where they have collapsed: then every image is decoded to the same."""
        for name, features in (("enc_x", images.features_x), ("enc_y", images.features_y)):
            square, active = latent_statistics(features[-1].array)
            chainer.report({f"{name}/latent_square": square, f"{name}/latent_active": active})
            if self.is_new_epoch and not self._warned and (square < COLLAPSED[0] or active < COLLAPSED[1]):
                self._warned = True
                log.warning(
                    "%s: the latent has collapsed: mean square %.3g, %.0f %% of its channels active; a smaller "
                    "--lambda_kl would do",
                    name,
                    float(square),
                    100 * float(active),
                )

    def translate(self, x: Array, y: Array) -> Translated:
        """Encode arrays x and y (N, C, H, W), each with its own noise, and decode them into both domains.

        In the released order, which running statistics show: the own domain comes before the other one.
        """
        n, s = self.networks, self.options
        features_x, features_y = n.enc_x(self.with_noise(x, s.noise)), n.enc_y(self.with_noise(y, s.noise))
        in_x, in_y = self.sampled(features_x), self.sampled(features_y)
        x_x, y_y = n.dec_x(in_x), n.dec_y(in_y)
        x_y, y_x = n.dec_y(in_x), n.dec_x(in_y)
        # A network cannot make noise of nothing. Without it images would come back from X cleaner than X's are.
        return Translated(
            x,
            y,
            features_x,
            features_y,
            deepest_map(in_x),
            deepest_map(in_y),
            x_x,
            y_y,
            x_y,
            self.with_noise(y_x, s.noise_x),
            y_x,
        )

    def sampled(self, features: list) -> list:
        """What the decoders get of an encoder's ``features``: with ``lambda_kl`` the latent is z = mu + N(0, 1)."""
        if self.options.lambda_kl == 0:
            return list(features)
        *skips, mean = features
        return [*skips, mean + self.random.normal_array(mean.shape).astype(mean.dtype, copy=False)]

    def generator_terms(self, images: Translated) -> list[Term]:
        """All terms of encoders and decoders, in the released order."""
        s, n = self.options, self.networks
        x_y, y_x = images.x_y, images.y_x
        divergence = losses.gaussian_divergence
        of_latents = terms_of(
            ("enc_x/loss_reg", s.lambda_reg, lambda: losses.mean_square(images.features_x[-1])),
            ("enc_y/loss_reg", s.lambda_reg, lambda: losses.mean_square(images.features_y[-1])),
            # Each encoder is to be taken for the other one's; the discriminator learns x as 0 and y as 1.
            ("enc_x/loss_adv", s.lambda_dis_z, lambda: self.judged(n.dis_z, deepest_map(images.features_x), 1.0)),
            ("enc_y/loss_adv", s.lambda_dis_z, lambda: self.judged(n.dis_z, deepest_map(images.features_y), 0.0)),
            ("enc_x/loss_kl", s.lambda_kl, lambda: divergence(images.features_x[-1])),
            ("enc_y/loss_kl", s.lambda_kl, lambda: divergence(images.features_y[-1])),
        )
        shape = s.lambda_shape if self.progress() >= SHAPE_FROM else 0.0
        again_y = n.enc_y(x_y)
        back_x = n.dec_x(self.sampled(again_y))
        again_x = n.enc_x(y_x)
        back_y = n.dec_y(self.sampled(again_x))
        return [
            *of_latents,
            Term("enc_x/loss_cycle", s.lambda_Az, losses.mean_absolute(images.x_x, images.x)),
            Term("enc_y/loss_cycle", s.lambda_Bz, losses.mean_absolute(images.y_y, images.y)),
            Term("dec_x/loss_cycle", s.lambda_A, losses.mean_absolute(back_x, images.x)),
            Term("dec_y/loss_cycle", s.lambda_B, losses.mean_absolute(back_y, images.y)),
            *terms_of(
                ("enc_y/loss_kl_cycle", s.lambda_kl, lambda: divergence(again_y[-1])),
                ("enc_x/loss_kl_cycle", s.lambda_kl, lambda: divergence(again_x[-1])),
                ("dec_x/loss_anatomy", s.lambda_anatomy, lambda: self.anatomy(self.segmentors["x"], back_x, images.x)),
                ("dec_y/loss_anatomy", s.lambda_anatomy, lambda: self.anatomy(self.segmentors["y"], back_y, images.y)),
                ("dec_y/loss_shape", shape, lambda: self.shape("y", x_y, "x", images.x, images.classes_x)),
                ("dec_x/loss_shape", shape, lambda: self.shape("x", y_x, "y", images.y, images.classes_y)),
                ("dec_y/loss_adv", s.lambda_dis_y, lambda: self.judged(n.dis_y, x_y, 1.0)),
                ("dec_x/loss_adv", s.lambda_dis_x, lambda: self.judged(n.dis_x, y_x, 1.0)),
                ("dec_x/loss_idem", s.lambda_idempotence, lambda: losses.mean_absolute(y_x, n.dec_x(n.enc_y(y_x)))),
                ("dec_y/loss_idem", s.lambda_idempotence, lambda: losses.mean_absolute(x_y, n.dec_y(n.enc_x(x_y)))),
                ("dec_x/loss_dom", s.lambda_domain, lambda: losses.mean_absolute(images.x, n.dec_x(n.enc_y(images.x)))),
                ("dec_y/loss_dom", s.lambda_domain, lambda: losses.mean_absolute(images.y, n.dec_y(n.enc_x(images.y)))),
            ),
            *self._likeness_terms(images.x, x_y, images.y, images.plain_y_x),
            *terms_of(("dec_y/loss_tv", s.lambda_tv, lambda: self._variation(x_y))),
        ]

    def shape(
        self, target: str, image: chainer.Variable, source: str, original: Array, classes: Array | None
    ) -> chainer.Variable:
        """How far the classes in a translation into the domain ``target`` are from those of the ``original`` in
        ``source``: its labels (Zhang, Yang and Zheng, 2018) or, where these are None, what the segmentor of
        ``source`` sees in it (as Kaji and Kida, 2019, describe it)."""
        segmentor = getattr(self.networks, f"seg_{target}")
        if classes is None:
            segmentor = self.segmentors[target]
            with chainer.no_backprop_mode():
                classes = self.segmentors[source].judge(original)[-1].array
        return losses.class_mismatch(segmentor.judge(image)[-1], classes)

    def segmentor_terms(self, name: str, made: Translated) -> list[Term]:
        """All terms of the segmentor of domain ``name`` ("x", "y"): its images by their labels and, once translations
        keep shapes, as many translated ones by those of what they were made of."""
        segmentor = getattr(self.networks, f"seg_{name}")
        real, fake = (made.x, made.classes_x), (made.y_x, made.classes_y)
        if name == "y":
            real, fake = (made.y, made.classes_y), (made.x_y, made.classes_x)
        begun = float(self.progress() >= TRANSLATED_FROM)
        return terms_of(
            (f"seg_{name}/loss_real", 1.0, lambda: losses.class_mismatch(segmentor(real[0])[-1], real[1])),
            (f"seg_{name}/loss_fake", begun, lambda: losses.class_mismatch(segmentor(fake[0])[-1], fake[1])),
        )

    def _likeness_terms(self, x: Array, x_y: Any, y: Array, y_x: Any) -> list[Term]:
        """Image and translation are alike: in VGG16's eyes, in what is air, in the levels that a table makes of
        one, in their edges."""
        s, alike = self.options, losses.gradient_consistency
        level = LOOK_UP_WEIGHT if self.tables and self.progress() < LOOK_UP_UNTIL else 0.0
        colour = s.ch == 3 and s.stack == 1

        def seen(image: Array, translated: Any) -> chainer.Variable:
            return 1e-3 * losses.perceptual(self.features, image, translated, colour)

        return terms_of(
            ("enc_x/loss_id", 1e3 * s.lambda_identity_x, lambda: seen(x, x_y)),
            ("enc_y/loss_id", 1e3 * s.lambda_identity_y, lambda: seen(y, y_x)),
            ("dec_y/loss_air", s.lambda_air, lambda: losses.air_mismatch(x, x_y, s.air_threshold)),
            ("dec_x/loss_air", s.lambda_air, lambda: losses.air_mismatch(y, y_x, s.air_threshold)),
            ("dec_y/loss_level", level, lambda: losses.mean_absolute(x_y, self.tables["y"](x))),
            ("dec_x/loss_level", level, lambda: losses.mean_absolute(y_x, self.tables["x"](y))),
            ("dec_y/loss_grad", s.lambda_grad, lambda: losses.gradient_difference(x, x_y)),
            ("dec_x/loss_grad", s.lambda_grad, lambda: losses.gradient_difference(y, y_x)),
            ("dec_x/loss_grad_y", s.lambda_grad_y, lambda: losses.gradient_difference(y, y_x)),
            ("dec_y/loss_gc", s.lambda_gc_x, lambda: alike(x, x_y)),
            ("dec_x/loss_gc", s.lambda_gc_y, lambda: alike(y, y_x)),
        )

    def _variation(self, image: chainer.Variable) -> chainer.Variable:
        """Total variation, between the slices of a stack, too."""
        variation = losses.total_variation(image, self.options.tv_method, self.options.tv_tau)
        slices = self.options.stack > 1 and self.options.imgtype in _SLICE_KINDS
        return variation + losses.channel_variation(image) if slices else variation

    def judged(self, dis: chainer.Chain, images: ArrayOrVariable, target: float) -> chainer.Variable:
        """What the answer of ``dis``, whose weights learn nothing here, costs a generator that wants ``target`` (0 or
        1, exactly)."""
        with constant_weights(dis):
            answer = dis(images)
        if self.options.dis_wgan:
            return losses.mean_answer(answer) if target == 0 else -losses.mean_answer(answer)
        return self.least_squares(answer, target)

    def discriminator_terms(
        self, name: str, fake: Array, real: Array, names: tuple[str, str] = ("loss_fake", "loss_real")
    ) -> list[Term]:
        """All terms of the discriminator ``name``. fake (target 0) and real (1): arrays (N, C, H, W)."""
        s, dis = self.options, getattr(self.networks, name)
        if s.dis_wgan:
            critic = losses.mean_answer(dis(fake)) - losses.mean_answer(dis(real))
            return [Term(f"{name}/loss_dis", 1.0, critic), self.penalty_term(name, dis, fake, real, s.lambda_wgan_gp)]
        d_fake, d_real = dis(fake), dis(real)
        terms = [
            Term(f"{name}/{names[0]}", 0.5, self.cost(d_fake, 0.0)),
            Term(f"{name}/{names[1]}", 0.5, self.cost(d_real, 1.0)),
        ]
        regularisation = 0.0
        if s.dis_reg_weighting > 0:
            regularisation = losses.weight_magnitude(d_real) + losses.weight_magnitude(d_fake)
        return [*terms, Term(f"{name}/loss_reg", s.dis_reg_weighting, regularisation)]


def deepest_map(features: list) -> chainer.Variable:
    """The deepest feature of an encoder's list that is still an image (N, C, h, w): a latent vector is passed over."""
    return next(feature for feature in reversed(features) if feature.ndim == 4)


def latent_statistics(latent: Array) -> tuple[Array, Array]:
    """(mean square, share of channels whose variance over images and places is above ``ACTIVE``) of (N, C, ...)."""
    values = latent.astype("f").swapaxes(0, 1).reshape(latent.shape[1], -1)
    return (values * values).mean(), (values.var(axis=1) > ACTIVE).mean()
