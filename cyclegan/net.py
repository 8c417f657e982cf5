"""The networks of CycleGAN: two encoders, two decoders and the discriminators of both domains."""

from dataclasses import dataclass

from medi2i.common.compat import Array, ArrayOrVariable, chainer
from medi2i.common.networks.discriminator import Discriminator
from medi2i.common.networks.from_options import decoder_spec, discriminator_spec, encoder_spec, levels_of
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.networks.network import using_dtype
from medi2i.common.networks.pretrained import load_options_weights
from medi2i.common.options import UnpairedOptions


@dataclass
class Networks:
    """X → Y is ``dec_y(enc_x(x))``, Y → X is ``dec_x(enc_y(y))``. With one shared encoder both names are one link.

    ``dis_z`` judges the deepest feature; None where its loss has no weight.
    """

    enc_x: chainer.Chain
    enc_y: chainer.Chain
    dec_x: chainer.Chain
    dec_y: chainer.Chain
    dis_x: chainer.Chain
    dis_y: chainer.Chain
    dis_z: chainer.Chain | None

    def as_dict(self) -> dict[str, chainer.Chain]:
        """Name, as in file names, → network, for those there are."""
        return {name: link for name, link in vars(self).items() if link is not None}

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
    load_options_weights(options, encoders=[enc_x] if enc_x is enc_y else [enc_x, enc_y], discriminators=[dis_x, dis_y])
    return Networks(enc_x, enc_y, dec_x, dec_y, dis_x, dis_y, dis_z)
