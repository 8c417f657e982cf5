"""``--summary``: layers, output shapes, parameters, multiply-adds, receptive fields and memory of a training step."""

import copy
from dataclasses import dataclass

import numpy

from medi2i.common.compat import chainer
from medi2i.common.networks.counting import Cost, CostHook, kept_bytes, shapes_only
from medi2i.common.networks.from_options import crop_size
from medi2i.common.networks.network import describe
from medi2i.common.networks.receptive import discriminator_field, generator_field, global_layers
from medi2i.common.networks.sizes import fitting_of, fixed_size

DEFAULT_SIZE = (256, 256)
# Copies of the parameters that an optimizer keeps beside them (momenta, running squares).
OPTIMIZER_COPIES = {
    "SGD": 1,
    "Momentum": 1,
    "AdaDelta": 2,
    "AdaGrad": 1,
    "Adam": 2,
    "AdaBound": 2,
    "RMSprop": 1,
    "NesterovAG": 1,
    "Eve": 2,
}


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

    def __init__(self, network, costs: CostHook):
        super().__init__()
        self.children = {id(child): name for name, child in network.named_children()}
        self.costs = costs
        self.rows = []
        self.before = 0

    def forward_preprocess(self, args):
        if id(args.link) in self.children:
            self.before = self.costs.cost.multiply_adds

    def forward_postprocess(self, args):
        name = self.children.get(id(args.link))
        if name is not None:
            out = args.out[-1] if isinstance(args.out, list) else args.out
            self.rows.append(
                Row(name, describe(args.link), out.shape, count(args.link), self.costs.cost.multiply_adds - self.before)
            )


def count(link) -> int:
    """Number of learned values of ``link``."""
    return sum(p.size for p in link.params() if p.array is not None)


def measure(name: str, network, x):
    """(Part, output) of a copy of ``network`` run on ``x`` in training mode without computing.

    Weights, running statistics and NumPy's random state are left as they were.
    """
    network = copy.deepcopy(network)
    network.to_device("@numpy")
    costs = CostHook(Cost())
    layers = _LayerHook(network, costs)
    state = numpy.random.get_state()
    # Zeros all over divide by a spectral norm of zero; the numbers mean nothing here.
    with shapes_only(), chainer.using_config("train", True), numpy.errstate(all="ignore"), costs, layers:
        out = network(x)
    numpy.random.set_state(state)
    outputs = out if isinstance(out, list) else [out]
    parameter_bytes = sum(p.array.nbytes for p in network.params() if p.array is not None)
    return Part(
        name,
        tuple(layers.rows),
        count(network),
        parameter_bytes,
        costs.cost.multiply_adds,
        kept_bytes(outputs, [network]),
        costs.cost.workspace,
    ), out


def summary_text(networks: dict, options, size=None) -> str:
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
        image = numpy.zeros((batch, enc.spec.in_ch, *size), numpy.float32)
        parts[encoder], features = measure(encoder, enc, image)
        parts[decoder], _ = measure(decoder, dec, [chainer.Variable(f.array) for f in features])
        fields.append(f"{encoder} + {decoder}: {_field(generator_field(enc, dec), enc.spec)}")
        whole.append((encoder, decoder))
        deepest = features[len(features) - (2 if enc.spec.latent_dim > 0 else 1)].array
    for name, link in networks.items():
        if name.startswith("dis"):
            image = deepest if name == "dis_z" else numpy.zeros((batch, link.spec.in_ch, *size), numpy.float32)
            parts[name], _ = measure(name, link, image)
            fields.append(
                f"{name}: {_field(discriminator_field(link), link.spec)}"
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


def _field(pixels, spec):
    seen = global_layers(spec)
    return f"{pixels}x{pixels}" + (f" (and {' and '.join(seen)} over the whole image)" if seen else "")


def _table(part):
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


def passes(networks: dict, options) -> dict[str, int]:
    """How often each network runs in the generator's update, all of it kept until the gradients are there."""
    if "dis" in networks or "enc_y" not in networks:
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


def _memory(parts, networks, options, size):
    distinct = {id(networks[name]): parts[name] for name in parts}.values()
    weights = sum(part.parameter_bytes for part in distinct)
    state = weights * (1 + OPTIMIZER_COPIES[options.optimizer])
    runs = passes(networks, options)
    kept = sum(part.kept * runs[part.name] for part in parts.values())
    workspace = max(part.workspace for part in parts.values())
    yield (
        f"memory of a training step at {size[0]}x{size[1]}, batch {options.batch_size}: about "
        f"{_megabytes(weights + state + kept + workspace)} = weights {_megabytes(weights)}, gradients and "
        f"{options.optimizer}'s state {_megabytes(state)}, kept for the gradients {_megabytes(kept)}, "
        f"largest convolution's workspace {_megabytes(workspace)} (CPU)"
    )


def _megabytes(n):
    return f"{n / 2**20:.1f} MB"


def _short(n):
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return str(n)
