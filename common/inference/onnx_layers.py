"""One method for each kind of block: its link and the name of its input in, nodes of the graph added, a name out."""

import numpy

from medi2i.common.compat import L, chainer
from medi2i.common.networks.attention import Attention
from medi2i.common.networks.convolutions import SeparableConvolution
from medi2i.common.networks.norms import (
    BATCH_EPS,
    FEATURE_EPS,
    FeatureNormalization,
    InstanceNormalization,
    Unchanged,
)
from medi2i.common.networks.pretrained import VGG16Features
from medi2i.common.networks.spec import Activation, SampleKind, Second

_ACTIVATIONS = {
    Activation.RELU: ("Relu", {}),
    Activation.LEAKY_RELU: ("LeakyRelu", {"alpha": 0.2}),
    Activation.TANH: ("Tanh", {}),
    Activation.SIGMOID: ("Sigmoid", {}),
    Activation.SOFTMAX: ("Softmax", {"axis": 1}),
}


def _array(x):
    """A parameter or persistent value as float32 NumPy (float64 inside folding comes later)."""
    return chainer.get_device("@numpy").send(getattr(x, "array", x)).astype(numpy.float64)


class Layers:
    """Adds blocks to ``graph`` (``onnx_graph.Graph``)."""

    def __init__(self, graph):
        self.graph = graph

    # Convolutions

    def convolution(self, link, x, norm=None):
        """A convolution of any style and the normalisation after it, folded into the weights where it is affine."""
        if link.squeezed:
            raise ValueError("squeeze-excitation belongs to discriminators; there is no graph for it")
        affine, rest = _folded(norm)
        x = self._padded(x, link.pad, link.pad) if link.reflect else x
        if isinstance(link, SeparableConvolution):
            x = self._layer(
                link.depthwise, x, link, scale=link.scale, group=link.in_ch, stride=link.stride, pad=link.inner_pad
            )
            h = self._layer(link.pointwise, x, link, affine=affine)
        else:
            h = self._layer(link.c, x, link, scale=link.scale, stride=link.stride, pad=link.inner_pad, affine=affine)
        if link.transposed and link.ksize == 3:
            h = self._padded(h, 0, 1)  # mirroring a row and normalising each channel may change places
        return self.norm(norm, h) if rest else h

    def _layer(self, layer, x, link, scale=None, stride=1, pad=0, group=1, affine=None):
        """One Conv or ConvTranspose of ``link``; its input is multiplied by ``scale``, which its weights take in."""
        weights, bias = _array(layer.W) * (scale or 1.0), None if layer.b is None else _array(layer.b)
        if link.transposed:
            return self._transposed(x, weights, bias, stride, pad, group, affine)
        return self.conv(x, weights, bias, stride, pad, group, affine)

    def conv(self, x, weights, bias, stride, pad, group=1, affine=None):
        """Conv with weights (out, in / group, kh, kw); ``affine``: (scale, shift) per output channel, folded in."""
        if affine is not None:
            scale, shift = affine
            weights = weights * scale[:, None, None, None]
            bias = (0 if bias is None else bias) * scale + shift
        inputs = [x, self.graph.constant(weights)] + ([] if bias is None else [self.graph.constant(bias)])
        return self.graph.add(
            "Conv", *inputs, kernel_shape=weights.shape[2:], strides=(stride, stride), pads=(pad,) * 4, group=group
        )

    def _transposed(self, x, weights, bias, stride, pad, group, affine):
        if affine is not None:
            scale, shift = affine
            weights, bias = weights * scale[None, :, None, None], bias * scale + shift
        inputs = [x, self.graph.constant(weights)] + ([] if bias is None else [self.graph.constant(bias)])
        return self.graph.add(
            "ConvTranspose",
            *inputs,
            kernel_shape=weights.shape[2:],
            strides=(stride, stride),
            pads=(pad,) * 4,
            group=group,
        )

    def _padded(self, x, before, after):
        pads = self.graph.constant(numpy.array([0, 0, before, before, 0, 0, after, after]))
        return self.graph.add("Pad", x, pads, mode="reflect")

    # Normalisation and activation

    def norm(self, link, x):
        """A normalisation that no convolution can take in."""
        add, constant = self.graph.add, self.graph.constant
        if isinstance(link, InstanceNormalization):
            channels = len(link.avg_mean)
            return add(
                "InstanceNormalization",
                x,
                constant(numpy.ones(channels)),
                constant(numpy.zeros(channels)),
                epsilon=BATCH_EPS,
            )
        if isinstance(link, FeatureNormalization):
            mean = add("ReduceMean", add("Mul", x, x), axes=(1,), keepdims=1)
            return add("Div", x, add("Sqrt", add("Add", mean, constant(FEATURE_EPS))))
        if isinstance(link, L.GroupNormalization):
            flat = self.reshape(x, (0, link.groups, -1))
            ones, zeros = constant(numpy.ones(link.groups)), constant(numpy.zeros(link.groups))
            flat = add("InstanceNormalization", flat, ones, zeros, epsilon=float(link.eps))
            y = add("Reshape", flat, add("Shape", x))
            y = add("Mul", y, constant(_array(link.gamma).reshape(1, -1, 1, 1)))
            return add("Add", y, constant(_array(link.beta).reshape(1, -1, 1, 1)))
        raise ValueError(f"no graph for {type(link).__name__}")

    def activation(self, kind, x):
        """An activation of the networks."""
        if kind is Activation.NONE:
            return x
        operation, attributes = _ACTIVATIONS[kind]
        return self.graph.add(operation, x, **attributes)

    # Change of size

    def pool(self, x, operation="MaxPool", ksize=2):
        """Pooling with stride 2 that covers all pixels, as Chainer's max pooling does."""
        ceil = {"ceil_mode": 1} if operation == "MaxPool" else {}
        return self.graph.add(operation, x, kernel_shape=(ksize, ksize), strides=(2, 2), **ceil)

    def nearest(self, x):
        """Each pixel a 2x2 square."""
        return self.graph.add(
            "Resize",
            x,
            "",
            self.graph.constant([1.0, 1.0, 2.0, 2.0]),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def bilinear(self, x):
        """Twice the size, the corner pixels on the corner pixels."""
        return self.graph.add(
            "Resize",
            x,
            "",
            self.graph.constant([1.0, 1.0, 2.0, 2.0]),
            mode="linear",
            coordinate_transformation_mode="align_corners",
        )

    def reshape(self, x, shape):
        """``shape``: 0 keeps a dimension, -1 is what is left."""
        return self.graph.add("Reshape", x, self.graph.constant(numpy.array(shape)))

    # Blocks

    def cbr(self, block, x):
        """``blocks.CBR``."""
        kind, second = block.sample.kind, block.sample.second
        h = self.convolution(block.c1, x, block.n1)
        if second is not Second.NONE:
            h = self.activation(block.activation_kind, h)
        if kind is SampleKind.MAXPOOL:
            h = self.pool(h)
        elif kind is SampleKind.AVGPOOL:
            h = self.pool(h, "AveragePool")
        if second is not Second.NONE:
            h = self.convolution(block.c2, h, block.n2)
        h = self.activation(block.activation_kind, h)
        if second is Second.RESIDUAL:
            shortcut = self.convolution(block.skip, x)
            h = self.graph.add("Add", h, self.nearest(shortcut) if kind is SampleKind.DECONV else shortcut)
        if kind is SampleKind.RESIZE:
            return self.bilinear(h)
        if kind is SampleKind.UNPOOL:
            return self.nearest(h)
        if kind is SampleKind.PIXEL_SHUFFLE:
            return self.graph.add("DepthToSpace", h, blocksize=2, mode="DCR")
        return h

    def res_block(self, block, x):
        """``blocks.ResBlock``."""
        h = self.activation(block.activation_kind, self.convolution(block.c0, x, block.norm0))
        return self.graph.add("Add", x, self.convolution(block.c1, h, block.norm1))

    def linear(self, link, x):
        """``L.Linear`` of all but the first axis."""
        flat = self.graph.add("Flatten", x, axis=1)
        return self.graph.add(
            "Gemm", flat, self.graph.constant(_array(link.W)), self.graph.constant(_array(link.b)), transB=1
        )

    def fully_connected(self, block, x):
        """``blocks.FullyConnected``."""
        return self.activation(block.activation_kind, self.linear(block.l0, x))

    def attention(self, block: Attention, x):
        """``attention.Attention`` with the weights of test mode, where nothing is left to iterate."""
        add, eighth, half = self.graph.add, block.channels // 8, block.channels // 2

        def one_by_one(link, h):
            return self.conv(h, _array(link.normalized_weight()), None, 1, 0)

        theta = self.reshape(one_by_one(block.theta, x), (0, eighth, -1))
        phi = self.reshape(self.pool(one_by_one(block.phi, x)), (0, eighth, -1))
        g = self.reshape(self.pool(one_by_one(block.g, x)), (0, half, -1))
        weight = add("Softmax", add("MatMul", add("Transpose", theta, perm=(0, 2, 1)), phi), axis=2)
        attended = add("MatMul", g, add("Transpose", weight, perm=(0, 2, 1)))
        size = add("Gather", add("Shape", x), self.graph.constant(numpy.array([2, 3])), axis=0)
        shape = add("Concat", self.graph.constant(numpy.array([0, half])), size, axis=0)
        h = one_by_one(block.o_conv, add("Reshape", attended, shape))
        return add("Add", x, add("Mul", h, self.graph.constant(_array(block.gamma.W))))

    # Networks trained on ImageNet

    def pretrained(self, base, x, in_ch):
        """Names of the levels of ``pretrained.VGG16Features`` or ``ResNet50Features``."""
        if isinstance(base, VGG16Features):
            return self._vgg(base, x, in_ch)
        h = self._plain(base.conv1, x, base.bn1, grey=in_ch == 1)
        levels = [self.graph.add("Relu", h)]
        for i, name in enumerate(base.block_names):
            h = levels[-1] if i else self.pool(levels[0], ksize=3)
            for bottleneck in base[name].children():
                h = self._bottleneck(bottleneck, h)
            levels.append(h)
        return levels

    def _vgg(self, base, x, in_ch):
        levels = []
        for i, names in enumerate(base.block_names):
            x = self.pool(x) if i else x
            for name in names:
                grey = in_ch == 1 and name == base.block_names[0][0]
                x = self.graph.add("Relu", self._plain(base[name], x, grey=grey))
            levels.append(x)
        return levels

    def _bottleneck(self, block, x):
        h = self.graph.add("Relu", self._plain(block.conv1, x, block.bn1))
        h = self.graph.add("Relu", self._plain(block.conv2, h, block.bn2))
        h = self._plain(block.conv3, h, block.bn3)
        projected = "conv4" in {child.name for child in block.children()}
        shortcut = self._plain(block.conv4, x, block.bn4) if projected else x
        return self.graph.add("Relu", self.graph.add("Add", h, shortcut))

    def _plain(self, link, x, norm=None, grey=False):
        """``L.Convolution2D``; ``grey``: its three channels would all see the same image."""
        weights = _array(link.W)
        bias = None if link.b is None else _array(link.b)
        affine, _ = _folded(norm)
        return self.conv(
            x,
            weights.sum(axis=1, keepdims=True) if grey else weights,
            bias,
            _one(link.stride),
            _one(link.pad),
            affine=affine,
        )


def _one(pair):
    return pair[0] if isinstance(pair, tuple) else int(pair)


def _folded(norm):
    """((scale, shift) per channel or None, whether a normalisation is left to do)."""
    if norm is None or isinstance(norm, Unchanged):
        return None, False
    if not isinstance(norm, (L.BatchNormalization, L.BatchRenormalization)):
        return None, True
    scale = 1 / numpy.sqrt(_array(norm.avg_var) + norm.eps)
    if getattr(norm, "gamma", None) is not None:
        scale = scale * _array(norm.gamma)
    shift = -_array(norm.avg_mean) * scale
    if getattr(norm, "beta", None) is not None:
        shift = shift + _array(norm.beta)
    return (scale, shift), False
