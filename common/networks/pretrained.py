"""Encoders and discriminators made of the first layers of VGG16 or ResNet50, and the loader of their weights.

VGG16: Simonyan and Zisserman, arXiv 1409.1556. ResNet50: He et al., arXiv 1512.03385 (stride in the first 1×1).
"""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from medi2i.common.choices import Pretrained
from medi2i.common.compat import ArrayOrVariable, F, L, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.network import Rows, Step, constant_weights
from medi2i.common.networks.spec import PretrainedSpec
from medi2i.common.npz_files import declared_arrays, read_arrays_of, refuse_not_finite
from medi2i.common.options import PairedOptions, UnpairedOptions

VGG16_LAYERS = (2, 2, 3, 3, 3)
VGG16_WIDTHS = (64, 128, 256, 512, 512)
RESNET50_LAYERS = (3, 4, 6, 3)
RESNET50_WIDTHS = (64, 256, 512, 1024, 2048)
WIDTHS = {Pretrained.VGG16: VGG16_WIDTHS, Pretrained.RESNET50: RESNET50_WIDTHS}
SOURCES = {
    Pretrained.VGG16: "VGG_ILSVRC_16_layers.caffemodel, as the Visual Geometry Group in Oxford publishes it "
    "(www.robots.ox.ac.uk/~vgg/research/very_deep), fits; so does an npz made from it by Chainer "
    "(VGG16Layers) or ChainerCV (VGG16)",
    Pretrained.RESNET50: "ResNet-50-model.caffemodel, as github.com/KaimingHe/deep-residual-networks publishes it, "
    "fits; so does an npz made from it by Chainer (ResNet50Layers)",
}
ZIP_MAGIC = b"PK"


def three_channels(x: ArrayOrVariable) -> chainer.Variable:
    """Grey (N, 1, H, W) repeated to three channels; three channels as they are. Raises UserError for any other."""
    if x.shape[1] == 3:
        return chainer.as_variable(x)
    if x.shape[1] != 1:
        raise UserError(f"{x.shape[1]} channels: a network trained on ImageNet takes 1 (grey) or 3 (colour)")
    return F.broadcast_to(x, (x.shape[0], 3, *x.shape[2:]))


class _Features(chainer.Chain):
    """Common part: levels, and running statistics while frozen.

    What else is in files of the whole published network (deeper layers, fully connected ones) matches ``unused``.
    """

    unused: re.Pattern

    def __init__(self, spec: PretrainedSpec) -> None:
        super().__init__()
        self.spec = spec

    def levels(self, x: chainer.Variable) -> list[chainer.Variable]:
        """The list of levels, shallowest first."""
        raise NotImplementedError

    @staticmethod
    def through(levels: int, rows: Rows) -> list[Rows]:
        """What they make of rows."""
        raise NotImplementedError

    def forward(self, x: ArrayOrVariable) -> list[chainer.Variable]:
        if not self.spec.frozen:
            return self.levels(three_channels(x))
        backprop = chainer.config.enable_backprop and not self.spec.detached
        with chainer.using_config("train", False), chainer.using_config("enable_backprop", backprop):
            return self.levels(three_channels(x))

    def describe(self) -> str:
        """One line: the network and the channels of each level."""
        frozen = ", frozen" if self.spec.frozen else ""
        return f"{type(self).__name__} {' '.join(str(w) for w in self.spec.widths)}{frozen}"


class VGG16Features(_Features):
    """(N, 1 or 3, H, W) → [conv1_2, conv2_2, conv3_3, conv4_3, conv5_3] as far as there are widths, after ReLU.

    Level i has H/2^i × W/2^i pixels. Children conv1_1, conv1_2, … as in ``chainer.links.VGG16Layers``.
    """

    unused = re.compile(r"(conv[1-5]_[1-3]|fc[678])/[Wb]")

    def __init__(self, spec: PretrainedSpec) -> None:
        super().__init__(spec)
        names, before = [], 3
        with self.init_scope():
            for block, width in enumerate(spec.widths, start=1):
                names.append(tuple(f"conv{block}_{i}" for i in range(1, VGG16_LAYERS[block - 1] + 1)))
                for name in names[-1]:
                    setattr(self, name, L.Convolution2D(before, width, 3, 1, 1))
                    before = width
        self.block_names = tuple(names)

    def layers(self, x: chainer.Variable) -> Iterator[tuple[str, chainer.Variable]]:
        """Each convolution's name and its answer after ReLU, in order."""
        for i, names in enumerate(self.block_names):
            x = F.max_pooling_2d(x, 2, 2) if i else x
            for name in names:
                x = F.relu(self[name](x))
                yield name, x

    def levels(self, x: chainer.Variable) -> list[chainer.Variable]:
        last = {names[-1] for names in self.block_names}
        return [answer for name, answer in self.layers(x) if name in last]

    @staticmethod
    def through(levels: int, rows: Rows) -> list[Rows]:
        made: list[Rows] = []
        for i in range(levels):
            rows = rows.windows(2, 2, covers_all=True) if i else rows
            for _ in range(VGG16_LAYERS[i]):
                rows = rows.windows(3, pad=1)
            made.append(rows)
        return made


class ResNet50Features(_Features):
    """(N, 1 or 3, H, W) → [conv1, res2, res3, res4, res5] as far as there are widths.

    Level i has H/2^(i+1) × W/2^(i+1) pixels. Children conv1, bn1, res2, … as in ``chainer.links.ResNet50Layers``.
    """

    unused = re.compile(r"(fc6/[Wb]|res[2-5]/(a|b[1-5])/(conv[1-4]/[Wb]|bn[1-4]/(gamma|beta|avg_mean|avg_var|N)))")

    def __init__(self, spec: PretrainedSpec) -> None:
        super().__init__(spec)
        block = L.model.vision.resnet.BuildingBlock
        before = spec.widths[0]
        names = []
        with self.init_scope():
            self.conv1 = L.Convolution2D(3, before, 7, 2, 3)
            self.bn1 = L.BatchNormalization(before)
            for i, width in enumerate(spec.widths[1:]):
                names.append(f"res{i + 2}")
                setattr(self, names[-1], block(RESNET50_LAYERS[i], before, width // 4, width, 2 if i else 1))
                before = width
        self.block_names = tuple(names)

    def levels(self, x: chainer.Variable) -> list[chainer.Variable]:
        h = F.relu(self.bn1(self.conv1(x)))
        levels = [h]
        for i, name in enumerate(self.block_names):
            h = self[name](h if i else F.max_pooling_2d(h, 3, 2))
            levels.append(h)
        return levels

    @staticmethod
    def through(levels: int, rows: Rows) -> list[Rows]:
        made = [rows.windows(7, 2, 3)]
        for i in range(levels - 1):
            rows = made[-1].windows(1, 2) if i else made[0].windows(3, 2, covers_all=True)
            for _ in range(RESNET50_LAYERS[i]):  # bottlenecks, one 3×3 convolution each
                rows = rows.windows(3, pad=1)
            made.append(rows)
        return made


KINDS: dict[Pretrained, type[_Features]] = {Pretrained.VGG16: VGG16Features, Pretrained.RESNET50: ResNet50Features}


def pretrained_levels(spec: PretrainedSpec) -> Step:
    """The feature layers as a child of a network."""
    return Step(partial(pretrained_features, spec), partial(KINDS[spec.kind].through, len(spec.widths)))


def pretrained_features(spec: PretrainedSpec) -> chainer.Chain:
    """The feature layers, with random weights: ``load_pretrained`` fills them."""
    made = KINDS[spec.kind](spec)
    for link in made.links():
        link.fixed = spec.frozen  # its statistics are not measured anew
    return made


def load_pretrained(link: chainer.Chain, path: str | Path | None, option: str) -> None:
    """Fill ``link`` (of ``pretrained_features``) from the file ``path``, which the user named with ``option``.

    The file is the published caffemodel, or an npz with the names of ``chainer.links.VGG16Layers``/``ResNet50Layers``
    or, for VGG16, of ChainerCV. Its layers that ``link`` has not are passed over. Nothing is unpickled.
    Raises UserError when there is no file, it is not such a file, or a layer is missing or of another shape.
    """
    kind = link.spec.kind
    if not path:
        raise UserError(
            f"{option}: the file with the ImageNet weights of {type(link).__name__} is not given. {SOURCES[kind]}"
        )
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{option}: {path}: no such file; it should hold the ImageNet weights of "
            f"{type(link).__name__}. {SOURCES[kind]}"
        )
    try:
        found = _read(path)
    except ValueError as error:
        raise UserError(f"{option}: {path}: not a readable npz or caffemodel file ({error}). {SOURCES[kind]}") from None
    expected = chainer.serializers.DictionarySerializer()
    expected.save(link)
    for name, array in expected.target.items():
        if name not in found:
            raise UserError(
                f"{option}: {path}: it has no {name}, so it is no file for {type(link).__name__}. {SOURCES[kind]}"
            )
        there = found[name]
        if there.shape != array.shape or not np.can_cast(there.dtype, array.dtype, "same_kind"):
            raise UserError(
                f"{option}: {path}: {name} is {there.shape} {there.dtype}; "
                f"{type(link).__name__} has {array.shape} {array.dtype}"
            )
    wanted = {name: found[name] for name in expected.target}
    refuse_not_finite(wanted, f"{option}: {path}", {name: array.dtype for name, array in expected.target.items()})
    chainer.serializers.NpzDeserializer(wanted).load(link)


def _read(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        packed = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if not packed:
        from medi2i.common.networks.caffemodel import chainer_arrays, read_caffemodel  # protobuf takes time to import

        return chainer_arrays(read_caffemodel(path.read_bytes()))
    wanted = [name for name in declared_arrays(path) if not name.startswith("fc")]
    return {_chainer_name(name): array for name, array in read_arrays_of(path, wanted).items()}


def _chainer_name(name: str) -> str:
    """ChainerCV keeps each convolution of VGG16 one step further down: conv1_1/conv/W."""
    return re.sub(r"^(conv\d_\d)/conv/", r"\1/", name)


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
        layer: conv1_1 ... conv5_3 (Simonyan and Zisserman, arXiv 1409.1556).
        widths: channels of the blocks; the published ones unless a test builds a thin copy.
    """

    def __init__(self, layer: str, widths: tuple[int, ...] = VGG16_WIDTHS) -> None:
        blocks = int(layer.removeprefix("conv").partition("_")[0])
        self.layer = layer
        self.link = VGG16Features(PretrainedSpec(Pretrained.VGG16, tuple(widths[:blocks]), frozen=True))

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
            for name, answer in self.link.layers(chainer.as_variable(x)):
                if name == self.layer:
                    return answer
        raise ValueError(f"VGG16 has no layer {self.layer!r}")
