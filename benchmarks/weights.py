#!/usr/bin/env python
"""Trains the packaged models from nothing: makes pairs (noisy, target), trains as anybody would, packs models/NAME.

  python benchmarks/weights.py /path/to/data --work weights
  python benchmarks/weights.py /path/to/data --work weights --only ct-denoise-fast
  python benchmarks/weights.py /path/to/data --work other --only ct-denoise --without ct-abdomen-ge --models other

A network keeps noise that it has seen in targets, so none has that of its scanner where it is more than QUIET: thin
slices are averaged and cleaned by non-local means. Two of three then get a texture, as a clinical image has it, by the
noise of another scan (what is measured against an image with noise of its own is best where that is left), and
pixel sizes, contrast and sharpness vary. The third has none, larger pixels, and ellipses from faint to bright.
On top: white noise, or noise of a lower dose through projections by many kernels, from 3 to 110 HU. Then all is scaled
so that this noise has LEVEL: the network sees one level only (--noise_level), and where all noise is to go, one that is
as far off as an estimate may be. Whole numbers in .npy, trainA and trainB as train.py reads them.
"""

import argparse
import dataclasses
import json
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.restoration import denoise_nl_means

from medi2i.common.networks.checkpoint import find_run
from medi2i.common.options import PairedOptions, load_args
from medi2i.common.outputs import write_text
from medi2i.datasets import dicom
from medi2i.tools.making import noise

LEVEL = 20.0  # of the noise in all pairs
# Of the models: ± 2304 HU at the lowest of LEVELS, so that noise in air stays below air. Water is at 0, in the middle:
# by -10240 to 20480 tissue lay hundreds of times the noise off, training came half as far, and bf16 was 8 HU off.
CLIP = (-15360, 15360)
BATCH, CROPS = 4, 4  # crops of an update, and of an image in an epoch
CHANNELS = {"ct-denoise": (32, 64, 128), "ct-denoise-fast": (16, 32, 64)}
RATES = {"ct-denoise": 5e-4, "ct-denoise-fast": 1e-3}  # the larger one broke down at 2e-3, and did not get on at 1e-3
# The clip is wide, so one step of the residual is small, and so are its errors in [-1, 1].
TRAINING = (
    *("--preset", "denoise", "--imgtype", "npy", "--noise_level", LEVEL, "--clipA", *CLIP, "--clipB", *CLIP),
    *("--gen_sample", "half", "--gen_residual", 0.003, "--lambda_rec_l2", 200000, "--lambda_rec_l1", 300),
    *("--batch_size", BATCH, "--crops_per_image", CROPS, "--cache_mb", 4000),
    *("--optimizer", "Muon"),
)
CLEAN = 3  # of so many pairs one has a target without noise
OFF = (0.8, 1.2)  # of the level that such a pair is told, times the noise: an estimate is off, too
QUIET = 5.0  # HU; a series with less noise of its own may be a target as it is
SAME_KERNEL = 0.5  # of those with noise of a lower dose: it has the kernel of what the target keeps
LEVELS = (3.0, 110.0)  # standard deviation of the noise on top in the body, HU
TEXTURE = (2.0, 25.0)  # of what the target keeps, HU
BODY = -300.0  # HU; above is the patient
# What args says of the machine that trained.
PLACES = ("root", "out", "train", "val", "model_gen", "argfile", "imgtype", "cache_mb", "started")
MARGIN = 16  # pixels around the patient


@dataclass(frozen=True)
class Series:
    """Where a series lies; ``thick``: slices that are averaged, every ``step``; ``own``: standard deviation of its
    noise then, HU; ``repeats``: pairs made of each image; ``half``: pixels of twice the size."""

    folder: str
    thick: int
    step: int
    own: float
    repeats: int
    half: bool = False


SERIES = (
    Series("ct-abdomen-ge", 1, 1, 9.0, 12),
    Series("ct-chest-philips", 5, 5, 12.0, 6),
    Series("ct-chest-philips", 3, 4, 13.0, 6, half=True),
    Series("ct-phantom-philips/soft-5mm", 1, 2, 4.0, 6),
    Series("ct-phantom-philips/soft-1mm", 1, 5, 3.5, 6),
    Series("ct-phantom-philips/sharp-1mm", 5, 5, 9.5, 6),
)


@dataclass(frozen=True)
class Task:
    """An image of a series, (H, W) in HU with pixels of ``spacing`` mm, and the name of its pairs."""

    name: str
    hu: np.ndarray
    spacing: float
    series: Series
    seed: int


def tasks(data: Path, seed: int) -> Iterator[Task]:
    """One for each image of SERIES below ``data``."""
    for number, one in enumerate(SERIES):
        images = [dicom.read(path) for path in sorted((data / one.folder).glob("*.dcm"))]
        for first in range(0, len(images) - one.thick + 1, one.step):
            hu = np.mean([image.hu for image in images[first : first + one.thick]], axis=0)
            spacing = (images[first].spacing or (1.0, 1.0))[0]
            if one.half:
                hu, spacing = noise._block_mean(hu, 2), 2 * spacing
            yield Task(f"{number}_{first:03d}", of_the_body(hu), spacing, one, seed)


def of_the_body(hu: np.ndarray) -> np.ndarray:
    """The rectangle around the patient: there is little to learn in air."""
    rows, columns = (np.flatnonzero((hu > BODY).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return hu
    return hu[max(rows[0] - MARGIN, 0) : rows[-1] + 1 + MARGIN, max(columns[0] - MARGIN, 0) : columns[-1] + 1 + MARGIN]


def drawn(span: tuple[float, float], rng: np.random.Generator) -> float:
    """From the first to the last of ``span``, evenly by its logarithm."""
    return float(np.exp(rng.uniform(*np.log(span))))


def target(task: Task, smooth: np.ndarray, field: np.ndarray, kernel: "Kernel", rng: np.random.Generator) -> np.ndarray:
    """Image (H, W) in HU with a texture of its own: ``field`` by ``kernel``.

    The image is as it is only where its noise is low: a network keeps noise that it has seen in targets.
    Else its texture is another kernel's; or its edges are sharper, its contrast higher or its pixels larger: what other
    scanners and patients may bring.
    """
    own, hu = task.series.own, task.hu
    if own > QUIET or rng.random() < 0.5:
        hu = smooth + textured(field, hu, drawn(TEXTURE, rng), kernel)
    if rng.random() < 0.3:
        hu = hu + rng.uniform(0.3, 1.2) * (hu - ndimage.gaussian_filter(hu, rng.uniform(0.7, 1.2)))
    hu = of_other_contrast(hu, rng)
    if rng.random() < 0.4:
        zoom = rng.uniform(0.5, 1.3) if task.series.half else rng.uniform(0.45, 1.0)
        hu = zoomed(hu, zoom)
    return hu


def of_other_contrast(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Three times of ten ``hu`` (H, W) with another contrast and level of tissue, else as it is."""
    if rng.random() < 0.3:
        return (hu - BODY) * rng.uniform(0.7, 1.8) + BODY + rng.uniform(-50, 50)
    return hu


def zoomed(image: np.ndarray, zoom: float) -> np.ndarray:
    """(H, W) on a grid of ``zoom`` times its rows and columns, smoothed before it becomes coarser."""
    return ndimage.zoom(ndimage.gaussian_filter(image, 0.35 * max(1 / zoom - 1, 0)), zoom, order=3)


def clean_target(task: Task, smooth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Image (H, W) in HU without noise: what is left of it in ``smooth`` falls by pixels of twice the size or more.

    Ellipses lie on it, from faint ones in soft tissue, which are to be kept, to calcium.
    """
    hu = smooth if task.series.half or task.series.own <= QUIET else noise._block_mean(smooth, 2)
    hu = zoomed(hu, rng.uniform(0.7, 1.3))
    hu = hu + rng.uniform(0, 1.5) * (hu - ndimage.gaussian_filter(hu, rng.uniform(0.7, 1.2)))
    hu = of_other_contrast(hu, rng)
    return with_ellipses(hu, rng)


def with_ellipses(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``hu`` (H, W) and, in the body, an ellipse for every 800 pixels or so, of 8 to 120 HU and 1.5 to 20 pixels."""
    hu = hu.copy()
    inside = np.argwhere(hu > BODY)
    for _ in range(rng.integers(0, len(inside) // 400 + 1)):
        (row, column), angle = inside[rng.integers(len(inside))], rng.uniform(0, np.pi)
        long, short = (drawn((1.5, 20), rng) for _ in range(2))
        reach = int(max(long, short)) + 3
        part = (slice(max(row - reach, 0), row + reach + 1), slice(max(column - reach, 0), column + reach + 1))
        y, x = np.mgrid[part]
        turned = np.hypot(
            ((y - row) * np.cos(angle) + (x - column) * np.sin(angle)) / long,
            ((x - column) * np.cos(angle) - (y - row) * np.sin(angle)) / short,
        )
        edge = np.clip((1 - turned) * min(long, short) / rng.uniform(1, 3) + 0.5, 0, 1)
        hu[part] += rng.choice((-1, 1)) * drawn((8, 120), rng) * edge[: hu[part].shape[0], : hu[part].shape[1]]
    return hu


@dataclass(frozen=True)
class Kernel:
    """Of a reconstruction, soft to sharp: passes what is below ``cut`` (1: Nyquist's frequency), less and less of it
    or, with ``rise``, more at first."""

    cut: float
    rise: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Kernel":
        """Any."""
        return cls(rng.uniform(0.45, 1.15), rng.uniform(0, 2.5) * (rng.random() < 0.4))

    def window(self, shape: tuple[int, int]) -> np.ndarray:
        """What it makes of the spectrum (rfft2) of an image (H, W) of noise through the ramp filter."""
        radius = 2 * np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]) / self.cut
        return np.where(radius < 1, 0.5 * (1 + np.cos(np.pi * radius)), 0) * (1 + self.rise * radius**2)


def through_projections(hu: np.ndarray, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Noise (H, W) of a scan by the ramp filter, of a flux drawn so that wide bodies have some starved rays."""
    width = np.sqrt(np.count_nonzero(hu > BODY)) * spacing
    expected = 10 ** rng.uniform(1.5, 4.0)  # photons behind the body
    photons = expected * np.exp(min(0.0193 * width, 9.0))
    return noise.dose_noise(hu, spacing, noise.Dose(1.0, photons, window="ramp", views=300), rng)


def textured(field: np.ndarray, hu: np.ndarray, level: float, kernel: Kernel) -> np.ndarray:
    """Noise (H, W) of ``field`` by a kernel, of a standard deviation of ``level`` HU in the body."""
    made = np.fft.irfft2(np.fft.rfft2(field) * kernel.window(field.shape), field.shape)
    body = hu > BODY
    return made * (level / made[body if body.any() else ...].std())


def make(task: Task, out: Path) -> list[str]:
    """The pairs of a task. Returns their names."""
    rng = noise.generator_for(task.seed, 0, task.name)
    own = task.series.own
    smooth = denoise_nl_means(task.hu.astype(np.float32), 5, 6, h=0.8 * own, sigma=own, fast_mode=True)
    field = through_projections(task.hu, task.spacing, rng)
    names = []
    for repeat in range(task.series.repeats):
        # Turned, it is the noise of another scan: a target that has its texture of the field is no part of it.
        other = np.rot90(field, 2)
        clean = repeat % CLEAN == CLEAN - 1
        kernel = Kernel.drawn(rng)
        hu = clean_target(task, smooth, rng) if clean else target(task, smooth, field, kernel, rng)
        level = drawn(LEVELS, rng)
        if repeat % 2:
            added = level * rng.standard_normal(hu.shape)
        else:
            if hu.shape != other.shape:
                other = ndimage.zoom(other, np.divide(hu.shape, other.shape), order=3)
            same = rng.random() < SAME_KERNEL
            added = textured(other, hu, level, kernel if same else Kernel.drawn(rng))
        told = level * rng.uniform(*OFF) if clean else level
        names.append(f"{task.name}_{repeat}.npy")
        for folder, image in (("trainA", hu + added), ("trainB", hu)):
            scaled = np.clip(np.rint(image * (LEVEL / told)), *CLIP).astype(np.int16)
            np.save(out / folder / names[-1], scaled, allow_pickle=False)
    return names


def make_pairs(data: Path, out: Path, seed: int, workers: int, without: str | None = None) -> None:
    """All pairs of the series below ``data``, but for that ``without``, and pairs.txt."""
    for folder in ("trainA", "trainB"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        made = [pool.submit(make, task, out) for task in tasks(data, seed) if task.series.folder != without]
        names = [name for one in made for name in one.result()]
    write_text(out / "pairs.txt", "".join(f"trainA/{name}\ttrainB/{name}\n" for name in names))
    print(f"{out}: {len(names)} pairs")


def train(pairs: Path, runs: Path, words: Sequence[object], updates: int, seed: int) -> Path:
    """One training of about so many ``updates``, whole epochs: the same on any machine. words: of its command, beside
    TRAINING. Returns its run folder."""
    listed = pairs / "pairs.txt"
    images = len(listed.read_text(encoding="utf-8").splitlines())
    epochs = max(1, round(updates * BATCH / (CROPS * images)))
    every = [*TRAINING, *words, "-R", pairs, "-t", listed, "--epoch", epochs, "--seed", seed, "-o", runs]
    subprocess.run([sys.executable, "-m", "medi2i.pix2pix.train", *map(str, every)], check=True)
    return max(runs.iterdir())


def pack(run: Path, model: Path) -> None:
    """The last weights of a run, and its args without the places where it was trained, as the folder of a model."""
    epoch = max(find_run(run).epochs)
    model.mkdir(parents=True, exist_ok=True)
    for old in model.glob("*.npz"):
        old.unlink()
    for name in ("enc_x", "dec_y"):
        shutil.copyfile(run / f"{name}{epoch}.npz", model / f"{name}{epoch}.npz")
    trained, plain = dataclasses.asdict(load_args(run / "args")), dataclasses.asdict(PairedOptions())
    args = {name: plain[name] if name in PLACES else value for name, value in trained.items()}
    text = json.dumps({"application": "pix2pix", **args, "noise_level": LEVEL}, indent=1)
    write_text(model / "args", text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the series")
    parser.add_argument("--work", type=Path, default=Path("weights"))
    parser.add_argument("--models", type=Path, default=Path("models"), help="where to put them")
    parser.add_argument("--only", choices=CHANNELS, help="one of the models")
    parser.add_argument("--without", choices=sorted({one.folder for one in SERIES}), help="left out, to judge by")
    parser.add_argument("--updates", type=int, default=54000, help="of each training; some 70 minutes of a core")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-j", "--workers", type=int, default=2)
    options = parser.parse_args()
    pairs = options.work / ("pairs" if options.without is None else f"pairs_without_{Path(options.without).name}")
    if not (pairs / "pairs.txt").exists():
        make_pairs(options.data, pairs, options.seed, options.workers, options.without)
    for name, channels in CHANNELS.items():
        if options.only in (None, name):
            words = ("--gen_chs", *channels, "--learning_rate_gen", RATES[name])
            run = train(pairs, options.work / name, words, options.updates, options.seed)
            pack(run, options.models / name)


if __name__ == "__main__":
    main()
