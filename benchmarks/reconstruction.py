"""Reconstruction from few views: each method beside the others, on data of a finer grid, as a page.

    python benchmarks/reconstruction.py [--ct FOLDER ...] [--prior RUN] [--phantoms 32] [--write PAGE.md]
                                        [--train MINUTES] [--work FOLDER]

Strengths and windows are chosen on other phantoms or slices than those that are shown. With --train, what learns is
trained for so many minutes each on other phantoms (learned primal-dual, pix2pix on filtered back-projections), and the
deep image prior, minutes an image, is fitted to --dip of those shown; a training that is there is gone on with. One
core.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medi2i.common import VERSION
from medi2i.common.outputs import write_text
from medi2i.datasets import dicom
from medi2i.reconstruction import solvers
from medi2i.reconstruction.dip import DeepImagePrior, Prior
from medi2i.reconstruction.fbp import fbp
from medi2i.reconstruction.geometry import Geometry, regular
from medi2i.reconstruction.operator import Operator
from medi2i.reconstruction.reconstruct import Method as Reconstruction
from medi2i.reconstruction.reconstruct import ReconstructionOptions, denoiser_of
from medi2i.reconstruction.simulate import Scanner, ellipses, shepp_logan
from medi2i.tools.make_sinograms import PHANTOM_MM

Case = tuple[np.ndarray, np.ndarray]  # sinogram and truth in 1/mm
Method = Callable[[np.ndarray], np.ndarray]
STRENGTHS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0)
FINENESS = 3
ROOT = Path(__file__).resolve().parents[1]


def coarse(image: np.ndarray) -> np.ndarray:
    """Means of FINENESS x FINENESS pixels."""
    rows, columns = (size // FINENESS for size in image.shape)
    return image.reshape(rows, FINENESS, columns, FINENESS).mean((1, 3))


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """dB, of the range of the truth."""
    return float(10 * np.log10(np.ptp(truth) ** 2 / np.mean((image - truth) ** 2)))


def methods(
    operator: Operator, photons: float | None, prior: str | None, runs: dict[str, Path]
) -> dict[str, list[tuple[str, Method]]]:
    """Each method with its candidates: what is to be chosen, and the function sinogram -> image in 1/mm.

    runs: name of a trained method -> its run folder.
    """
    geometry = operator.geometry

    def start(sinogram: np.ndarray) -> np.ndarray:
        return fbp(geometry, sinogram, "hann")

    def problem(sinogram: np.ndarray) -> solvers.Problem:
        return solvers.problem_of(operator, sinogram, photons)

    def filtered(window: str, cutoff: float) -> tuple[str, Method]:
        return f"{window}, {cutoff:g}", lambda y: fbp(geometry, y, window, cutoff)

    def sirt(iterations: int) -> tuple[str, Method]:
        return f"{iterations} iterations", lambda y: solvers.sirt(problem(y), iterations)

    def variation(strength: float) -> tuple[str, Method]:
        return f"λ = {strength:g}", lambda y: solvers.total_variation(problem(y), strength, 300, start(y))

    found = {
        "fbp": [filtered(window, cutoff) for window in ("ramp", "hann") for cutoff in (0.5, 0.7, 1.0)],
        "sirt": [sirt(iterations) for iterations in (30, 100, 300)],
        "tv": [variation(strength) for strength in STRENGTHS],
    }
    if prior is not None:
        denoise = denoiser_of(prior)

        def plugged(pull: float) -> tuple[str, Method]:
            return f"pull {pull:g}", lambda y: solvers.plug_and_play(problem(y), denoise, 20, pull, start(y))

        found["pnp"] = [plugged(pull) for pull in (0.003, 0.01, 0.03, 0.1, 0.3)]
    if "learned" in runs:
        learned = Reconstruction(operator, ReconstructionOptions(method="learned", prior=str(runs["learned"])))
        found["learned primal-dual"] = [("", lambda y: learned(y)[0])]
    if "pix2pix" in runs:
        improve = denoiser_of(str(runs["pix2pix"]))
        found["pix2pix on fbp"] = [
            ("", lambda y: geometry.to_attenuation(improve(geometry.to_hu(start(y)).astype(np.float32))))
        ]
    return found


def train(work: Path, minutes: float, phantoms: int) -> dict[str, Path]:
    """Train what learns, on ``phantoms`` ellipse phantoms of their own, and validate on eight: name -> run folder."""
    scans, size = work / "scans", ("--of", "ellipses", "--size", 128, "--views", 30, "--noise", 0.025)
    for folder, count, seed in ((scans, phantoms, 11), (work / "val", 8, 12)):
        if not (folder / "geometry.json").is_file():
            command("tools/make_sinograms.py", *size, "--num", count, "--seed", seed, "-o", folder)
        command("reconstruction/reconstruct.py", "-i", folder, "-o", folder / "fbp", "--method", "fbp", "--resume")
        names = sorted(path.name for path in (folder / "truth").glob("*.npy"))
        write_text(folder / "pairs.txt", "".join(f"fbp/{name}\ttruth/{name}\n" for name in names))
    # The scans lie at -1000 (0) to 0 (1) HU; what rings beyond is cut.
    pairs = ("-it", "npy", "-R", scans, "-t", "pairs.txt", "--val", work / "val" / "pairs.txt")
    clips = ("-ca", -1300, 300, "-cb", -1300, 300)
    trained = {
        "learned": ("reconstruction/train.py", "-i", scans, "--val", work / "val"),
        "pix2pix": ("pix2pix/train.py", *pairs, *clips, "--preset", "denoise"),
    }
    found = {}
    for name, words in trained.items():
        runs = sorted((work / name).glob("*_*"))
        if runs:
            command(words[0], "--resume", runs[0])
        else:
            command(*words, "--minutes", minutes, "-o", work / name)
        (found[name],) = (work / name).glob("*_*")
    return found


def command(script: object, *words: object) -> None:
    """Run one of the project's scripts; ends the program where it fails."""
    arguments = [sys.executable, str(ROOT / str(script)), *map(str, words)]
    if subprocess.run(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode:
        raise SystemExit(f"{script} failed")


def deep_image_prior(geometry: Geometry, shown: list[Case], photons: float | None) -> str:
    """A row of the deep image prior on these cases, beside total variation on the same."""
    operator, quality, off, beside = Operator(geometry), [], [], []
    started = time.perf_counter()
    for y, truth in shown:
        problem = solvers.problem_of(operator, y, photons)
        start = fbp(geometry, y, "hann", 0.5)
        image = DeepImagePrior(problem, start, Prior()).run()
        quality.append(psnr(image, truth))
        beside.append(psnr(solvers.total_variation(problem, 5.0, 300, start), truth))
        off.append(problem.residual(image))
        print(f"dip {quality[-1]:.2f} dB", flush=True)
    seconds = (time.perf_counter() - started) / len(shown)
    chosen = f"γ = {Prior.strength:g}; tv on the same: {np.mean(beside):.2f}"
    return f"| dip, {len(shown)} of them | {chosen} | {np.mean(quality):.2f} | | {np.mean(off):.4f} | {seconds:.0f} |"


def rows(
    geometry: Geometry,
    choosing: list[Case],
    shown: list[Case],
    photons: float | None,
    prior: str | None,
    hu: bool,
    runs: dict[str, Path] | None = None,
) -> list[str]:
    """A table: for each method the candidate with the least squared error on ``choosing``, and its figures."""
    operator, lines = (
        Operator(geometry),
        ["| | chosen | PSNR / dB | RMSE | rays off by | s an image |", "|---|---|---|---|---|---|"],
    )
    unit = 1000 / geometry.mu_water if hu else 1 / geometry.mu_water
    for name, candidates in methods(operator, photons, prior, runs or {}).items():
        squares = [sum(np.mean((method(y) - truth) ** 2) for y, truth in choosing) for _, method in candidates]
        choice, method = candidates[int(np.argmin(squares))]
        started = time.perf_counter()
        images = [method(y) for y, _ in shown]
        seconds = (time.perf_counter() - started) / len(shown)
        quality = np.mean([psnr(image, truth) for image, (_, truth) in zip(images, shown, strict=True)])
        pairs = list(zip(images, shown, strict=True))
        error = np.sqrt(np.mean([np.mean((image - truth) ** 2) for image, (_, truth) in pairs])) * unit
        off = np.mean([solvers.problem_of(operator, y, photons).residual(image) for image, (y, _) in pairs])
        lines.append(
            f"| {name} | {choice} | {quality:.2f} | {error:.1f} HU | {off:.4f} | {seconds:.2f} |"
            if hu
            else f"| {name} | {choice} | {quality:.2f} | {error:.4f} | {off:.4f} | {seconds:.2f} |"
        )
        print(lines[-1], flush=True)
    return lines


def phantoms(count: int, geometry: Geometry, first: int, noise: float) -> list[Case]:
    """Random ellipses, water for 1, with Gaussian noise of ``noise`` times the mean line integral."""
    scanner, cases = Scanner(geometry, FINENESS, relative=noise), []
    for number in range(first, first + count):
        fine = ellipses(np.random.default_rng([5, number]), geometry.shape[0] * FINENESS) * np.float32(
            geometry.mu_water
        )
        cases.append((scanner.measure(fine, np.random.default_rng([6, number])), coarse(fine)))
    return cases


def slices(folder: str, photons: float) -> tuple[Geometry, list[Case], list[Case]]:
    """60 views of a CT: two slices to choose by, and two others."""
    series = max(dicom.scan([folder], modalities=("CT",)).require_series(), key=lambda one: len(one.slices))
    if series.spacing is None:
        raise SystemExit(f"{folder}: pixels of no known size")
    geometry = regular(series.shape, series.spacing, 60)
    scanner, cases = Scanner(geometry, FINENESS, photons=photons), []
    for part in (0.25, 0.7, 0.42, 0.65):
        item = series.slices[int(part * len(series.slices))]
        truth = geometry.to_attenuation(dicom.read(item.path, item.frame).hu.astype(np.float32))
        cases.append((scanner.measure(truth, np.random.default_rng(0)), truth))
    return geometry, cases[:2], cases[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", nargs="*", default=[], help="folders of CT series")
    parser.add_argument("--prior", help="run folder of a denoiser, for pnp")
    parser.add_argument("--phantoms", type=int, default=32, help="ellipse images to show")
    parser.add_argument("--train", type=float, metavar="MINUTES", help="of each training; else nothing is trained")
    parser.add_argument("--scans", type=int, default=3000, help="phantoms to train on")
    parser.add_argument("--dip", type=int, default=0, metavar="N", help="phantoms to fit a deep image prior to")
    parser.add_argument("--work", type=Path, default=Path("reconstruction_work"), help="folder for trainings")
    parser.add_argument("--write", type=Path, help="the page")
    options = parser.parse_args()
    page = [
        "# Reconstruction from few views",
        "",
        f"Made by benchmarks/reconstruction.py of medi2i {VERSION}, NumPy {np.__version__}, {platform.machine()}, one "
        f"core. Data are made on a grid {FINENESS} times as fine; what is chosen is chosen on other images.",
        "",
    ]
    geometry = regular((128, 128), (PHANTOM_MM / 128, PHANTOM_MM / 128), 30)
    page += ["## Random ellipses, 128², 30 views, noise 2.5 %", ""]
    runs = {} if options.train is None else train(options.work, options.train, options.scans)
    choosing, shown = phantoms(4, geometry, 1000, 0.025), phantoms(options.phantoms, geometry, 0, 0.025)
    page += rows(geometry, choosing, shown, None, None, False, runs)
    if options.dip:
        page.append(deep_image_prior(geometry, shown[: options.dip], None))
    geometry = regular((256, 256), (1.0, 1.0), 30)
    fine = shepp_logan(256 * FINENESS) * np.float32(geometry.mu_water)
    case = Scanner(geometry, FINENESS).measure(fine, np.random.default_rng(0)), coarse(fine)
    page += ["", "## Shepp–Logan, 256², 30 views, no noise (chosen on itself)", ""]
    page += rows(geometry, [case], [case], None, None, False)
    for folder in options.ct:
        geometry, choosing, shown = slices(folder, 1e5)
        name = Path(folder).name
        page += ["", f"## {name}, {geometry.shape[0]}², 60 views, 10⁵ photons a ray", ""]
        page += rows(geometry, choosing, shown, 1e5, options.prior, True)
    if options.write:
        write_text(options.write, "\n".join(page) + "\n")


if __name__ == "__main__":
    main()
