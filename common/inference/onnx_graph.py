"""The ONNX graph of a generator, built from its links: any batch and image size, batch normalisation folded.

The exporter follows the plans of encoder and decoder with the names of values in the graph; ``BLOCKS`` says how each
kind of block is written. The package ``onnx`` takes a tenth of a second to import: whoever may do without imports this
module where a graph is made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from medi2i.common import VERSION
from medi2i.common.choices import Activation, SampleKind, Second, Unet
from medi2i.common.compat import F, L, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.blocks import CBR, Attention, FullyConnected, ResBlock
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.networks.layers import (
    BATCH_EPS,
    FEATURE_EPS,
    LEAKY_SLOPE,
    Convolution,
    FeatureNormalization,
    InstanceNormalization,
    Unchanged,
)

INPUT, OUTPUT = "image", "translation"
IR_VERSION, OPSET = 8, 17
_ACTIVATIONS: dict[Activation, tuple[str, dict[str, Any]]] = {
    Activation.RELU: ("Relu", {}),
    Activation.LEAKY_RELU: ("LeakyRelu", {"alpha": LEAKY_SLOPE}),
    Activation.TANH: ("Tanh", {}),
    Activation.SIGMOID: ("Sigmoid", {}),
    Activation.SOFTMAX: ("Softmax", {"axis": 1}),
}
FOLDED = (L.BatchNormalization, L.BatchRenormalization)


@dataclass(frozen=True)
class Graph:
    """Adds nodes and constants to ``proto``. Names are numbered. ``halves``: values whose channels come twice, as parts
    that add up to them."""

    proto: onnx.GraphProto
    halves: set[str] = field(default_factory=set)

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Add one node with one output, whose name is returned. An input "" is left out."""
        name = f"{operation.lower()}_{len(self.proto.node)}"
        self.proto.node.append(helper.make_node(operation, inputs, [name], name, **attributes))
        return name

    def constant(self, values: npt.ArrayLike) -> str:
        """Add an array, float32 unless it holds integers; its name."""
        array = np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32, copy=False)
        name = f"constant_{len(self.proto.initializer)}"
        # Filled in place: appending what numpy_helper makes would hold a large array once more.
        tensor = self.proto.initializer.add(name=name, dims=array.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.raw_data = array.tobytes()
        return name

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """``shape``: 0 keeps a dimension, -1 is what is left."""
        return self.add("Reshape", x, self.constant(np.array(shape)))

    def pool(self, x: str, operation: str = "MaxPool", ksize: int = 2) -> str:
        """Pooling with stride 2; that of maxima covers all pixels, as Chainer's does."""
        ceil = {"ceil_mode": 1} if operation == "MaxPool" else {}
        return self.add(operation, x, kernel_shape=(ksize, ksize), strides=(2, 2), **ceil)

    def doubled(self, x: str, **how: str) -> str:
        """Twice the height and width."""
        return self.add("Resize", x, "", self.constant([1.0, 1.0, 2.0, 2.0]), **how)

    def nearest(self, x: str) -> str:
        """Each pixel a 2x2 square."""
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.doubled(x, **how)

    def mirrored(self, x: str, before: int, after: int) -> str:
        """Mirrored at the top and left by ``before`` pixels, at the bottom and right by ``after``."""
        pads = self.constant(np.array([0, 0, before, before, 0, 0, after, after]))
        padded = self.add("Pad", x, pads, mode="reflect")
        self.halves.update({padded} if x in self.halves else ())
        return padded

    def activation(self, kind: Activation, x: str) -> str:
        """An activation of the networks."""
        if kind is Activation.NONE:
            return x
        operation, attributes = _ACTIVATIONS[kind]
        return self.add(operation, x, **attributes)

    def conv(
        self,
        x: str,
        weights: np.ndarray,
        bias: np.ndarray | None = None,
        stride: int = 1,
        pad: int = 0,
        group: int = 1,
        norm: chainer.Link | None = None,
        transposed: bool = False,
    ) -> str:
        """Conv with weights (out, in / group, kh, kw), or ConvTranspose (in, out / group, kh, kw).

        A batch normalisation ``norm`` goes into the weights; any other is left for ``Graph.norm``.
        """
        if isinstance(norm, FOLDED):
            scale, shift = _affine(norm)
            weights = weights * (scale[None, :, None, None] if transposed else scale[:, None, None, None])
            bias = (0 if bias is None else bias) * scale + shift
        if x in self.halves:
            weights = np.concatenate([weights, weights], axis=1)
        inputs = [x, self.constant(weights)] + ([] if bias is None else [self.constant(bias)])
        return self.add(
            "ConvTranspose" if transposed else "Conv",
            *inputs,
            kernel_shape=weights.shape[2:],
            strides=(stride, stride),
            pads=(pad,) * 4,
            group=group,
        )

    def norm(self, link: chainer.Link | None, x: str) -> str:
        """A normalisation, unless the convolution before it has taken it in."""
        if link is None or isinstance(link, (Unchanged, *FOLDED)):
            return x
        if isinstance(link, InstanceNormalization):
            return self._instance(x, len(link.avg_mean), BATCH_EPS)
        if isinstance(link, FeatureNormalization):
            mean = self.add("ReduceMean", self.add("Mul", x, x), axes=(1,), keepdims=1)
            return self.add("Div", x, self.add("Sqrt", self.add("Add", mean, self.constant(FEATURE_EPS))))
        if isinstance(link, L.GroupNormalization):
            flat = self._instance(self.reshape(x, (0, link.groups, -1)), link.groups, float(link.eps))
            y = self.add("Reshape", flat, self.add("Shape", x))
            y = self.add("Mul", y, self.constant(_array(link.gamma).reshape(1, -1, 1, 1)))
            return self.add("Add", y, self.constant(_array(link.beta).reshape(1, -1, 1, 1)))
        raise ValueError(f"no graph for {type(link).__name__}")

    def _instance(self, x: str, channels: int, eps: float) -> str:
        ones, zeros = self.constant(np.ones(channels)), self.constant(np.zeros(channels))
        return self.add("InstanceNormalization", x, ones, zeros, epsilon=eps)

    def convolution(self, link: Convolution, x: str, norm: chainer.Link | None = None) -> str:
        """A convolution of any style and the normalisation after it, folded into the weights where it is affine."""
        x = self.mirrored(x, link.pad, link.pad) if link.reflect else x
        scale, stride, pad = link.scale or 1.0, link.stride, link.inner_pad
        if link.separable:
            depthwise = _array(link.depthwise.W) * scale
            x = self.conv(x, depthwise, None, stride, pad, link.in_ch, transposed=link.transposed)
            layer, scale, stride, pad = link.pointwise, 1.0, 1, 0
        else:
            layer = link.c
        weights, bias = _array(layer.W) * scale, _array(layer.b)
        h = self.conv(x, weights, bias, stride, pad, norm=norm, transposed=link.transposed)
        if link.transposed and link.ksize == 3:
            h = self.mirrored(h, 0, 1)  # mirroring a row and normalising each channel may change places
        return self.norm(norm, h)

    def plain(self, link: chainer.Link, x: str, norm: chainer.Link, grey: bool = False) -> str:
        """``L.Convolution2D`` of a published network; ``grey``: its three channels would all see the same image."""
        weights = _array(link.W).sum(axis=1, keepdims=True) if grey else _array(link.W)
        bias = None if link.b is None else _array(link.b)
        return self.conv(x, weights, bias, link.stride[0], link.pad[0], norm=norm)


def _cbr(graph: Graph, block: CBR, x: str) -> str:
    kind, second = block.sample.kind, block.sample.second
    h = graph.convolution(block.c1, x, block.n1)
    if second is not Second.NONE:
        h = graph.activation(block.activation_kind, h)
    if kind in (SampleKind.MAXPOOL, SampleKind.AVGPOOL):
        h = graph.pool(h, "MaxPool" if kind is SampleKind.MAXPOOL else "AveragePool")
    if second is not Second.NONE:
        h = graph.convolution(block.c2, h, block.n2)
    h = graph.activation(block.activation_kind, h)
    if second is Second.RESIDUAL:
        shortcut = graph.convolution(block.skip, x)
        h = graph.add("Add", h, graph.nearest(shortcut) if kind is SampleKind.DECONV else shortcut)
    if kind is SampleKind.RESIZE:
        return graph.doubled(h, mode="linear", coordinate_transformation_mode="align_corners")
    if kind is SampleKind.UNPOOL:
        return graph.nearest(h)
    return graph.add("DepthToSpace", h, blocksize=2, mode="DCR") if kind is SampleKind.PIXEL_SHUFFLE else h


def _res_block(graph: Graph, block: ResBlock, x: str) -> str:
    h = graph.activation(block.activation_kind, graph.convolution(block.c0, x, block.norm0))
    return graph.add("Add", x, graph.convolution(block.c1, h, block.norm1))


def _fully_connected(graph: Graph, block: FullyConnected, x: str) -> str:
    weights, bias = (graph.constant(_sent(parameter)) for parameter in (block.l0.W, block.l0.b))
    h = graph.add("Gemm", graph.add("Flatten", x, axis=1), weights, bias, transB=1)
    return graph.activation(block.activation_kind, h)


def _attention(graph: Graph, block: Attention, x: str) -> str:
    """With the weights of test mode, where nothing is left to iterate."""
    add, eighth, half = graph.add, block.channels // 8, block.channels // 2

    def one_by_one(link: chainer.Link, h: str) -> str:
        return graph.conv(h, _array(link.normalized_weight()))

    theta = graph.reshape(one_by_one(block.theta, x), (0, eighth, -1))
    phi = graph.reshape(graph.pool(one_by_one(block.phi, x)), (0, eighth, -1))
    g = graph.reshape(graph.pool(one_by_one(block.g, x)), (0, half, -1))
    weight = add("Softmax", add("MatMul", add("Transpose", theta, perm=(0, 2, 1)), phi), axis=2)
    attended = add("MatMul", g, add("Transpose", weight, perm=(0, 2, 1)))
    size = add("Gather", add("Shape", x), graph.constant(np.array([2, 3])), axis=0)
    shape = add("Concat", graph.constant(np.array([0, half])), size, axis=0)
    h = one_by_one(block.o_conv, add("Reshape", attended, shape))
    return add("Add", x, add("Mul", h, graph.constant(_array(block.gamma.W))))


def _levels(graph: Graph, base: Any, x: str, grey: bool) -> list[str]:
    """The levels of ``Features``; ``grey``: the image has one channel."""
    found = []
    for i, name in enumerate(base.layer_names):
        layer = base[name]
        if isinstance(layer, L.Convolution2D):
            x = graph.plain(layer, x, vars(base).get(name.replace("conv", "bn")), grey and i == 0)
        elif isinstance(layer, L.model.vision.resnet.BuildingBlock):
            for bottleneck in layer.children():
                x = _bottleneck(graph, bottleneck, x)
        elif layer is F.relu:
            x = graph.add("Relu", x)
        elif name.startswith("pool"):
            x = graph.pool(x, ksize=layer.keywords["ksize"])
        if name in base.pick:
            found.append(x)
    return found


def _bottleneck(graph: Graph, block: chainer.Chain, x: str) -> str:
    h = graph.add("Relu", graph.plain(block.conv1, x, block.bn1))
    h = graph.add("Relu", graph.plain(block.conv2, h, block.bn2))
    h = graph.plain(block.conv3, h, block.bn3)
    shortcut = graph.plain(block.conv4, x, block.bn4) if hasattr(block, "conv4") else x
    return graph.add("Relu", graph.add("Add", h, shortcut))


# How a block is added to a graph: (graph, its link, name of its input) -> name of its output.
BLOCKS: dict[type, Callable[[Graph, Any, str], str]] = {
    CBR: _cbr,
    ResBlock: _res_block,
    FullyConnected: _fully_connected,
    Attention: _attention,
}


@dataclass(frozen=True)
class _Exporter:
    """Follows the plan of ``network`` with names of values in ``graph``; see ``networks.network.Way``."""

    graph: Graph
    network: Encoder | Decoder

    def step(self, name: str, value: str) -> Any:
        link = self.network[name]
        if name == "base":
            grey = isinstance(self.network, Encoder) and self.network.spec.in_ch == 1
            return _levels(self.graph, link, value, grey)
        return BLOCKS[type(link)](self.graph, link, value)

    def shaped(self, value: str, shape: tuple[int, int, int]) -> str:
        return self.graph.reshape(value, (-1, *shape))

    def joined(self, value: str, skip: str, level: int) -> str:
        if self.network.spec.unet is Unet.ADD:
            return self.graph.add("Add", value, skip)
        return self.graph.add("Concat", value, skip, axis=1)


def export(
    encoder: Encoder, decoder: Decoder, metadata: Mapping[str, str] | None = None, change: bool = False
) -> bytes:
    """The generator as the content of an ONNX file: ``image`` (N, C, H, W) in [-1, 1] → ``translation``, test mode.

    encoder, decoder: on any device, of any dtype (the graph is float32). metadata: texts, kept in the file. change: for
    few digits; ``image`` (N, 2C, H, W) is a rounded image and what rounding left over, and the result is what a
    generator with ``residual`` would multiply by it and add to the image.
    Raises UserError where the weights are more than such a file holds.
    """
    weights = 4 * sum(p.size for link in (encoder, decoder) for p in link.params() if p.array is not None)
    if weights >= onnx.checker.MAXIMUM_PROTOBUF:
        raise UserError(
            f"an ONNX file holds less than {onnx.checker.MAXIMUM_PROTOBUF / 2**30:.1f} GiB and this network has "
            f"{weights / 2**30:.1f} GiB of weights; --engine chainer converts with it"
        )
    model = helper.make_model(
        onnx.GraphProto(name="generator"),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="medi2i",
        producer_version=VERSION,
    )
    helper.set_model_props(model, dict(metadata or {}))
    graph, spec, residual = Graph(model.graph), encoder.spec, decoder.spec.residual
    graph.halves.update({INPUT} if change else ())
    with chainer.using_config("train", False), chainer.using_config("enable_backprop", False):
        features = encoder.plan.follow(_Exporter(graph, encoder), INPUT)
        y = decoder.plan.follow(_Exporter(graph, decoder), features)
    if residual and not change:
        y = graph.add("Add", INPUT, graph.add("Mul", y, graph.constant(float(residual))))
    graph.proto.node.append(helper.make_node("Identity", [y], [OUTPUT], OUTPUT))
    size = spec.size if spec.size is not None and (spec.fc_layers or spec.latent_dim > 0) else ("height", "width")
    for values, name, channels in (
        (graph.proto.input, INPUT, spec.in_ch * (2 if change else 1)),
        (graph.proto.output, OUTPUT, decoder.spec.out_ch),
    ):
        values.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("batch", channels, *size)))
    return model.SerializeToString()


def _sent(x: Any) -> np.ndarray:
    """A parameter or persistent value as NumPy."""
    return chainer.get_device("@numpy").send(getattr(x, "array", x))


def _array(x: Any) -> np.ndarray:
    """A parameter or persistent value as float64 NumPy: folding rounds once, at the end."""
    return _sent(x).astype(np.float64)


def _affine(norm: chainer.Link) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of each channel by a batch normalisation in test mode."""
    scale = 1 / np.sqrt(_array(norm.avg_var) + norm.eps)
    if getattr(norm, "gamma", None) is not None:
        scale = scale * _array(norm.gamma)
    shift = -_array(norm.avg_mean) * scale
    if getattr(norm, "beta", None) is not None:
        shift = shift + _array(norm.beta)
    return scale, shift
