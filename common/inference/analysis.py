"""``--output_analysis``: what each loss term of CycleGAN says about one converted image, place by place."""

import contextlib
import dataclasses
import logging
import re

import numpy as np

from medi2i.common.compat import F, chainer
from medi2i.common.errors import UserError
from medi2i.common.inference.edges import Panel, draw_maps
from medi2i.common.networks.checkpoint import fill_frozen, load_generator
from medi2i.common.networks.discriminator import Discriminator
from medi2i.common.networks.files import load_link
from medi2i.common.networks.from_options import discriminator_spec
from medi2i.common.networks.network import using_dtype
from medi2i.common.networks.pretrained import PerceptualFeatures
from medi2i.datasets.outputs import whole_file

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Maps:
    """Maps of one image, each (h, w) float32: ``pictures`` in [-1, 1], ``terms`` by the name of their loss."""

    pictures: dict[str, np.ndarray]
    terms: dict[str, np.ndarray]


@dataclasses.dataclass
class Analysis:
    """Networks and settings that the maps need.

    forth, back: (N, C, H, W) in [-1, 1] -> the same, NumPy arrays; back None leaves the cycle out. discriminator,
    features: links (None: left out) on ``device``. slices: of a stack; maps are of the middle one.
    """

    forth: object
    back: object
    discriminator: object
    features: object
    device: object
    slices: int
    air_threshold: float
    tv_tau: float

    def maps(self, x):
        """The Maps of ``x`` (C, H, W) in [-1, 1]: input, output, and one map for each term there are networks for."""
        x = x[np.newaxis]
        y = self.forth(x)
        source, result = self._middle(x), self._middle(y)
        pictures, terms = {"input": _grey(source), "output": _grey(result)}, {}
        if self.back is not None:
            cycle = self._middle(self.back(y))
            pictures["cycle"] = _grey(cycle)
            terms["cycle"] = _grey(cycle) - _grey(source)
        if source.shape == result.shape:
            terms["gradient"] = gradient_map(source, result)
            terms["air"] = air_map(source, result, self.air_threshold)
            if self.features is not None:
                terms["perceptual"] = self._perceptual(source, result)
        if self.discriminator is not None:
            terms |= self._judgement(y, "discriminator")
            if x.shape == y.shape:
                terms |= self._judgement(x, "discriminator_input")
        terms["total_variation"] = variation_map(result, self.tv_tau)
        return Maps(pictures, {name: np.ascontiguousarray(values, np.float32) for name, values in terms.items()})

    def write(self, base, maps):
        """Write ``<base>.png`` with all maps and ``<base>_<term>.npy`` for each. Existing files are replaced."""
        draw_maps(
            base.with_name(base.name + ".png"),
            [
                *(Panel(name, values, "gray", -1, 1) for name, values in maps.pictures.items()),
                *(_panel(name, values) for name, values in maps.terms.items()),
            ],
        )
        for name, values in maps.terms.items():
            path = base.with_name(f"{base.name}_{name}.npy")
            with whole_file(path, force=True) as temporary, open(temporary, "wb") as file:
                np.save(file, values)

    def _middle(self, y):
        return np.split(y[0], self.slices)[self.slices // 2]

    def _perceptual(self, source, result):
        """Squared difference of features, mean over them (and over grey channels), at the layer's resolution."""
        colour = len(source) == 3
        total = 0.0
        for a, b in [(source, result)] if colour else zip(source[:, None], result[:, None], strict=True):
            fa, fb = (self._features(v if colour else np.repeat(v, 3, axis=0)) for v in (a, b))
            total = total + ((fa - fb) ** 2).mean(0)
        return total / (1 if colour else len(source))

    def _features(self, image):
        with _test_mode(self.device):
            return _numpy(self.features(self.device.send(np.ascontiguousarray(image[np.newaxis]))))[0]

    def _judgement(self, image, name):
        """What the discriminator says of (1, C, H, W), and how much that weighs where it weights its own decision."""
        with _test_mode(self.device):
            judged = _numpy(self.discriminator(self.device.send(np.ascontiguousarray(image))))[0]
        if len(judged) == 1:
            return {name: judged[0]}
        return {name: judged[0], name + "_weight": np.tanh(judged[1]) + 1}  # as in training: cyclegan/updater.py


def gradient_map(x, y):
    """|d(x - y)| down + right by forward differences, mean over channels; (C, H, W) -> (H - 1, W - 1)."""
    down, right = _differences(x - y)
    return (np.abs(down) + np.abs(right)).mean(0)


def air_map(x, y, threshold):
    """|x - y| where exactly one of the two is air (<= threshold), else 0; mean over channels, (H, W)."""
    return (np.abs(x - y) * ((x <= threshold) != (y <= threshold))).mean(0)


def variation_map(y, tau):
    """sqrt(dx^2 + dy^2 + tau^2), mean over channels; (C, H, W) -> (H - 1, W - 1)."""
    down, right = _differences(y)
    return np.sqrt(down**2 + right**2 + float(tau) ** 2).mean(0)


def _differences(v):
    return (v[:, 1:] - v[:, :-1])[:, :, :-1], (v[:, :, 1:] - v[:, :, :-1])[:, :-1]


def _grey(values):
    return values.mean(0)


def _panel(name, values):
    title = name.replace("_", " ")
    if name == "cycle":
        limit = max(float(np.abs(values).max()), 1e-6)
        return Panel("cycle - input", values, "RdBu_r", -limit, limit)
    if name in ("discriminator", "discriminator_input"):
        return Panel(
            f"{title} (1: taken for real)",
            values,
            "viridis",
            min(0.0, float(values.min())),
            max(1.0, float(values.max())),
        )
    return Panel(title, values, "magma", 0, max(float(values.max()), 1e-6))


@contextlib.contextmanager
def _test_mode(device):
    with (
        chainer.using_config("train", False),
        chainer.using_config("enable_backprop", False),
        chainer.using_device(device),
    ):
        yield


def _numpy(variable):
    return chainer.get_device("@numpy").send(F.cast(variable, np.float32).array)


def load_analysis(model, options, network_for, device):
    """The Analysis of what ``model`` (``network.Model``) converts; what has no weights is left out, with a warning.

    options: UnpairedConversionOptions. network_for(generator) -> callable for images of any size, as for the conversion
    itself.
    """
    trained, forth = model.trained, model.generator
    folder, number = forth.files[0].parent, re.search(r"(\d*)\.npz$", forth.files[0].name)[1]
    there, other = ("y", "enc_y") if model.direction == "xy" else ("x", "enc_x")
    channels = trained.out_ch if model.direction == "xy" else trained.ch

    def discriminator():
        if trained.dis_wgan:
            raise UserError("--dis_wgan: this discriminator judges whole images, so it has no map")
        with using_dtype("fp32"):
            link = Discriminator(discriminator_spec(trained, channels))
        load_link(folder / f"dis_{there}{number}.npz", link)
        if link.frozen is not None:
            fill_frozen(link, "dis", folder, trained.dis_pretrained_weights)
        link.to_device(device)
        return link

    def features():
        loaded = PerceptualFeatures.load(
            options.perceptual_weights or trained.perceptual_weights, trained.perceptual_layer
        )
        loaded.to_device(device)
        return loaded

    back = _or_left_out("cycle", lambda: load_generator(folder / f"{other}{number}.npz", model.args))
    return Analysis(
        forth=network_for(forth),
        back=None if back is None else network_for(back),
        discriminator=_or_left_out("discriminator", discriminator),
        features=_or_left_out("perceptual", features),
        device=device,
        slices=trained.stack,
        air_threshold=trained.air_threshold if options.air_threshold is None else options.air_threshold,
        tv_tau=trained.tv_tau,
    )


def _or_left_out(name, load):
    try:
        return load()
    except UserError as error:
        log.warning("--output_analysis: no %s maps: %s", name, error)
        return None
