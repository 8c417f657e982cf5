"""The networks of pix2pix: one generator (encoder and decoder), a discriminator of pairs, a segmentor that judges."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medi2i.common.compat import ArrayOrVariable, F, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.checkpoint import Generator, load_generator
from medi2i.common.networks.discriminator import Discriminator
from medi2i.common.networks.from_options import decoder_spec, discriminator_spec, encoder_spec
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.networks.network import constant_weights, using_dtype
from medi2i.common.networks.pretrained import load_options_weights
from medi2i.common.options import PairedOptions


@dataclass
class Networks:
    """``enc_x`` and ``dec_y`` translate; ``dis`` judges (input, output) pairs, None without an adversarial loss."""

    enc_x: chainer.Chain
    dec_y: chainer.Chain
    dis: chainer.Chain | None

    def as_dict(self) -> dict[str, chainer.Chain]:
        """Name, as in file names, → network, for those there are."""
        return {name: link for name, link in vars(self).items() if link is not None}

    def translate(self, x: ArrayOrVariable) -> chainer.Variable:
        """(N, C, H, W) in [-1, 1] → (N, C', H, W), class scores before the softmax where there are classes."""
        return self.dec_y(self.enc_x(x))


def build(options: PairedOptions) -> Networks:
    """Networks with fresh weights, for images of ``options.ch`` and ``options.out_ch`` channels.

    Weights of a pretrained encoder come from the file that the options name. Raises UserError.
    """
    with using_dtype(options.dtype):
        enc_x = Encoder(encoder_spec(options, options.ch))
        dec_y = Decoder(decoder_spec(options, options.out_ch))
        dis = None
        if options.lambda_dis > 0:
            dis = Discriminator(discriminator_spec(options, options.ch + options.out_ch))
    load_options_weights(options, encoders=[enc_x], discriminators=[])
    return Networks(enc_x, dec_y, dis)


class Segmentor:
    """Callable on images (N, C, H, W) in [-1, 1] -> the features of a frozen segmentation network, from the skips
    of its encoder to the class probabilities: what they tell of anatomy is compared (--lambda_anatomy).

    The gradient flows to the image; weights and statistics are constants, and nothing is drawn (test mode).

    Args: generator: of a pix2pix run with classes. clip: the values that are -1 and 1 in the images, of their own unit;
    they are brought to the clip that the network was trained with. Raises UserError, naming --segmentor.
    """

    def __init__(self, generator: Generator, clip: tuple[float, float], channels: int) -> None:
        trained = generator.options
        where = generator.files[0].parent if generator.files else "this network"
        if not isinstance(trained, PairedOptions) or not trained.class_num:
            raise UserError(f"--segmentor: {where} tells no classes apart; a pix2pix run with --class_num would")
        if trained.ch != channels:
            raise UserError(f"--segmentor: {where} takes images of {trained.ch} channels, these have {channels}")
        low, high = getattr(trained, trained.clip_names[0]) or clip
        self.generator = generator
        self.scale = np.float32((clip[1] - clip[0]) / (high - low))
        self.shift = np.float32(((clip[0] - low) + (clip[1] - high)) / (high - low))

    @classmethod
    def load(cls, run: str | Path | None, clip: tuple[float, float] | None, channels: int) -> "Segmentor":
        """That of the best epoch of a run folder, else of its last. Raises UserError."""
        if run is None:
            raise UserError("--lambda_anatomy: needs --segmentor RUN, a pix2pix run with --class_num")
        if clip is None:
            raise UserError(
                "--lambda_anatomy: images have no clip; --clipB LOW HIGH would say which values -1 and 1 are"
            )
        try:
            generator = load_generator(run, epoch="best")
        except UserError:
            generator = load_generator(run)
        return cls(generator, clip, channels)

    def to_device(self, device: chainer.backend.Device) -> None:
        """Move the weights to a Chainer device."""
        self.generator.encoder.to_device(device)
        self.generator.decoder.to_device(device)

    def __call__(self, image: ArrayOrVariable) -> list[chainer.Variable]:
        encoder, decoder = self.generator.encoder, self.generator.decoder
        # What lies outside of its clip the segmentor has never seen.
        seen = F.clip(self.scale * chainer.as_variable(image) + self.shift, -1.0, 1.0)
        with chainer.using_config("train", False), constant_weights(encoder), constant_weights(decoder):
            features = encoder(seen)
            scores = decoder(list(features))
        return [*features, F.softmax(scores, axis=1)]
