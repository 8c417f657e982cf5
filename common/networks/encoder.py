"""The encoder: image → skips and deepest feature."""

import math

from medi2i.common.compat import F, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.attention import Attention
from medi2i.common.networks.blocks import CBR, FullyConnected, ResBlock, cast_in
from medi2i.common.networks.extent import PAD, level_sizes
from medi2i.common.networks.network import Network
from medi2i.common.networks.pretrained import pretrained_features
from medi2i.common.networks.spec import Activation, EncoderSpec, SampleKind, Sampling, Second, Unet

KEEP = Sampling(SampleKind.NONE, Second.NONE)


class Encoder(Network):
    """(N, in_ch, H, W) in [-1, 1] → list [skip_0 … skip_{n-1}, e], then the latent vector (N, latent_dim) if asked.

    skip_i: (N, skip_ch or chs[i], H_i, W_i) with the ``extent.level_sizes`` of the image, shallowest first, none at all
    with Unet.NONE; e: (N, chs[-1], H_(n-1), W_(n-1)). Levels are padded by 1 whatever their kernel is, as in the
    released code. With ``residual`` x itself comes before all of them. Children: l0… AUTOMAP layers (Zhu et
    al., arXiv 1704.08841), c0 d1 d2… levels (or base, a pretrained network), s0 s1… skip convolutions, r0 r1…
    residual blocks, a attention, latent_fc (with an activation).
    Raises UserError for an image of another size than fully connected layers have.
    """

    def __init__(self, spec: EncoderSpec):
        super().__init__(spec)
        deepest = spec.chs[-1]
        with self.init_scope():
            if spec.fc_layers:
                pixels = spec.in_ch * spec.size[0] * spec.size[1]
                self.fc_names = self.add_all(
                    "l", [FullyConnected(pixels, pixels, spec.fc_activation) for _ in range(spec.fc_layers)]
                )
            else:
                self.fc_names = ()
            if spec.pretrained is not None:
                self.base = pretrained_features(spec.pretrained)
                self.level_names = ()
            else:
                first_style = spec.conv.with_separable(False)
                first = CBR(spec.in_ch, spec.chs[0], 3, PAD, spec.norm, spec.first, spec.activation, 0, first_style)
                deeper = [
                    CBR(before, after, spec.ksize, PAD, spec.norm, spec.down, spec.activation, spec.dropout, spec.conv)
                    for before, after in zip(spec.chs, spec.chs[1:], strict=False)
                ]
                self.level_names = self.add_all("c", [first]) + self.add_all("d", deeper, start=1)
            self.skip_names = ()
            if spec.unet is Unet.CONV:
                # ReLU whatever the activation of the rest: so the released weights were trained.
                self.skip_names = self.add_all(
                    "s",
                    [
                        CBR(
                            ch, spec.skip_ch, 3, 1, spec.norm, KEEP, Activation.RELU, 0, spec.conv.with_separable(False)
                        )
                        for ch in spec.chs
                    ],
                )
            self.res_names = self.add_all(
                "r", [ResBlock(deepest, spec.norm, spec.activation, spec.conv) for _ in range(spec.res_blocks)]
            )
            if spec.attention:
                self.a = Attention(deepest)
            if spec.latent_dim > 0:
                in_size = (
                    None if spec.size is None else deepest * math.prod(level_sizes(spec, n)[-1] for n in spec.size)
                )
                self.latent_fc = FullyConnected(in_size, spec.latent_dim, spec.fc_activation)
        self.order = (
            *self.fc_names,
            *(("base",) if spec.pretrained is not None else self.level_names),
            *self.skip_names,
            *self.res_names,
            *(("a",) if spec.attention else ()),
            *(("latent_fc",) if spec.latent_dim > 0 else ()),
        )

    def forward(self, x):
        spec = self.spec
        self.check_size(x.shape[2:])
        h = cast_in(x, self)
        for name in self.fc_names:
            h = F.reshape(self[name](h), x.shape)
        levels = self.base(h) if spec.pretrained is not None else self._levels(h)
        if spec.unet is Unet.NONE:
            skips = []
        elif spec.unet is Unet.CONV:
            skips = [self[name](level) for name, level in zip(self.skip_names, levels, strict=True)]
        else:
            skips = list(levels)
        h = levels[-1]
        for name in self.res_names:
            h = self[name](h)
        if spec.attention:
            h = self.a(h)
        features = [*skips, h, self.latent_fc(h)] if spec.latent_dim > 0 else [*skips, h]
        return [chainer.as_variable(x), *features] if spec.residual else features

    def check_size(self, size):
        """UserError for an image of a ``size`` (height, width) that the encoder does not take."""
        spec = self.spec
        if (spec.fc_layers or spec.latent_dim > 0) and spec.size is not None and tuple(size) != tuple(spec.size):
            raise UserError(
                f"image of {size[0]}x{size[1]} (height x width): with --gen_fc or --latent_dim it must be "
                f"exactly {spec.size[0]}x{spec.size[1]}, the crop of the training"
            )

    def _levels(self, h):
        levels = []
        for name in self.level_names:
            h = self[name](h)
            levels.append(h)
        return levels
