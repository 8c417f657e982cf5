"""From the options of a conversion to something that converts: weights, device, whole images or tiles."""

import dataclasses
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medi2i.common import resources
from medi2i.common.errors import UserError
from medi2i.common.inference import tiling
from medi2i.common.inference.engines import ChainerEngine, Engine, IdentityEngine, choose
from medi2i.common.networks.checkpoint import Generator, epoch_of, find_run, load_generator
from medi2i.common.networks.from_options import fitting_of, fixed_size
from medi2i.common.networks.receptive import generator_reach, global_layers
from medi2i.common.options import PairedOptions, UnpairedOptions, load_args
from medi2i.common.options.reading import ARGS

log = logging.getLogger(__name__)

IDENTITY = "identity"
PIECE = 256  # pixels, of the square on which engines are compared
BLEND = 16  # pixels that neighbouring tiles share beyond their margins
TILES = (2048, 1536, 1024, 768, 512, 384, 256, 128)  # sides that are tried where memory will not do for whole images
ENOUGH = 0.8  # of the free memory
MIRRORED = 3  # pixels, by the 7x7 convolutions


TrainingOptions = PairedOptions | UnpairedOptions


@dataclasses.dataclass(frozen=True)
class Model:
    """The network of a conversion; ``generator`` None is the identity.

    trained: the options it was trained with, of the file ``args`` (None: beside the weights). direction: "xy" or "yx".
    """

    generator: Generator | None
    trained: TrainingOptions
    name: str
    sha256: str
    direction: str
    args: str | None = None

    @property
    def description(self) -> dict[str, str]:
        """For the report: what the weights are, by name and hash."""
        return {"name": self.name, "sha256": self.sha256, "direction": self.direction}

    @property
    def released(self) -> bool:
        """Whether the rules of the released codes hold that decide what a network sees (docs/released_codes.md)."""
        return self.generator is not None and bool(self.trained.released)

    @property
    def as_released(self) -> bool:
        """Whether conversion is that of the released codes, too, as their args file is in use: crop, range, output."""
        return self.released and self.trained.released == ARGS

    @property
    def stack(self) -> int:
        """Slices in the channels of the network."""
        return 1 if self.generator is None else self.trained.stack


def load_model(options, given, application):
    """The Model that PairedConversionOptions or UnpairedConversionOptions name.

    ``given``: training options on the command line, checked against the args file. ``application``: the class of
    options it must have been trained with. Raises UserError.
    """
    if options.model_gen == IDENTITY:
        if options.epoch is not None:
            raise UserError(f"--epoch: {options.epoch} of which training? The identity has no weights")
        trained = load_args(options.argfile) if options.argfile else application(**given)
        _check_application(trained, application, options.argfile)
        return Model(None, trained, IDENTITY, "", "xy")
    if options.model_gen is None and options.argfile is None:
        raise UserError("--model_gen: which network? Give a run folder, or -a args -m enc_x50.npz")
    epoch = options.epoch or "last"
    if options.model_gen is None or Path(options.model_gen).is_dir():
        best = find_run(options.model_gen or options.argfile).best if application.CONVERTS_BEST else None
        epoch = options.epoch or ("last" if best is None else "best")
    elif options.epoch is not None and epoch_of(options.model_gen) != options.epoch:
        raise UserError(
            f"--epoch: {options.epoch} is given together with the file --model_gen {options.model_gen}; "
            "one of them says which weights"
        )
    generator = load_generator(
        options.model_gen, options.argfile, epoch=epoch, pretrained=given.get("gen_pretrained_weights")
    )
    _check_application(generator.options, application, options.argfile or options.model_gen)
    _check_given(given, generator.options, options.argfile or generator.files[0].parent / "args")
    name = "+".join(file.name for file in generator.files)
    return Model(generator, generator.options, name, generator.sha256, generator.direction, options.argfile)


def _check_application(trained, application, source):
    if not isinstance(trained, application):
        other = trained.APPLICATION
        raise UserError(
            f"{source}: was trained by {other}, not {application.APPLICATION}; {other}/convert.py would be right"
        )


def _check_given(given, trained, source):
    """Options of the network on the command line must be those of the args file."""
    if not given:
        return
    checked = type(trained)(**given)
    for name in (field.name for field in dataclasses.fields(trained) if field.metadata["network"]):
        if name in given and getattr(checked, name) != getattr(trained, name):
            raise UserError(
                f"--{name}: {getattr(checked, name)} is not what the network was trained with "
                f"({getattr(trained, name)} in {source}); leave it out"
            )


@dataclasses.dataclass(frozen=True)
class Network:
    """(N, C, H, W) -> (N, C', H, W) in [-1, 1], for images of any size; ``at_once``: as for an Engine."""

    run: Callable
    at_once: int = 1

    def __call__(self, x):
        return self.run(x)


def engine_of(generator, device, options=None, clip_out=None, examples=None, images=1) -> Engine:
    """The Engine that runs ``generator`` (None: the identity) on ``device`` (of ``chainer.get_device``).

    options: of the conversion, with ``engine`` and ``precision``; None is Chainer. clip_out: the Clip of the results,
    for telling in HU how far engines differ; None where they are not HU. examples, images: as for
    ``engines.choose``.
    Raises UserError for an engine that is not there.
    """
    if generator is None:
        return IdentityEngine()
    if options is None:
        return ChainerEngine(generator.encoder, generator.decoder, device)
    fit = fitting_of(generator.options)
    unit, unit_name = (1.0, "of [-1, 1]") if clip_out is None else ((clip_out.upper - clip_out.lower) / 2, "HU")
    return choose(
        generator.encoder,
        generator.decoder,
        device,
        options.engine,
        options.precision,
        unit,
        unit_name,
        examples,
        images,
        None if fixed_size(generator.options) else fit.above(PIECE),
    )


def network_of(generator, engine, tile=None, overlap=None):
    """The Network that pads images of any size to what ``generator`` needs and runs ``engine`` on them.

    tile: side of tiles in pixels, None for whole images. overlap: pixels at their inner edges that are thrown away,
    None for the receptive field. Raises UserError for a network that cannot be tiled.
    """
    if generator is None:
        return Network(engine.run)
    if fixed_size(generator.options) is not None:
        if tile is not None:
            raise UserError("--tile: this network has fully connected layers, which take whole images of one size")
        return Network(engine.run, engine.at_once)
    fit, least = fitting_of(generator.options), smallest_size(generator.options)
    if tile is None:
        sizes = Sizes(generator, engine, overlap)
        return Network(lambda x: sizes.run(x, fit, least), engine.at_once)
    margin = _margin(generator, overlap)
    side, smallest = fit.above(tile), tiling.smallest_tile(margin, fit.multiple, BLEND, fit.rest)
    if side < smallest:
        raise UserError(
            f"--tile: {tile} is all overlap, because the network looks {margin} pixels far; at least "
            f"{smallest} would do, or a smaller --tile_overlap"
        )
    return Network(
        lambda x: tiling.run_tiled(engine.run, x, side, margin, fit.multiple, BLEND, least, fit.rest), engine.at_once
    )


def smallest_size(options):
    """Pixels that an image needs in both directions: what mirrors at its edge needs more than it mirrors."""
    return max(MIRRORED + 1, 2 * fitting_of(options).multiple) if options.pad == "reflect" else 1


class Sizes:
    """Images of any size as a whole, or in tiles where the memory that is free when the first of a size comes will not
    do; all of that size then alike."""

    def __init__(self, generator, engine, overlap):
        self.generator, self.engine, self.overlap = generator, engine, overlap
        self._tiles = {}
        self._lock = threading.Lock()

    def run(self, x, fit, least):
        """(N, C, H, W) -> (N, C', H, W)."""
        tile = self._tile(x.shape[2:], fit)
        if tile is None:
            return tiling.run_whole(self.engine.run, x, fit.multiple, least, fit.rest)
        side, margin = tile
        return tiling.run_tiled(self.engine.run, x, side, margin, fit.multiple, BLEND, least, fit.rest)

    def _tile(self, size, fit):
        """(side of the tiles, margin), None for the whole image."""
        with self._lock:
            if size not in self._tiles:
                self._tiles[size] = self._choose(*size, fit)
            return self._tiles[size]

    def _choose(self, height, width, fit):
        free = resources.available_memory() if self._on_cpu() else None
        pixel = bytes_of_pixel(self.generator) * self.engine.at_once
        if free is None or height * width * pixel <= ENOUGH * free:
            return None
        margin = _margin(self.generator, self.overlap)
        least = tiling.smallest_tile(margin, fit.multiple, BLEND, fit.rest)
        side = next((side for side in TILES if least <= side and side * side * pixel <= ENOUGH / 2 * free), least)
        side = fit.above(side)
        if side >= max(height, width):
            return None
        log.warning(
            "%d x %d pixels would take about %.2g GB of memory, and %.2g GB are free: in tiles, as with --tile %d",
            height,
            width,
            height * width * pixel / 1e9,
            free / 1e9,
            side,
        )
        return side, margin

    def _on_cpu(self):
        device = getattr(self.engine, "device", None)
        return device is None or device.xp is np


def bytes_of_pixel(generator):
    """Bytes that a network takes for each pixel of its input, at most: what is alive at a time in its widest level.

    Measured on six networks with Chainer, oneDNN and ONNX Runtime: 3.4 to 7.1 of the widest features, 10 where
    the decoder gets those of the encoder beside its own.
    """
    options = generator.options
    widest = max(channels / 4**level for level, channels in enumerate(generator.encoder.spec.chs))
    return 4 * max(widest, 8) * (11 if options.unet == "concat" else 7.5)


def _margin(generator, overlap):
    specs = generator.encoder.spec, generator.decoder.spec
    radius = generator_reach(*specs).radius
    if whole_image := dict.fromkeys(layer for spec in specs for layer in global_layers(spec)):
        log.warning(
            "--tile: %s looks at the whole image; tiles will differ from it, by how much depends on the image",
            " and ".join(whole_image),
        )
    elif overlap is not None and overlap < radius:
        log.warning(
            "--tile_overlap: the network looks %d pixels far; with %d, tiles will differ from the whole image",
            radius,
            overlap,
        )
    return radius if overlap is None else overlap
