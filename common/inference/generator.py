"""The generator of a conversion: its weights by the options, and what runs it on images of any size."""

import dataclasses
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from medi2i.common import resources
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.inference import tiling
from medi2i.common.inference.engines import ChainerEngine, Engine, IdentityEngine, choose
from medi2i.common.inference.graph_engines import Examples
from medi2i.common.inference.noise import WHOLE, Change
from medi2i.common.networks.checkpoint import Generator, epoch_of, find_run, load_generator
from medi2i.common.networks.from_options import fitting_of, fixed_size
from medi2i.common.networks.receptive import Fitting, generator_reach, global_layers
from medi2i.common.options import PairedOptions, UnpairedOptions, load_args
from medi2i.common.options.conversion import PairedConversionOptions, UnpairedConversionOptions
from medi2i.common.options.reading import ARGS
from medi2i.common.registry import located
from medi2i.datasets.scaling import Clip

log = logging.getLogger(__name__)

IDENTITY = "identity"
PIECE = 256  # pixels, of the square on which engines are compared
BLEND = 16  # pixels that neighbouring tiles share beyond their margins
TILES = (2048, 1536, 1024, 768, 512, 384, 256, 128)  # sides that are tried where memory will not do for whole images
ENOUGH = 0.8  # of the free memory
MIRRORED = 3  # pixels, by the 7x7 convolutions


ConversionOptions = PairedConversionOptions | UnpairedConversionOptions
TrainingOptions = PairedOptions | UnpairedOptions
Trained = TypeVar("Trained", bound=TrainingOptions)
Translate = Callable[[np.ndarray], np.ndarray]
"""(N, C, H, W) -> (N, C', H, W), both in [-1, 1], of any height and width."""


@dataclasses.dataclass(frozen=True)
class Model(Generic[Trained]):
    """The network of a conversion; ``generator`` None is the identity.

    trained: the options it was trained with, of the file ``args`` (None: beside the weights). direction: "xy" or "yx".
    """

    generator: Generator | None
    trained: Trained
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


def load_model(options: ConversionOptions, given: dict[str, Any], application: type[Trained]) -> Model[Trained]:
    """The Model that the options of a conversion name.

    ``given``: training options on the command line, checked against the args file. ``application``: the class of
    options it must have been trained with. Raises UserError.
    """
    weights, argfile = options.model_gen, options.argfile
    epoch: int | str | None = options.epoch
    if weights == IDENTITY:
        if epoch is not None:
            raise UserError(f"--epoch: {epoch} of which training? The identity has no weights")
        trained = _checked(load_args(argfile) if argfile else application(**given), application, argfile)
        return Model(None, trained, IDENTITY, "", "xy")
    if weights is None and argfile is None:
        raise UserError(
            "--model_gen: which network? pix2pix/convert.py RUN FOLDER converts a folder with that of a run; -a args "
            "-m enc_x50.npz names one by its files"
        )
    if weights is None or located(weights).is_dir():
        best = find_run(weights or argfile).best if application.CONVERTS_BEST else None
        epoch = epoch or ("last" if best is None else "best")
    elif epoch is not None and epoch_of(weights) != epoch:
        raise UserError(
            f"--epoch: {epoch} is given together with the file --model_gen {weights}; one of them says which weights"
        )
    generator = load_generator(weights, argfile, epoch or "last", pretrained=given.get("gen_pretrained_weights"))
    trained = _checked(generator.options, application, argfile or weights)
    _check_given(given, trained, argfile or generator.files[0].parent / "args")
    name = "+".join(file.name for file in generator.files)
    return Model(generator, trained, name, generator.sha256, generator.direction, argfile)


def _checked(trained: TrainingOptions, application: type[Trained], source: Path | str | None) -> Trained:
    if not isinstance(trained, application):
        other = trained.APPLICATION
        raise UserError(
            f"{source}: was trained by {other}, not {application.APPLICATION}; {other}/convert.py would be right"
        )
    return trained


def _check_given(given: dict[str, Any], trained: TrainingOptions, source: Path | str) -> None:
    """Options of the network on the command line must be those of the args file."""
    checked = type(trained)(**given)
    for name in (field.name for field in dataclasses.fields(trained) if field.metadata["network"]):
        if name in given and getattr(checked, name) != getattr(trained, name):
            raise UserError(
                f"--{name}: {getattr(checked, name)} is not what the network was trained with "
                f"({getattr(trained, name)} in {source}); leave it out"
            )


def engine_of(
    generator: Generator | None,
    device: chainer.backend.Device,
    options: ConversionOptions | None = None,
    hu_clip: Clip | None = None,
    examples: Examples | None = None,
    images: int = 1,
) -> Engine:
    """The Engine that runs ``generator`` (None: the identity) on ``device`` (of ``chainer.get_device``).

    options: of the conversion, with ``engine`` and ``precision``; None is Chainer. hu_clip: that of the results, for
    telling in HU how far engines differ; None where they are not HU. examples, images: as for ``engines.choose``.
    Raises UserError for an engine that is not there.
    """
    if generator is None:
        return IdentityEngine()
    if options is None:
        return ChainerEngine(generator.encoder, generator.decoder, device)
    return choose(
        generator.encoder,
        generator.decoder,
        device,
        options.engine,
        options.precision,
        *((1.0, "of [-1, 1]") if hu_clip is None else (hu_clip.width / 2, "HU")),
        examples,
        images,
        None if fixed_size(generator.options) else fitting_of(generator.options).above(PIECE),
    )


class AnySize:
    """A generator for images of any size: (N, C, H, W) -> (N, C', H, W) in [-1, 1], padded to what it needs.

    engine: what runs it. tile: side of tiles in pixels, None for whole images, or for tiles where the memory that is
    free when the first image of a size comes will not do; all of that size then alike. overlap: pixels at the inner
    edges of tiles that are thrown away, None for the receptive field. Raises UserError for a network that cannot be
    tiled. Threads may share it, ``at_once`` of them as for an Engine. change: how much of what the network does comes
    out, of one whose input and output have the same channels.
    """

    def __init__(
        self,
        generator: Generator | None,
        engine: Engine,
        tile: int | None = None,
        overlap: int | None = None,
        change: Change = WHOLE,
    ) -> None:
        self.change = change
        self.engine, self.at_once, self.overlap = engine, engine.at_once, overlap
        self.fit: Fitting | None = None
        self._tile: tuple[int, int] | None = None
        self._tiles: dict[tuple[int, int], tuple[int, int] | None] = {}
        self._lock = threading.Lock()
        if generator is None:
            return
        if fixed_size(generator.options) is not None:
            if tile is not None:
                raise UserError("--tile: this network has fully connected layers, which take whole images of one size")
            return
        self.fit = fitting_of(generator.options)
        # What mirrors at the edge of an image needs more pixels than it mirrors.
        self.least = max(MIRRORED + 1, 2 * self.fit.multiple) if generator.options.pad == "reflect" else 1
        self.specs, self.bytes_of_pixel = (generator.encoder.spec, generator.decoder.spec), bytes_of_pixel(generator)
        if tile is not None:
            margin, smallest = self._margin_and_smallest(self.fit)
            self._tile = self.fit.above(tile), margin
            if self._tile[0] < smallest:
                raise UserError(
                    f"--tile: {tile} is all overlap, because the network looks {margin} pixels far; at least "
                    f"{smallest} would do, or a smaller --tile_overlap"
                )

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x.copy() if self.change.strength == 0 else self.change(x, self._run(x))

    def _run(self, x: np.ndarray) -> np.ndarray:
        fit = self.fit
        if fit is None:
            return self.engine.run(x)
        size = x.shape[2], x.shape[3]
        with self._lock:
            if size not in self._tiles:
                self._tiles[size] = self._tile or self._choose(*size, fit)
            tile = self._tiles[size]
        if tile is None:
            return tiling.run_whole(self.engine.run, x, fit, self.least)
        return tiling.run_tiled(self.engine.run, x, *tile, fit, BLEND, self.least)

    def _choose(self, height: int, width: int, fit: Fitting) -> tuple[int, int] | None:
        """(side of the tiles, margin), None for the whole image."""
        device = getattr(self.engine, "device", None)
        free = resources.available_memory() if device is None or device.xp is np else None
        pixel = self.bytes_of_pixel * self.at_once
        if free is None or height * width * pixel <= ENOUGH * free:
            return None
        margin, least = self._margin_and_smallest(fit)
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

    def _margin_and_smallest(self, fit: Fitting) -> tuple[int, int]:
        """Pixels that are thrown away at the edges of tiles, and the side of the smallest tile."""
        radius = generator_reach(*self.specs).radius
        margin = radius if self.overlap is None else self.overlap
        if whole_image := dict.fromkeys(layer for spec in self.specs for layer in global_layers(spec)):
            log.warning(
                "--tile: %s looks at the whole image; tiles will differ from it, by how much depends on the image",
                " and ".join(whole_image),
            )
        elif margin < radius:
            log.warning(
                "--tile_overlap: the network looks %d pixels far; with %d, tiles will differ from the whole image",
                radius,
                margin,
            )
        return margin, tiling.smallest_tile(margin, fit, BLEND)


def bytes_of_pixel(generator: Generator) -> float:
    """Bytes that a network takes for each pixel of its input, at most: what is alive at a time in its widest level.

    Measured on six networks with Chainer, oneDNN and ONNX Runtime: 3.4 to 7.1 of the widest features, 10 where
    the decoder gets those of the encoder beside its own.
    """
    options = generator.options
    widest = max(channels / 4**level for level, channels in enumerate(generator.encoder.spec.chs))
    return 4 * max(widest, 8) * (11 if options.unet == "concat" else 7.5)
