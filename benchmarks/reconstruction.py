"""Reconstruction from few views: each method beside the others, on data of a finer grid, as a page.

    python benchmarks/reconstruction.py [--ct FOLDER ...] [--others FOLDER ...] [--phantoms 32] [--train MINUTES]
                                        [--dip N] [--work FOLDER] [--write PAGE.md]

Strengths and windows are chosen on other phantoms or slices than those that are shown. With --train, learned
primal-dual is trained for so many minutes on other phantoms, pix2pix on filtered back-projections for half of it, and
for each CT on the other series a denoiser as prior for half, a critic for a fifth; the deep image prior, a minute an
image, is fitted to --dip of those shown. Each has one core; as many are trained at once as there are cores.
What is trained or measured is kept in --work and not made again: a run that was ended goes on where it was.
"""

import argparse
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from own_scripts import command, longest_ct, trained
from scipy import ndimage

from medi2i.common import VERSION
from medi2i.common.device import use_cpu_engine
from medi2i.common.networks.checkpoint import find_run
from medi2i.common.outputs import write_text
from medi2i.datasets import dicom
from medi2i.datasets.writing import write_image, write_npy
from medi2i.reconstruction import solvers
from medi2i.reconstruction.dip import DeepImagePrior, Prior
from medi2i.reconstruction.fbp import fbp
from medi2i.reconstruction.geometry import Geometry, regular
from medi2i.reconstruction.geometry import save as save_geometry
from medi2i.reconstruction.operator import Operator
from medi2i.reconstruction.reconstruct import Method as Reconstruction
from medi2i.reconstruction.reconstruct import ReconstructionOptions, denoiser_of
from medi2i.reconstruction.scans import GEOMETRY
from medi2i.reconstruction.simulate import Scanner, ellipses, shepp_logan
from medi2i.tools.make_sinograms import PHANTOM_MM

Case = tuple[np.ndarray, np.ndarray]  # sinogram and truth in 1/mm
Method = Callable[[np.ndarray], np.ndarray]
STRENGTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
PULLS = (0.001, 0.003, 0.01, 0.03)  # of a denoiser's answer, beside the rays
PHOTONS = 1e5  # a ray of a CT
LEVEL = 40.0  # HU, of the white noise that it has learnt to take away
PARTS = (0.1, 0.3, 1.0)  # of the critic, beside total variation of the strength that was chosen for that alone
LEARNED = ("--ema", 0.998)
PIX2PIX = (  # whole images, since streaks are long; what is to be taken away is larger than noise
    *("--preset", "denoise", "--gen_sample", "half", "--gen_chs", 48, 96, 192, "--gen_residual", 0.1),
    *("-cw", 128, "-ch", 128, "--random_translate", 0, "--crops_per_image", 1, "--batch_size", 1),
)
DENOISER = (
    *("--preset", "denoise", "-it", "npy", "--noise_level", LEVEL),
    *("-ca", -2000, 2000, "-cb", -2000, 2000),  # with room for noise in air
)
CRITIC = ("--channels", 16, "-lr", 5e-4, "--ema", 0.99)
CRITIC_SIZE, CRITIC_STRENGTH = 256, 0.5  # rows and columns that it learns from; of the total variation that it judges
THICK = 5  # slices of thin ones, whose mean is clean enough
FINENESS = 3
DIP_STRENGTH = 4.0  # best of 4, 4.5 and 5 on choosing phantoms, as it is for total variation alone
CLIP = (-1300, 300)  # phantoms lie at -1000 (0) to 0 (1) HU; what rings beyond is cut before a network sees it
METHODS = ("fbp", "sirt", "tv", "pnp", "adversarial", "learned primal-dual", "pix2pix on fbp")


def coarse(image: np.ndarray) -> np.ndarray:
    """Means of FINENESS x FINENESS pixels."""
    rows, columns = (size // FINENESS for size in image.shape)
    return image.reshape(rows, FINENESS, columns, FINENESS).mean((1, 3))


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """dB, of the range of the truth."""
    return float(10 * np.log10(np.ptp(truth) ** 2 / np.mean((image - truth) ** 2)))


def best_of(candidates: list[tuple[str, Method]], error: Callable[[Method], float]) -> tuple[str, Method]:
    """The candidate of the least ``error``, found by going downhill from the middle: strengths are in order."""
    found: dict[int, float] = {}

    def at(index: int) -> float:
        if index not in found:
            found[index] = error(candidates[index][1]) if 0 <= index < len(candidates) else np.inf
        return found[index]

    here = len(candidates) // 2
    while (there := min((here - 1, here + 1), key=at)) is not None and at(there) < at(here):
        here = there
    return candidates[here]


def methods(operator: Operator, photons: float | None, runs: dict[str, str]) -> dict[str, list[tuple[str, Method]]]:
    """Each method with its candidates: what is to be chosen, and the function sinogram -> image in 1/mm.

    runs: "learned", "pix2pix" or "prior" -> run folder.
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
        "fbp": [filtered("hann", cutoff) for cutoff in (0.3, 0.5, 0.7, 1.0)] + [filtered("ramp", 1.0)],
        "sirt": [sirt(iterations) for iterations in (30, 100, 300)],
        "tv": [variation(strength) for strength in STRENGTHS],
    }
    if "prior" in runs:
        denoise = denoiser_of(runs["prior"], LEVEL, geometry.spacing)

        def plugged(pull: float) -> tuple[str, Method]:
            return f"pull {pull:g}", lambda y: solvers.plug_and_play(problem(y), denoise, 40, pull, start(y))

        found["pnp"] = [plugged(pull) for pull in PULLS]
    if "learned" in runs:
        learned = Reconstruction(operator, ReconstructionOptions(method="learned", prior=runs["learned"]))
        found["learned primal-dual"] = [("", lambda y: learned(y)[0])]
    if "pix2pix" in runs:
        improve = denoiser_of(runs["pix2pix"])
        found["pix2pix on fbp"] = [
            (
                "",
                lambda y: geometry.to_attenuation(improve(np.clip(geometry.to_hu(start(y)), *CLIP).astype(np.float32))),
            )
        ]
    return found


def with_critic(operator: Operator, photons: float, run: str, strength: float) -> list[tuple[str, Method]]:
    """The candidates of a critic beside total variation of ``strength``."""

    def judged(part: float) -> tuple[str, Method]:
        def one(y: np.ndarray) -> np.ndarray:
            weight = part * solvers.noise_in_image(solvers.problem_of(operator, y, photons), photons)
            options = ReconstructionOptions(
                method="adversarial", prior=run, photons=photons, weight=weight, strength=strength, iterations=300
            )
            return Reconstruction(operator, options)(y)[0]

        return f"λ = {strength:g}, ω = {part:g} noise", one

    return [judged(part) for part in PARTS]


def make_phantoms(work: Path, count: int) -> None:
    """``count`` ellipse phantoms to train on, others than those shown, and eight to validate on."""
    size = ("--of", "ellipses", "--size", 128, "--views", 30, "--noise", 0.025)
    for folder, number, seed in ((work / "scans", count, 11), (work / "val", 8, 12)):
        if (folder / "pairs.txt").is_file():
            continue
        command("tools/make_sinograms.py", *size, "--num", number, "--seed", seed, "-o", folder)
        command("reconstruction/reconstruct.py", "-i", folder, "-o", folder / "fbp", "--method", "fbp")
        names = sorted(path.name for path in (folder / "truth").glob("*.npy"))
        write_text(folder / "pairs.txt", "".join(f"fbp/{name}\ttruth/{name}\n" for name in names))


def train_primal_dual(work: Path, minutes: float) -> str:
    """The run of learned primal-dual for the phantoms."""
    words = ("reconstruction/train.py", "-i", work / "scans", "--val", work / "val", *LEARNED)
    return str(trained(work / "learned", minutes, *words))


def train_pix2pix(work: Path, minutes: float) -> str:
    """The best encoder of pix2pix on filtered back-projections of the phantoms."""
    pairs = ("-it", "npy", "-R", work / "scans", "-t", "pairs.txt", "--val", work / "val" / "pairs.txt")
    clips = ("-ca", *CLIP, "-cb", *CLIP)
    run = find_run(trained(work / "pix2pix", minutes, "pix2pix/train.py", *pairs, *clips, *PIX2PIX))
    return str(run.folder / f"enc_x{run.epoch('best')}.npz")


def train_denoiser(work: Path, minutes: float, geometry: Geometry, folders: list[str]) -> str:
    """The run of a denoiser for the slices of ``folders``, with pixels as in ``geometry``."""
    data, rng = work / "data", np.random.default_rng(7)
    if not data.is_dir():
        for number, hu in enumerate(clean_slices(folders, geometry, 48)):
            for repeat in range(2):
                noisy = hu + LEVEL * rng.standard_normal(hu.shape)
                for folder, array in (("trainA", noisy), ("trainB", hu)):
                    write_npy(work / "data.new" / folder / f"{number:04d}_{repeat}.npy", array.astype(np.float32))
        (work / "data.new").rename(data)
    return str(trained(work / "denoiser", minutes, "pix2pix/train.py", *DENOISER, "-R", data))


def train_critic(work: Path, minutes: float, geometry: Geometry, folders: list[str]) -> str:
    """The run of a critic that tells the slices of ``folders``, with pixels as in ``geometry``, from what total
    variation makes of their rays."""
    scans, rng = work / "scans", np.random.default_rng(7)
    if not scans.is_dir():
        small = regular((CRITIC_SIZE, CRITIC_SIZE), geometry.spacing, geometry.sinogram_shape[0])
        scanner, operator = Scanner(small, FINENESS, photons=PHOTONS), Operator(small)
        for number, hu in enumerate(clean_slices(folders, small, 16)):
            sinogram = scanner.measure(small.to_attenuation(hu), rng)
            problem, start = solvers.problem_of(operator, sinogram, PHOTONS), fbp(small, sinogram, "hann")
            image = solvers.total_variation(problem, CRITIC_STRENGTH, 150, start)
            for folder, array in (("", sinogram), ("truth", hu), ("tv", small.to_hu(image))):
                write_npy(work / "scans.new" / folder / f"{number:04d}.npy", array.astype(np.float32))
        save_geometry(work / "scans.new" / GEOMETRY, small)
        (work / "scans.new").rename(scans)
    words = ("reconstruction/train.py", "-i", scans, "--learns", "critic", "--against", scans / "tv", *CRITIC)
    return str(trained(work / "critic", minutes, *words))


def clean_slices(folders: list[str], geometry: Geometry, count: int) -> Iterator[np.ndarray]:
    """Some ``count`` slices of each series in HU, of thin ones means of THICK, in the middle of ``geometry``, with air
    around."""
    for folder in folders:
        series = longest_ct(folder)
        images = [np.maximum(dicom.read(item.path, item.frame).hu, -1000) for item in series.slices]
        thick = THICK if len(images) > 100 else 1
        for first in range(0, len(images) - thick + 1, max(len(images) // count, 1)):
            hu = np.mean(images[first : first + thick], axis=0) + 1000
            zoom = np.divide(series.spacing or (1, 1), geometry.spacing)
            hu = ndimage.zoom(ndimage.gaussian_filter(hu, 0.5 * np.maximum(1 / zoom - 1, 0)), zoom, order=1)
            room = [max(size - have, 0) for size, have in zip(geometry.shape, hu.shape, strict=True)]
            hu = np.pad(hu, [(one // 2, one - one // 2) for one in room])
            top, left = ((have - size) // 2 for size, have in zip(geometry.shape, hu.shape, strict=True))
            yield hu[top : top + geometry.shape[0], left : left + geometry.shape[1]] - 1000


@dataclass
class Section:
    """A table: ``choosing`` and ``shown`` cases of one geometry; runs as in ``methods``; work: where rows are kept."""

    title: str
    geometry: Geometry
    choosing: list[Case]
    shown: list[Case]
    work: Path
    photons: float | None = None
    runs: dict[str, str] = field(default_factory=dict)

    def page(self, dip: int, pictures: Path) -> list[str]:
        """Heading, table and picture: of each method the candidate with the least squared error on ``choosing``."""
        operator, name = Operator(self.geometry), re.sub("[^a-z0-9]+", "-", self.title.split(",")[0].lower())
        lines: list[str] = []
        images = {"truth": self.shown[0][1]}
        found = methods(operator, self.photons, self.runs)
        for method in METHODS:
            if method == "adversarial" and "critic" in self.runs and self.photons is not None:
                (strength,) = (float(line.split("|")[2].split("=")[1]) for line in lines if line.startswith("| tv |"))
                found[method] = with_critic(operator, self.photons, self.runs["critic"], strength)
            if method in found or self.file(f"{name}-{method}").is_file():
                measure = partial(self.row, operator, method, found.get(method, []))
                lines.append(self.kept(f"{name}-{method}", images, method, measure))
        if dip:
            lines.append(self.kept(f"{name}-dip", images, "dip", partial(self.deep_image_prior, operator, dip)))
        picture = pictures / f"reconstruction_{name}.png"
        draw(picture, [self.geometry.to_hu(image) for image in images.values()], self.photons is not None)
        head = ["| | chosen | PSNR / dB | RMSE | rays off by | s an image |", "|---|---|---|---|---|---|"]
        words = f"![{', '.join(images)}](pictures/{picture.name})"
        return [f"## {self.title}", "", *head, *lines, "", f"The first of them: {', '.join(images)}.", "", words, ""]

    def file(self, name: str) -> Path:
        """Where a row is kept."""
        return self.work / "rows" / f"{name.replace(' ', '-')}.npz"

    def kept(
        self, file: str, images: dict[str, np.ndarray], method: str, measure: Callable[[], tuple[str, np.ndarray]]
    ) -> str:
        """The line and the first image of a method, measured unless that was done before."""
        path = self.file(file)
        if not path.is_file():
            line, image = measure()
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, line=line, image=image)
            print(self.title, line, flush=True)
        with np.load(path) as found:
            images[method] = found["image"]
            return str(found["line"])

    def row(self, operator: Operator, name: str, candidates: list[tuple[str, Method]]) -> tuple[str, np.ndarray]:
        """The line of a method and its first image."""
        choice, method = candidates[0]
        if len(candidates) > 1:
            choice, method = best_of(
                candidates, lambda one: sum(np.mean((one(y) - truth) ** 2) for y, truth in self.choosing)
            )
        started = time.process_time()
        images = [method(y) for y, _ in self.shown]
        return self.line(operator, name, choice, images, time.process_time() - started), images[0]

    def line(self, operator: Operator, name: str, choice: str, images: list[np.ndarray], seconds: float) -> str:
        """name, what was chosen, and the figures of ``images`` of the first cases shown."""
        pairs = list(zip(images, self.shown, strict=False))
        quality = np.mean([psnr(image, truth) for image, (_, truth) in pairs])
        error = np.sqrt(np.mean([np.mean((image - truth) ** 2) for image, (_, truth) in pairs]))
        off = np.mean([solvers.problem_of(operator, y, self.photons).residual(image) for image, (y, _) in pairs])
        told = (
            f"{error / self.geometry.mu_water:.4f}"
            if self.photons is None
            else (f"{1000 * error / self.geometry.mu_water:.1f} HU")
        )
        return f"| {name} | {choice} | {quality:.2f} | {told} | {off:.4f} | {seconds / len(images):.2f} |"

    def deep_image_prior(self, operator: Operator, count: int) -> tuple[str, np.ndarray]:
        """The line of the deep image prior on the first cases, with total variation on the same, and an image."""
        images, beside, started = [], [], time.process_time()
        for number, (y, truth) in enumerate(self.shown[:count]):
            problem, start = solvers.problem_of(operator, y, self.photons), fbp(self.geometry, y, "hann", 0.5)
            state = self.work / f"dip{number}.npz"
            images.append(DeepImagePrior(problem, start, Prior(DIP_STRENGTH), state).run())
            beside.append(psnr(solvers.total_variation(problem, DIP_STRENGTH, 300, start), truth))
            print(f"dip {psnr(images[-1], truth):.2f} dB, tv {beside[-1]:.2f} dB", flush=True)
        chosen = f"λ = {DIP_STRENGTH:g}, {Prior.part:g} of it; tv on the same {np.mean(beside):.2f}"
        seconds = time.process_time() - started
        return self.line(operator, f"dip, the first {count}", chosen, images, seconds), images[0]


def train(minutes: float, ellipse: Section, scans: dict[str, Section], others: list[str]) -> None:
    """Train what learns, and leave it in the sections' ``runs``; scans: by the folder of their CT."""
    jobs: list[tuple[Section, str, Callable[..., str], tuple[object, ...]]] = [
        (ellipse, "learned", train_primal_dual, (ellipse.work, minutes)),
        (ellipse, "pix2pix", train_pix2pix, (ellipse.work, minutes / 2)),
    ]
    for folder, section in scans.items():
        work, rest = section.work / f"priors_{Path(folder).name}", [one for one in (*scans, *others) if one != folder]
        if rest:
            jobs.append((section, "prior", train_denoiser, (work, minutes / 2, section.geometry, rest)))
            jobs.append((section, "critic", train_critic, (work, minutes / 5, section.geometry, rest)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [(section, name, pool.submit(function, *given)) for section, name, function, given in jobs]
        for section, name, run in found:
            section.runs[name] = run.result()


def draw(path: Path, images: list[np.ndarray], soft: bool) -> None:
    """Images in HU beside each other: of CT from -160 to 240 HU, of phantoms from 0 to 1."""
    low, high = (-160, 240) if soft else (-1000, 0)
    write_image(path, (np.hstack(images) - low) / (high - low) * 255)


def phantoms(count: int, geometry: Geometry, first: int, noise: float) -> list[Case]:
    """Random ellipses, water for 1, with Gaussian noise of ``noise`` times the mean line integral."""
    scanner, cases = Scanner(geometry, FINENESS, relative=noise), []
    for number in range(first, first + count):
        fine = ellipses(np.random.default_rng([5, number]), geometry.shape[0] * FINENESS) * np.float32(
            geometry.mu_water
        )
        cases.append((scanner.measure(fine, np.random.default_rng([6, number])), coarse(fine)))
    return cases


def slices(folder: str) -> tuple[Geometry, list[Case], list[Case]]:
    """60 views of a CT: two slices to choose by, and two others."""
    series = longest_ct(folder)
    if series.spacing is None:
        raise SystemExit(f"{folder}: pixels of no known size")
    geometry = regular(series.shape, series.spacing, 60)
    scanner, cases = Scanner(geometry, FINENESS, photons=PHOTONS), []
    for part in (0.25, 0.7, 0.42, 0.65):
        item = series.slices[int(part * len(series.slices))]
        truth = geometry.to_attenuation(dicom.read(item.path, item.frame).hu.astype(np.float32))
        cases.append((scanner.measure(truth, np.random.default_rng(0)), truth))
    return geometry, cases[:2], cases[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", nargs="*", default=[], help="folders of CT series")
    parser.add_argument("--others", nargs="*", default=[], help="further CT series, for priors to learn from")
    parser.add_argument("--phantoms", type=int, default=32, help="ellipse images to show")
    parser.add_argument("--train", type=float, metavar="MINUTES", help="of learned primal-dual; else none is trained")
    parser.add_argument("--scans", type=int, default=3000, help="phantoms to train on")
    parser.add_argument("--dip", type=int, default=0, metavar="N", help="phantoms to fit a deep image prior to")
    parser.add_argument("--work", type=Path, default=Path("reconstruction_work"), help="folder for trainings and rows")
    parser.add_argument("--write", type=Path, help="the page; its pictures go into pictures/ beside it")
    options = parser.parse_args()
    use_cpu_engine("auto")
    noise = 0.025
    geometry = regular((128, 128), (PHANTOM_MM / 128, PHANTOM_MM / 128), 30)
    choosing, shown = phantoms(4, geometry, 1000, noise), phantoms(options.phantoms, geometry, 0, noise)
    title = f"Random ellipses, {options.phantoms} of 128², 30 views, noise 2.5 %"
    ellipse = Section(title, geometry, choosing, shown, options.work)
    geometry = regular((256, 256), (1.0, 1.0), 30)
    fine = shepp_logan(256 * FINENESS) * np.float32(geometry.mu_water)
    case = Scanner(geometry, FINENESS).measure(fine, np.random.default_rng(0)), coarse(fine)
    title = "Shepp–Logan, 256², 30 views, no noise (chosen on itself)"
    head = Section(title, geometry, [case], [case], options.work)
    scans = {}
    for folder in options.ct:
        geometry, choosing, shown = slices(folder)
        title = f"{Path(folder).name}, {geometry.shape[0]}², 60 views, 10⁵ photons a ray"
        scans[folder] = Section(title, geometry, choosing, shown, options.work, PHOTONS)
    if options.train is not None:
        make_phantoms(options.work, options.scans)
        train(options.train, ellipse, scans, options.others)
    sections = [ellipse, head, *scans.values()]
    page = [
        "# Reconstruction from few views",
        "",
        f"Made by benchmarks/reconstruction.py of medi2i {VERSION}, NumPy {np.__version__}, {platform.machine()}. Data "
        f"are made on a grid {FINENESS} times as fine; what is chosen is chosen on other images. Seconds are of one "
        "core's time. In the pictures CT is from -160 to 240 HU.",
        "",
    ]
    pictures = (options.write or options.work).parent / "pictures"
    for number, section in enumerate(sections):
        page += section.page(options.dip if number == 0 else 0, pictures)
    if options.write:
        write_text(options.write, "\n".join(page).rstrip() + "\n")


if __name__ == "__main__":
    main()
