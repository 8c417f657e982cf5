"""``--summary``: layers, output shapes, parameters, multiply-adds, receptive fields and memory of a training step.

What a forward pass costs is counted in one that does not compute: ``shapes_only`` makes convolutions and matrix
products return zeros of the right shape, so that a network of any size is counted in a second.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medi2i.common.choices import OPTIMIZERS
from medi2i.common.compat import F, chainer
from medi2i.common.networks.from_options import AnyOptions, crop_size, fitting_of, fixed_size
from medi2i.common.networks.network import Network, Spec, describe
from medi2i.common.networks.receptive import discriminator_field, generator_reach, global_layers
from medi2i.common.options import UnpairedOptions

DEFAULT_SIZE = (256, 256)
_CONV = F.connection.convolution_2d.Convolution2DFunction
_DECONV = F.connection.deconvolution_2d.Deconvolution2DFunction
_LINEAR = F.connection.linear.LinearFunction
_MATMUL = F.math.matmul.MatMul


def _conv_shape(function: Any, x: np.ndarray, w: np.ndarray) -> tuple[int, ...]:
    size = chainer.utils.conv.get_conv_outsize
    return (
        len(x),
        len(w),
        size(x.shape[2], w.shape[2], function.sy, function.ph, cover_all=function.cover_all, d=function.dy),
        size(x.shape[3], w.shape[3], function.sx, function.pw, cover_all=function.cover_all, d=function.dx),
    )


def _deconv_shape(function: Any, x: np.ndarray, w: np.ndarray) -> tuple[int, ...]:
    size = chainer.utils.conv.get_deconv_outsize
    return (
        len(x),
        w.shape[1] * function.groups,
        size(x.shape[2], w.shape[2], function.sy, function.ph, d=function.dy),
        size(x.shape[3], w.shape[3], function.sx, function.pw, d=function.dx),
    )


def _linear_shape(function: Any, x: np.ndarray, w: np.ndarray) -> tuple[int, ...]:
    return len(x), len(w)


def _zeros(shape_of: Callable[..., tuple[int, ...]]) -> Callable[..., tuple[np.ndarray]]:
    def forward(self: Any, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray]:
        self.retain_inputs((0, 1))
        # What the real one would have worked out and the backward pass reads is not needed: nothing goes back.
        return (np.zeros(shape_of(self, *inputs[:2]), inputs[0].dtype),)

    return forward


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """While the block runs, convolutions and linear layers on the CPU give zeros, at no cost."""
    replaced = (
        (_CONV, "forward_cpu", _conv_shape),
        (_DECONV, "forward_cpu", _deconv_shape),
        (_LINEAR, "forward", _linear_shape),
    )
    before = [cls.__dict__[name] for cls, name, _ in replaced]
    for cls, name, shape_of in replaced:
        setattr(cls, name, _zeros(shape_of))
    try:
        yield
    finally:
        for (cls, name, _), original in zip(replaced, before, strict=True):
            setattr(cls, name, original)


class CostHook(chainer.FunctionHook):
    """Adds up the cost of all functions called while it is active: ``with CostHook() as hook``.

    Multiply-adds, and bytes of the largest matrix (``workspace``) that a convolution unfolds into.
    """

    name = "medi2i.CostHook"

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = self.workspace = 0

    def forward_preprocess(self, function: Any, in_data: Sequence[np.ndarray]) -> None:
        if isinstance(function, (_CONV, _DECONV)):
            x, w = in_data[:2]
            transposed = isinstance(function, _DECONV)
            out = _deconv_shape(function, x, w) if transposed else _conv_shape(function, x, w)
            # Each pixel of the smaller image meets the whole kernel, for each output channel of its group.
            pixels = x.shape[2:] if transposed else out[2:]
            columns = len(x) * math.prod(pixels) * math.prod(w.shape[2:])
            self.multiply_adds += columns * x.shape[1] * out[1] // function.groups
            self.workspace = max(self.workspace, columns * (out[1] if transposed else x.shape[1]) * x.dtype.itemsize)
        elif isinstance(function, _LINEAR):
            self.multiply_adds += len(in_data[0]) * in_data[1].size
        elif isinstance(function, _MATMUL):
            a, b = in_data
            rows = a.shape[-1] if function.transa else a.shape[-2]
            self.multiply_adds += rows * b.size


def kept_bytes(outputs: Iterable[chainer.Variable], links: Iterable[chainer.Link]) -> int:
    """Bytes of the arrays that the graph behind ``outputs`` keeps for the backward pass, the weights of ``links`` not.

    Besides inputs and outputs that functions retain these are what they remember themselves (masks, pooling places).
    """
    weights = {id(p.array) for link in links for p in link.params()}
    seen, total = set(weights), 0
    functions, pending = set(), [v.creator_node for v in outputs if v.creator_node is not None]
    while pending:
        function = pending.pop()
        if id(function) in functions:
            continue
        functions.add(id(function))
        nodes = [*function.inputs, *(ref() for ref in function.outputs)]
        arrays = [node.data for node in nodes if node is not None]
        arrays += [value for value in vars(function).values() if isinstance(value, np.ndarray)]
        for array in arrays:
            if array is not None and id(_owner(array)) not in seen:
                seen.add(id(_owner(array)))
                total += array.nbytes
        pending += [node.creator_node for node in function.inputs if node.creator_node is not None]
    return total


def _owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory ``array`` shows: reshaped and sliced arrays take none of their own."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@dataclass(frozen=True)
class Row:
    """One layer: its name, what it is, the shape of its output, its parameters, its multiply-adds for this input."""

    name: str
    layer: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Part:
    """One network run on one batch. ``kept``: bytes held for the backward pass; ``workspace``: of one convolution."""

    name: str
    rows: tuple[Row, ...]
    parameters: int
    parameter_bytes: int
    multiply_adds: int
    kept: int
    workspace: int


class _LayerHook(chainer.LinkHook):
    """Notes shape and cost of the children of one network as they are called."""

    name = "medi2i.LayerHook"

    def __init__(self, network: Network, costs: CostHook) -> None:
        super().__init__()
        self.children = {id(network[name]): name for name in network.order}
        self.costs = costs
        self.rows: list[Row] = []
        self.before = 0

    def forward_preprocess(self, args: Any) -> None:
        if id(args.link) in self.children:
            self.before = self.costs.multiply_adds

    def forward_postprocess(self, args: Any) -> None:
        name = self.children.get(id(args.link))
        if name is not None:
            out = args.out[-1] if isinstance(args.out, (list, tuple)) else args.out
            self.rows.append(
                Row(name, describe(args.link), out.shape, count(args.link), self.costs.multiply_adds - self.before)
            )


def count(link: chainer.Link) -> int:
    """Number of learned values of ``link``."""
    return sum(p.size for p in link.params() if p.array is not None)


def measure(name: str, network: Network, x: Any) -> tuple[Part, Any]:
    """(Part, output) of a copy of ``network`` run on ``x`` in training mode without computing.

    Weights, running statistics and NumPy's random state are left as they were.
    """
    network = copy.deepcopy(network)
    network.to_device("@numpy")
    costs = CostHook()
    layers = _LayerHook(network, costs)
    state = np.random.get_state()
    # Zeros all over divide by a spectral norm of zero; the numbers mean nothing here.
    with shapes_only(), chainer.using_config("train", True), np.errstate(all="ignore"), costs, layers:
        out = network(x)
    np.random.set_state(state)
    outputs = out if isinstance(out, (list, tuple)) else [out]
    parameter_bytes = sum(p.array.nbytes for p in network.params() if p.array is not None)
    return Part(
        name,
        tuple(layers.rows),
        count(network),
        parameter_bytes,
        costs.multiply_adds,
        kept_bytes(outputs, [network]),
        costs.workspace,
    ), out


def summary_text(networks: Mapping[str, Network], options: AnyOptions, size: tuple[int, int] | None = None) -> str:
    """The summary of all ``networks`` (name → link, as ``net.build(options).as_dict()`` gives them).

    size: (height, width) of the images; default: the crop of the training, else 256 or the next size that fits.
    """
    size = size or fixed_size(options) or crop_size(options) or fitting_of(options).around(DEFAULT_SIZE)[-1]
    batch = options.batch_size
    parts, fields, whole = {}, [], []
    for encoder, decoder in (("enc_x", "dec_y"), ("enc_y", "dec_x")):
        if encoder not in networks:
            continue
        enc, dec = networks[encoder], networks[decoder]
        image = np.zeros((batch, enc.spec.in_ch, *size), np.float32)
        parts[encoder], features = measure(encoder, enc, image)
        parts[decoder], _ = measure(decoder, dec, [chainer.Variable(f.array) for f in features])
        fields.append(f"{encoder} + {decoder}: {_field(generator_reach(enc.spec, dec.spec).field, enc.spec)}")
        whole.append((encoder, decoder))
        deepest = features[len(features) - (2 if enc.spec.latent_dim > 0 else 1)].array
    for name, link in networks.items():
        if name.startswith("dis"):
            image = deepest if name == "dis_z" else np.zeros((batch, link.spec.in_ch, *size), np.float32)
            parts[name], _ = measure(name, link, image)
            fields.append(
                f"{name}: {_field(discriminator_field(link.spec), link.spec)}"
                + (" of the deepest feature" if name == "dis_z" else "")
            )
    lines = []
    for part in parts.values():
        lines += [*_table(part), ""]
    for encoder, decoder in whole:
        total = parts[encoder].multiply_adds + parts[decoder].multiply_adds
        lines.append(
            f"one batch of {batch} through {encoder} + {decoder} at {size[0]}x{size[1]}: {_short(total)} multiply-adds"
        )
    lines += ["receptive field, pixels: " + text for text in fields]
    return "\n".join([*lines, *_memory(parts, networks, options, size)])


def _field(pixels: int, spec: Spec) -> str:
    seen = global_layers(spec)
    return f"{pixels}x{pixels}" + (f" (and {' and '.join(seen)} over the whole image)" if seen else "")


def _table(part: Part) -> Iterator[str]:
    rows = [("", part.name, "output", "parameters", "multiply-adds")]
    rows += [
        (row.name, row.layer, "x".join(str(n) for n in row.shape), str(row.parameters), _short(row.multiply_adds))
        for row in part.rows
    ]
    rows.append(("", "total", "", str(part.parameters), _short(part.multiply_adds)))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for name, layer, shape, parameters, cost in rows:
        yield (
            f"{name:<{widths[0]}}  {layer:<{widths[1]}}  {shape:>{widths[2]}}  {parameters:>{widths[3]}}  "
            f"{cost:>{widths[4]}}"
        ).rstrip()


def passes(networks: Mapping[str, Network], options: AnyOptions) -> dict[str, int]:
    """How often each network runs in the generator's update, all of it kept until the gradients are there."""
    if not isinstance(options, UnpairedOptions):
        return dict.fromkeys(networks, 1)
    # Each domain: its own image and the translated one; both decoders of each feature, and one cycle.
    extra = (1 if options.lambda_idempotence > 0 else 0) + (1 if options.lambda_domain > 0 else 0)
    runs = {"enc": 2 + extra, "dec": 3 + extra, "dis": 1}
    counted = {name: runs[name.partition("_")[0]] for name in networks}
    if options.single_encoder:
        counted["enc_x"], counted["enc_y"] = 2 * runs["enc"], 0
    if "dis_z" in counted:
        counted["dis_z"] = 2
    return counted


def _memory(
    parts: Mapping[str, Part], networks: Mapping[str, Network], options: AnyOptions, size: tuple[int, int]
) -> Iterator[str]:
    distinct = {id(networks[name]): parts[name] for name in parts}.values()
    weights = sum(part.parameter_bytes for part in distinct)
    state = weights * (1 + OPTIMIZERS[options.optimizer].copies)
    runs = passes(networks, options)
    kept = sum(part.kept * runs[part.name] for part in parts.values())
    workspace = max(part.workspace for part in parts.values())
    yield (
        f"memory of a training step at {size[0]}x{size[1]}, batch {options.batch_size}: about "
        f"{_megabytes(weights + state + kept + workspace)} = weights {_megabytes(weights)}, gradients and "
        f"{options.optimizer}'s state {_megabytes(state)}, kept for the gradients {_megabytes(kept)}, "
        f"largest convolution's workspace {_megabytes(workspace)} (CPU)"
    )


def _megabytes(n: float) -> str:
    return f"{n / 2**20:.1f} MB"


def _short(n: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return str(n)
