"""From the options of a run to the specs of its networks, and to the sizes of images that its generator takes."""

from typing import Literal, TypeAlias

from medi2i.common.choices import (
    HALF,
    KEEP,
    SAMPLINGS,
    Activation,
    Norm,
    Padding,
    Pretrained,
    SampleKind,
    Sampling,
    Second,
    Unet,
)
from medi2i.common.errors import UserError
from medi2i.common.networks.generator import DecoderPlan, EncoderPlan, latent_size
from medi2i.common.networks.network import Misfit
from medi2i.common.networks.pretrained import WIDTHS
from medi2i.common.networks.receptive import Fitting, fitting, translated_rows
from medi2i.common.networks.spec import ConvStyle, DecoderSpec, DiscriminatorSpec, EncoderSpec, PretrainedSpec
from medi2i.common.options import PairedOptions, UnpairedOptions

AnyOptions: TypeAlias = PairedOptions | UnpairedOptions
DOUBLE = Sampling(SampleKind.RESIZE, Second.NONE)


def encoder_spec(options: AnyOptions, in_ch: int) -> EncoderSpec:
    """The encoder of images with ``in_ch`` channels. Raises UserError where options contradict each other."""
    _check_generator(options)
    return _encoder_spec(options, in_ch)


def fitting_sizes(options: AnyOptions) -> Fitting | None:
    """The sizes of images whose translation has their size; None where no size comes back.

    Raises UserError where no image can be translated at all.
    """
    try:
        return fitting(_encoder_spec(options, 1), decoder_spec(options, 1))
    except Misfit as error:
        raise UserError(f"{levels_in_words(options)}: {error}, so no image can be translated") from None


def _encoder_spec(options: AnyOptions, in_ch: int) -> EncoderSpec:
    chs, pretrained = levels_of(options, "gen")
    return EncoderSpec(
        in_ch=in_ch,
        chs=chs,
        ksize=options.gen_ksize,
        first=_outermost(options)[0],
        down=SAMPLINGS[options.gen_down],
        norm=Norm(options.gen_norm),
        activation=Activation(options.gen_activation),
        unet=Unet(options.unet),
        skip_ch=options.skipdim,
        res_blocks=(options.gen_nblock + 1) // 2,
        dropout=options.gen_dropout or 0.0,
        conv=generator_style(options),
        attention=options.gen_attention,
        fc_layers=options.gen_fc,
        fc_activation=Activation(options.gen_fc_activation),
        latent_dim=options.latent_dim,
        size=crop_size(options),
        pretrained=pretrained,
        residual=getattr(options, "gen_residual", 0.0),
    )


def decoder_spec(options: AnyOptions, out_ch: int) -> DecoderSpec:
    """The decoder to images with ``out_ch`` channels, of what ``encoder_spec`` has found right; with classes not
    activated, for the softmax is the loss's."""
    (chs, pretrained), size = levels_of(options, "gen"), crop_size(options)
    return DecoderSpec(
        out_ch=out_ch,
        chs=chs,
        ksize=options.gen_ksize,
        last=_outermost(options)[1],
        up=SAMPLINGS[options.gen_up],
        full=DOUBLE if pretrained is not None and pretrained.kind is Pretrained.RESNET50 else KEEP,
        norm=Norm(options.gen_norm),
        activation=Activation(options.gen_activation),
        out_activation=Activation.NONE if getattr(options, "class_num", 0) else Activation(options.gen_out_activation),
        unet=Unet(options.unet),
        skip_ch=options.skipdim,
        res_blocks=options.gen_nblock // 2,
        dropout=options.gen_dropout or 0.0,
        conv=generator_style(options),
        noise=options.noise_z,
        latent_dim=options.latent_dim,
        fc_activation=Activation(options.gen_fc_activation),
        feature_size=None if size is None else (latent_size(len(chs), size[0]), latent_size(len(chs), size[1])),
        residual=getattr(options, "gen_residual", 0.0),
    )


def discriminator_spec(options: AnyOptions, in_ch: int) -> DiscriminatorSpec:
    """The discriminator of images with ``in_ch`` channels (pix2pix: input and output together)."""
    chs, pretrained = levels_of(options, "dis")
    if options.dis_attention and chs[-1] < 4:
        raise UserError(f"--dis_attention: {chs[-1]} channels at the deepest level of --dis_chs; it needs at least 4")
    return DiscriminatorSpec(
        in_ch=in_ch,
        out_ch=2 if options.dis_reg_weighting > 0 else 1,
        chs=chs,
        ksize=options.dis_ksize,
        first=SAMPLINGS[options.dis_sample],
        down=SAMPLINGS[options.dis_down],
        norm=Norm(options.dis_norm),
        activation=Activation(options.dis_activation),
        dropout=options.dis_dropout or 0.0,
        conv=ConvStyle(options.eqconv, options.spconv, options.senet, Padding.ZERO),
        attention=options.dis_attention,
        wasserstein=options.dis_wgan,
        pretrained=pretrained,
    )


def generator_style(options: AnyOptions) -> ConvStyle:
    """How the generator's convolutions are made: squeeze-excitation is the discriminators' alone."""
    return ConvStyle(options.eqconv, options.spconv, False, Padding(getattr(options, "pad", "zero")))


def _outermost(options: AnyOptions) -> tuple[Sampling, Sampling]:
    """(first, last) layer of the generator. With HALF the first halves the size by its stride and the last doubles it
    by pixel shuffle (Shi et al., arXiv 1609.05158): all between them work at half of the resolution."""
    if options.gen_sample == HALF:
        return Sampling(SampleKind.DOWN, Second.NONE), Sampling(SampleKind.PIXEL_SHUFFLE, Second.NONE)
    both = SAMPLINGS[options.gen_sample]
    return both, both


def levels_of(options: AnyOptions, part: Literal["gen", "dis"]) -> tuple[tuple[int, ...], PretrainedSpec | None]:
    """(channels of each level, pretrained layers or None) of the generator or of the discriminator.

    Channels are those given, else base, 2·base, 4·base…; pretrained layers have their own, for as many levels.
    """
    base, count = getattr(options, f"{part}_basech"), getattr(options, f"{part}_ndown")
    chs = tuple(getattr(options, f"{part}_chs") or (base * 2**i for i in range(count)))
    option = {"gen": "gen_pretrained_encoder", "dis": "dis_pretrained"}[part]
    kind = Pretrained(getattr(options, option, ""))
    if kind is Pretrained.NONE:
        return chs, None
    widths = WIDTHS[kind]
    if len(chs) > len(widths):
        raise UserError(f"--{option} {kind.value}: it has {len(widths)} levels, {len(chs)} are asked for")
    frozen = getattr(options, f"{part}_pretrained_lr_ratio") == 0
    # A gradient penalty is nothing without the gradient by the image.
    critic = part == "dis" and options.dis_wgan
    spec = PretrainedSpec(kind, widths[: len(chs)], frozen, detached=frozen and bool(options.released) and not critic)
    return spec.widths, spec


def crop_size(options: AnyOptions) -> tuple[int, int] | None:
    """(height, width) of the training crop, None where it is not given."""
    size = options.crop_height, options.crop_width
    return size if all(size) else None


def _check_generator(options: AnyOptions) -> None:
    """UserError where the options name no network, or one that cannot take any image."""
    if getattr(options, "gen_residual", 0.0) and options.ch != options.out_ch:
        raise UserError(
            f"--gen_residual: the output has {options.out_ch} channels, the input {options.ch}; one is "
            "added to the other, so they must be as many"
        )
    chs, _ = levels_of(options, "gen")
    if options.gen_attention and chs[-1] < 8:
        raise UserError(f"--gen_attention: {chs[-1]} channels at the deepest level of --gen_chs; it needs at least 8")
    if (options.gen_fc or options.latent_dim > 0) and crop_size(options) is None:
        name = "gen_fc" if options.gen_fc else "latent_dim"
        raise UserError(f"--{name}: it needs the size of the images: --crop_height and --crop_width")
    fitting_sizes(options)


def levels_in_words(options: AnyOptions) -> str:
    """The options that decide how sizes change, for messages."""
    return (
        f"--gen_sample {options.gen_sample}, --gen_down {options.gen_down}, --gen_up {options.gen_up}, "
        f"--gen_ksize {options.gen_ksize}, --unet {options.unet}"
    )


def fitting_of(options: AnyOptions) -> Fitting:
    """The sizes of images that the generator gives back in their size. Raises UserError where there are none."""
    found = fitting_sizes(options)
    if found is None:
        raise UserError(
            f"{levels_in_words(options)}: output and input would differ in size, whatever the input's is; "
            "--gen_down down, maxpool, avgpool go with --gen_up resize, unpool, deconv, pixsh, and none "
            "with none, with kernels of 3 (4 fits down and deconv)"
        )
    return found


def size_multiple(options: AnyOptions) -> int:
    """What height and width of the generator's images must be divisible by; 1 where ``check_size`` asks for more.

    Raises UserError where no image comes back in its size.
    """
    found = fitting_of(options)
    return 1 if found.rest else found.multiple


def fixed_size(options: AnyOptions) -> tuple[int, int] | None:
    """(height, width) that images must have where fully connected layers allow no other, else None."""
    return crop_size(options) if options.gen_fc or options.latent_dim > 0 else None


def check_size(options: AnyOptions, size: tuple[int, int]) -> None:
    """UserError, with the sizes that would work, unless images of ``size`` (height, width) come back in their size."""
    encoder, decoder = EncoderPlan(_encoder_spec(options, 1)), DecoderPlan(decoder_spec(options, 1))
    encoder.check_size(size)
    sizes = fitting_of(options)
    try:
        fits = all(translated_rows(encoder, decoder, n).size == n for n in size)
    except Misfit:
        fits = False
    if not fits:
        raise UserError(
            f"image of {size[0]}x{size[1]} (height x width): this network needs {sizes}; "
            + " or ".join(f"{h}x{w}" for h, w in sizes.around(size))
            + " would work"
        )
