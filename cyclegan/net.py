"""The networks of CycleGAN: two encoders, two decoders and the discriminators of both domains.

UNIT (Liu, Breuel and Kautz, arXiv 1703.00848) has the same, and around the latent blocks that both domains share;
shape consistency (Zhang, Yang and Zheng, arXiv 1802.09655) has a segmentor of each domain beside them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from medi2i.common.compat import Array, ArrayOrVariable, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.checkpoint import Generator, Segmentor, build_generator
from medi2i.common.networks.discriminator import Discriminator
from medi2i.common.networks.from_options import decoder_spec, discriminator_spec, encoder_spec, levels_of
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.networks.network import Network, using_dtype
from medi2i.common.networks.pretrained import load_options_weights
from medi2i.common.options import PairedOptions, UnpairedOptions


@dataclass
class Networks:
    """X → Y is ``dec_y(enc_x(x))``, Y → X is ``dec_x(enc_y(y))``. With one shared encoder both names are one link.

    ``dis_z`` judges the deepest feature; None where its loss has no weight. ``seg_x`` and ``seg_y`` tell classes apart
    in their domain; None where there are no labels to learn from.
    """

    enc_x: chainer.Chain
    enc_y: chainer.Chain
    dec_x: chainer.Chain
    dec_y: chainer.Chain
    dis_x: chainer.Chain
    dis_y: chainer.Chain
    dis_z: chainer.Chain | None
    seg_x: Segmentor | None = None
    seg_y: Segmentor | None = None

    def as_dict(self) -> dict[str, chainer.Chain]:
        """Name, as in file names, → network, for those there are."""
        return {name: link for name, link in vars(self).items() if link is not None}

    def trained(self) -> dict[str, chainer.Chain]:
        """The same for optimizers and snapshots: of blocks that two networks share only the first one has a part."""
        seen: set[int] = set()
        return {name: _without(link, seen) for name, link in self.as_dict().items()}

    def translate(self, x: ArrayOrVariable) -> chainer.Variable:
        """X → Y: (N, C, H, W) in [-1, 1] → the same."""
        return self.dec_y(self.enc_x(x))

    def translate_back(self, y: ArrayOrVariable) -> chainer.Variable:
        """Y → X: (N, C, H, W) in [-1, 1] → the same."""
        return self.dec_x(self.enc_y(y))

    def translate_both(self, x: Array, y: Array) -> tuple[chainer.Variable, chainer.Variable]:
        """(X → Y, Y → X); a shared encoder sees both at once, so that statistics of the batch are of both domains."""
        if self.enc_x is not self.enc_y:
            return self.translate(x), self.translate_back(y)
        features = self.enc_x(chainer.backend.get_array_module(x).concatenate([x, y]))
        return self.dec_y([f[: len(x)] for f in features]), self.dec_x([f[len(x) :] for f in features])


def build(options: UnpairedOptions) -> Networks:
    """Networks with fresh weights; domain X has ``options.ch`` channels, domain Y ``options.out_ch``.

    Weights of pretrained networks come from the files that the options name. Raises UserError.
    """
    with using_dtype(options.dtype):
        enc_x = Encoder(encoder_spec(options, options.ch))
        enc_y = enc_x if options.single_encoder else Encoder(encoder_spec(options, options.out_ch))
        dec_x = Decoder(decoder_spec(options, options.ch))
        dec_y = Decoder(decoder_spec(options, options.out_ch))
        dis_x = Discriminator(discriminator_spec(options, options.ch))
        dis_y = Discriminator(discriminator_spec(options, options.out_ch))
        dis_z = None
        if options.lambda_dis_z > 0:
            dis_z = Discriminator(discriminator_spec(options, levels_of(options, "gen")[0][-1]))
    share_blocks(options, enc_x, enc_y, dec_x, dec_y)
    load_options_weights(options, encoders=[enc_x] if enc_x is enc_y else [enc_x, enc_y], discriminators=[dis_x, dis_y])
    segmentors = (learning_segmentor(options, side) if options.shape_classes else None for side in (0, 1))
    return Networks(enc_x, enc_y, dec_x, dec_y, dis_x, dis_y, dis_z, *segmentors)


def check_segmentors(options: UnpairedOptions) -> None:
    """Raises UserError where the losses of segmentors and what these are to be contradict each other."""
    if options.shape_classes and options.lambda_shape <= 0:
        raise UserError("--shape_classes: labels are for --lambda_shape, which has no weight")
    if options.shape_classes == 1:
        raise UserError("--shape_classes: 1 class leaves nothing to tell apart; 2 or more would")
    for name, others in (("lambda_anatomy", ""), ("lambda_shape", ", or labels with --shape_classes")):
        labels = name == "lambda_shape" and options.shape_classes
        if getattr(options, name) > 0 and not options.segmentor and not labels:
            raise UserError(
                f"--{name}: needs --segmentor RUN_A RUN_B (or one run for both), of pix2pix with --class_num{others}"
            )


def segmentor_of(options: UnpairedOptions, side: int) -> Segmentor:
    """That of ``--segmentor`` for domain X (``side`` 0) or Y (1), with the weights of its run. Raises UserError."""
    run, option = options.segmentor[-side], ("clipA", "clipB")[side]
    return Segmentor.load(run, getattr(options, option), (options.ch, options.out_ch)[side], option)


def frozen_segmentors(options: UnpairedOptions) -> dict[str, Segmentor]:
    """Those that only judge: "x", "y" → Segmentor; none where no loss asks for them. Raises UserError."""
    if options.lambda_anatomy <= 0 and (options.lambda_shape <= 0 or options.shape_classes):
        return {}
    found = {name: segmentor_of(options, side) for side, name in enumerate("xy")}
    if options.lambda_shape > 0 and not options.shape_classes:
        first, second = (f"{one.trained.class_num} classes in stacks of {one.trained.stack}" for one in found.values())
        if first != second:
            raise UserError(
                f"--segmentor: {options.segmentor[0]} tells apart {first} and {options.segmentor[-1]} {second}; "
                "for --lambda_shape both must know the same"
            )
    return found


def learning_segmentor(options: UnpairedOptions, side: int) -> Segmentor:
    """What learns the classes of domain X (``side`` 0) or Y (1): a U-Net of as many levels as the generator, or the
    network of ``--segmentor``, from its weights on. Raises UserError."""
    classes, stack = options.shape_classes, options.stack
    if options.segmentor:
        found = segmentor_of(options, side)
        if (found.trained.class_num, found.trained.stack) != (classes, stack):
            raise UserError(
                f"--segmentor: {options.segmentor[-side]} tells apart {found.trained.class_num} classes in stacks of "
                f"{found.trained.stack}, and --shape_classes says {classes}, in stacks of {stack}"
            )
        return found
    widths = [16 * 2**level for level in range(len(levels_of(options, "gen")[0]))]
    trained = PairedOptions(
        class_num=classes, stack=stack, gen_chs=widths, gen_nblock=2, gen_norm="instance", unet="concat"
    )
    trained.ch, trained.out_ch = (options.ch, options.out_ch)[side], stack * classes
    clip = (options.clipA, options.clipB)[side] or (-1.0, 1.0)
    return Segmentor(Generator(*build_generator(trained), trained, "xy", (), ""), (clip[0], clip[1]), trained.ch)


class Part(chainer.Chain):
    """Those children of a network that are trained with it, by their names."""

    def __init__(self, whole: Network, names: Iterable[str]) -> None:
        super().__init__()
        self.spec = whole.spec
        for name in names:
            self.add_link(name, whole[name])


def _without(link: chainer.Chain, seen: set[int]) -> chainer.Chain:
    """``link``, or where some of its children were ``seen`` before in another one, what is left; these are seen now."""
    names = [child.name for child in link.children()]
    own = [name for name in names if id(link[name]) not in seen]
    again = id(link) in seen
    seen |= {id(link), *(id(link[name]) for name in names)}
    return link if again or len(own) == len(names) else Part(link, own)


def share_blocks(options: UnpairedOptions, enc_x: Encoder, enc_y: Encoder, dec_x: Decoder, dec_y: Decoder) -> None:
    """Make the last ``share_latent_blocks`` residual blocks of both encoders one link, and the first of the decoders.

    Raises UserError where there are fewer.
    """
    count = options.share_latent_blocks
    encoding, decoding = ([name for name in one.plan.deepest if name != "a"] for one in (enc_x, dec_x))
    if count > min(len(encoding), len(decoding)):
        raise UserError(
            f"--share_latent_blocks: {count} of the {len(encoding)} residual blocks of an encoder and the "
            f"{len(decoding)} of a decoder; more of --gen_nblock, or fewer to share"
        )
    for name in encoding[len(encoding) - count :]:
        setattr(enc_y, name, enc_x[name])
    for name in decoding[:count]:
        setattr(dec_y, name, dec_x[name])
