"""Networks trained on ImageNet: their layers in a row, of which some answers are picked, as ChainerCV has it, and the
``.caffemodel`` files in which VGG16 and ResNet50 were published.

ChainerCV takes a second to import, protobuf some time: this module is imported where such layers are built or read.
Chainer's own reader of these files does not run with today's protobuf. Nothing in them can be executed.
"""

import functools
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

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


_INT32, _INT64, _BYTES = 5, 3, 12  # of descriptor.proto
_REPEATED = {"label": 3}
_FOUR = "num", "channels", "height", "width"


def _message(name: str, number: int, kind: str) -> dict[str, Any]:
    return {"name": name, "number": number, "type": 11, "type_name": f".medi2i.caffe.{kind}"}


# The fields of caffe.proto that weights need. ``data`` are packed floats: as bytes, NumPy can read them. So are names,
# which in a file from anybody need not be text.
_FIELDS: dict[str, list[dict[str, Any]]] = {
    "Shape": [{"name": "dim", "number": 1, "type": _INT64} | _REPEATED],
    "Blob": [
        *({"name": name, "number": i, "type": _INT32, "default_value": "1"} for i, name in enumerate(_FOUR, 1)),
        {"name": "data", "number": 5, "type": _BYTES} | _REPEATED,
        _message("shape", 7, "Shape"),
    ],
    "Old": [{"name": "name", "number": 4, "type": _BYTES}, _message("blobs", 6, "Blob") | _REPEATED],
    "New": [{"name": "name", "number": 1, "type": _BYTES}, _message("blobs", 7, "Blob") | _REPEATED],
    "Net": [_message("old", 2, "Old") | _REPEATED, _message("new", 100, "New") | _REPEATED],
}

_BRANCHES = {"2a": "1", "2b": "2", "2c": "3", "1": "4"}
_RESNET_LAYER = re.compile(r"(?:res|bn|scale)(\d)([a-z])_branch(2a|2b|2c|1)")
_OTHER_LAYER = re.compile(r"conv\d_\d|fc\d|(bn_|scale_)?conv1")


def read_caffemodel(content: bytes) -> dict[str, list[np.ndarray]]:
    """Layer name → its blobs, float32 in the shapes of the file. Raises ValueError for anything but a caffemodel."""
    net = _net()()
    try:
        net.ParseFromString(content)
    except DecodeError:
        raise ValueError("it is cut short, or no such file") from None
    layers = {
        layer.name.decode(errors="replace"): [_blob(blob) for blob in layer.blobs] for layer in (*net.old, *net.new)
    }
    layers = {name: blobs for name, blobs in layers.items() if name and blobs}
    if not layers:
        raise ValueError("no layers with weights in it")
    return layers


@functools.cache
def _net() -> type[Message]:
    """The class of what a caffemodel holds, of the fields of caffe.proto that weights need."""
    pool = descriptor_pool.DescriptorPool()
    messages = [{"name": name, "field": [{"label": 1} | field for field in fields]} for name, fields in _FIELDS.items()]
    pool.Add(
        descriptor_pb2.FileDescriptorProto(name="medi2i/caffe.proto", package="medi2i.caffe", message_type=messages)
    )
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("medi2i.caffe.Net"))


def _blob(blob: Any) -> np.ndarray:
    shape = blob.shape.dim if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    return np.frombuffer(b"".join(blob.data), "<f4").astype(np.float32).reshape(tuple(shape))


def chainer_arrays(layers: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """The blobs under the names of ``chainer.links.VGG16Layers`` and ``ResNet50Layers``; other layers are left out."""
    arrays = {}
    for name, blobs in layers.items():
        kind = next((kind for kind in ("bn", "scale") if name.startswith(kind)), "conv")
        if match := _RESNET_LAYER.fullmatch(name):
            stage, block, branch = match.groups()
            place = "a" if block == "a" else f"b{ord(block) - ord('a')}"
            target = f"res{stage}/{place}/{'conv' if kind == 'conv' else 'bn'}{_BRANCHES[branch]}"
        elif _OTHER_LAYER.fullmatch(name):
            target = name.replace(f"{kind}_conv", "bn")
        else:
            continue
        arrays.update({f"{target}/{key}": array for key, array in _parameters(kind, blobs).items()})
    return arrays


def _parameters(kind: str, blobs: list[np.ndarray]) -> dict[str, np.ndarray]:
    if kind == "conv":
        return dict(zip(("W", "b"), (blobs[0], *(b.ravel() for b in blobs[1:])), strict=False))
    if kind == "scale":
        return dict(zip(("gamma", "beta"), (b.ravel() for b in blobs), strict=True))
    # Caffe keeps sums: mean and variance times the number in the third blob.
    mean, variance, factor = (b.ravel() for b in blobs)
    scale = 1.0 / float(factor[0]) if factor[0] else 0.0
    return {"avg_mean": mean * scale, "avg_var": variance * scale, "N": np.array(0)}
