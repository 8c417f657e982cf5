"""The few messages of the ONNX file format that a generator needs, written without the ``onnx`` package.

An ONNX file is a protocol buffer (github.com/onnx/onnx, onnx.proto3); the numbers below are its field numbers.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

IR_VERSION = 8
OPSET = 17
Value: TypeAlias = float | int | str | Sequence[int]  # of an attribute
_FLOAT, _INT64 = 1, 7
_TYPES = {np.dtype(np.float32): _FLOAT, np.dtype(np.int64): _INT64}


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def tensor(name: str, array: np.ndarray) -> bytes:
    """TensorProto of a float32 or int64 array."""
    return (
        b"".join(_number(1, size) for size in array.shape)
        + _number(2, _TYPES[array.dtype])
        + _bytes(8, name)
        + _bytes(9, array.tobytes())
    )


def attribute(name: str, value: Value) -> bytes:
    """AttributeProto of a float, an int, a string or a sequence of ints."""
    if isinstance(value, float):
        return _bytes(1, name) + _varint(2 << 3 | 5) + struct.pack("<f", value) + _number(20, 1)
    if isinstance(value, int):
        return _bytes(1, name) + _number(3, value) + _number(20, 2)
    if isinstance(value, str):
        return _bytes(1, name) + _bytes(4, value) + _number(20, 3)
    return _bytes(1, name) + b"".join(_number(8, int(v)) for v in value) + _number(20, 7)


def node(operation: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, Value]) -> bytes:
    """NodeProto; an input "" is left out."""
    return (
        b"".join(_bytes(1, name) for name in inputs)
        + b"".join(_bytes(2, name) for name in outputs)
        + _bytes(3, outputs[0])
        + _bytes(4, operation)
        + b"".join(_bytes(5, attribute(name, value)) for name, value in sorted(attributes.items()))
    )


def value(name: str, dimensions: Sequence[int | str]) -> bytes:
    """ValueInfoProto of a float32 array; a dimension is a number, or the name of one that may be any."""
    dims = b"".join(_bytes(1, _number(1, d) if isinstance(d, int) else _bytes(2, d)) for d in dimensions)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, dims)))


def model(
    nodes: Sequence[bytes],
    initialisers: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    name: str,
    producer: str,
    version: str,
    metadata: Mapping[str, str],
) -> bytes:
    """ModelProto as the content of a file. All but the last four: lists of what the functions above return."""
    graph = (
        b"".join(_bytes(1, n) for n in nodes)
        + _bytes(2, name)
        + b"".join(_bytes(5, t) for t in initialisers)
        + b"".join(_bytes(11, v) for v in inputs)
        + b"".join(_bytes(12, v) for v in outputs)
    )
    return (
        _number(1, IR_VERSION)
        + _bytes(2, producer)
        + _bytes(3, version)
        + _bytes(7, graph)
        + _bytes(8, _bytes(1, "") + _number(2, OPSET))
        + b"".join(_bytes(14, _bytes(1, key) + _bytes(2, text)) for key, text in metadata.items())
    )
