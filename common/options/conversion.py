"""The options of both convert.py: which network, which images, where to, how.

What the network is stands in the ``args`` file beside its weights. Training options are still parsed, so that command
lines written for the released codes run; those that would make another network are refused.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from medi2i.common import choices
from medi2i.common.errors import UserError
from medi2i.common.options import shared
from medi2i.common.options.machinery import (
    Checked,
    Parser,
    add_option,
    build_parser,
    given_values,
    option,
    redefault,
)
from medi2i.common.options.paired import PairedOptions
from medi2i.common.options.unpaired import UnpairedOptions
from medi2i.datasets import file_names


@dataclass
class NetworkFiles(Checked):
    """Network."""

    model_gen: str = option(
        None,
        "--load_models",
        "-m",
        metavar="RUN",
        help="weights (enc_x50.npz, enc_y50.npz for the other direction, gen_50.npz), a run "
        "folder (see --epoch), a model by name (medi2i models), or 'identity'",
        first=True,
        bare=True,
    )
    argfile: str = option(None, "-a", metavar="FILE", help="args file of the training; default: beside the weights")
    epoch: int = option(
        None,
        "-e",
        type=int,
        low=1,
        help="take the weights of this epoch; default: the last, of pix2pix the best by validation where there is one",
        first=True,
    )
    gpu: int = redefault(shared.FileOptions, "gpu", None)
    cpu_engine: str = option(
        "auto",
        choices=choices.CPU_ENGINES,
        help="what computes Chainer's functions on the CPU; auto: oneDNN where it is installed, else NumPy",
    )
    gpu_engine: str = redefault(shared.FileOptions, "gpu_engine", "auto")
    engine: str = option(
        "auto",
        choices=choices.ENGINES,
        help="what runs the network on the CPU; auto: OpenVINO, else "
        "ONNX Runtime, else Chainer, as installed, once the first image agrees with Chainer",
    )
    precision: str = option(
        "fp32",
        choices=choices.PRECISIONS,
        help="bf16 is quicker where the CPU has it (OpenVINO), "
        "int8 on most (ONNX Runtime); the deviation on the first image is told in HU",
    )
    batch_size: int = option(1, "-b", type=int, low=1, high=65536, help="images that go through the network together")
    tile: int = option(
        None,
        type=int,
        low=8,
        high=65536,
        help="side in pixels of overlapping tiles, for images too large for the memory; default: whole images",
    )
    tile_overlap: int = option(
        None,
        type=int,
        low=0,
        high=65536,
        help="pixels of a tile's inner edges that are thrown away; "
        "default: as far as the network looks, so that tiles equal the whole image",
    )


@dataclass
class InputOptions(Checked):
    """Images."""

    root: list = option(
        ["data"], "-R", "-i", nargs="+", metavar="FOLDER", help="folders or files to convert", first=True, bare=True
    )
    val: str = option(None, metavar="FILE", help="convert the files in this list, relative to the root", first=True)
    from_col: list = option(
        None, "-c1", type=int, nargs="+", low=0, help="columns of the list that are inputs; default: as in training"
    )
    imgtype: str = option(
        "auto",
        "-it",
        choices=file_names.CHOICES,
        spelled=file_names.kind_named,
        help="kind of the images; auto: what is found, and among several the training's",
    )
    fn_pattern: str = option(None, "-fn", help="only files whose name matches this pattern, as *_axial*")
    crop_width: int = option(
        None,
        "-cw",
        type=int,
        low=1,
        high=65536,
        help="convert only the middle of so many columns, the rest is the source's; default: all",
    )
    crop_height: int = option(None, "-ch", type=int, low=1, high=65536, help="the same for rows")
    clipA: list = option(
        None,
        "-ca",
        type=float,
        nargs=2,
        old=shared.OLD_CLIP_A,
        metavar=("LOW", "HIGH"),
        help="values (HU) of domain A that are -1 and 1; default: as in training",
    )
    clipB: list = option(
        None,
        "-cb",
        type=float,
        nargs=2,
        old=shared.OLD_CLIP_B,
        metavar=("LOW", "HIGH"),
        help="values (HU) of domain B that are -1 and 1; default: as in training",
    )
    clips_in_hu: bool = redefault(shared.ImageOptions, "clips_in_hu", None)


@dataclass
class OutputOptions(Checked):
    """Output."""

    out: str = option(
        "result", "-o", metavar="DIR", help="folder for the converted images; it gets the root's folders", first=True
    )
    imgtype_out: str = option(
        None,
        choices=file_names.CHOICES,
        spelled=file_names.kind_named,
        help="kind of the converted images; default: as in training, else the input's own",
    )
    outside: str = option(
        None,
        choices=("keep", "clip"),
        help="what becomes of values outside of the network's clip (metal): "
        "keep, the input plus the change at the clip's end, or clip, its end; default: keep for "
        "networks with --gen_residual whose clips A and B are the same, and with --strength, else clip",
    )
    strength: float = option(
        1.0,
        type=float,
        low=0,
        high=1,
        help="how much of the change to make: the result is the input plus this times what the network changes, at 0 "
        "the input; for networks whose clips A and B are the same",
    )
    modality: str = option(
        None,
        choices=("CT", "MR", "PT"),
        help="modality of the DICOM images that are written, where another than the input's (CT for MR to CT)",
        first=True,
    )
    resume: bool = option(
        False, type=bool, help="leave out what an earlier, interrupted conversion has written", first=True
    )
    force: bool = option(
        False, type=bool, help="overwrite converted images that are there (inputs never are)", first=True
    )
    strict: bool = option(False, type=bool, help="end with a status other than 0 if any file was skipped")
    shards: str = option(
        None,
        metavar="I/N",
        help="convert only part I (1 to N) of N; once all are run, anywhere, "
        "their results are those of one process; under mpiexec its processes are the parts",
    )
    workers: int = option(
        2, type=int, low=1, high=1024, help="threads that read, and as many that write, while the network runs"
    )
    structure: str = option(
        "numbers",
        choices=("none", "numbers", "maps"),
        help="compare the edges of input and output: a table and warnings, or these and maps",
    )
    structure_warn: float = option(
        0.15,
        type=float,
        low=0,
        high=2,
        metavar="X",
        help="warn of images whose edges change more than this (1 - correlation)",
    )


@dataclass
class UncertaintyOptions(Checked):
    """Uncertainty."""

    uncertainty: str = option(
        None,
        choices=("tta", "dropout"),
        help="also write a map of the standard deviation: of "
        "the image flipped and turned (the result is their mean), or of samples of dropout",
    )
    uncertainty_samples: int = option(8, type=int, low=2, high=10000, help="samples of dropout")
    ensemble: bool = option(
        False,
        type=bool,
        help="the result is the mean over all flips and turns of the image: "
        "better, 8 times as slow (images that are not square: 4)",
        first=True,
    )


@dataclass
class DomainConversionOptions(Checked):
    """Two domains of images."""

    slice_range: list = option(
        None,
        "-sr",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="only slices between these positions in mm; default: all",
    )
    forceSpacing: float = option(
        None,
        "-fs",
        type=float,
        help="pixel size in mm that the network works at; -1: as it is; default: as in training",
    )
    output_analysis: bool = option(
        False,
        "-oa",
        type=bool,
        help="write maps of the cycle, perceptual, gradient, air, "
        "discriminator and total-variation terms as pictures and npy",
    )
    perceptual_weights: str = option(
        None,
        metavar="FILE",
        help="npz file with VGG16's ImageNet weights for the perceptual maps; default: as in training",
    )
    air_threshold: float = option(
        None, "-at", type=float, help="air is at or below this, in [-1, 1]; default: as in training"
    )


@dataclass
class NoiseLevelOptions(Checked):
    """Networks for one level of noise."""

    noise_level: float = option(
        None,
        type=float,
        low=0.1,
        high=10000,
        metavar="HU",
        help="standard deviation of the noise that is to be taken away, for networks trained with --noise_level; "
        "where there is more, a share of the change is made; default: measured in the images",
        first=True,
    )


@dataclass
class PairedConversionOptions(NetworkFiles, InputOptions, NoiseLevelOptions, OutputOptions, UncertaintyOptions):
    """All options of pix2pix/convert.py."""

    APPLICATION: ClassVar[str] = "pix2pix"
    TRAINING: ClassVar[type] = PairedOptions
    RELEASED: ClassVar = PairedOptions.RELEASED


@dataclass
class UnpairedConversionOptions(NetworkFiles, InputOptions, DomainConversionOptions, OutputOptions, UncertaintyOptions):
    """All options of cyclegan/convert.py."""

    APPLICATION: ClassVar[str] = "cyclegan"
    TRAINING: ClassVar[type] = UnpairedOptions
    RELEASED: ClassVar = UnpairedOptions.RELEASED


C = TypeVar("C", PairedConversionOptions, UnpairedConversionOptions)


def conversion_parser(cls: type[C], about: str | None = None) -> Parser:
    """The parser of convert.py: the options of class ``cls``, and out of sight those of its training.

    Words that follow no option are the run folder, unless ``-m`` names one, and then what is to be converted.
    """
    parser = build_parser(cls, about)
    for field in dataclasses.fields(cls.TRAINING):
        if field.name not in cls.__dataclass_fields__ and field.metadata["flags"] is not None:
            add_option(parser, field, hidden=True)
    return parser


def parse_conversion(cls: type[C], argv: Sequence[str] | None, about: str | None = None) -> tuple[C, dict[str, Any]]:
    """A command line of convert.py -> (options of class ``cls``, dict of the training options that were given).

    about: the docstring of the command. Raises UserError for a value that is not allowed.
    """
    given = given_values(conversion_parser(cls, about), argv, cls, cls.TRAINING)
    training = {name: value for name, value in given.items() if name not in cls.__dataclass_fields__}
    options = cls(**{name: value for name, value in given.items() if name not in training})
    for place in options.root:
        if (Path(place) / "args").is_file():
            raise UserError(
                f"--root: {place} is a run folder, where images to convert should be; the run comes first, or after -m"
            )
    return options, training
