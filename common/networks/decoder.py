"""The decoder: what the encoder returned → image."""
from medi2i.common.compat import F, L, chainer
from medi2i.common.networks.blocks import CBR, ResBlock, cast_in, cast_out
from medi2i.common.networks.network import Network
from medi2i.common.networks.spec import DecoderSpec, Norm, Unet


class Decoder(Network):
    """[skip_0 … skip_{n-1}, e(, latent)] → (N, out_ch, H, W).

    Children: latent_fc (if the encoder has one), r0 r1… residual blocks, ua1 … ua{n} levels from the deepest up, each
    on its skip joined with what came from below, ul the last layer.
    While training, Gaussian noise of standard deviation ``spec.noise`` is added to e; it is drawn from the global
    generator of NumPy or CuPy, as dropout is.
    """

    def __init__(self, spec: DecoderSpec):
        super().__init__(spec)
        pad = (spec.ksize - 1) // 2
        joined = spec.joined_chs
        with self.init_scope():
            if spec.latent_dim > 0:
                height, width = spec.feature_size
                self.latent_fc = L.Linear(spec.latent_dim, spec.chs[-1] * height * width)
            self.res_names = self.add_all("r", [ResBlock(spec.chs[-1], spec.norm, spec.activation, spec.conv)
                                                for _ in range(spec.res_blocks)])
            levels = [CBR(joined[i], spec.chs[i - 1], spec.ksize, pad, spec.norm, spec.up, spec.activation,
                          spec.dropout, spec.conv) for i in range(len(spec.chs) - 1, 0, -1)]
            levels.append(CBR(joined[0], joined[0], 3, 1, spec.norm, spec.full, spec.activation, spec.dropout,
                              spec.conv))
            self.level_names = self.add_all("ua", levels, start=1)
            self.ul = CBR(joined[0], spec.out_ch, 3, 1, Norm.NONE, spec.last, spec.out_activation, 0, spec.conv)
            if spec.residual:
                # The first output is nearly the input: nothing that is already right has to be unlearned.
                for parameter in self.ul.params():
                    if parameter.array is not None:
                        parameter.array *= 0.1
        self.order = (*(("latent_fc",) if spec.latent_dim > 0 else ()), *self.res_names, *self.level_names, "ul")

    def forward(self, features):
        spec = self.spec
        if spec.residual:
            image, *features = features
        n_skips = 0 if spec.unet is Unet.NONE else len(spec.chs)
        skips, rest = features[:n_skips], features[n_skips:]
        h = cast_in(rest[0], self)
        if spec.latent_dim > 0:
            h = F.reshape(self.latent_fc(cast_in(rest[1], self)), (len(h), spec.chs[-1], *spec.feature_size))
        if spec.noise > 0 and chainer.config.train:
            xp = chainer.backend.get_array_module(h)
            h = h + (spec.noise * xp.random.standard_normal(h.shape)).astype(h.dtype)
        for name in self.res_names:
            h = self[name](h)
        for i, name in enumerate(self.level_names, start=1):
            if spec.unet is Unet.ADD:
                h = h + skips[-i]
            elif spec.unet is not Unet.NONE:
                h = F.concat([h, skips[-i]], axis=1)
            h = self[name](h)
        y = cast_out(self.ul(h))
        return image + spec.residual * y if spec.residual else y
