"""The networks of pix2pix: one generator (encoder and decoder) and a discriminator of pairs."""

from dataclasses import dataclass

from medi2i.common.compat import ArrayOrVariable, chainer
from medi2i.common.networks.discriminator import Discriminator
from medi2i.common.networks.from_options import decoder_spec, discriminator_spec, encoder_spec
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.networks.network import using_dtype
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
