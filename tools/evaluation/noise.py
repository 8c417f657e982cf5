"""Noise power spectrum in regions where the truth is uniform (ICRU Report 87, section 5)."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

SIDE = 32  # pixels of a region
MOST = 64  # regions
TISSUE = (-200.0, 300.0)  # HU: neither air, which is clipped, nor bone, which is textured
UNIFORM_CT = 25.0  # HU: largest standard deviation of a region in the truth
UNIFORM_SHARE = 0.02  # of the full range, for images that are no CT


@dataclass(frozen=True)
class Region:
    """A square of SIDE pixels of the slice with the number `index`, from (row, column) on."""

    index: int
    row: int
    column: int
    deviation: float

    def of(self, image):
        """The pixels of the region in an image (H, W)."""
        return image[self.row : self.row + SIDE, self.column : self.column + SIDE]


def uniform_regions(index: int, truth, lower: float, upper: float, largest_deviation: float, mask=None) -> list[Region]:
    """Regions of one truth (H, W), not overlapping, the most uniform first: mean in [lower, upper], standard deviation
    around a plane at most `largest_deviation`, no masked pixel."""
    truth = np.asarray(truth, dtype=np.float64)
    if min(truth.shape) < SIDE:
        return []
    mean = _box_mean(truth)
    variance = _box_mean((truth - truth.mean()) ** 2) - _box_mean(truth - truth.mean()) ** 2
    good = (mean >= lower) & (mean <= upper) & (variance <= (2 * largest_deviation) ** 2)  # a plane may be steep
    if mask is not None:
        good &= _box_mean(mask.astype(np.float64)) > 1 - 0.5 / SIDE**2
    found = []
    for row, column in zip(*np.nonzero(good[:: SIDE // 4, :: SIDE // 4]), strict=True):
        region = Region(index, int(row) * SIDE // 4, int(column) * SIDE // 4, 0.0)
        deviation = float(detrend(region.of(truth)).std())
        if deviation <= largest_deviation:
            found.append(Region(index, region.row, region.column, deviation))
    chosen = []
    for region in sorted(found, key=lambda one: one.deviation):
        if all(abs(region.row - other.row) >= SIDE or abs(region.column - other.column) >= SIDE for other in chosen):
            chosen.append(region)
    return chosen


def detrend(patch) -> np.ndarray:
    """The patch (H, W) minus the plane that fits it best: shading is not noise."""
    patch = np.asarray(patch, dtype=np.float64)
    rows, columns = (axis - axis.mean() for axis in np.indices(patch.shape, dtype=np.float64))
    plane = rows * (rows * patch).sum() / (rows**2).sum() + columns * (columns * patch).sum() / (columns**2).sum()
    return patch - patch.mean() - plane


def power_spectrum(patches, spacing=(1.0, 1.0)) -> np.ndarray:
    """Two-dimensional noise power spectrum (N, N) of `patches` (K, N, N), as numpy.fft orders frequencies.

    NPS = dx·dy / N² · mean |DFT(patch - plane)|², in value²·mm²; its integral over the frequencies is the variance.
    """
    patches = np.stack([detrend(patch) for patch in patches])
    power = np.mean(np.abs(np.fft.fft2(patches)) ** 2, axis=0)
    return power * spacing[0] * spacing[1] / patches[0].size


def radial(spectrum, spacing=(1.0, 1.0)) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a spectrum over rings: frequencies in 1/mm (centres of the rings, up to Nyquist) and values."""
    down = np.fft.fftfreq(spectrum.shape[0], spacing[0])[:, None]
    right = np.fft.fftfreq(spectrum.shape[1], spacing[1])[None, :]
    frequency = np.hypot(down, right)
    width = 1 / (spectrum.shape[0] * max(spacing))
    rings = np.rint(frequency / width).astype(int)
    numbers = np.arange(1, int(0.5 / max(spacing) / width) + 1)  # ring 0 was taken off with the plane
    return numbers * width, np.array([spectrum[rings == number].mean() for number in numbers])


def _box_mean(image):
    """Mean of the SIDE × SIDE pixels that begin at each pixel, where they fit."""
    means = uniform_filter(image, SIDE, mode="nearest")
    first = SIDE // 2
    return means[first : first + image.shape[0] - SIDE + 1, first : first + image.shape[1] - SIDE + 1]
