#!/usr/bin/env python
"""Reconstruct images from sinograms: filtered back-projection, SIRT, total variation, or a trained denoiser as prior.

  python tools/make_sinograms.py --ct ct -o sinograms --views 60 --photons 1e5
  python reconstruction/reconstruct.py -i sinograms -o tv --method tv --photons 1e5
  python reconstruction/reconstruct.py -i sinograms -o pnp --method pnp --prior run --photons 1e5

A sinogram is an npy file (views, bins) or (slices, views, bins) of line integrals, -log(I/I0); geometry.json beside it
says where the rays ran. Where sources.json names the DICOM images that the sinograms were made of, results are DICOM in
HU with their geometry; else npy, float32, in HU. reconstruction.json tells what was done and how far the rays of every
result are from those that were measured.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError, one_line, run
from medi2i.common.inference.generator import AnySize, engine_of
from medi2i.common.json_files import read_json
from medi2i.common.networks.checkpoint import load_generator
from medi2i.common.options import Checked, PairedOptions, option, parse
from medi2i.common.outputs import whole_file, write_text
from medi2i.common.version import VERSION
from medi2i.datasets import dicom
from medi2i.datasets.dicom.derived_series import DerivedSeries
from medi2i.datasets.scaling import PAIRED_HU, Clip
from medi2i.reconstruction import geometry as geometries
from medi2i.reconstruction import solvers
from medi2i.reconstruction.fbp import WINDOWS, fbp
from medi2i.reconstruction.operator import Operator

FBP, SIRT, TV, PNP = METHODS = ("fbp", "sirt", "tv", "pnp")
GEOMETRY, SOURCES, REPORT = "geometry.json", "sources.json", "reconstruction.json"
Denoiser = Callable[[np.ndarray], np.ndarray]
log = logging.getLogger(__name__)


@dataclass
class ReconstructionOptions(Checked):
    """What to reconstruct, and how"""

    root: str = option(
        "sinograms", "-i", "-R", metavar="FOLDER", help="folder with sinograms (npy), or one file", bare=True
    )
    out: str = option("reconstructed", "-o", "--outdir", metavar="FOLDER", help="new folder for the images")
    method: str = option(
        TV,
        "-m",
        choices=METHODS,
        help="fbp: filtered back-projection; sirt: least squares, stopped early; tv: with total variation; "
        "pnp: with a trained denoiser (--prior)",
    )
    geometry: str | None = option(
        None, "-g", metavar="FILE", help=f"where the rays ran [{GEOMETRY} beside the sinograms]"
    )
    photons: float | None = option(
        None,
        type=float,
        low=1,
        high=1e12,
        metavar="N",
        help="a ray in air: rays then count by the photons that came through, and tv finds its own --strength",
    )
    strength: float | None = option(
        None,
        type=float,
        low=0,
        high=1e6,
        metavar="X",
        help="of total variation, water = 1 and lengths in pixels [with --photons: the one that leaves the noise in "
        "the rays, else 0.2]",
    )
    iterations: int | None = option(None, type=int, low=1, high=100000, metavar="N", help="[sirt 100, tv 300, pnp 20]")
    window: str = option("hann", choices=WINDOWS, help="of the filter; fbp, and what the others start from")
    cutoff: float = option(1.0, type=float, low=0.01, high=1, metavar="X", help="where the filter ends [1]")
    prior: str | None = option(None, metavar="RUN", help="pnp: run folder of a denoiser (pix2pix, HU to HU)")
    pull: float = option(
        0.01, type=float, low=1e-9, high=1e6, metavar="X", help="pnp: how much the denoiser's answer counts"
    )
    force: bool = option(False, type=bool, help="overwrite files that are there")


def command(argv: list[str]) -> None:
    options = parse(ReconstructionOptions, argv, __doc__)
    if (options.prior is not None) != (options.method == PNP):
        raise UserError("--prior: goes with --method pnp, and --method pnp with it")
    if options.strength is not None and options.method != TV:
        raise UserError(f"--strength: is of total variation, and --method is {options.method}")
    if options.iterations is not None and options.method == FBP:
        raise UserError("--iterations: filtered back-projection has none")
    root = Path(options.root)
    files = find_sinograms(root)
    folder = root if root.is_dir() else root.parent
    geometry = geometries.load(Path(options.geometry) if options.geometry else folder / GEOMETRY)
    operator = Operator(geometry)
    denoise = None if options.prior is None else denoiser_of(options.prior)
    writer = Writer(Path(options.out), folder, geometry, options)
    for number, (name, sinogram) in enumerate(sinograms(files, geometry), 1):
        started = time.perf_counter()
        image, told = reconstruct(operator, sinogram, options, denoise)
        seconds = time.perf_counter() - started
        writer.write(name, geometry.to_hu(image), told | {"seconds": round(seconds, 3)})
        log.info("%d: %s, rays off by %.3g (%.1f s)", number, name, told["residual"], seconds)
    writer.close()
    print(f"{options.out}: {writer.count} images by {options.method}; {REPORT} tells how")


def reconstruct(
    operator: Operator,
    sinogram: np.ndarray,
    options: ReconstructionOptions,
    denoise: Denoiser | None = None,
    watch: solvers.Watch | None = None,
) -> tuple[np.ndarray, dict[str, float | int]]:
    """One image (H, W) in 1/mm from a sinogram (views, bins), and what is to be told of it. Raises UserError.

    denoise: the prior of pnp.
    """
    problem = solvers.problem_of(operator, sinogram, options.photons)
    told: dict[str, float | int] = {}
    if options.method == SIRT:
        told["iterations"] = options.iterations or 100
        image = solvers.sirt(problem, options.iterations or 100, watch=watch)
    else:
        image = fbp(operator.geometry, sinogram, options.window, options.cutoff)
    if options.method == TV:
        iterations = told["iterations"] = options.iterations or 300
        if options.strength is not None or options.photons is None:
            strength = 0.2 if options.strength is None else options.strength
        else:
            strength = solvers.strength_for(problem, solvers.expected_residual(sinogram, options.photons), image)
        told["strength"] = strength
        image = solvers.total_variation(problem, strength, iterations, image, watch)
    elif options.method == PNP and denoise is not None:
        told["iterations"] = options.iterations or 20
        image = solvers.plug_and_play(problem, denoise, options.iterations or 20, options.pull, image, watch)
    told["residual"] = problem.residual(image)
    return image, told


def denoiser_of(run_folder: str) -> Denoiser:
    """The network of a run of pix2pix, HU to HU; values outside of its clip are left as they are. Raises UserError."""
    generator = load_generator(run_folder)
    trained = generator.options
    if not isinstance(trained, PairedOptions) or (trained.ch, trained.out_ch, trained.scale) != (1, 1, 1):
        raise UserError(
            f"--prior: {run_folder}: a pix2pix that makes one image in HU of one of the same size would be right"
        )
    if trained.class_num:
        raise UserError(
            f"--prior: {run_folder}: was trained to tell classes; one that makes images in HU would be right"
        )
    clip_in, clip_out = (Clip(*clip) if (clip := getattr(trained, name)) else PAIRED_HU for name in trained.clip_names)
    if clip_in.lower is None or clip_in.upper is None or not clip_out.scales:
        raise UserError(f"--prior: {run_folder}: was trained without a clip, so that its values are not known to be HU")
    lower, upper = clip_in.lower, clip_in.upper
    network = AnySize(generator, engine_of(generator, chainer.get_device("@numpy")))

    def denoise(hu: np.ndarray) -> np.ndarray:
        inside = (hu >= lower) & (hu <= upper)
        return np.where(inside, clip_out.from_unit(network(clip_in.to_unit(hu[None, None]))[0, 0]), hu)

    return denoise


def find_sinograms(root: Path) -> list[Path]:
    """The npy files of a folder, by name, or the one that is given. Raises UserError."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise UserError(f"--root: {root}: no such file or folder")
    if not (files := sorted(root.glob("*.npy"))):
        raise UserError(f"--root: {root}: holds no sinogram, which would be an npy file (views, bins)")
    return files


def sinograms(files: list[Path], geometry: geometries.Geometry) -> Iterator[tuple[str, np.ndarray]]:
    """Name and sinogram (views, bins) of every image; of a file of several, each by its number. Raises UserError."""
    for path in files:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as npy: {one_line(error)}") from None
        views, bins = geometry.sinogram_shape
        if array.ndim not in (2, 3) or array.shape[-2:] != (views, bins) or array.dtype.kind not in "fiu":
            raise UserError(
                f"{path}: holds {' x '.join(map(str, array.shape))} values of type {array.dtype}; the geometry has "
                f"{views} views x {bins} bins, and (slices, views, bins) or (views, bins) numbers would be right"
            )
        if array.ndim == 2:
            yield path.stem, np.asarray(array, np.float32)
        else:
            for number, one in enumerate(array, 1):
                yield f"{path.stem}_{number:04d}", np.asarray(one, np.float32)


class Writer:
    """Images into ``out``: derived DICOM where ``SOURCES`` in ``folder`` names an image's source, else npy; and REPORT.

    SOURCES is a dict: name of an image -> [path of the DICOM file, frame from 0].
    """

    def __init__(self, out: Path, folder: Path, geometry: geometries.Geometry, options: ReconstructionOptions) -> None:
        self.out, self.geometry, self.options = out, geometry, options
        sources = folder / SOURCES
        self._sources = (
            read_json(sources, "names of sinograms, each with [file, frame], would be right")
            if sources.is_file()
            else {}
        )
        self._series: dict[str, DerivedSeries] = {}
        self._told: dict[str, dict[str, float | int]] = {}

    @property
    def count(self) -> int:
        """Images written."""
        return len(self._told)

    def write(self, name: str, hu: np.ndarray, told: dict[str, float | int]) -> None:
        """One image (H, W) in HU and what is told of it."""
        if name in self._sources:
            path, frame = self._sources[name]
            source = dicom.read(Path(path), frame)
            self._series_of(source).write(self.out / f"{name}.dcm", source, hu, force=self.options.force)
        else:
            path = self.out / f"{name}.npy"
            with whole_file(path, force=self.options.force) as temporary, open(temporary, "wb") as file:
                np.save(file, hu.astype(np.float32), allow_pickle=False)
        self._told[name] = told

    def close(self) -> None:
        """Write the report: options, geometry, and each image's iterations, strength, residual and seconds."""
        report = {
            "medi2i": VERSION,
            "options": asdict(self.options),
            "geometry": asdict(self.geometry),
            "images": self._told,
        }
        write_text(self.out / REPORT, json.dumps(report, indent=1) + "\n")

    def _series_of(self, source: dicom.DicomImage) -> DerivedSeries:
        uid = str(source.header.get("SeriesInstanceUID", ""))
        if uid not in self._series:
            decides = {k: v for k, v in asdict(self.options).items() if k not in ("root", "out", "force", "geometry")}
            self._series[uid] = DerivedSeries(
                source.header,
                model_name=f"medi2i reconstruct {self.options.method}",
                description=f"{self.options.method} of simulated projections",
                options=decides | {"geometry": asdict(self.geometry)},
            )
        return self._series[uid]


def main(argv: list[str] | None = None) -> int:
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
