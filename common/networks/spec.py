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


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What all networks have: levels of ``chs`` channels, made of convolutions with kernels of ``ksize``."""

    chs: tuple[int, ...]
    ksize: int
    norm: Norm
    activation: Activation
    dropout: float
    conv: ConvStyle


@dataclass(frozen=True, kw_only=True)
class AnalysisSpec(NetworkSpec):
    """What encoder and discriminator have, which take images (N, in_ch, H, W)."""

    in_ch: int
    first: Sampling
    down: Sampling
    attention: bool
    pretrained: PretrainedSpec | None


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec(NetworkSpec):
    """What encoder and decoder of a generator have.

    ``residual`` above 0: the image is the encoder's input plus ``residual`` times what the layers say
    (residual learning; Zhang et al., arXiv 1608.03981).
    """

    unet: Unet
    skip_ch: int
    res_blocks: int
    latent_dim: int
    fc_activation: Activation
    residual: float


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(AnalysisSpec, GeneratorSpec):
    """Image (N, in_ch, H, W) → skips and the deepest feature, of chs[-1] channels.

    ``size``: that of the images, where fully connected layers fix it. ``residual`` above 0: the image itself comes
    first of all, for the decoder to add its own output to it.
    """

    fc_layers: int
    size: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class DecoderSpec(GeneratorSpec):
    """What an encoder of the same ``chs`` and ``residual`` returned → image (N, out_ch, H, W)."""

    out_ch: int
    last: Sampling
    up: Sampling
    full: Sampling
    out_activation: Activation
    noise: float
    feature_size: tuple[int, int] | None

    @property
    def joined_chs(self) -> tuple[int, ...]:
        """Channels at each level once the skip has joined, shallowest first."""
        factor, extra = {
            Unet.NONE: (1, 0),
            Unet.ADD: (1, 0),
            Unet.CONCAT: (2, 0),
            Unet.CONV: (1, self.skip_ch),
        }[self.unet]
        return tuple(factor * ch + extra for ch in self.chs)

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


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSpec(AnalysisSpec):
    """Image (N, in_ch, H, W) → a map of judgements (N, out_ch, h, w), or (N, 1) with ``wasserstein``.

    A ``wasserstein`` discriminator ends in fully connected layers: their size is that of the first image judged,
    or of the weights loaded.
    """

    out_ch: int
    wasserstein: bool
