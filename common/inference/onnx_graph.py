"""The ONNX graph of a generator, built from its links: any batch and image size, batch normalisation folded."""

from dataclasses import dataclass, field

import numpy

from medi2i.common.compat import chainer
from medi2i.common.inference import onnx_format as onnx
from medi2i.common.inference.onnx_layers import Layers
from medi2i.common.networks.spec import Unet
from medi2i.common.version import VERSION

INPUT, OUTPUT = "image", "translation"


@dataclass
class Graph:
    """Nodes and constants so far. Names are numbered."""

    nodes: list = field(default_factory=list)
    constants: list = field(default_factory=list)

    def add(self, operation, *inputs, **attributes):
        """Add one node with one output, whose name is returned."""
        name = f"{operation.lower()}_{len(self.nodes)}"
        self.nodes.append(onnx.node(operation, inputs, [name], attributes))
        return name

    def constant(self, array):
        """Add an array, float32 unless it holds integers; its name."""
        array = numpy.asarray(array)
        array = array.astype(numpy.int64 if array.dtype.kind == "i" else numpy.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(onnx.tensor(name, array))
        return name


def export(encoder, decoder, metadata=None):
    """The generator as the content of an ONNX file: ``image`` (N, C, H, W) in [-1, 1] → ``translation``, test mode.

    encoder, decoder: of ``common.networks``, on any device, of any dtype (the graph is float32).
    metadata: dict of texts, kept in the file.
    """
    graph = Graph()
    layers = Layers(graph)
    with chainer.using_config("train", False), chainer.using_config("enable_backprop", False):
        features = _encode(layers, encoder, INPUT)
        result = _decode(layers, decoder, features)
    graph.nodes.append(onnx.node("Identity", [result], [OUTPUT], {}))
    height, width = encoder.spec.size or ("height", "width")
    if not (encoder.spec.fc_layers or encoder.spec.latent_dim > 0):
        height, width = "height", "width"
    return onnx.model(
        graph.nodes,
        graph.constants,
        [onnx.value(INPUT, ("batch", encoder.spec.in_ch, height, width))],
        [onnx.value(OUTPUT, ("batch", decoder.spec.out_ch, height, width))],
        "generator",
        "medi2i",
        VERSION,
        metadata or {},
    )


def _encode(layers, encoder, x):
    """Names of the encoder's outputs, in its order."""
    spec, image = encoder.spec, x
    for name in encoder.fc_names:
        flat = layers.fully_connected(encoder[name], x)
        x = layers.reshape(flat, (-1, spec.in_ch, *spec.size))
    if spec.pretrained is not None:
        levels = layers.pretrained(encoder.base, x, spec.in_ch)
    else:
        levels, h = [], x
        for name in encoder.level_names:
            h = layers.cbr(encoder[name], h)
            levels.append(h)
    skips = []
    if spec.unet is Unet.CONV:
        skips = [layers.cbr(encoder[name], level) for name, level in zip(encoder.skip_names, levels, strict=True)]
    elif spec.unet is not Unet.NONE:
        skips = list(levels)
    h = levels[-1]
    for name in encoder.res_names:
        h = layers.res_block(encoder[name], h)
    if spec.attention:
        h = layers.attention(encoder.a, h)
    image = [image] if spec.residual else []
    latent = [layers.fully_connected(encoder.latent_fc, h)] if spec.latent_dim > 0 else []
    return [*image, *skips, h, *latent]


def _decode(layers, decoder, features):
    spec = decoder.spec
    if spec.residual:
        image, *features = features
    n_skips = 0 if spec.unet is Unet.NONE else len(spec.chs)
    skips, rest = features[:n_skips], features[n_skips:]
    h = rest[0]
    if spec.joins_deepest:
        skips = [h]
    if spec.latent_dim > 0:
        h = layers.reshape(layers.fully_connected(decoder.latent_fc, rest[1]), (-1, spec.chs[-1], *spec.feature_size))
    for name in decoder.res_names:
        h = layers.res_block(decoder[name], h)
    for i, name in enumerate(decoder.level_names, start=1):
        if spec.unet is Unet.ADD:
            h = layers.graph.add("Add", h, skips[-i])
        elif spec.unet is not Unet.NONE:
            h = layers.graph.add("Concat", h, skips[-i], axis=1)
        h = layers.cbr(decoder[name], h)
    y = layers.cbr(decoder.ul, h)
    if not spec.residual:
        return y
    return layers.graph.add("Add", image, layers.graph.add("Mul", y, layers.graph.constant(float(spec.residual))))
