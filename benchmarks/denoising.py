#!/usr/bin/env python
"""How good are models for denoising on CT series that they were not trained on, beside classical filters?

  python benchmarks/denoising.py head=/path/to/series --models ct-denoise --work denoising --write PAGE.md

Noise is put on evenly spaced slices: Poisson of n = 100 without its mean, and a quarter and a tenth of this scan's own
dose (make_noisy, --photons auto). BM3D is told the deviation of the noise, or its spectrum, or is tuned on another
slice, as non-local means is. Then white noise and noise of a lower dose at seven levels: does an image become worse?
Rows of filters are kept in the work folder: a run that was interrupted goes on.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

from medi2i.common.compat import chainer
from medi2i.common.inference.generator import AnySize, engine_of
from medi2i.common.inference.noise import Change, for_noise, told
from medi2i.common.networks.checkpoint import load_generator
from medi2i.common.options import PairedOptions
from medi2i.common.outputs import write_text
from medi2i.datasets import dicom
from medi2i.datasets.noise_level import Noise, NoiseMeter
from medi2i.datasets.scaling import Clip
from medi2i.tools.evaluation.classical import FILTERS, Filter, tune
from medi2i.tools.evaluation.metrics import FULL, bias, psnr, rmse
from medi2i.tools.evaluation.physics import EdgeMeter
from medi2i.tools.making import noise

LEVELS = (3, 5, 8, 13, 22, 36, 60)  # HU
NOISES = ("n = 100", "a quarter of the dose", "a tenth of the dose")
TISSUES = {"air": (-1100, -900), "fat": (-140, -60), "muscle": (0, 90), "bone": (300, 3000)}
LEAST_STEP = 300.0  # HU, of an edge
INSIDE = 1.5, 5  # pixels (sd; side): a tissue's mean is taken where the smoothed truth is of it all around
HEAD = [
    "# Packaged models on scanners that they were not trained on",
    "",
    "Made by `python benchmarks/denoising.py NAME=FOLDER … --write docs/denoising_results.md`, which says how; means",
    "over slices. The truth has noise of its own, and part of every error is that. `told`: the level of noise on top",
    "is given (`--noise_level`), as it is to BM3D; without, it is measured in the noisy slice. PSNR: -1024…2000 HU.",
    "Tissues, two pixels within them: mean error, HU. `edge`: distance in which the mean edge rises from 10 % to 90 %.",
    "",
]
Denoiser = Callable[[np.ndarray], np.ndarray]
"""(H, W) in HU -> the same."""


@dataclass(frozen=True)
class Scene:
    """A slice, its noise-free truth in HU, where it is padding, mm of a pixel, photons a ray of its scan."""

    truth: np.ndarray
    mask: np.ndarray | None
    spacing: float
    photons: float


def scenes_of(folder: Path, count: int) -> list[Scene]:
    """``count`` slices of a series, and before them the one that filters are tuned on."""
    images = [dicom.read(path) for path in sorted(folder.rglob("*.dcm")) or [folder]]
    count = min(count, len(images))
    places = np.linspace(0, len(images) - 1, count + 2).round().astype(int)[1:-1]
    chosen = [images[(places[0] + len(images) // (2 * count + 2)) % len(images)], *(images[place] for place in places)]
    meter = NoiseMeter()
    for image in chosen:
        meter.add(image.hu, image.mask)
    spacing = (images[0].spacing or (1.0, 1.0))[0]
    level = meter.result()
    photons = noise.photons_for(
        [(image.hu, spacing) for image in chosen[:3]],
        level.level if level else 0,
        noise.Dose(),
        np.random.default_rng(0),
    )
    return [Scene(image.hu, image.mask, spacing, photons) for image in chosen]


def noisy(scene: Scene, kind: str, seed: int) -> np.ndarray:
    """The scene with noise of a kind of NOISES, whole HU as in a file."""
    rng = noise.generator_for(seed, 0, kind, scene.truth.tobytes())
    if kind == NOISES[0]:
        return np.rint(scene.truth) + rng.poisson(100, scene.truth.shape) - 100.0
    dose = noise.Dose(0.25 if kind == NOISES[1] else 0.1, scene.photons)
    return np.rint(scene.truth + noise.dose_noise(scene.truth, scene.spacing, dose, rng))


def at_level(scene: Scene, kind: str, level: float, seed: int) -> np.ndarray:
    """The scene with white noise or noise of a lower dose, of a standard deviation of ``level`` HU in the patient."""
    rng = noise.generator_for(seed, 0, kind, scene.truth.tobytes())
    if kind == "white":
        return np.rint(scene.truth + level * rng.standard_normal(scene.truth.shape))
    made = noise.dose_noise(scene.truth, scene.spacing, noise.Dose(1.0, scene.photons), rng)
    body = scene.truth > -300
    return np.rint(scene.truth + made * (level / made[body if body.any() else ...].std()))


def classical(kind: str, tuning: Scene, images: list[np.ndarray], scenes: list[Scene]) -> dict[str, Denoiser]:
    """Filters: told what noise there is, or tuned on another slice."""
    from bm3d import bm3d

    pair = [(noisy(tuning, kind, 1), tuning.truth, tuning.mask)]
    fields = [image - scene.truth for image, scene in zip(images, scenes, strict=True)]
    sigma = float(np.std(np.concatenate([field.ravel() for field in fields])))
    power = np.mean([np.abs(np.fft.fft2(field - field.mean())) ** 2 for field in fields], axis=0)
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # type: ignore[attr-defined]  # bm4d 4.2.5, which bm3d calls, asks for the old name
    coarse = Filter("bm3d", "", 1.0, lambda image, strength, sd: bm3d(np.float64(image), strength * sd))
    rows: dict[str, Denoiser] = {
        "nlm, tuned": tune(FILTERS["nlm"], pair),
        "bm3d, told the deviation": lambda image: bm3d(np.float64(image), sigma),
    }
    if kind != NOISES[0]:
        rows["bm3d, tuned"] = tune(coarse, pair)
        rows["bm3d, told the spectrum"] = lambda image: bm3d(np.float64(image), power)
    return rows


def measured(image: np.ndarray, scene: Scene) -> dict[str, float]:
    """All figures of one image against the truth."""
    outside = np.zeros(scene.truth.shape, bool) if scene.mask is None else scene.mask
    found = {
        "rmse": rmse(image, scene.truth, ~outside),
        "psnr": psnr(image, scene.truth, FULL, ~outside),
    }
    # A pixel that its own noisy value chooses is off its tissue's mean, and any filter brings it back.
    smooth, side = gaussian_filter(scene.truth, INSIDE[0]), INSIDE[1]
    for name, (low, high) in TISSUES.items():
        there = ~outside & (minimum_filter(smooth, side) >= low) & (maximum_filter(smooth, side) < high)
        if there.sum() > 200:
            found[name] = bias(image, scene.truth, there)
    return found


def edge_widths(images: list[np.ndarray], scenes: list[Scene]) -> tuple[float, float]:
    """Rise of the mean edge from 10 % to 90 %, mm: of the images and of the truth."""
    meter = EdgeMeter(LEAST_STEP)
    for image, scene in zip(images, scenes, strict=True):
        counts = None if scene.mask is None else ~scene.mask
        meter.add(scene.truth, {"image": image, "truth": scene.truth}, counts)
    return meter.distance("image") * scenes[0].spacing, meter.distance("truth") * scenes[0].spacing


def noise_of(image: np.ndarray, mask: np.ndarray | None) -> Noise:
    """What a conversion would measure in this slice alone."""
    meter = NoiseMeter()
    meter.add(image, mask)
    found = meter.result()
    assert found is not None
    return found


@dataclass
class Model:
    """A trained network, by the name of a model or a run folder."""

    name: str

    def __post_init__(self) -> None:
        generator = load_generator(self.name, epoch="last")
        assert isinstance(generator.options, PairedOptions)
        self.trained = generator.options
        self.name = Path(self.name).name
        self.network = AnySize(generator, engine_of(generator, chainer.get_device("@numpy")))

    def __call__(self, image: np.ndarray, found: Noise, level: float | None = None) -> np.ndarray:
        """``image`` (H, W) in HU without ``level`` of the noise that is ``found`` in it, HU (standard deviation), or
        without all that is to be removed."""
        clip, change = Clip(*self.trained.clipA), Change()
        if self.trained.noise_level is not None:
            in_part = bool(self.trained.gen_residual)
            known = told(level or max(found.to_remove, 0.5), lambda: {"": found}, in_part)
            clip = for_noise(clip, self.trained.noise_level, known.level)
            change = Change(known.share, known.white_in(clip))
        unit = clip.to_unit(image[None, None])
        return image + clip.width / 2 * (change(unit, self.network(unit)) - unit)[0, 0]


def compare(work: Path, name: str, scenes: list[Scene], models: list[Model], kind: str) -> dict[str, dict[str, float]]:
    """Row -> figures, means over the slices, of one kind of noise; each row is kept in the work folder."""
    tuning, scenes = scenes[0], scenes[1:]
    images = [noisy(scene, kind, 0) for scene in scenes]
    body = [scene.truth > -300 for scene in scenes]
    sds = [
        float((image - scene.truth)[inside if inside.any() else ...].std())
        for image, scene, inside in zip(images, scenes, body, strict=True)
    ]
    jobs: dict[str, tuple[Callable, list[tuple]]] = {"doing nothing": (lambda image: image, [(one,) for one in images])}
    for row, one in classical(kind, tuning, images, scenes).items():
        jobs[row] = one, [(image,) for image in images]
    found = [noise_of(image, scene.mask) for image, scene in zip(images, scenes, strict=True)]
    for model in models:
        jobs[f"{model.name}, told"] = model, list(zip(images, found, sds, strict=True))
        jobs[model.name] = model, list(zip(images, found, strict=True))
    rows = {}
    for row, (one, inputs) in jobs.items():
        kept = work / f"{name}-{kind}-{row}.json".replace(" ", "_").replace("/", "_")
        if not kept.exists() or row.split(",")[0] in {model.name for model in models}:
            results = [one(*given) for given in inputs]
            each = [measured(result, scene) for result, scene in zip(results, scenes, strict=True)]
            keys = sorted({key for one in each for key in one})
            figures = {key: float(np.mean([one[key] for one in each if key in one])) for key in keys}
            figures["edge"], figures["true edge"] = edge_widths(results, scenes)
            kept.write_text(json.dumps(figures), encoding="utf-8")
        rows[row] = json.loads(kept.read_text(encoding="utf-8"))
        print(f"{name}, {kind}, {row}: {rows[row]['rmse']:.2f} HU", flush=True)
    return rows


def page(name: str, kind: str, rows: dict[str, dict[str, float]]) -> list[str]:
    """A table of one kind of noise."""
    lines = [f"### {name}, {kind}", "", "| | RMSE / HU | PSNR / dB | air | fat | muscle | bone | edge / mm |"]
    lines.append("|" + "---|" * 8)
    for row, found in rows.items():
        means = " | ".join(f"{found[tissue]:+.2f}" if tissue in found else "–" for tissue in TISSUES)
        lines.append(f"| {row} | {found['rmse']:.2f} | {found['psnr']:.2f} | {means} | {found['edge']:.2f} |")
    truth = next(iter(rows.values()))["true edge"]
    return [*lines, "", f"Edge of the truth: {truth:.2f} mm.", ""]


def seven_levels(name: str, scenes: list[Scene], models: list[Model]) -> list[str]:
    """A table of the RMSE at each level, of the first slice that is shown."""
    scene, lines = scenes[1], [f"### {name}, levels of noise", ""]
    lines.append("| noise | model | " + " | ".join(f"{level} HU" for level in LEVELS) + " |")
    lines.append("|" + "---|" * (len(LEVELS) + 2))
    for kind in ("white", "lower dose"):
        images = [at_level(scene, kind, level, 0) for level in LEVELS]
        found, rows = [noise_of(image, scene.mask) for image in images], {"doing nothing": images}
        for model in models:
            rows[f"{model.name}, told"] = [model(*one) for one in zip(images, found, LEVELS, strict=True)]
            rows[model.name] = [model(*one) for one in zip(images, found, strict=True)]
        for row, results in rows.items():
            errors = " | ".join(f"{measured(result, scene)['rmse']:.2f}" for result in results)
            lines.append(f"| {kind} | {row} | {errors} |")
    return [*lines, ""]


def draw(path: Path, scene: Scene, models: list[Model]) -> None:
    """Input, results and truth of a slice with the noise of a quarter of the dose, soft tissue window."""
    image = noisy(scene, NOISES[1], 0)
    found = noise_of(image, scene.mask)
    results = {model.name: model(image, found) for model in models}
    panels = {NOISES[1]: image, **results, "truth": scene.truth}
    figure = Figure(figsize=(4 * len(panels), 4.3), layout="constrained")
    for axes, (name, panel) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.imshow(panel, cmap="gray", vmin=-160, vmax=240)
        axes.set_title(name)
        axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("series", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--models", nargs="+", default=["ct-denoise", "ct-denoise-fast"])
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--noises", nargs="+", default=NOISES, choices=NOISES)
    parser.add_argument("--work", type=Path, default=Path("denoising"))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    models, lines = [Model(name) for name in options.models], []
    for given in options.series:
        name, _, folder = given.partition("=")
        scenes = scenes_of(Path(folder), options.slices)
        for kind in options.noises:
            lines += page(name, kind, compare(options.work, name, scenes, models, kind))
        lines += seven_levels(name, scenes, models)
        if options.write is not None and given == options.series[0]:
            picture = Path("pictures", f"denoising_{name}.png")
            draw(options.write.parent / picture, scenes[1], models)
            lines += [f"![{name}]({picture.as_posix()})", ""]
    text = "\n".join([*HEAD, *lines])
    print(text)
    if options.write is not None:
        write_text(options.write, text.rstrip() + "\n")


if __name__ == "__main__":
    main()
