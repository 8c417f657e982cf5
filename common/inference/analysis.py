"""``--output_analysis``: what each loss term of CycleGAN says about one converted image, place by place."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.inference.edges import Panel, draw_maps
from medi2i.common.inference.engines import computed
from medi2i.common.inference.generator import Model, Translate
from medi2i.common.inference.results import grey
from medi2i.common.networks.checkpoint import Generator, fill_frozen, load_generator
from medi2i.common.networks.discriminator import Discriminator
from medi2i.common.networks.files import load_link
from medi2i.common.networks.from_options import discriminator_spec
from medi2i.common.networks.network import using_dtype
from medi2i.common.networks.pretrained import PerceptualFeatures
from medi2i.common.options.conversion import UnpairedConversionOptions
from medi2i.common.options.unpaired import UnpairedOptions
from medi2i.datasets.writing import write_npy

log = logging.getLogger(__name__)

T = TypeVar("T")
Maps: TypeAlias = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
"""Of one image, each (h, w) float32: pictures in [-1, 1] by their name, terms by the name of their loss."""


class Analysis:
    """The maps of what ``model`` converts; what has no weights is left out, with a warning.

    network_for(generator) -> callable for images of any size, as for the conversion itself: (N, C, H, W) in [-1, 1] ->
    the same, NumPy arrays. Links are on ``device``. Maps of a stack are of its middle slice.
    """

    def __init__(
        self,
        model: Model,
        options: UnpairedConversionOptions,
        network_for: Callable[[Generator], Translate],
        device: chainer.backend.Device,
    ) -> None:
        trained, forth = model.trained, model.generator
        if forth is None or not isinstance(trained, UnpairedOptions):
            raise UserError("--output_analysis: the identity has no networks to analyse with")
        folder, stem = forth.files[0].parent, forth.files[0].stem
        number = stem[len(stem.rstrip("0123456789")) :]
        there, other = ("y", "enc_y") if model.direction == "xy" else ("x", "enc_x")
        channels = trained.out_ch if model.direction == "xy" else trained.ch

        def discriminator() -> Discriminator:
            if trained.dis_wgan:
                raise UserError("--dis_wgan: this discriminator judges whole images, so it has no map")
            with using_dtype("fp32"):
                link = Discriminator(discriminator_spec(trained, channels))
            load_link(folder / f"dis_{there}{number}.npz", link)
            if link.frozen is not None:
                fill_frozen(link, "dis", folder, trained.dis_pretrained_weights)
            link.to_device(device)
            return link

        def features() -> PerceptualFeatures:
            weights = options.perceptual_weights or trained.perceptual_weights
            loaded = PerceptualFeatures.load(weights, trained.perceptual_layer)
            loaded.to_device(device)
            return loaded

        back = _or_left_out("cycle", lambda: load_generator(folder / f"{other}{number}.npz", model.args))
        self.forth, self.back = network_for(forth), None if back is None else network_for(back)
        self.discriminator = _or_left_out("discriminator", discriminator)
        self.features = _or_left_out("perceptual", features)
        self.device, self.slices, self.tv_tau = device, trained.stack, trained.tv_tau
        self.air_threshold = trained.air_threshold if options.air_threshold is None else options.air_threshold

    def maps(self, x: np.ndarray) -> Maps:
        """Of ``x`` (C, H, W) in [-1, 1]: input, output (and cycle) as pictures, and one map for each term there are
        networks for."""
        x = x[np.newaxis]
        y = self.forth(x)
        source, result = self._middle(x), self._middle(y)
        pictures, terms = {"input": grey(source), "output": grey(result)}, {}
        if self.back is not None:
            cycle = self._middle(self.back(y))
            pictures["cycle"] = grey(cycle)
            terms["cycle"] = grey(cycle) - grey(source)
        if source.shape == result.shape:
            terms["gradient"] = gradient_map(source, result)
            terms["air"] = air_map(source, result, self.air_threshold)
            if self.features is not None:
                terms["perceptual"] = self._perceptual(self.features, source, result)
        if self.discriminator is not None:
            terms |= self._judgement(self.discriminator, y, "discriminator")
            if x.shape == y.shape:
                terms |= self._judgement(self.discriminator, x, "discriminator_input")
        terms["total_variation"] = variation_map(result, self.tv_tau)
        return pictures, {name: np.ascontiguousarray(values, np.float32) for name, values in terms.items()}

    def write(self, base: Path, maps: Maps) -> None:
        """Write ``<base>.png`` with all maps and ``<base>_<term>.npy`` for each. Existing files are replaced."""
        pictures, terms = maps
        draw_maps(
            base.with_name(base.name + ".png"),
            [
                *(Panel(name, values, "gray", -1, 1) for name, values in pictures.items()),
                *(_panel(name, values) for name, values in terms.items()),
            ],
        )
        for name, values in terms.items():
            write_npy(base.with_name(f"{base.name}_{name}.npy"), values)

    def _middle(self, y: np.ndarray) -> np.ndarray:
        return np.split(y[0], self.slices)[self.slices // 2]

    def _perceptual(self, features: PerceptualFeatures, source: np.ndarray, result: np.ndarray) -> np.ndarray:
        """Squared difference of features, mean over them (and over grey channels), at the layer's resolution."""
        x, y = (v[None] if len(v) == 3 else v[:, None].repeat(3, axis=1) for v in (source, result))
        apart = computed(features, x, self.device) - computed(features, y, self.device)
        return (apart**2).mean(1).mean(0)

    def _judgement(self, discriminator: Discriminator, image: np.ndarray, name: str) -> dict[str, np.ndarray]:
        """What the discriminator says of (1, C, H, W), and how much that weighs where it weights its own decision."""
        judged = computed(discriminator, image, self.device)[0]
        if len(judged) == 1:
            return {name: judged[0]}
        return {name: judged[0], name + "_weight": np.tanh(judged[1]) + 1}  # as in training: cyclegan/updater.py


def gradient_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|d(x - y)| down + right by forward differences, mean over channels; (C, H, W) -> (H - 1, W - 1)."""
    down, right = _differences(x - y)
    return (np.abs(down) + np.abs(right)).mean(0)


def air_map(x: np.ndarray, y: np.ndarray, threshold: float) -> np.ndarray:
    """|x - y| where exactly one of the two is air (<= threshold), else 0; mean over channels, (H, W)."""
    return (np.abs(x - y) * ((x <= threshold) != (y <= threshold))).mean(0)


def variation_map(y: np.ndarray, tau: float) -> np.ndarray:
    """sqrt(dx^2 + dy^2 + tau^2), mean over channels; (C, H, W) -> (H - 1, W - 1)."""
    down, right = _differences(y)
    return np.sqrt(down**2 + right**2 + float(tau) ** 2).mean(0)


def _differences(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (v[:, 1:] - v[:, :-1])[:, :, :-1], (v[:, :, 1:] - v[:, :, :-1])[:, :-1]


def _panel(name: str, values: np.ndarray) -> Panel:
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


def _or_left_out(name: str, load: Callable[[], T]) -> T | None:
    try:
        return load()
    except UserError as error:
        log.warning("--output_analysis: no %s maps: %s", name, error)
        return None
