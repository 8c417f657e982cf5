"""Reconstruction from few views: each method beside the others, on data of a finer grid, as a page.

    python benchmarks/reconstruction.py [--ct FOLDER ...] [--prior RUN] [--phantoms 32] [--write PAGE.md]

Strengths and windows are chosen on other phantoms or slices than those that are shown. One core.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medi2i.common.outputs import write_text
from medi2i.common.version import VERSION
from medi2i.datasets import dicom
from medi2i.reconstruction import solvers
from medi2i.reconstruction.fbp import fbp
from medi2i.reconstruction.geometry import Geometry, regular
from medi2i.reconstruction.operator import Operator
from medi2i.reconstruction.reconstruct import denoiser_of
from medi2i.reconstruction.simulate import Scanner, ellipses, shepp_logan

Case = tuple[np.ndarray, np.ndarray]  # sinogram and truth in 1/mm
Method = Callable[[np.ndarray], np.ndarray]
STRENGTHS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0)
FINENESS = 3


def coarse(image: np.ndarray) -> np.ndarray:
    """Means of FINENESS x FINENESS pixels."""
    rows, columns = (size // FINENESS for size in image.shape)
    return image.reshape(rows, FINENESS, columns, FINENESS).mean((1, 3))


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """dB, of the range of the truth."""
    return float(10 * np.log10(np.ptp(truth) ** 2 / np.mean((image - truth) ** 2)))


def methods(operator: Operator, photons: float | None, prior: str | None) -> dict[str, list[tuple[str, Method]]]:
    """Each method with its candidates: what is to be chosen, and the function sinogram -> image in 1/mm."""
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
    return found


def rows(
    geometry: Geometry, choosing: list[Case], shown: list[Case], photons: float | None, prior: str | None, hu: bool
) -> list[str]:
    """A table: for each method the candidate with the least squared error on ``choosing``, and its figures."""
    operator, lines = (
        Operator(geometry),
        ["| | chosen | PSNR / dB | RMSE | rays off by | s an image |", "|---|---|---|---|---|---|"],
    )
    unit = 1000 / geometry.mu_water if hu else 1 / geometry.mu_water
    for name, candidates in methods(operator, photons, prior).items():
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
    parser.add_argument("--write", type=Path, help="the page")
    options = parser.parse_args()
    page = [
        "# Reconstruction from few views",
        "",
        f"Made by benchmarks/reconstruction.py of medi2i {VERSION}, NumPy {np.__version__}, {platform.machine()}, one "
        f"core. Data are made on a grid {FINENESS} times as fine; what is chosen is chosen on other images.",
        "",
    ]
    geometry = regular((128, 128), (1.0, 1.0), 30, bins=183)
    page += ["## Random ellipses, 128², 30 views, noise 2.5 %", ""]
    page += rows(
        geometry, phantoms(4, geometry, 1000, 0.025), phantoms(options.phantoms, geometry, 0, 0.025), None, None, False
    )
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
