"""What a network is made of: typed choices and explicit numbers, nothing read from a command line.

``EncoderSpec``, ``DecoderSpec`` and ``DiscriminatorSpec`` hold everything that ``Encoder``, ``Decoder`` and
``Discriminator`` need. ``from_options`` makes them from the options of a run. Sizes are (height, width) in pixels.
"""

from dataclasses import dataclass

from medi2i.common.choices import Activation, Norm, Padding, Pretrained, Sampling, Unet


@dataclass(frozen=True)
class ConvStyle:
    """How the convolutions of a network are made.

    equalised: N(0, 1) weights, input scaled by sqrt(2 / in_ch) / ksize (Karras et al., arXiv 1710.10196, 4.1).
    separable: depthwise, then pointwise (Chollet, arXiv 1610.02357).
    squeeze: squeeze-excitation after convolutions to more than 15 channels (Hu et al., arXiv 1709.01507).
    """

    equalised: bool
    separable: bool
    squeeze: bool
    padding: Padding


@dataclass(frozen=True)
class PretrainedSpec:
    """Which pretrained layers: their kind, how many levels, and the channels of each level.

    ``widths`` are those of the published weights unless a test builds a thin copy.
    ``frozen``: weights and batch statistics stay as they were trained (learning-rate ratio 0); files of the network
    do not hold them. ``detached``: no gradient passes through them to what lies before, as in the released codes.
    """

    kind: Pretrained
    widths: tuple[int, ...]
    frozen: bool
    detached: bool = False


@dataclass(frozen=True)
class EncoderSpec:
    """Image (N, in_ch, H, W) → skips and the deepest feature, of chs[-1] channels.

    ``size``: that of the images, where fully connected layers fix it. ``residual`` above 0: the image itself comes
    first of all, for the decoder to add its own output to it.
    """

    in_ch: int
    chs: tuple[int, ...]
    ksize: int
    first: Sampling
    down: Sampling
    norm: Norm
    activation: Activation
    unet: Unet
    skip_ch: int
    res_blocks: int
    dropout: float
    conv: ConvStyle
    attention: bool
    fc_layers: int
    fc_activation: Activation
    latent_dim: int
    size: tuple[int, int] | None
    pretrained: PretrainedSpec | None
    residual: float


@dataclass(frozen=True)
class DecoderSpec:
    """What an encoder of the same ``chs`` and ``residual`` returned → image (N, out_ch, H, W).

    ``residual`` above 0: the image is the encoder's input plus ``residual`` times what the layers say
    (residual learning; Zhang et al., arXiv 1608.03981).
    """

    out_ch: int
    chs: tuple[int, ...]
    ksize: int
    last: Sampling
    up: Sampling
    full: Sampling
    norm: Norm
    activation: Activation
    out_activation: Activation
    unet: Unet
    skip_ch: int
    res_blocks: int
    dropout: float
    conv: ConvStyle
    noise: float
    latent_dim: int
    fc_activation: Activation
    feature_size: tuple[int, int] | None
    residual: float

    @property
    def joined_chs(self) -> tuple[int, ...]:
        """Channels at each level once the skip has joined, shallowest first."""
        extra = {
            Unet.NONE: lambda ch: ch,
            Unet.ADD: lambda ch: ch,
            Unet.CONCAT: lambda ch: 2 * ch,
            Unet.CONV: lambda ch: ch + self.skip_ch,
        }[self.unet]
        return tuple(extra(ch) for ch in self.chs)

    @property
    def joins_deepest(self) -> bool:
        """Whether the one level joins the deepest feature in place of the skip.

        The released decoder counts skips from the end of the encoder's list, where a latent vector comes last. With
        more levels, or a skip of other channels, it does not run: there each level joins its own skip.
        """
        return (
            self.latent_dim > 0
            and len(self.chs) == 1
            and self.unet is not Unet.NONE
            and (self.unet is not Unet.CONV or self.skip_ch == self.chs[0])
        )


@dataclass(frozen=True)
class DiscriminatorSpec:
    """Image (N, in_ch, H, W) → a map of judgements (N, out_ch, h, w), or (N, 1) with ``wasserstein``.

    A ``wasserstein`` discriminator ends in fully connected layers: their size is that of the first image judged,
    or of the weights loaded.
    """

    in_ch: int
    out_ch: int
    chs: tuple[int, ...]
    ksize: int
    first: Sampling
    down: Sampling
    norm: Norm
    activation: Activation
    dropout: float
    conv: ConvStyle
    attention: bool
    wasserstein: bool
    pretrained: PretrainedSpec | None
