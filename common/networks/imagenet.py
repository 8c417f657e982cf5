"""Layers of a network trained on ImageNet, in a row of which some answers are picked, as ChainerCV has it.

ChainerCV takes a second to import: this module is imported where such layers are built.
"""

from typing import TYPE_CHECKING

from medi2i.common.compat import ArrayOrVariable, F, chainer, chainercv
from medi2i.common.errors import UserError
from medi2i.common.networks.spec import PretrainedSpec

if TYPE_CHECKING:
    from medi2i.common.networks.pretrained import Published


def three_channels(x: ArrayOrVariable) -> chainer.Variable:
    """Grey (N, 1, H, W) repeated to three channels; three channels as they are. Raises UserError for any other."""
    if x.shape[1] == 3:
        return chainer.as_variable(x)
    if x.shape[1] != 1:
        raise UserError(f"{x.shape[1]} channels: a network trained on ImageNet takes 1 (grey) or 3 (colour)")
    return F.broadcast_to(x, (x.shape[0], 3, *x.shape[2:]))


class Features(chainercv.links.PickableSequentialChain):  # type: ignore[name-defined]  # compat makes it when asked
    """(N, 1 or 3, H, W) → the answers of the layers named ``pick``: a tuple of the levels, or of one layer alone.

    Frozen, it has the running statistics of its training. Children are named as in Chainer's own networks.
    """

    def __init__(self, spec: PretrainedSpec, published: "Published") -> None:
        super().__init__()
        self.spec, self.published = spec, published
        with self.init_scope():
            for name, layer in published.layers(spec.widths).items():
                setattr(self, name, layer.build())
        self.pick = published.levels[: len(spec.widths)]
        for link in self.links():
            link.fixed = spec.frozen  # its statistics are not measured anew

    def forward(self, x: ArrayOrVariable) -> chainer.Variable | tuple[chainer.Variable, ...]:
        if not self.spec.frozen:
            return super().forward(three_channels(x))
        backprop = chainer.config.enable_backprop and not self.spec.detached
        with chainer.using_config("train", False), chainer.using_config("enable_backprop", backprop):
            return super().forward(three_channels(x))

    def describe(self) -> str:
        """One line: the network and the channels of each level."""
        frozen = ", frozen" if self.spec.frozen else ""
        return f"{self.published.title} {' '.join(str(w) for w in self.spec.widths)}{frozen}"
