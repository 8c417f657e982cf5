"""Encoders and discriminators made of the first layers of VGG16 or ResNet50, and the loader of their weights.

VGG16: Simonyan and Zisserman, arXiv 1409.1556. ResNet50: He et al., arXiv 1512.03385 (stride in the first 1×1).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medi2i.common.bounded_files import StoredArrays
from medi2i.common.choices import Pretrained
from medi2i.common.compat import ArrayOrVariable, F, L, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.files import arrays_of, fill, misfits
from medi2i.common.networks.network import Rows, Step, constant_weights, unchanged
from medi2i.common.networks.spec import PretrainedSpec
from medi2i.common.options import PairedOptions, UnpairedOptions

VGG16_LAYERS = (2, 2, 3, 3, 3)
VGG16_WIDTHS = (64, 128, 256, 512, 512)
RESNET50_LAYERS = (3, 4, 6, 3)
RESNET50_WIDTHS = (64, 256, 512, 1024, 2048)
WIDTHS = {Pretrained.VGG16: VGG16_WIDTHS, Pretrained.RESNET50: RESNET50_WIDTHS}
ZIP_MAGIC = b"PK"
RELU = Step(lambda: F.relu, unchanged)


@dataclass(frozen=True)
class Published:
    """A network as it was published: what it is called, where its weights are and what else is in their files.

    unused: names of what lies deeper than any of our layers. layers: widths of the levels → the layers down to the
    deepest of them, in order, with the names of Chainer's own links. levels: which of them answer, shallowest first.
    """

    title: str
    source: str
    unused: re.Pattern
    layers: Callable[[tuple[int, ...]], dict[str, Step]]
    levels: tuple[str, ...]

    def through(self, widths: tuple[int, ...], rows: Rows) -> list[Rows]:
        """What the levels make of rows."""
        answers = {}
        for name, layer in self.layers(widths).items():
            answers[name] = rows = layer.through(rows)
        return [answers[name] for name in self.levels[: len(widths)]]


def _vgg16(widths: tuple[int, ...]) -> dict[str, Step]:
    """conv1_1, conv1_2, … with ReLU; level i has H/2^i × W/2^i pixels. Names of ``chainer.links.VGG16Layers``."""
    layers, before = {}, 3
    for block, (width, convolutions) in enumerate(zip(widths, VGG16_LAYERS, strict=False), start=1):
        if block > 1:
            layers[f"pool{block - 1}"] = _pooling(2)
        for name in (f"{block}_{i}" for i in range(1, convolutions + 1)):
            convolution = partial(L.Convolution2D, before, width, 3, 1, 1)
            layers |= {f"conv{name}": Step(convolution, partial(Rows.windows, ksize=3, pad=1)), f"relu{name}": RELU}
            before = width
    return layers


def _resnet50(widths: tuple[int, ...]) -> dict[str, Step]:
    """conv1, bn1, res2, …; level i has H/2^(i+1) × W/2^(i+1) pixels. Names of ``chainer.links.ResNet50Layers``."""
    layers = {
        "conv1": Step(partial(L.Convolution2D, 3, widths[0], 7, 2, 3), partial(Rows.windows, ksize=7, stride=2, pad=3)),
        "bn1": Step(partial(L.BatchNormalization, widths[0]), unchanged),
        "relu1": RELU,
        "pool1": _pooling(3),
    }
    for stage, (count, before, width) in enumerate(zip(RESNET50_LAYERS, widths, widths[1:], strict=False), start=2):
        stride = 1 if stage == 2 else 2
        block = partial(L.model.vision.resnet.BuildingBlock, count, before, width // 4, width, stride)
        layers[f"res{stage}"] = Step(block, partial(_through_bottlenecks, count, stride))
    return layers


def _pooling(ksize: int) -> Step:
    """Maxima of windows, with a last one that the image does not fill."""
    pooling = partial(F.max_pooling_2d, ksize=ksize, stride=2)
    return Step(lambda: pooling, partial(Rows.windows, ksize=ksize, stride=2, covers_all=True))


def _through_bottlenecks(count: int, stride: int, rows: Rows) -> Rows:
    """Each has one 3×3 convolution; the first of the 1×1 has the stride."""
    rows = rows.windows(1, stride)
    for _ in range(count):
        rows = rows.windows(3, pad=1)
    return rows


PUBLISHED = {
    Pretrained.VGG16: Published(
        "VGG16",
        "VGG_ILSVRC_16_layers.caffemodel, as the Visual Geometry Group in Oxford publishes it "
        "(www.robots.ox.ac.uk/~vgg/research/very_deep), fits; so does an npz made from it by Chainer "
        "(VGG16Layers) or ChainerCV (VGG16)",
        re.compile(r"(conv[1-5]_[1-3]|fc[678])/[Wb]"),
        _vgg16,
        tuple(f"relu{block}_{last}" for block, last in enumerate(VGG16_LAYERS, start=1)),
    ),
    Pretrained.RESNET50: Published(
        "ResNet50",
        "ResNet-50-model.caffemodel, as github.com/KaimingHe/deep-residual-networks publishes it, "
        "fits; so does an npz made from it by Chainer (ResNet50Layers)",
        re.compile(r"(fc6/[Wb]|res[2-5]/(a|b[1-5])/(conv[1-4]/[Wb]|bn[1-4]/(gamma|beta|avg_mean|avg_var|N)))"),
        _resnet50,
        ("relu1", "res2", "res3", "res4", "res5"),
    ),
}


def pretrained_levels(spec: PretrainedSpec) -> Step:
    """The feature layers as a child of a network."""
    return Step(partial(pretrained_features, spec), partial(PUBLISHED[spec.kind].through, spec.widths))


def pretrained_features(spec: PretrainedSpec) -> chainer.Chain:
    """The feature layers, with random weights: ``load_pretrained`` fills them."""
    from medi2i.common.networks.imagenet import Features  # which takes a second to import

    return Features(spec, PUBLISHED[spec.kind])


def load_pretrained(link: chainer.Chain, path: str | Path | None, option: str) -> None:
    """Fill ``link`` (of ``pretrained_features``) from the file ``path``, which the user named with ``option``.

    The file is the published caffemodel, or an npz with the names of ``chainer.links.VGG16Layers``/``ResNet50Layers``
    or, for VGG16, of ChainerCV. Its layers that ``link`` has not are passed over. Nothing is unpickled.
    Raises UserError when there is no file, it is not such a file, or a layer is missing or of another shape.
    """
    title, source = link.published.title, link.published.source
    if not path:
        raise UserError(f"{option}: the file with the ImageNet weights of {title} is not given. {source}")
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{option}: {path}: no such file; it should hold the ImageNet weights of {title}. {source}")
    try:
        found = _read(path)
    except ValueError as error:
        raise UserError(f"{option}: {path}: not a readable npz or caffemodel file ({error}). {source}") from None
    expected = arrays_of(link)
    wanted = {name: found[name] for name in expected if name in found}
    if problems := misfits(expected, wanted):
        raise UserError(f"{option}: {path}: it is no file for {title}: {problems}. {source}")
    fill(link, wanted, expected, f"{option}: {path}")


def _read(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        packed = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if not packed:
        from medi2i.common.networks.imagenet import chainer_arrays, read_caffemodel  # protobuf takes time to import

        return chainer_arrays(read_caffemodel(path.read_bytes()))
    stored = StoredArrays(path)
    # ChainerCV keeps each convolution of VGG16 one step further down: conv1_1/conv/W.
    names = {name: re.sub(r"^(conv\d_\d)/conv/", r"\1/", name) for name in stored if not name.startswith("fc")}
    return {ours: stored[name] for name, ours in names.items()}


def load_options_weights(
    options: PairedOptions | UnpairedOptions, encoders: Iterable[chainer.Chain], discriminators: Iterable[chainer.Chain]
) -> None:
    """Fill the pretrained part of each network from the file the options name. Raises UserError."""
    for links, option in ((encoders, "gen_pretrained_weights"), (discriminators, "dis_pretrained_weights")):
        for link in links:
            if link.spec.pretrained is not None:
                load_pretrained(link.base, getattr(options, option), "--" + option)


class PerceptualFeatures:
    """Callable (N, 3, H, W) -> the layer's answer after its ReLU (N, C, h, w).

    The gradient flows to the image; the weights are constants.

    Args:
        layer: conv1_1 ... conv5_3 (Simonyan and Zisserman, arXiv 1409.1556). Raises ValueError for any other.
        widths: channels of the blocks; the published ones unless a test builds a thin copy.
    """

    def __init__(self, layer: str, widths: tuple[int, ...] = VGG16_WIDTHS) -> None:
        blocks = int(layer.removeprefix("conv").partition("_")[0])
        self.link = pretrained_features(PretrainedSpec(Pretrained.VGG16, tuple(widths[:blocks]), frozen=True))
        self.link.pick = layer.replace("conv", "relu")

    @classmethod
    def load(cls, path: str | Path | None, layer: str, widths: tuple[int, ...] = VGG16_WIDTHS) -> "PerceptualFeatures":
        """With the weights of the npz file ``path``. Raises UserError, naming --perceptual_weights."""
        features = cls(layer, widths)
        load_pretrained(features.link, path, "--perceptual_weights")
        return features

    def to_device(self, device: chainer.backend.Device) -> None:
        """Move the weights to a Chainer device."""
        self.link.to_device(device)

    def __call__(self, x: ArrayOrVariable) -> chainer.Variable:
        with constant_weights(self.link):
            return self.link(x)
