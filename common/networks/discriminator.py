"""The discriminator (PatchGAN; Isola et al., arXiv 1611.07004)."""

from dataclasses import replace
from functools import partial
from typing import Any

from medi2i.common.choices import KEEP, Activation, Norm
from medi2i.common.compat import ArrayOrVariable, L, chainer
from medi2i.common.networks.blocks import attention, cast_in, cast_out, cbr, fully_connected
from medi2i.common.networks.network import Network, Step, Way, numbered, unchanged
from medi2i.common.networks.pretrained import pretrained_levels
from medi2i.common.networks.spec import DiscriminatorSpec

WASSERSTEIN_UNITS = 1024


class DiscriminatorPlan:
    """The steps of a discriminator: c0 (not normalised, never separable), c1 c2… levels (or base, a pretrained
    network), csl to twice the channels, a attention, cl the last layer; with ``wasserstein`` in place of cl
    fc1 (1024, ReLU) and fc2.
    """

    def __init__(self, spec: DiscriminatorSpec) -> None:
        self.spec = spec
        ksize, pad, top, activation = spec.ksize, spec.ksize // 2, 2 * spec.chs[-1], spec.activation
        if spec.pretrained is not None:
            self.steps = {"base": pretrained_levels(spec.pretrained)}
        else:
            plain = replace(spec.conv, separable=False)
            levels = [
                cbr(spec.in_ch, spec.chs[0], ksize, pad, Norm.NONE, spec.first, activation, spec.dropout, plain),
                *(
                    cbr(before, after, ksize, pad, spec.norm, spec.down, activation, spec.dropout, spec.conv)
                    for before, after in zip(spec.chs, spec.chs[1:], strict=False)
                ),
            ]
            self.steps = numbered("c", levels)
        self.steps["csl"] = cbr(spec.chs[-1], top, ksize, pad, spec.norm, KEEP, activation, spec.dropout, spec.conv)
        if spec.attention:
            self.steps["a"] = attention(top)
        if spec.wasserstein:
            self.steps["fc1"] = fully_connected(None, WASSERSTEIN_UNITS, Activation.RELU)
            self.steps["fc2"] = Step(partial(L.Linear, WASSERSTEIN_UNITS, 1), unchanged)
        else:
            self.steps["cl"] = cbr(top, spec.out_ch, ksize, pad, Norm.NONE, KEEP, Activation.NONE, 0, spec.conv)

    def follow(self, way: Way, x: Any) -> Any:
        """What is said of the image ``x``."""
        for name in self.steps:
            x = way.step(name, x)
            if name == "base":
                x = x[-1]
        return x


class Discriminator(Network):
    """(N, in_ch, H, W) → (N, out_ch, h, w), one judgement (and one weight, with out_ch 2) per patch.

    With ``wasserstein`` (N, 1). Children: see :class:`DiscriminatorPlan`.
    """

    spec: DiscriminatorSpec

    def __init__(self, spec: DiscriminatorSpec) -> None:
        super().__init__(DiscriminatorPlan(spec))

    def forward(self, x: ArrayOrVariable) -> chainer.Variable:
        return cast_out(self.plan.follow(self, cast_in(x, self)))
