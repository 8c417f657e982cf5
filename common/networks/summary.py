"""``--summary``: layers, output shapes, parameters, multiply-adds, receptive fields and memory of a training step.

What a forward pass costs is counted in one that does not compute: while ``counting``, convolutions and matrix products
return zeros of the right shape, so that a network of any size is counted in a second.
"""

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from medi2i.common.choices import OPTIMIZERS
from medi2i.common.compat import F, chainer
from medi2i.common.kernels.replacing import Replaced
from medi2i.common.networks.from_options import AnyOptions, crop_size, fitting_of, fixed_size
from medi2i.common.networks.network import Network, Spec, describe
from medi2i.common.networks.receptive import discriminator_field, generator_reach, global_layers
from medi2i.common.options import UnpairedOptions

DEFAULT_SIZE = (256, 256)
# Of one call: shape of the result, multiply-adds, elements of the matrix that a convolution unfolds into.
Cost: TypeAlias = tuple[tuple[int, ...], int, int]


@dataclass
class Costs:
    """Multiply-adds so far, and bytes of the largest matrix (``workspace``) that a convolution unfolded into."""

    multiply_adds: int = 0
    workspace: int = 0


def _sizes(function: Any, x: np.ndarray, w: np.ndarray, size: Callable[..., int]) -> Iterator[int]:
    strides, pads, dilations = (function.sy, function.sx), (function.ph, function.pw), (function.dy, function.dx)
    for n, k, s, p, d in zip(x.shape[2:], w.shape[2:], strides, pads, dilations, strict=True):
        yield size(n, k, s, p, d=d)


def _convolution(function: Any, x: np.ndarray, w: np.ndarray) -> Cost:
    shape = len(x), len(w), *_sizes(function, x, w, chainer.utils.conv.get_conv_outsize)
    unfolded = len(x) * math.prod(shape[2:]) * x.shape[1] * math.prod(w.shape[2:])
    return shape, unfolded * len(w) // function.groups, unfolded


def _deconvolution(function: Any, x: np.ndarray, w: np.ndarray) -> Cost:
    channels = w.shape[1] * function.groups
    shape = len(x), channels, *_sizes(function, x, w, chainer.utils.conv.get_deconv_outsize)
    # Each pixel of the image, which is the smaller one, meets the whole kernel.
    unfolded = len(x) * math.prod(x.shape[2:]) * channels * math.prod(w.shape[2:])
    return shape, unfolded * x.shape[1] // function.groups, unfolded


def _linear(function: Any, x: np.ndarray, w: np.ndarray) -> Cost:
    return (len(x), len(w)), len(x) * w.size, 0


def _product(function: Any, a: np.ndarray, b: np.ndarray) -> Cost:
    rows = a.shape[-1] if function.transa else a.shape[-2]
    columns = b.shape[-2] if function.transb else b.shape[-1]
    return (*a.shape[:-2], rows, columns), rows * b.size, 0


COSTS: dict[tuple[type, str], Callable[[Any, np.ndarray, np.ndarray], Cost]] = {
    (F.connection.convolution_2d.Convolution2DFunction, "forward_cpu"): _convolution,
    (F.connection.deconvolution_2d.Deconvolution2DFunction, "forward_cpu"): _deconvolution,
    (F.connection.linear.LinearFunction, "forward"): _linear,
    (F.math.matmul.MatMul, "forward"): _product,
}


@contextlib.contextmanager
def counting() -> Iterator[Costs]:
    """While the block runs, convolutions, linear layers and matrix products on the CPU give zeros and are counted."""
    costs = Costs()

    def counted(cost_of: Callable[..., Cost], original: Callable) -> Callable[..., tuple[np.ndarray]]:
        def forward(self: Any, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray]:
            shape, multiply_adds, unfolded = cost_of(self, *inputs[:2])
            costs.multiply_adds += multiply_adds
            costs.workspace = max(costs.workspace, unfolded * inputs[0].itemsize)
            # What the real one would have worked out and the backward pass reads is not needed: nothing goes back.
            self.retain_inputs((0, 1))
            return (np.zeros(shape, inputs[0].dtype),)

        return forward

    replaced = Replaced()
    with replaced.kept():
        replaced.replace((cls, name, functools.partial(counted, cost_of)) for (cls, name), cost_of in COSTS.items())
        yield costs


def kept_bytes(outputs: Iterable[chainer.Variable], links: Iterable[chainer.Link]) -> int:
    """Bytes of the arrays that the graph behind ``outputs`` keeps for the backward pass, the weights of ``links`` not.

    Besides inputs and outputs that functions retain these are what they remember themselves (masks, pooling places).
    """
    seen = {id(p.array) for link in links for p in link.params()}
    total = 0
    for node in chainer.computational_graph.build_computational_graph(list(outputs)).nodes:
        for array in [node.data] if isinstance(node, chainer.variable.VariableNode) else vars(node).values():
            if isinstance(array, np.ndarray) and id(_owner(array)) not in seen:
                seen.add(id(_owner(array)))
                total += array.nbytes
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
    multiply_adds: int
    parameter_bytes: int
    kept: int
    workspace: int


class _Layers(chainer.LinkHook):
    """Notes shape and cost of the children of one network as they are called."""

    name = "medi2i.Layers"

    def __init__(self, network: Network, costs: Costs) -> None:
        super().__init__()
        self.network, self.costs = network, costs
        self.rows: list[Row] = []

    def forward_postprocess(self, args: Any) -> None:
        if any(args.link is child for child in self.network.children()):
            spent = self.costs.multiply_adds - sum(row.multiply_adds for row in self.rows)
            shape = _several(args.out)[-1].shape
            self.rows.append(Row(args.link.name, describe(args.link), shape, count(args.link), spent))


def _several(out: Any) -> Sequence[chainer.Variable]:
    return out if isinstance(out, (list, tuple)) else [out]


def count(link: chainer.Link) -> int:
    """Number of learned values of ``link``."""
    return sum(p.size for p in link.params() if p.array is not None)


def measure(name: str, network: Network, x: Any) -> tuple[Part, Any]:
    """(Part, output) of a copy of ``network`` run on ``x`` in training mode without computing.

    Weights, running statistics and NumPy's random state are left as they were.
    """
    network = copy.deepcopy(network)
    network.to_device("@numpy")
    state = np.random.get_state()
    # Zeros all over divide by a spectral norm of zero; the numbers mean nothing here.
    quiet = np.errstate(all="ignore")
    with counting() as costs, chainer.using_config("train", True), quiet, _Layers(network, costs) as layers:
        out = network(x)
    np.random.set_state(state)
    weights = sum(p.array.nbytes for p in network.params() if p.array is not None)
    kept = kept_bytes(_several(out), [network])
    return Part(name, tuple(layers.rows), costs.multiply_adds, weights, kept, costs.workspace), out


def summary_text(networks: Mapping[str, Network], options: AnyOptions, size: tuple[int, int] | None = None) -> str:
    """The summary of all ``networks`` (name → link, as ``net.build(options).as_dict()`` gives them).

    size: (height, width) of the images; default: the crop of the training, else 256 or the next size that fits.
    """
    size = size or fixed_size(options) or crop_size(options) or fitting_of(options).around(DEFAULT_SIZE)[-1]
    batch = options.batch_size
    parts, costs, fields = {}, [], []

    def images(link: Network) -> np.ndarray:
        return np.zeros((batch, link.spec.in_ch, *size), np.float32)

    for encoder, decoder in (("enc_x", "dec_y"), ("enc_y", "dec_x")):
        if encoder in networks:
            enc, dec = networks[encoder], networks[decoder]
            parts[encoder], features = measure(encoder, enc, images(enc))
            deepest = features[len(features) - (2 if enc.spec.latent_dim > 0 else 1)].array
            parts[decoder], _ = measure(decoder, dec, [chainer.Variable(f.array) for f in features])
            total = _short(parts[encoder].multiply_adds + parts[decoder].multiply_adds)
            through = f"{encoder} + {decoder}"
            costs.append(f"one batch of {batch} through {through} at {size[0]}x{size[1]}: {total} multiply-adds")
            fields.append(f"{through}: {_field(generator_reach(enc.spec, dec.spec).field, enc.spec)}")
    for name, link in networks.items():
        if name.startswith("dis"):
            parts[name], _ = measure(name, link, deepest if name == "dis_z" else images(link))
            of = " of the deepest feature" if name == "dis_z" else ""
            fields.append(f"{name}: {_field(discriminator_field(link.spec), link.spec)}{of}")
    tables = [line for part in parts.values() for line in (*_table(part), "")]
    fields = ["receptive field, pixels: " + text for text in fields]
    return "\n".join([*tables, *costs, *fields, *_memory(parts, networks, options, size)])


def _field(pixels: int, spec: Spec) -> str:
    seen = global_layers(spec)
    return f"{pixels}x{pixels}" + (f" (and {' and '.join(seen)} over the whole image)" if seen else "")


def _table(part: Part) -> Iterator[str]:
    rows = [("", part.name, "output", "parameters", "multiply-adds")]
    rows += [
        (row.name, row.layer, "x".join(str(n) for n in row.shape), str(row.parameters), _short(row.multiply_adds))
        for row in part.rows
    ]
    rows.append(("", "total", "", str(sum(row.parameters for row in part.rows)), _short(part.multiply_adds)))
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
    counted = {name: runs[part] for name in networks if (part := name.partition("_")[0]) in runs}
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
