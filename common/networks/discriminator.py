"""The discriminator (PatchGAN; Isola et al., arXiv 1611.07004)."""

from medi2i.common.compat import L
from medi2i.common.networks.attention import Attention
from medi2i.common.networks.blocks import CBR, FullyConnected, cast_in, cast_out
from medi2i.common.networks.network import Network
from medi2i.common.networks.pretrained import pretrained_features
from medi2i.common.networks.spec import Activation, DiscriminatorSpec, Norm, SampleKind, Sampling, Second

KEEP = Sampling(SampleKind.NONE, Second.NONE)
WASSERSTEIN_UNITS = 1024


class Discriminator(Network):
    """(N, in_ch, H, W) → (N, out_ch, h, w), one judgement (and one weight, with out_ch 2) per patch.

    Children: c0 (not normalised, never separable), c1 c2… levels (or base, a pretrained network), csl to twice the
    channels, a attention, cl the last layer; with ``wasserstein`` in place of cl fc1 (1024, ReLU) and fc2: (N, 1).
    """

    def __init__(self, spec: DiscriminatorSpec):
        super().__init__(spec)
        ksize, pad = spec.ksize, spec.ksize // 2
        top = 2 * spec.chs[-1]
        with self.init_scope():
            if spec.pretrained is not None:
                self.base = pretrained_features(spec.pretrained)
                self.level_names = ()
            else:
                levels = [
                    CBR(
                        spec.in_ch,
                        spec.chs[0],
                        ksize,
                        pad,
                        Norm.NONE,
                        spec.first,
                        spec.activation,
                        spec.dropout,
                        spec.conv.with_separable(False),
                    )
                ]
                levels += [
                    CBR(before, after, ksize, pad, spec.norm, spec.down, spec.activation, spec.dropout, spec.conv)
                    for before, after in zip(spec.chs, spec.chs[1:], strict=False)
                ]
                self.level_names = self.add_all("c", levels)
            self.csl = CBR(spec.chs[-1], top, ksize, pad, spec.norm, KEEP, spec.activation, spec.dropout, spec.conv)
            if spec.attention:
                self.a = Attention(top)
            if spec.wasserstein:
                self.fc1 = FullyConnected(None, WASSERSTEIN_UNITS, Activation.RELU)
                self.fc2 = L.Linear(WASSERSTEIN_UNITS, 1)
            else:
                self.cl = CBR(top, spec.out_ch, ksize, pad, Norm.NONE, KEEP, Activation.NONE, 0, spec.conv)
        self.order = (
            *(("base",) if spec.pretrained is not None else self.level_names),
            "csl",
            *(("a",) if spec.attention else ()),
            *(("fc1", "fc2") if spec.wasserstein else ("cl",)),
        )

    def forward(self, x):
        spec = self.spec
        h = cast_in(x, self)
        if spec.pretrained is not None:
            h = self.base(h)[-1]
        for name in self.level_names:
            h = self[name](h)
        h = self.csl(h)
        if spec.attention:
            h = self.a(h)
        return cast_out(self.fc2(self.fc1(h)) if spec.wasserstein else self.cl(h))
