#!/usr/bin/env python
"""Measure the noise models on a water cylinder, and draw them on the phantom: the figures of docs/noise.md.

python benchmarks/noise_models.py --out docs/pictures
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from medi2i.tools.making import noise
from medi2i.tools.making.noise import Dose, dose_noise, generator_for
from medi2i.tools.making.phantom import phantom

DOSES = (1.0, 0.5, 0.25, 0.125, 0.0625)
SPACING, RADIUS = 1.2, 100.0


def water_cylinder(size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Image in HU (H, W) of a cylinder of water in air, and the distance from its axis in mm."""
    place = (np.arange(size) - (size - 1) / 2) * SPACING
    distance = np.hypot(place[:, None], place[None, :])
    return (-1000 * (1 - np.clip(0.5 - (distance - RADIUS) / SPACING, 0, 1))).astype(np.float32), distance


def spectrum(noise_hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radial noise power spectrum (1/mm, HU² mm²) of realisations (N, H, W)."""
    n, height, width = noise_hu.shape
    power = (np.abs(np.fft.fft2(noise_hu)) ** 2).mean(axis=0) * SPACING**2 / (height * width)
    radius = np.hypot(np.fft.fftfreq(height, SPACING)[:, None], np.fft.fftfreq(width, SPACING)[None, :])
    edges = np.linspace(0, 0.5 / SPACING, 31)
    ring = np.digitize(radius.ravel(), edges)
    values = [power.ravel()[ring == i].mean() for i in range(1, len(edges))]
    return (edges[1:] + edges[:-1]) / 2, np.array(values)


def measure(count: int) -> dict:
    """Print mean and variance inside the cylinder for each dose; returns the spectra."""
    hu, distance = water_cylinder()
    inside, spectra = distance < 60, {}
    print(
        "| dose | mean, HU | standard deviation, HU | variance × dose | relative to full dose |\n|---|---|---|---|---|"
    )
    first = None
    for dose in DOSES:
        made = np.stack(
            [dose_noise(hu, SPACING, Dose(dose, 1e5, 0.0), generator_for(0, k, b"w")) for k in range(count)]
        )
        variance = made[:, inside].var()
        first = first or variance
        row = (f"{dose:g}", f"{made[:, inside].mean():+.3f}", f"{variance**0.5:.1f}", f"{variance * dose:.1f}")
        print(f"| {' | '.join(row)} | {variance * dose / first:.3f} |")
        spectra[f"dose {dose:g}"] = spectrum(made[:, 92:164, 92:164])
    white = np.stack([noise.gaussian(np.zeros((72, 72)), 30, generator_for(0, k, b"g")) for k in range(count)])
    spectra["gaussian 30 HU"] = spectrum(white)
    return spectra


def draw(out: Path, spectra: dict) -> None:
    """noise_models.png and noise_spectra.png."""
    made = phantom((256, 256), 3, seed=5, thickness=60)
    clean = made.hu[0]
    rng = generator_for(0, 0, b"docs")
    images = {
        "clean": clean,
        "poisson, n = 100 (released)": noise.poisson(clean + 1024, 100, rng, 0, 4095)[0] - 1024,
        "gaussian, 30 HU": noise.gaussian(clean, 30, rng),
        "dose 0.25 of 10⁵ photons": clean + dose_noise(clean, made.spacing[0], Dose(0.25), rng),
        "dose 0.05 of 10⁵ photons": clean + dose_noise(clean, made.spacing[0], Dose(0.05), rng),
    }
    figure, axes = plt.subplots(2, len(images), figsize=(3 * len(images), 5.2), layout="constrained")
    for (name, image), (above, below) in zip(images.items(), axes.T, strict=True):
        above.imshow(image[45:211, 20:236], cmap="gray", vmin=-160, vmax=240)
        above.set_title(name)
        below.imshow((image - clean)[45:211, 20:236], cmap="gray", vmin=-120, vmax=120)
        above.axis("off"), below.axis("off")
    axes[1, 0].set_title("difference, ±120 HU", fontsize=9)
    figure.savefig(out / "noise_models.png", dpi=70)
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, (frequency, power) in spectra.items():
        axis.plot(frequency, power, label=name, linestyle="--" if name.startswith("g") else "-")
    axis.set(xlabel="spatial frequency, 1/mm", ylabel="noise power, HU² mm²", yscale="log")
    axis.legend(fontsize=8)
    figure.savefig(out / "noise_spectra.png", dpi=80)


def draw_phantom(out: Path) -> None:
    """phantom.png: three slices in three windows."""
    made = phantom((256, 256), 16, seed=5)
    figure, axes = plt.subplots(3, 4, figsize=(10, 5.6), layout="constrained")
    for row, (name, low, high) in zip(
        axes, (("soft tissue", -160, 240), ("lung", -1250, 150), ("bone", -500, 1300)), strict=True
    ):
        for axis, index in zip(row, (1, 5, 9, 13), strict=True):
            axis.imshow(made.hu[index, 45:211, 5:251], cmap="gray", vmin=low, vmax=high)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{name}\n{low}…{high} HU", fontsize=9)
    figure.savefig(out / "phantom.png", dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--count", type=int, default=12, help="realisations of each dose")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    draw(args.out, measure(args.count))
    draw_phantom(args.out)


if __name__ == "__main__":
    main()
