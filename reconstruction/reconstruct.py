#!/usr/bin/env python
"""Reconstruct images from sinograms: by filtered back-projection, iteratively with a prior, or by a trained network.

  python tools/make_sinograms.py --ct ct -o sinograms --views 60 --photons 1e5
  python reconstruction/reconstruct.py -i sinograms -o tv --method tv --photons 1e5
  python reconstruction/reconstruct.py -i sinograms -o pnp --method pnp --prior run --photons 1e5
  python reconstruction/reconstruct.py -i sinograms -o dip --method dip --resume

A sinogram is an npy or npz file (views, bins) or (slices, views, bins), or a TIFF (views, bins), of line integrals,
-log(I/I0); geometry.json beside it says where the rays ran. Where sources.json names the DICOM images that the
sinograms were made of, results are DICOM in HU with their geometry; else npy, float32, in HU. reconstruction.json tells
what was done and how far the rays of every result are from those that were measured.
"""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.device import use_cpu_engine
from medi2i.common.errors import UserError, as_main
from medi2i.common.inference.generator import AnySize, engine_of
from medi2i.common.inference.noise import for_noise
from medi2i.common.inference.report import COMPLETE, WRITTEN, Report
from medi2i.common.networks.checkpoint import load_generator
from medi2i.common.options import Checked, PairedOptions, option, parse
from medi2i.common.options.learned import CRITIC, PRIMAL_DUAL
from medi2i.common.outputs import BESIDE
from medi2i.common.registry import card_of, located
from medi2i.common.training.ending import SignalWatch
from medi2i.common.training.validation import inference_mode
from medi2i.datasets import dicom
from medi2i.datasets.dicom.new_series import DerivedSeries
from medi2i.datasets.scaling import PAIRED_HU, Clip
from medi2i.datasets.writing import write_image, write_npy
from medi2i.reconstruction import geometry as geometries
from medi2i.reconstruction import net, solvers
from medi2i.reconstruction.dip import DeepImagePrior
from medi2i.reconstruction.dip import Prior as DipOptions
from medi2i.reconstruction.fbp import WINDOWS, fbp, first_image
from medi2i.reconstruction.operator import Operator
from medi2i.reconstruction.scans import GEOMETRY, find_sinograms, sinograms, sources_of

FBP, SIRT, TV, PNP, ADVERSARIAL, DIP, LEARNED = METHODS = ("fbp", "sirt", "tv", "pnp", "adversarial", "dip", "learned")
TRAINED = {PNP: "a denoiser of pix2pix", ADVERSARIAL: "a critic", LEARNED: "a primal-dual network"}
ITERATIONS = {SIRT: 100, TV: 300, PNP: 20, ADVERSARIAL: 200, DIP: 500}
REPORT = "reconstruction.json"
PLACES = ("root", "out", "geometry", "force", "resume", "vis_freq", "vis_window")  # options that decide no value
NOISE_LEVEL = 40.0  # HU
LOOK = 5  # iterations between two slopes of a critic
Denoiser = Callable[[np.ndarray], np.ndarray]
Told = dict[str, float | int]
Stop = solvers.Watch | None
log = logging.getLogger(__name__)


@dataclass
class ReconstructionOptions(Checked):
    """What to reconstruct, and how"""

    root: str = option(
        "sinograms", "-i", "-R", metavar="FOLDER", help="folder with sinograms (npy, npz, tif), or one file", bare=True
    )
    out: str = option("reconstructed", "-o", "--outdir", metavar="FOLDER", help="new folder for the images")
    method: str = option(
        TV,
        "-m",
        choices=METHODS,
        help="fbp: filtered back-projection; sirt: least squares, stopped early; tv: with total variation; with "
        "--prior pnp: with a trained denoiser, adversarial: with a critic beside total variation, learned: by a "
        "primal-dual network; dip: deep image prior, by a network fitted to this one scan",
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
        help="of total variation, water = 1 and lengths in pixels [tv: with --photons the one that leaves the noise in "
        "the rays, else 0.2; adversarial 0.2; dip as tv]",
    )
    weight: float | None = option(
        None,
        type=float,
        low=0,
        high=1e6,
        metavar="X",
        help="adversarial: of the critic [with --photons what holds against the noise, else 1]",
    )
    iterations: int | None = option(
        None,
        type=int,
        low=1,
        high=100000,
        metavar="N",
        help=f"[{', '.join(f'{method} {count}' for method, count in ITERATIONS.items())}]",
    )
    window: str = option("hann", choices=WINDOWS, help="of the filter; fbp, and what the others start from")
    cutoff: float = option(1.0, type=float, low=0.01, high=1, metavar="X", help="where the filter ends [1]")
    prior: str | None = option(
        None,
        metavar="RUN",
        help="run folder: pnp: of a denoiser (pix2pix, HU to HU); adversarial, learned: of reconstruction/train.py",
    )
    pull: float = option(
        0.01, type=float, low=1e-9, high=1e6, metavar="X", help="pnp: how much the denoiser's answer counts"
    )
    noise_level: float | None = option(
        None,
        type=float,
        low=0.1,
        high=10000,
        metavar="HU",
        help=f"pnp: standard deviation of what a denoiser trained with --noise_level takes away each time "
        f"[{NOISE_LEVEL:g}]",
    )
    seed: int = option(0, type=int, low=0, high=2**32 - 1, help="dip: of the network's first weights and its input")
    force: bool = option(False, type=bool, help="overwrite files that are there")
    resume: bool = option(False, type=bool, help="leave results that are there, and go on with a dip that was ended")
    vis_freq: int | None = option(
        None, type=int, low=1, metavar="N", help="a picture of every so many iterations, in <out>.report"
    )
    vis_window: list[float] = option(
        [-160.0, 240.0], type=float, nargs=2, metavar=("LOW", "HIGH"), help="HU shown black and white in pictures"
    )


def command(argv: list[str]) -> int:
    options = parse(ReconstructionOptions, argv, __doc__)
    if (options.prior is not None) != (options.method in TRAINED):
        wanted = TRAINED.get(options.method)
        raise UserError(f"--prior: --method {options.method} " + (f"needs {wanted}" if wanted else "takes none"))
    if options.strength is not None and options.method not in (TV, ADVERSARIAL, DIP):
        raise UserError(f"--strength: is of total variation, and --method is {options.method}")
    if options.iterations is not None and options.method not in ITERATIONS:
        raise UserError(f"--iterations: --method {options.method} has none of its own")
    if options.weight is not None and options.method != ADVERSARIAL:
        raise UserError(f"--weight: is of the critic, and --method is {options.method}")
    if options.noise_level is not None and options.method != PNP:
        raise UserError(f"--noise_level: is of a denoiser, and --method is {options.method}")
    if options.vis_freq is not None and options.method not in ITERATIONS:
        raise UserError(f"--vis_freq: --method {options.method} has no iterations to show")
    root = Path(options.root)
    files = find_sinograms(root)
    folder = root if root.is_dir() else root.parent
    geometry = geometries.load(Path(options.geometry) if options.geometry else folder / GEOMETRY)
    use_cpu_engine("auto")
    method = Method(Operator(geometry), options)
    writer = Writer(Path(options.out), folder, geometry, options)
    with SignalWatch(plan="ending with what is done; --resume goes on") as watch:
        for number, (name, sinogram) in enumerate(sinograms(files, geometry), 1):
            if watch.received:
                break
            if writer.has(name):
                continue
            started = time.perf_counter()

            def seen(iteration: int, image: np.ndarray, name: str = name) -> bool:
                if options.vis_freq is not None and iteration % options.vis_freq == 0:
                    writer.draw(name, iteration, geometry.to_hu(image))
                return watch.received is not None

            image, told = method(sinogram, seen, writer.state(name))
            if watch.received:  # an iteration that was ended is no result
                break
            seconds = time.perf_counter() - started
            writer.write(name, geometry.to_hu(image), told | {"seconds": round(seconds, 3)})
            log.info("%d: %s, rays off by %.3g (%.1f s)", number, name, told["residual"], seconds)
    writer.close("interrupted" if watch.received else COMPLETE)
    print(f"{options.out}: {writer.count} images by {options.method}; {REPORT} tells how")
    return 128 + watch.received if watch.received else 0


class Method:
    """What the options say how to reconstruct. Raises UserError for a prior that does not fit."""

    def __init__(self, operator: Operator, options: ReconstructionOptions) -> None:
        self.operator, self.options = operator, options
        self.iterations = options.iterations or ITERATIONS.get(options.method, 0)
        geometry = operator.geometry
        if options.prior is None:
            return
        if options.method == PNP:
            self.denoise = denoiser_of(options.prior, options.noise_level, geometry.spacing)
        elif options.method == ADVERSARIAL:
            self.networks, trained = net.load(options.prior, CRITIC)
            if not np.allclose(trained.spacing, geometry.spacing, rtol=0.05):
                raise UserError(
                    f"--prior: {options.prior}: was trained on pixels of {_mm(trained)} mm, and these are of "
                    f"{_mm(geometry)}"
                )
        else:
            self.networks, trained = net.load(options.prior, PRIMAL_DUAL)
            if trained != geometry:
                raise UserError(
                    f"--prior: {options.prior}: was trained for {_words(trained)}; this scan is of {_words(geometry)}, "
                    "and the same, and the same angles, would be right"
                )

    def __call__(
        self, sinogram: np.ndarray, stop: solvers.Watch | None = None, state: Path | None = None
    ) -> tuple[np.ndarray, dict[str, float | int]]:
        """One image (H, W) in 1/mm from a sinogram (views, bins), and what is to be told of it. Raises UserError.

        stop: asked at each iteration, True ends it. state: where a dip is kept that is ended so.
        """
        options = self.options
        problem = solvers.problem_of(self.operator, sinogram, options.photons)
        told: dict[str, float | int] = {"iterations": self.iterations} if self.iterations else {}
        if options.method == SIRT:
            image = solvers.sirt(problem, self.iterations, watch=stop)
        else:
            start = self._start(problem, sinogram)
            image = getattr(self, f"_{options.method}")(problem, sinogram, start, told, stop, state)
        told["residual"] = problem.residual(image)
        return image, told

    def _start(self, problem: solvers.Problem, sinogram: np.ndarray) -> np.ndarray:
        """Filtered back-projection; where the angles are too few for it, what iterates begins with some of SIRT."""
        try:
            return fbp(self.operator.geometry, sinogram, self.options.window, self.options.cutoff)
        except UserError:
            if self.options.method in (FBP, LEARNED):
                raise
            return solvers.sirt(problem, 30)

    def _fbp(self, problem: solvers.Problem, sinogram: np.ndarray, start: np.ndarray, *_: object) -> np.ndarray:
        return start

    def _tv(
        self, problem: solvers.Problem, sinogram: np.ndarray, start: np.ndarray, told: Told, stop: Stop, *_: object
    ) -> np.ndarray:
        told["strength"] = strength = self._strength(problem, sinogram, start)
        return solvers.total_variation(problem, strength, self.iterations, start, stop)

    def _strength(self, problem: solvers.Problem, sinogram: np.ndarray, start: np.ndarray) -> float:
        """Of total variation: what was asked for, else by the noise where it is known."""
        strength, photons = self.options.strength, self.options.photons
        if strength is not None:
            return strength
        if photons is None:
            return 0.2
        return solvers.strength_for(problem, solvers.expected_residual(sinogram, photons), start)

    def _pnp(
        self, problem: solvers.Problem, sinogram: np.ndarray, start: np.ndarray, told: Told, stop: Stop, *_: object
    ) -> np.ndarray:
        return solvers.plug_and_play(problem, self.denoise, self.iterations, self.options.pull, start, stop)

    def _adversarial(
        self, problem: solvers.Problem, sinogram: np.ndarray, start: np.ndarray, told: Told, stop: Stop, *_: object
    ) -> np.ndarray:
        weight, photons = self.options.weight, self.options.photons
        if weight is None:
            weight = 1.0 if photons is None else solvers.noise_in_image(problem, photons)
        strength = 0.2 if self.options.strength is None else self.options.strength
        told |= {"strength": strength, "weight": weight}
        calls, kept = 0, start

        def slope(x: np.ndarray) -> np.ndarray:
            """Looked up anew every ``LOOK``-th time only: it costs ten times what projecting does and turns slowly."""
            nonlocal calls, kept
            if calls % LOOK == 0:
                kept = weight * self.networks.slope(x)
            calls += 1
            return kept

        return solvers.total_variation(problem, strength, self.iterations, start, stop, prior=slope)

    def _dip(
        self,
        problem: solvers.Problem,
        sinogram: np.ndarray,
        start: np.ndarray,
        told: Told,
        stop: Stop,
        state: Path | None,
    ) -> np.ndarray:
        strength = self._strength(problem, sinogram, start)
        prior = DipOptions(strength, steps=self.iterations, seed=self.options.seed)
        fit = DeepImagePrior(problem, start, prior, state)
        image = fit.run(stop)
        told |= {"strength": strength, "iterations": fit.step, "best": fit.best_step}
        return image

    def _learned(self, problem: solvers.Problem, sinogram: np.ndarray, *_: object) -> np.ndarray:
        geometry = self.operator.geometry
        start = first_image(geometry, sinogram)[None, None]
        with inference_mode():
            image = self.networks.reconstruct(sinogram[None, None], start).array[0, 0]
        return image * np.float32(geometry.mu_water)


def _span(clip: Clip) -> str:
    return f"{clip.lower:g} to {clip.upper:g}"


def _mm(geometry: geometries.Geometry) -> str:
    return " x ".join(f"{size:.3g}" for size in geometry.spacing)


def _words(geometry: geometries.Geometry) -> str:
    views, bins = geometry.sinogram_shape
    return f"{geometry.shape[0]} x {geometry.shape[1]} pixels of {_mm(geometry)} mm and {views} views of {bins} bins"


def denoiser_of(run_folder: str, level: float | None = None, spacing: tuple[float, float] | None = None) -> Denoiser:
    """The network of a run of pix2pix, HU to HU; values outside of its clip are left as they are.

    level: HU, of what a network trained with ``--noise_level`` is to take away, by default NOISE_LEVEL; None of others.
    spacing: of the images, mm. Raises UserError for a network that is no denoiser of CT, or of CT with other pixels.
    """
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
    if clip_in != clip_out:
        raise UserError(
            f"--prior: {run_folder}: was trained to bring {_span(clip_in)} to {_span(clip_out)} HU; one that leaves HU "
            "what they are, with one clip for both, would be right"
        )
    if trained.noise_level is not None:
        clip_in = clip_out = for_noise(clip_in, trained.noise_level, level or NOISE_LEVEL)
    elif level is not None:
        raise UserError(f"--noise_level: {run_folder} was not trained with --noise_level, so it takes none")
    card = card_of(located(run_folder))
    if card.modality not in (None, "CT"):
        raise UserError(f"--prior: {run_folder}: is for {card.modality}; one for CT would be right")
    if spacing is not None and card.pixel_mm is not None:
        low, high = card.pixel_mm
        if not all(low <= size <= high for size in spacing):
            raise UserError(
                f"--prior: {run_folder}: is for pixels of {low:g} to {high:g} mm, and these are of "
                f"{' x '.join(f'{size:.3g}' for size in spacing)}"
            )
    lower, upper = clip_in.lower, clip_in.upper
    network = AnySize(generator, engine_of(generator, chainer.get_device("@numpy")))

    def denoise(hu: np.ndarray) -> np.ndarray:
        inside = (hu >= lower) & (hu <= upper)
        return np.where(inside, clip_out.from_unit(network(clip_in.to_unit(hu[None, None]))[0, 0]), hu)

    return denoise


class Writer:
    """Images into ``out``: derived DICOM where ``SOURCES`` in ``folder`` names an image's source, else npy; and REPORT.

    SOURCES is a dict: name of an image -> [path of the DICOM file, frame from 0].
    """

    def __init__(self, out: Path, folder: Path, geometry: geometries.Geometry, options: ReconstructionOptions) -> None:
        self.out, self.options = out, options
        self._sources = sources_of(folder)
        self._series: dict[str, DerivedSeries] = {}
        self._decides = {name: value for name, value in asdict(options).items() if name not in PLACES}
        self._geometry = asdict(geometry)
        model = {name: self._decides.pop(name) for name in ("method", "prior")}
        self._report = Report(out, model, self._decides | self._geometry, [options.root], REPORT)
        if options.resume:
            self._report.resume()

    @property
    def count(self) -> int:
        """Images written."""
        return len(self._report.files)

    def has(self, name: str) -> bool:
        """Whether an image was written by an earlier run. Raises UserError for one that is another's."""
        path, told = self.path(name), name in self._report.files
        if path.exists() and not told and not self.options.force:
            raise UserError(
                f"{path}: exists already; --force overwrites it, --resume goes on with what {REPORT} tells of"
            )
        return path.exists() and told

    def draw(self, name: str, iteration: int, hu: np.ndarray) -> None:
        """A picture of an image (H, W) in HU after so many iterations."""
        low, high = self.options.vis_window
        path = self.out.with_name(self.out.name + BESIDE) / f"{name}_i{iteration}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, (hu - low) / (high - low) * 255)

    def path(self, name: str) -> Path:
        """The file of an image."""
        return self.out / f"{name}.{'dcm' if name in self._sources else 'npy'}"

    def state(self, name: str) -> Path:
        """Where a fit that was ended is kept."""
        return self.out / f".{name}.dip.npz"

    def write(self, name: str, hu: np.ndarray, told: Told) -> None:
        """One image (H, W) in HU, and in the report what is told of it: first, so that no image is without."""
        path = self.path(name)
        self.out.mkdir(parents=True, exist_ok=True)
        self._report.note(name, WRITTEN, **told)
        if name in self._sources:
            file, frame = self._sources[name]
            source = dicom.read(Path(file), frame)
            self._series_of(source).write(path, source, hu, force=self.options.force)
        else:
            write_npy(path, hu.astype(np.float32), self.options.force)
        self.state(name).unlink(missing_ok=True)

    def close(self, state: str) -> None:
        """Write the report: method, options and geometry, and each image's iterations, strength, residual, seconds."""
        self._report.write(state)

    def _series_of(self, source: dicom.DicomImage) -> DerivedSeries:
        uid = str(source.header.get("SeriesInstanceUID", ""))
        if uid not in self._series:
            self._series[uid] = DerivedSeries(
                source.header,
                model_name=f"medi2i reconstruct {self.options.method}",
                description=f"{self.options.method} of simulated projections",
                options=self._report.content["model"] | self._decides | {"geometry": self._geometry},
            )
        return self._series[uid]


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
