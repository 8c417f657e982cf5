"""The decoder: what the encoder returned → image."""

from medi2i.common.compat import F, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.blocks import CBR, FullyConnected, ResBlock, cast_in, cast_out
from medi2i.common.networks.extent import PAD
from medi2i.common.networks.network import Network
from medi2i.common.networks.spec import DecoderSpec, Norm, Unet


class Decoder(Network):
    """[skip_0 … skip_{n-1}, e(, latent)] → (N, out_ch, H, W).

    Children: latent_fc (if the encoder has one; with an activation), r0 r1… residual blocks, ua1 … ua{n} levels from
    the deepest up, each on its skip joined with what came from below (``DecoderSpec.joins_deepest`` has the exception),
    ul the last layer. Of the levels, the last has no dropout, as in the released code.
    While training, Gaussian noise of standard deviation ``spec.noise`` is added to the last of the features, in the
    list that the caller keeps: as in the released code, features decoded twice carry both draws. It is drawn from the
    global generator of NumPy or CuPy, as dropout is.
    Raises UserError where a skip has another size than what it is joined with.
    """

    def __init__(self, spec: DecoderSpec):
        super().__init__(spec)
        joined = spec.joined_chs
        with self.init_scope():
            if spec.latent_dim > 0:
                height, width = spec.feature_size
                self.latent_fc = FullyConnected(spec.latent_dim, spec.chs[-1] * height * width, spec.fc_activation)
            self.res_names = self.add_all(
                "r", [ResBlock(spec.chs[-1], spec.norm, spec.activation, spec.conv) for _ in range(spec.res_blocks)]
            )
            levels = [
                CBR(
                    joined[i],
                    spec.chs[i - 1],
                    spec.ksize,
                    PAD,
                    spec.norm,
                    spec.up,
                    spec.activation,
                    spec.dropout,
                    spec.conv,
                )
                for i in range(len(spec.chs) - 1, 0, -1)
            ]
            levels.append(CBR(joined[0], joined[0], 3, PAD, spec.norm, spec.full, spec.activation, 0, spec.conv))
            self.level_names = self.add_all("ua", levels, start=1)
            self.ul = CBR(joined[0], spec.out_ch, 3, PAD, Norm.NONE, spec.last, spec.out_activation, 0, spec.conv)
            if spec.residual:
                # The first output is nearly the input: nothing that is already right has to be unlearned.
                for parameter in self.ul.params():
                    if parameter.array is not None:
                        parameter.array *= 0.1
        self.order = (*(("latent_fc",) if spec.latent_dim > 0 else ()), *self.res_names, *self.level_names, "ul")

    def forward(self, features):
        spec = self.spec
        self._add_noise(features)
        image, *features = features if spec.residual else (None, *features)
        n_skips = 0 if spec.unet is Unet.NONE else len(spec.chs)
        skips, rest = features[:n_skips], features[n_skips:]
        h = cast_in(rest[0], self)
        if spec.joins_deepest:
            skips = [h]
        if spec.latent_dim > 0:
            h = F.reshape(self.latent_fc(cast_in(rest[1], self)), (len(h), spec.chs[-1], *spec.feature_size))
        for name in self.res_names:
            h = self[name](h)
        for i, name in enumerate(self.level_names, start=1):
            if skips:
                h = self._joined(h, skips[-i])
            h = self[name](h)
        y = cast_out(self.ul(h))
        return image + spec.residual * y if spec.residual else y

    def _add_noise(self, features):
        if self.spec.noise > 0 and chainer.config.train:
            last = chainer.as_variable(features[-1])
            xp = chainer.backend.get_array_module(last)
            features[-1] = last + (self.spec.noise * xp.random.standard_normal(last.shape)).astype(last.dtype)

    def _joined(self, h, skip):
        if h.shape[2:] != skip.shape[2:]:
            raise UserError(
                f"a level of the decoder has {h.shape[2]}x{h.shape[3]} pixels where the encoder's has "
                f"{skip.shape[2]}x{skip.shape[3]}: this network does not take images of this size"
            )
        return h + skip if self.spec.unet is Unet.ADD else F.concat([h, skip], axis=1)
