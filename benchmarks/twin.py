"""The same networks and updates in PyTorch, to measure against. Nothing else in medi2i knows PyTorch.

Only the layers that the benchmarked networks have: 7x7 and 3x3 convolutions, ``down``, ``resize`` and ``unpool``, batch
and instance normalisation, U-net connections of kind ``conv`` or none. Names are those of the Chainer networks, so
weights go from one to the other by name, and the parameters can be counted against each other.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from medi2i.common.choices import Activation, Norm, SampleKind, Sampling, Second, Unet
from medi2i.common.compat import chainer
from medi2i.common.networks.layers import BATCH_DECAY, BATCH_EPS, Convolution
from medi2i.common.networks.spec import DecoderSpec, DiscriminatorSpec, EncoderSpec
from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.common.options.learned import SynthesisOptions
from medi2i.cyclegan import net as cyclegan_net
from medi2i.pix2pix import net as pix2pix_net
from medi2i.synthesis import net as synthesis_net

KEEP = Sampling(SampleKind.NONE, Second.NONE)
_ACTIVATIONS = {
    Activation.RELU: F.relu,
    Activation.LEAKY_RELU: lambda x: F.leaky_relu(x, 0.2),
    Activation.TANH: torch.tanh,
    Activation.NONE: lambda x: x,
}


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind is Norm.NONE:
        return nn.Identity()
    if kind is Norm.INSTANCE:
        return nn.InstanceNorm2d(channels, eps=BATCH_EPS)
    if kind is Norm.BATCH_AFFINE:
        return nn.BatchNorm2d(channels, eps=BATCH_EPS, momentum=1 - BATCH_DECAY)
    raise ValueError(f"the PyTorch twin has no normalisation {kind.value}")


class CBR(nn.Module):
    """Convolution, normalisation, activation, change of size."""

    def __init__(
        self, in_ch: int, out_ch: int, ksize: int, pad: int, norm: Norm, sample: Sampling, activation: Activation
    ) -> None:
        super().__init__()
        if sample.second is not Second.NONE:
            raise ValueError(f"the PyTorch twin has no {sample.name}")
        if sample.kind is SampleKind.NONE_7:
            ksize, pad = 7, 3
        self.c1 = nn.Conv2d(in_ch, out_ch, ksize, 2 if sample.kind is SampleKind.DOWN else 1, pad)
        self.n1 = _norm(norm, out_ch)
        self.kind = sample.kind
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.activation(self.n1(self.c1(x)))
        if self.kind is SampleKind.RESIZE:
            return F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True)
        if self.kind is SampleKind.UNPOOL:
            return F.interpolate(h, scale_factor=2, mode="nearest")
        return h


class ResBlock(nn.Module):
    """x + two convolutions of it."""

    def __init__(self, channels: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        self.c0, self.c1 = (nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(2))
        self.norm0, self.norm1 = (_norm(norm, channels) for _ in range(2))
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm1(self.c1(self.activation(self.norm0(self.c0(x)))))


class Encoder(nn.Module):
    """Image -> skips and the deepest feature."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        pad = (spec.ksize - 1) // 2
        self.levels = ["c0"] + [f"d{i}" for i in range(1, len(spec.chs))]
        self.c0 = CBR(spec.in_ch, spec.chs[0], 3, 1, spec.norm, spec.first, spec.activation)
        for name, before, after in zip(self.levels[1:], spec.chs, spec.chs[1:], strict=False):
            self.add_module(name, CBR(before, after, spec.ksize, pad, spec.norm, spec.down, spec.activation))
        self.skips = [f"s{i}" for i in range(len(spec.chs))] if spec.unet is Unet.CONV else []
        for name, ch in zip(self.skips, spec.chs, strict=False):
            self.add_module(name, CBR(ch, spec.skip_ch, 3, 1, spec.norm, KEEP, Activation.RELU))
        self.blocks = [f"r{i}" for i in range(spec.res_blocks)]
        for name in self.blocks:
            self.add_module(name, ResBlock(spec.chs[-1], spec.norm, spec.activation))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        levels = []
        for name in self.levels:
            x = getattr(self, name)(x)
            levels.append(x)
        skips = [getattr(self, name)(level) for name, level in zip(self.skips, levels, strict=False)]
        for name in self.blocks:
            x = getattr(self, name)(x)
        return [*skips, x]


class Decoder(nn.Module):
    """Skips and the deepest feature -> image."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        pad, joined = (spec.ksize - 1) // 2, spec.joined_chs
        self.blocks = [f"r{i}" for i in range(spec.res_blocks)]
        for name in self.blocks:
            self.add_module(name, ResBlock(spec.chs[-1], spec.norm, spec.activation))
        n = len(spec.chs)
        self.levels = [f"ua{i}" for i in range(1, n + 1)]
        for i in range(1, n):
            self.add_module(
                f"ua{i}", CBR(joined[n - i], spec.chs[n - i - 1], spec.ksize, pad, spec.norm, spec.up, spec.activation)
            )
        self.add_module(f"ua{n}", CBR(joined[0], joined[0], 3, 1, spec.norm, spec.full, spec.activation))
        self.ul = CBR(joined[0], spec.out_ch, 3, 1, Norm.NONE, spec.last, spec.out_activation)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        *skips, h = features
        for name in self.blocks:
            h = getattr(self, name)(h)
        for name in self.levels:
            if skips:
                h = torch.cat([h, skips.pop()], 1)
            h = getattr(self, name)(h)
        return self.ul(h)


class Discriminator(nn.Module):
    """Image -> one judgement per patch."""

    def __init__(self, spec: DiscriminatorSpec) -> None:
        super().__init__()
        ksize, pad = spec.ksize, spec.ksize // 2
        self.levels = [f"c{i}" for i in range(len(spec.chs))]
        self.c0 = CBR(spec.in_ch, spec.chs[0], ksize, pad, Norm.NONE, spec.first, spec.activation)
        for name, before, after in zip(self.levels[1:], spec.chs, spec.chs[1:], strict=False):
            self.add_module(name, CBR(before, after, ksize, pad, spec.norm, spec.down, spec.activation))
        top = 2 * spec.chs[-1]
        self.csl = CBR(spec.chs[-1], top, ksize, pad, spec.norm, KEEP, spec.activation)
        self.cl = CBR(top, spec.out_ch, ksize, pad, Norm.NONE, KEEP, Activation.NONE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in (*self.levels, "csl", "cl"):
            x = getattr(self, name)(x)
        return x


_KINDS = {"Encoder": Encoder, "Decoder": Decoder, "Discriminator": Discriminator}
_NAMES = {
    "c/W": "weight",
    "c/b": "bias",
    "W": "weight",
    "b": "bias",
    "gamma": "weight",
    "beta": "bias",
    "avg_mean": "running_mean",
    "avg_var": "running_var",
}


def twin(link: chainer.Chain) -> nn.Module:
    """The PyTorch network with the same layers and weights as the Chainer network ``link``.

    Raises ValueError where a parameter of the one has no counterpart in the other.
    """
    network = _KINDS[type(link).__name__](link.spec)
    target = dict(network.named_parameters())
    seen = set()
    for path, param in link.namedparams():
        name = _torch_name(path)
        with torch.no_grad():
            target[name].copy_(torch.from_numpy(param.array.copy()))
        seen.add(name)
    if seen != set(target):
        raise ValueError(f"no counterpart in the Chainer network: {sorted(set(target) - seen)}")
    buffers = dict(network.named_buffers())
    for path, child in link.namedlinks():
        for attribute in ("avg_mean", "avg_var") if "avg_mean" in vars(child) else ():
            name = _torch_name(f"{path}/{attribute}")
            if name in buffers:
                buffers[name].copy_(torch.from_numpy(vars(child)[attribute].copy()))
    return network


def _torch_name(path: str) -> str:
    *parts, last = path.strip("/").split("/")
    if parts[-1] == "c":  # our Convolution holds Chainer's as `c`
        parts.pop()
    return ".".join([*parts, _NAMES[last]])


class Pix2pixStep:
    """One update of pix2pix as :class:`medi2i.pix2pix.updater.Pix2pixUpdater` does it; call it with x and t."""

    def __init__(
        self, networks: pix2pix_net.Networks, options: PairedOptions, rate: float, weight_decay: float
    ) -> None:
        self.enc, self.dec, self.dis = (twin(network) for network in (networks.enc_x, networks.dec_y, networks.dis))
        self.options = options
        self.generator = _adam([self.enc, self.dec], rate, weight_decay)
        self.discriminator = _adam([self.dis], rate, weight_decay)

    def modules(self) -> list[nn.Module]:
        """All networks."""
        return [self.enc, self.dec, self.dis]

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> None:
        s = self.options
        y = self.dec(self.enc(x))
        tv = (y[:, :, 1:] - y[:, :, :-1]).abs().mean() + (y[:, :, :, 1:] - y[:, :, :, :-1]).abs().mean()
        fake = torch.cat([x, y], 1)
        adversarial = (self.dis(fake) - 1).square().mean()
        _minimise(
            self.generator, s.lambda_rec_l1 * (y - t).abs().mean() + s.lambda_dis * adversarial + s.lambda_tv * tv
        )
        real = (self.dis(torch.cat([x, t], 1)) - 1).square().mean()
        _minimise(self.discriminator, 0.5 * real + 0.5 * self.dis(fake.detach()).square().mean())


class CycleganStep:
    """One update of CycleGAN with cycle, identity-in-domain, autoencoder and adversarial losses."""

    def __init__(
        self, networks: cyclegan_net.Networks, options: UnpairedOptions, rate: float, weight_decay: float
    ) -> None:
        links = networks.as_dict()
        self.nets = {name: twin(link) for name, link in links.items()}
        self.options = options
        self.generator = _adam([self.nets[n] for n in ("enc_x", "dec_x", "enc_y", "dec_y")], rate, weight_decay)
        self.discriminators = {n: _adam([self.nets[n]], rate, weight_decay) for n in ("dis_x", "dis_y")}

    def modules(self) -> list[nn.Module]:
        """All networks."""
        return list(self.nets.values())

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        s, n = self.options, self.nets
        features_x, features_y = n["enc_x"](x), n["enc_y"](y)
        x_y, y_x = n["dec_y"](features_x), n["dec_x"](features_y)
        loss = s.lambda_Az * (n["dec_x"](features_x) - x).abs().mean()
        loss = loss + s.lambda_Bz * (n["dec_y"](features_y) - y).abs().mean()
        loss = loss + s.lambda_A * (n["dec_x"](n["enc_y"](x_y)) - x).abs().mean()
        loss = loss + s.lambda_B * (n["dec_y"](n["enc_x"](y_x)) - y).abs().mean()
        loss = loss + s.lambda_dis_y * (n["dis_y"](x_y) - 1).square().mean()
        loss = loss + s.lambda_dis_x * (n["dis_x"](y_x) - 1).square().mean()
        if s.lambda_domain > 0:
            loss = loss + s.lambda_domain * (
                (x - n["dec_x"](n["enc_y"](x))).abs().mean() + (y - n["dec_y"](n["enc_x"](y))).abs().mean()
            )
        _minimise(self.generator, loss)
        for name, fake, real in (("dis_y", x_y, y), ("dis_x", y_x, x)):
            dis = n[name]
            _minimise(
                self.discriminators[name],
                0.5 * dis(fake.detach()).square().mean() + 0.5 * (dis(real) - 1).square().mean(),
            )


class DcganStep:
    """One update of DCGAN as :class:`medi2i.synthesis.updater.SynthesisUpdater` does it; call it with x."""

    def __init__(self, networks: synthesis_net.Networks, options: SynthesisOptions) -> None:
        self.latent = networks.latent
        self.gen, self.dis = (
            nn.Sequential(*(_layer(link) for link in network if isinstance(link, chainer.Link)))
            for network in (networks.gen, networks.dis)
        )
        count = sum(parameter.numel() for network in (self.gen, self.dis) for parameter in network.parameters())
        if count != sum(param.size for link in networks.as_dict().values() for param in link.params()):
            raise ValueError(f"{count} parameters, and others in the Chainer networks")
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=options.learning_rate, betas=(options.adam_beta1, 0.999))
            for network in (self.gen, self.dis)
        ]

    def __call__(self, x: torch.Tensor) -> None:
        fake = self.gen(torch.randn(len(x), self.latent, 1, 1))
        cost = F.softplus(-self.dis(x)).mean() + F.softplus(self.dis(fake.detach())).mean()
        _minimise(self.optimizers[1], cost)
        self.dis.requires_grad_(False)
        cost = F.softplus(-self.dis(fake)).mean()
        _minimise(self.optimizers[0], cost)
        self.dis.requires_grad_(True)


def _layer(link: chainer.Link) -> nn.Module:
    """The PyTorch layer of a link of DCGAN."""
    if isinstance(link, Convolution):
        return nn.Conv2d(link.in_ch, link.out_ch, link.ksize, link.stride, link.pad)
    return CBR(link.in_ch, link.out_ch, link.c1.ksize, link.c1.pad, link.norm, link.sample, link.activation_kind)


class PgganStep:
    """One update of PGGAN, grown up, as :class:`medi2i.synthesis.updater.SynthesisUpdater` does it; call it with x."""

    def __init__(self, networks: synthesis_net.Networks, options: SynthesisOptions) -> None:
        self.latent, self.options = networks.latent, options
        self.gen, self.dis = PgganGenerator(networks.gen), PgganDiscriminator(networks.dis)
        self.optimizers = [
            torch.optim.Adam(
                network.parameters(), lr=options.learning_rate, betas=(options.adam_beta1, options.adam_beta2)
            )
            for network in (self.gen, self.dis)
        ]

    def __call__(self, x: torch.Tensor) -> None:
        fake, s = self.gen(torch.randn(len(x), self.latent)), self.options
        answer, made = self.dis(x), self.dis(fake.detach())
        mix = torch.rand(len(x), 1, 1, 1)
        between = (mix * x + (1 - mix) * fake.detach()).requires_grad_()
        (slope,) = torch.autograd.grad(self.dis(between).sum(), between, create_graph=True)
        penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
        drift = answer.square().mean()
        _minimise(self.optimizers[1], made.mean() - answer.mean() + s.lambda_gp * penalty + s.lambda_drift * drift)
        self.dis.requires_grad_(False)
        _minimise(self.optimizers[0], -self.dis(fake).mean())
        self.dis.requires_grad_(True)


class Equalised(nn.Conv2d):
    """A convolution whose weights are scaled at run time, in the place of a link of PGGAN."""

    def __init__(self, link: Convolution) -> None:
        super().__init__(link.in_ch, link.out_ch, link.ksize, link.stride, link.pad)
        self.scale = 1.0 if link.scale is None else float(link.scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.scale * self.weight, self.bias, self.stride, self.padding)


def _equalised(links: chainer.ChainList) -> nn.ModuleList:
    return nn.ModuleList(Equalised(link) for link in links)


class PgganGenerator(nn.Module):
    """(N, latent) -> (N, out_ch, size, size), all resolutions in."""

    def __init__(self, network: synthesis_net.PgganGenerator) -> None:
        super().__init__()
        self.first, self.second = _equalised(network.first), _equalised(network.second)
        self.to_image = Equalised(network.to_image[-1])

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = _one_length(z[:, :, None, None])
        for number, layers in enumerate(zip(self.first, self.second, strict=True)):
            x = F.interpolate(x, scale_factor=2) if number else x
            for layer in layers:
                x = _one_length(F.leaky_relu(layer(x), 0.2))
        return self.to_image(x)


def _one_length(x: torch.Tensor) -> torch.Tensor:
    """Pixel normalisation."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class PgganDiscriminator(nn.Module):
    """(N, in_ch, size, size) -> (N, 1), all resolutions in."""

    def __init__(self, network: synthesis_net.PgganDiscriminator) -> None:
        super().__init__()
        self.first, self.second = _equalised(network.first), _equalised(network.second)
        self.from_image, self.last = Equalised(network.from_image[-1]), Equalised(network.last)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.from_image(image), 0.2)
        for number in range(len(self.first) - 1, -1, -1):
            if number == 0:
                groups = x.reshape(synthesis_net.GROUP, -1, *x.shape[1:])
                deviation = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3)).repeat(synthesis_net.GROUP)
                x = torch.cat([x, deviation[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)
            for layer in (self.first[number], self.second[number]):
                x = F.leaky_relu(layer(x), 0.2)
            x = F.avg_pool2d(x, 2) if number else x
        return self.last(x).flatten(1)


STEPS: dict[str, Callable] = {"pix2pix": Pix2pixStep, "cyclegan": CycleganStep}


def _adam(networks: list[nn.Module], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    parameters = [p for network in networks for p in network.parameters()]
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.1, 0.999), weight_decay=weight_decay)


def _minimise(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
