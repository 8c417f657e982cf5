"""Encoder, image → skips and deepest feature, and decoder, what the encoder returned → image."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

from medi2i.common.choices import KEEP, Activation, Norm, Unet
from medi2i.common.compat import ArrayOrVariable, F, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.blocks import (
    FullyConnected,
    attention,
    cast_in,
    cast_out,
    cbr,
    fully_connected,
    res_block,
)
from medi2i.common.networks.network import Network, Rows, RowsWay, Step, Way, numbered, unchanged
from medi2i.common.networks.pretrained import pretrained_levels
from medi2i.common.networks.spec import DecoderSpec, EncoderSpec

# Zeros at each border in the generator's levels, whatever their kernel: so the released code has it.
PAD = 1


class EncoderPlan:
    """The steps of an encoder: l0… AUTOMAP layers (Zhu et al., arXiv 1704.08841), c0 d1 d2… levels (or base, a
    pretrained network), s0 s1… skip convolutions, r0 r1… residual blocks, a attention, latent_fc (with an activation).
    """

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec
        norm, activation, deepest = spec.norm, spec.activation, spec.chs[-1]
        plain = replace(spec.conv, separable=False)  # the layers next to the images never are
        height, width = spec.size or (0, 0)
        self.shape, pixels = (spec.in_ch, height, width), spec.in_ch * height * width
        self.automap = numbered("l", [fully_connected(pixels, pixels, spec.fc_activation)] * spec.fc_layers)
        if spec.pretrained is not None:
            self.levels = {"base": pretrained_levels(spec.pretrained)}
        else:
            first = cbr(spec.in_ch, spec.chs[0], 3, PAD, norm, spec.first, activation, 0, plain)
            deeper = [
                cbr(before, after, spec.ksize, PAD, norm, spec.down, activation, spec.dropout, spec.conv)
                for before, after in zip(spec.chs, spec.chs[1:], strict=False)
            ]
            self.levels = {"c0": first} | numbered("d", deeper, start=1)
        # ReLU whatever the activation of the rest: so the released weights were trained.
        skips = [cbr(ch, spec.skip_ch, 3, 1, norm, KEEP, Activation.RELU, 0, plain) for ch in spec.chs]
        self.skips = numbered("s", skips if spec.unet is Unet.CONV else [])
        self.deepest = numbered("r", [res_block(deepest, norm, activation, spec.conv)] * spec.res_blocks)
        if spec.attention:
            self.deepest["a"] = attention(deepest)
        self.steps = self.automap | self.levels | self.skips | self.deepest
        if spec.latent_dim > 0:
            self.steps["latent_fc"] = Step(self._latent_fc, unchanged)

    def _latent_fc(self) -> FullyConnected:
        spec = self.spec
        sizes = None if spec.size is None else [self.level_sizes(n)[-1] for n in spec.size]
        in_size = None if sizes is None else spec.chs[-1] * math.prod(sizes)
        return FullyConnected(in_size, spec.latent_dim, spec.fc_activation)

    def follow(self, way: Way, x: Any) -> list[Any]:
        """[skip_0 … skip_{n-1}, e(, latent)] of the image ``x``."""
        spec = self.spec
        for name in self.automap:
            x = way.shaped(way.step(name, x), self.shape)
        levels = self._follow_levels(way, x)
        skips = [] if spec.unet is Unet.NONE else list(levels)
        if spec.unet is Unet.CONV:
            skips = [way.step(name, level) for name, level in zip(self.skips, levels, strict=True)]
        h = levels[-1]
        for name in self.deepest:
            h = way.step(name, h)
        return [*skips, h, way.step("latent_fc", h)] if spec.latent_dim > 0 else [*skips, h]

    def _follow_levels(self, way: Way, x: Any) -> list[Any]:
        levels: list[Any] = []
        for name in self.levels:
            x = way.step(name, x)
            levels += x if name == "base" else [x]
        return levels

    def level_sizes(self, size: int) -> list[int]:
        """Rows of each level for an image of ``size`` rows, shallowest first. Raises Misfit."""
        return [level.size for level in self._follow_levels(RowsWay(self.steps), Rows.of(size))]

    def check_size(self, size: tuple[int, int]) -> None:
        """UserError for an image of a ``size`` (height, width) that the encoder does not take."""
        spec = self.spec
        if (spec.fc_layers or spec.latent_dim > 0) and spec.size is not None and tuple(size) != tuple(spec.size):
            raise UserError(
                f"image of {size[0]}x{size[1]} (height x width): with --gen_fc or --latent_dim it must be "
                f"exactly {spec.size[0]}x{spec.size[1]}, the crop of the training"
            )


class Encoder(Network):
    """(N, in_ch, H, W) in [-1, 1] → list [skip_0 … skip_{n-1}, e], then the latent vector (N, latent_dim) if asked.

    skip_i: (N, skip_ch or chs[i], H_i, W_i) with the ``level_sizes`` of the image, shallowest first, none at all
    with Unet.NONE; e: (N, chs[-1], H_(n-1), W_(n-1)). Levels are padded by 1 whatever their kernel is, as in the
    released code. With ``residual`` x itself comes before all of them. Children: see :class:`EncoderPlan`.
    Raises UserError for an image of another size than fully connected layers have.
    """

    spec: EncoderSpec
    plan: EncoderPlan

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__(EncoderPlan(spec))

    def forward(self, x: ArrayOrVariable) -> list[chainer.Variable]:
        self.plan.check_size(x.shape[2:])
        features = self.plan.follow(self, cast_in(x, self))
        return [chainer.as_variable(x), *features] if self.spec.residual else features


class DecoderPlan:
    """The steps of a decoder: latent_fc (if the encoder has one; with an activation), r0 r1… residual blocks,
    ua1 … ua{n} levels from the deepest up, each on its skip joined with what came from below
    (``DecoderSpec.joins_deepest`` has the exception), ul the last layer.

    Of the levels, the last has no dropout, as in the released code.
    """

    def __init__(self, spec: DecoderSpec) -> None:
        self.spec = spec
        chs, joined, norm, activation, conv = spec.chs, spec.joined_chs, spec.norm, spec.activation, spec.conv
        height, width = spec.feature_size or (0, 0)
        self.shape, self.steps = (chs[-1], height, width), {}
        if spec.latent_dim > 0:
            made = fully_connected(spec.latent_dim, math.prod(self.shape), spec.fc_activation)
            self.steps["latent_fc"] = Step(made.build, partial(_from_latent, len(chs)))
        self.deepest = numbered("r", [res_block(chs[-1], norm, activation, conv)] * spec.res_blocks)
        levels = [
            cbr(joined[i], chs[i - 1], spec.ksize, PAD, norm, spec.up, activation, spec.dropout, conv)
            for i in range(len(chs) - 1, 0, -1)
        ]
        levels.append(cbr(joined[0], joined[0], 3, PAD, norm, spec.full, activation, 0, conv))
        self.levels = numbered("ua", levels, start=1)
        self.steps |= self.deepest | self.levels
        self.steps["ul"] = cbr(joined[0], spec.out_ch, 3, PAD, Norm.NONE, spec.last, spec.out_activation, 0, conv)

    def follow(self, way: Way, features: list[Any]) -> Any:
        """The image of ``features``, which an encoder's plan gave, without the input that ``residual`` adds."""
        spec = self.spec
        n_skips = 0 if spec.unet is Unet.NONE else len(spec.chs)
        skips, (h, *latent) = features[:n_skips], features[n_skips:]
        if spec.joins_deepest:
            skips = [h]
        if spec.latent_dim > 0:
            h = way.shaped(way.step("latent_fc", latent[0]), self.shape)
        for name in self.deepest:
            h = way.step(name, h)
        for i, name in enumerate(self.levels, start=1):
            h = way.step(name, way.joined(h, skips[-i], len(self.levels) - i) if skips else h)
        return way.step("ul", h)

    def follow_up(self, rows: Rows) -> Rows:
        """What the levels make of ``rows`` of the deepest feature, skips left out. Raises Misfit."""
        for name in (*self.levels, "ul"):
            rows = self.steps[name].through(rows)
        return rows


class Decoder(Network):
    """[skip_0 … skip_{n-1}, e(, latent)] → (N, out_ch, H, W). Children: see :class:`DecoderPlan`.

    While training, Gaussian noise of standard deviation ``spec.noise`` is added to the last of the features, in the
    list that the caller keeps: as in the released code, features decoded twice carry both draws. It is drawn from the
    global generator of NumPy or CuPy, as dropout is.
    Raises UserError where a skip has another size than what it is joined with.
    """

    spec: DecoderSpec
    plan: DecoderPlan

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__(DecoderPlan(spec))
        if spec.residual:
            # The first output is nearly the input: nothing that is already right has to be unlearned.
            for parameter in self.ul.params():
                if parameter.array is not None:
                    parameter.array *= 0.1

    def forward(self, features: list[chainer.Variable]) -> chainer.Variable:
        residual = self.spec.residual
        if self.spec.noise > 0 and chainer.config.train:
            last = chainer.as_variable(features[-1])
            xp = chainer.backend.get_array_module(last)
            features[-1] = last + (self.spec.noise * xp.random.standard_normal(last.shape)).astype(last.dtype)
        y = cast_out(self.plan.follow(self, [cast_in(f, self) for f in (features[1:] if residual else features)]))
        return features[0] + residual * y if residual else y

    def joined(self, value: chainer.Variable, skip: chainer.Variable, level: int) -> chainer.Variable:
        """See Way."""
        if value.shape[2:] != skip.shape[2:]:
            raise UserError(
                f"a level of the decoder has {value.shape[2]}x{value.shape[3]} pixels where the encoder's has "
                f"{skip.shape[2]}x{skip.shape[3]}: this network does not take images of this size"
            )
        return value + skip if self.spec.unet is Unet.ADD else F.concat([value, skip], axis=1)


def latent_size(levels: int, size: int) -> int:
    """Rows of the feature that a latent vector becomes, whatever the levels did: that is the released rule."""
    return size // 2 ** (levels - 1)


def _from_latent(levels: int, rows: Rows) -> Rows:
    return Rows(latent_size(levels, rows.image), rows.image, rows.needs)
