#!/usr/bin/env python
"""How well the noise of CT series is estimated: noise of known size is added, white and as of a lower dose.

python benchmarks/noise_estimate.py DICOM_FOLDER ...
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from medi2i.datasets import dicom
from medi2i.datasets.catalogue import list_series
from medi2i.datasets.noise_level import SMOOTHING, TISSUE, NoiseMeter
from medi2i.tools.making.noise import Dose, dose_noise, generator_for

LEVELS = (3.0, 5.0, 8.0, 12.0, 20.0, 35.0, 60.0)
"""HU, of the noise that is added: its standard deviation in all soft tissue of a slice."""
KINDS = ("white", "dose")


def level_of(slices: list[np.ndarray]) -> float:
    """HU, as estimated from slices (H, W)."""
    meter = NoiseMeter()
    for hu in slices:
        meter.add(hu)
    found = meter.result()
    return float("nan") if found is None else found.level


def unit_noise(hu: np.ndarray, spacing: float, kind: str, seed: int) -> np.ndarray:
    """Noise (H, W) whose standard deviation in soft tissue is 1."""
    rng = generator_for(seed, 0, kind)
    made = rng.standard_normal(hu.shape) if kind == "white" else dose_noise(hu, spacing, Dose(0.25), rng)
    smooth = gaussian_filter(hu, SMOOTHING)
    return made / made[(smooth > TISSUE[0]) & (smooth < TISSUE[1])].std()


def lines(folder: Path, slices: int) -> Iterator[str]:
    """A line of the table for each series and kind of noise: estimate divided by the truth."""
    for volume in list_series(folder, ("CT",)).volumes:
        series = volume.series
        if series is None or series.spacing is None:
            continue
        count = len(series.slices)
        chosen = np.unique(np.linspace(0.15 * count, 0.85 * (count - 1), min(slices, count)).round().astype(int))
        images = [dicom.read(series.slices[i].path, series.slices[i].frame).hu for i in chosen]
        own = level_of(images)
        for kind in KINDS:
            noise = [unit_noise(hu, series.spacing[0], kind, int(i)) for hu, i in zip(images, chosen, strict=True)]
            ratios = [
                level_of([hu + level * one for hu, one in zip(images, noise, strict=True)]) / np.hypot(own, level)
                for level in LEVELS
            ]
            name = f"{folder.name} {series.description}".strip()
            yield f"| {name} | {own:.1f} | {kind} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--slices", type=int, default=6, help="of each series")
    args = parser.parse_args()
    print(f"| series | own noise, HU | added | {' | '.join(f'{level:g} HU' for level in LEVELS)} |")
    print("|---" * (len(LEVELS) + 3) + "|")
    for folder in args.folders:
        for line in lines(folder, args.slices):
            print(line, flush=True)


if __name__ == "__main__":
    main()
