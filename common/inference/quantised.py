"""A generator's ONNX graph with convolutions in 8-bit integers, by ONNX Runtime's own tools.

The first and the last convolution stay in float32: 8 bits of a range of 3000 HU are steps of 12 HU, which is the noise
that a network may be there to remove. In between, values are features; their ranges are those that a few of the images
to be converted have, and what rounding them does is measured on the first image of every conversion.
"""

import importlib.util
import logging
import tempfile
from pathlib import Path

import numpy as np

from medi2i.common.errors import UserError
from medi2i.common.inference.onnx_graph import INPUT
from medi2i.common.inference.quiet import quiet_onnxruntime
from medi2i.common.inference.slices import load_slice
from medi2i.common.inference.tiling import pad_to_multiple
from medi2i.datasets.outputs import naming

EXAMPLES = 8


def examples_of(inputs, preparation, stack, fit):
    """Network inputs (1, C, H, W) of ``EXAMPLES`` evenly spaced images; a stack holds one of them several times.

    inputs: Inputs. preparation: as for ``slices.load_slice``. fit: ``networks.extent.Fitting``, the sizes that the
    network takes. They are the same in every shard. Images that cannot be read are left out; raises UserError if none
    is left.
    """
    sources, found, told = inputs.sources, [], None
    for index in sorted({*np.linspace(0, len(sources) - 1, EXAMPLES).round().astype(int).tolist()}):
        try:
            unit = load_slice(sources[index], preparation).unit
        except UserError as error:
            told = error
            continue
        found.append(pad_to_multiple(np.concatenate([unit] * stack)[np.newaxis], fit.multiple, rest=fit.rest)[0])
    if not found:
        raise UserError(f"--precision int8: none of the images that were tried can be read; {told}")
    return found


def require():
    """Raises UserError where ONNX Runtime's tools lack the package they need."""
    if importlib.util.find_spec("onnx") is None:
        raise UserError("--precision int8: it needs the package onnx; pip install 'medi2i[int8]', or --precision fp32")


def quantised(content, images):
    """``content`` of an ONNX file of :func:`~medi2i.common.inference.onnx_graph.export` -> that of the 8-bit graph.

    images: list of (1, C, H, W) float32 in [-1, 1]; features get the ranges that these have. Weights have a range for
    each output channel.
    """
    import onnx

    quiet_onnxruntime()
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = list(images)

        def get_next(self):
            return {INPUT: self.left.pop()} if self.left else None

    names = [node.name for node in onnx.load_model_from_string(content).graph.node if node.op_type == "Conv"]
    with tempfile.TemporaryDirectory() as place:
        plain, small = Path(place) / "float32.onnx", Path(place) / "int8.onnx"
        with naming(plain):
            plain.write_bytes(content)
        logging.disable(logging.WARNING)  # advice on graphs that were not made here
        try:
            quantization.quantize_static(
                plain,
                small,
                Images(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=[names[0], names[-1]],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
        return small.read_bytes()
