"""Reader of ``.caffemodel`` files, the form in which VGG16 and ResNet50 were published.

Only what weights need of the protocol-buffers wire format and of ``caffe.proto``: Chainer's own reader does not run
with today's protobuf. Nothing in such a file can be executed.
"""

import re
from collections.abc import Iterator

import numpy as np

# Field numbers of caffe.proto: NetParameter.layers (old) and .layer, then name and blobs of each kind of layer.
_OLD_LAYERS, _LAYERS = 2, 100
_NAME_AND_BLOBS = {_OLD_LAYERS: (4, 6), _LAYERS: (1, 7)}
_BLOB_LEGACY_SHAPE, _BLOB_DATA, _BLOB_SHAPE, _SHAPE_DIM = (1, 2, 3, 4), 5, 7, 1

_BRANCHES = {"2a": "1", "2b": "2", "2c": "3", "1": "4"}
_RESNET_LAYER = re.compile(r"(res|bn|scale)(\d)([a-z])_branch(2a|2b|2c|1)")
_RESNET_FIRST = {"conv1": "conv1", "bn_conv1": "bn1", "scale_conv1": "bn1"}
_VGG_LAYER = re.compile(r"conv\d_\d|fc\d")


def read_caffemodel(content: bytes) -> dict[str, list[np.ndarray]]:
    """Layer name → its blobs, float32 in the shapes of the file. Raises ValueError for anything but a caffemodel."""
    layers = {}
    for field, value in _fields(content):
        if field not in _NAME_AND_BLOBS or isinstance(value, int):
            continue
        name_field, blob_field = _NAME_AND_BLOBS[field]
        name, blobs = None, []
        for inner, part in _fields(value):
            if inner == name_field and not isinstance(part, int):
                name = bytes(part).decode("utf-8", "replace")
            elif inner == blob_field and not isinstance(part, int):
                blobs.append(_blob(part))
        if name is not None and blobs:
            layers[name] = blobs
    if not layers:
        raise ValueError("no layers with weights in it")
    return layers


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


def _blob(content: memoryview) -> np.ndarray:
    legacy: dict[int, int] = {}
    shape: list[int] | None = None
    data: list[np.ndarray] = []
    for field, value in _fields(content):
        if isinstance(value, int):
            legacy[field] = value
        elif field == _BLOB_SHAPE:
            shape = [
                d
                for inner, part in _fields(value)
                if inner == _SHAPE_DIM
                for d in ([part] if isinstance(part, int) else _varints(part))
            ]
        elif field == _BLOB_DATA:
            data.append(np.frombuffer(value, "<f4"))
    array = np.concatenate(data) if data else np.zeros(0, np.float32)
    if shape is None:
        shape = [legacy.get(field, 1) for field in _BLOB_LEGACY_SHAPE]
    return array.astype(np.float32).reshape(shape)


def _fields(content: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one message: an int for varints, a memoryview for everything else."""
    content = memoryview(content)
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        wire = key & 7
        if wire == 0:
            value, position = _varint(content, position)
            yield key >> 3, value
            continue
        if wire == 2:
            length, position = _varint(content, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + length > len(content):
            raise ValueError(f"it ends {position + length - len(content)} bytes too early")
        yield key >> 3, content[position : position + length]
        position += length


def _varints(content: memoryview) -> Iterator[int]:
    position = 0
    while position < len(content):
        value, position = _varint(content, position)
        yield value


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(content) or shift > 63:
            raise ValueError(f"no number at byte {position}")
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
