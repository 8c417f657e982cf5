"""Reader of ``.caffemodel`` files, the form in which VGG16 and ResNet50 were published.

Chainer's own reader does not run with today's protobuf. Nothing in such a file can be executed.
"""

import functools
import re
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

Field = descriptor_pb2.FieldDescriptorProto
# Name, number, type and whether repeated, as in caffe.proto. ``data`` are packed floats: as bytes, NumPy can read them.
_FOUR = "num", "channels", "height", "width"
_FIELDS: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "Shape": {"dim": (1, Field.TYPE_INT64, True)},
    "Blob": {name: (number, Field.TYPE_INT32, False) for number, name in enumerate(_FOUR, 1)}
    | {"data": (5, Field.TYPE_BYTES, True), "shape": (7, "Shape", False)},
    "Old": {"name": (4, Field.TYPE_STRING, False), "blobs": (6, "Blob", True)},
    "New": {"name": (1, Field.TYPE_STRING, False), "blobs": (7, "Blob", True)},
    "Net": {"old": (2, "Old", True), "new": (100, "New", True)},
}

_BRANCHES = {"2a": "1", "2b": "2", "2c": "3", "1": "4"}
_RESNET_LAYER = re.compile(r"(res|bn|scale)(\d)([a-z])_branch(2a|2b|2c|1)")
_RESNET_FIRST = {"conv1": "conv1", "bn_conv1": "bn1", "scale_conv1": "bn1"}
_VGG_LAYER = re.compile(r"conv\d_\d|fc\d")


def read_caffemodel(content: bytes) -> dict[str, list[np.ndarray]]:
    """Layer name → its blobs, float32 in the shapes of the file. Raises ValueError for anything but a caffemodel."""
    net = _net()()
    try:
        net.ParseFromString(content)
    except DecodeError:
        raise ValueError("it is cut short, or no such file") from None
    layers = {layer.name: [_blob(blob) for blob in layer.blobs] for layer in (*net.old, *net.new)}
    layers = {name: blobs for name, blobs in layers.items() if name and blobs}
    if not layers:
        raise ValueError("no layers with weights in it")
    return layers


@functools.cache
def _net() -> type[Message]:
    """The class of what a caffemodel holds, of the fields of caffe.proto that weights need."""
    file = descriptor_pb2.FileDescriptorProto(name="medi2i/caffe.proto", package="medi2i.caffe")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            field = described.field.add(name=name, number=number)
            if kind == Field.TYPE_INT32:
                field.default_value = "1"
            field.label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            field.type = Field.TYPE_MESSAGE if isinstance(kind, str) else kind
            if isinstance(kind, str):
                field.type_name = f".medi2i.caffe.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("medi2i.caffe.Net"))


def _blob(blob: Any) -> np.ndarray:
    shape = blob.shape.dim if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    return np.frombuffer(b"".join(blob.data), "<f4").astype(np.float32).reshape(tuple(shape))


def chainer_arrays(layers: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """The blobs under the names of ``chainer.links.VGG16Layers`` and ``ResNet50Layers``; other layers are left out."""
    arrays = {}
    for name, blobs in layers.items():
        match = _RESNET_LAYER.fullmatch(name)
        if match:
            kind, stage, block, branch = match.groups()
            place = "a" if block == "a" else f"b{ord(block) - ord('a')}"
            link = "conv" if kind == "res" else "bn"
            target, kind = f"res{stage}/{place}/{link}{_BRANCHES[branch]}", {"res": "conv"}.get(kind, kind)
        elif name in _RESNET_FIRST:
            target, kind = _RESNET_FIRST[name], name.partition("_")[0].removesuffix("1")
        elif _VGG_LAYER.fullmatch(name):
            target, kind = name, "conv"
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
