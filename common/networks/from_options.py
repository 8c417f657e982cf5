"""From the options of a run to the specs of its networks."""
from medi2i.common.errors import UserError
from medi2i.common.networks.pretrained import WIDTHS
from medi2i.common.networks.spec import (
    SAMPLINGS,
    Activation,
    ConvStyle,
    DecoderSpec,
    DiscriminatorSpec,
    EncoderSpec,
    Norm,
    Padding,
    Pretrained,
    PretrainedSpec,
    SampleKind,
    Sampling,
    Second,
    Unet,
    downscaling,
)

KEEP = Sampling(SampleKind.NONE, Second.NONE)
DOUBLE = Sampling(SampleKind.RESIZE, Second.NONE)


def encoder_spec(options, in_ch: int) -> EncoderSpec:
    """The encoder of images with ``in_ch`` channels. Raises UserError where options contradict each other."""
    pretrained = generator_pretrained(options)
    chs = generator_channels(options)
    _check_generator(options, chs, pretrained)
    return EncoderSpec(
        in_ch=in_ch, chs=chs, ksize=options.gen_ksize,
        first=sampling("gen_sample", options.gen_sample), down=sampling("gen_down", options.gen_down),
        norm=Norm(options.gen_norm), activation=Activation(options.gen_activation),
        unet=Unet(options.unet), skip_ch=options.skipdim,
        res_blocks=(options.gen_nblock + 1) // 2, dropout=options.gen_dropout or 0.0, conv=generator_style(options),
        attention=options.gen_attention, fc_layers=options.gen_fc,
        fc_activation=Activation(options.gen_fc_activation), latent_dim=options.latent_dim,
        size=crop_size(options), pretrained=pretrained, residual=_residual(options))


def decoder_spec(options, out_ch: int) -> DecoderSpec:
    """The decoder to images with ``out_ch`` channels; with classes not activated, for the softmax is the loss's."""
    pretrained = generator_pretrained(options)
    chs = generator_channels(options)
    _check_generator(options, chs, pretrained)
    size, factor = crop_size(options), downscaling(chs, sampling("gen_down", options.gen_down), pretrained)
    classes = getattr(options, "class_num", 0)
    return DecoderSpec(
        out_ch=out_ch, chs=chs, ksize=options.gen_ksize,
        last=sampling("gen_sample", options.gen_sample), up=sampling("gen_up", options.gen_up),
        full=DOUBLE if pretrained is not None and pretrained.kind is Pretrained.RESNET50 else KEEP,
        norm=Norm(options.gen_norm), activation=Activation(options.gen_activation),
        out_activation=Activation.NONE if classes else Activation(options.gen_out_activation),
        unet=Unet(options.unet), skip_ch=options.skipdim, res_blocks=options.gen_nblock // 2,
        dropout=options.gen_dropout or 0.0, conv=generator_style(options), noise=options.noise_z,
        latent_dim=options.latent_dim, feature_size=None if size is None else (size[0] // factor, size[1] // factor),
        residual=_residual(options))


def discriminator_spec(options, in_ch: int) -> DiscriminatorSpec:
    """The discriminator of images with ``in_ch`` channels (pix2pix: input and output together)."""
    kind = Pretrained(getattr(options, "dis_pretrained", ""))
    chs = channels(options.dis_chs, options.dis_basech, options.dis_ndown)
    pretrained = None
    if kind is not Pretrained.NONE:
        pretrained = _pretrained_spec(kind, len(chs), options.dis_pretrained_lr_ratio, "dis_pretrained")
        chs = pretrained.widths
    if options.dis_attention and chs[-1] < 4:
        raise UserError(f"--dis_attention: {chs[-1]} channels at the deepest level of --dis_chs; it needs at least 4")
    return DiscriminatorSpec(
        in_ch=in_ch, out_ch=2 if options.dis_reg_weighting > 0 else 1, chs=chs, ksize=options.dis_ksize,
        first=sampling("dis_sample", options.dis_sample), down=sampling("dis_down", options.dis_down),
        norm=Norm(options.dis_norm), activation=Activation(options.dis_activation),
        dropout=options.dis_dropout or 0.0,
        conv=ConvStyle(options.eqconv, options.spconv, options.senet, Padding.ZERO),
        attention=options.dis_attention, wasserstein=options.dis_wgan, pretrained=pretrained)


def generator_style(options) -> ConvStyle:
    """How the generator's convolutions are made: squeeze-excitation is the discriminators' alone."""
    return ConvStyle(options.eqconv, options.spconv, False, Padding(getattr(options, "pad", "zero")))


def sampling(option: str, name: str) -> Sampling:
    """The choice called ``name``. Raises UserError naming ``option`` and the choices."""
    if name not in SAMPLINGS:
        raise UserError(f"--{option}: {name!r} is unknown; it can be {', '.join(SAMPLINGS)}")
    return SAMPLINGS[name]


def channels(given, base: int, levels: int) -> tuple[int, ...]:
    """Channels of each level: as given, else base, 2·base, 4·base…"""
    return tuple(given) if given else tuple(base * 2 ** i for i in range(levels))


def generator_channels(options) -> tuple[int, ...]:
    """Channels of the generator's levels; those of a pretrained encoder are its own."""
    pretrained = generator_pretrained(options)
    return channels(options.gen_chs, options.gen_basech, options.gen_ndown) if pretrained is None else pretrained.widths


def generator_pretrained(options) -> PretrainedSpec | None:
    """The pretrained encoder, if asked, up to as many levels as the generator has."""
    kind = Pretrained(options.gen_pretrained_encoder)
    if kind is Pretrained.NONE:
        return None
    levels = len(options.gen_chs) if options.gen_chs else options.gen_ndown
    return _pretrained_spec(kind, levels, options.gen_pretrained_lr_ratio, "gen_pretrained_encoder")


def _pretrained_spec(kind, levels, ratio, option):
    widths = WIDTHS[kind]
    if levels > len(widths):
        raise UserError(f"--{option} {kind.value}: it has {len(widths)} levels, {levels} are asked for")
    return PretrainedSpec(kind, widths[:levels], frozen=ratio == 0)


def crop_size(options) -> tuple[int, int] | None:
    """(height, width) of the training crop, None where it is not given."""
    if options.crop_height and options.crop_width:
        return options.crop_height, options.crop_width
    return None


def _residual(options) -> float:
    """The scale of a residual output, 0 where the output stands alone."""
    residual = getattr(options, "gen_residual", 0.0)
    if residual and options.ch != options.out_ch:
        raise UserError(f"--gen_residual: the output has {options.out_ch} channels, the input {options.ch}; one is "
                        "added to the other, so they must be as many")
    return residual


def _check_generator(options, chs, pretrained):
    """UserError where the options would give an image of another size than the input, or no network at all."""
    first = sampling("gen_sample", options.gen_sample)
    down, up = sampling("gen_down", options.gen_down), sampling("gen_up", options.gen_up)
    if first.halves or first.doubles:
        raise UserError(f"--gen_sample: {first.name} changes the size of the image; none-7 or none (also with _conv, "
                        "_res) keep it")
    if pretrained is None and not (down.halves or down.kind in (SampleKind.NONE, SampleKind.NONE_7)):
        raise UserError(f"--gen_down: {down.name} makes images larger; down, maxpool, avgpool or none would do")
    halves = True if pretrained is not None else down.halves
    if len(chs) > 1 and halves != up.doubles:
        raise UserError(f"--gen_down {down.name} with --gen_up {up.name}: output and input would differ in size; "
                        "down, maxpool, avgpool go with resize, unpool, deconv, pixsh, and none with none")
    for option, kind in (("gen_down", down.kind), ("gen_up", up.kind)):
        if options.gen_ksize % 2 == 0 and kind not in (SampleKind.DOWN, SampleKind.DECONV, SampleKind.NONE_7):
            raise UserError(f"--gen_ksize: {options.gen_ksize} is even, which fits --gen_down down and --gen_up deconv "
                            f"only, not --{option} {kind.value}; {options.gen_ksize - 1} or {options.gen_ksize + 1} "
                            "would do")
    if up.kind is SampleKind.DECONV and options.gen_ksize % 2 and options.gen_ksize != 3:
        raise UserError(f"--gen_ksize: {options.gen_ksize} with --gen_up {up.name} gives images of one pixel less than "
                        "twice the size; 3 or 4 would do")
    if options.gen_attention and chs[-1] < 8:
        raise UserError(f"--gen_attention: {chs[-1]} channels at the deepest level of --gen_chs; it needs at least 8")
    if (options.gen_fc or options.latent_dim > 0) and crop_size(options) is None:
        name = "gen_fc" if options.gen_fc else "latent_dim"
        raise UserError(f"--{name}: it needs the size of the images: --crop_height and --crop_width")
