"""Noise power and edge width of all rows, gathered over the slices of an evaluation.

Noise is measured in regions where the truth is uniform (ICRU Report 87, section 5), edges at the truth's clean steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter, uniform_filter
from skimage.feature import canny

from medi2i.datasets.noise_level import detrend
from medi2i.tools.evaluation.metrics import Window

TRUTH = "truth"

SIDE = 32  # pixels of a region
MOST = 64  # regions
TISSUE = (-200.0, 300.0)  # HU: neither air, which is clipped, nor bone, which is textured
UNIFORM_CT = 25.0  # HU: largest standard deviation of a region in the truth
UNIFORM_SHARE = 0.02  # of the full range, for images that are no CT
REGIONS_PER_SLICE = 4

REACH = 6.0  # pixels to each side of an edge
PER_PIXEL = 8  # samples
OFFSETS = np.arange(-REACH, REACH + 0.5 / PER_PIXEL, 1 / PER_PIXEL)  # of samples in pixels, the lower side first
PLATEAU = 3.5  # pixels from the edge on, both sides must be flat
FLAT = 0.08  # of the step: largest standard deviation of a plateau
EDGES_PER_SLICE = 400
STEP_CT = 200.0  # HU: smallest edge
STEP_SHARE = 0.1  # of the full range, for images that are no CT
ISOTROPIC = 0.01  # pixels are square up to this


def uniform_regions(
    truth: np.ndarray, lower: float, upper: float, largest_deviation: float, mask: np.ndarray | None = None
) -> list[tuple[float, int, int]]:
    """Squares of SIDE pixels in one truth (H, W), not overlapping, the most uniform first: (standard deviation around a
    plane, first row, first column). Mean in [lower, upper], deviation at most `largest_deviation`, no masked pixel."""
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
        row, column = int(row) * SIDE // 4, int(column) * SIDE // 4
        found.append((float(detrend(truth[row : row + SIDE, column : column + SIDE]).std()), row, column))
    chosen: list[tuple[float, int, int]] = []
    for deviation, row, column in sorted(found):
        if deviation > largest_deviation:
            break
        if all(abs(row - other) >= SIDE or abs(column - beside) >= SIDE for _, other, beside in chosen):
            chosen.append((deviation, row, column))
    return chosen


def power_spectrum(patches: Sequence[np.ndarray], spacing: tuple[float, float]) -> np.ndarray:
    """Two-dimensional noise power spectrum (N, N) of `patches` (K, N, N), as numpy.fft orders frequencies.

    NPS = dx·dy / N² · mean |DFT(patch - plane)|², in value²·mm²; its integral over the frequencies is the variance.
    """
    power = np.mean(np.abs(np.fft.fft2(np.stack([detrend(patch) for patch in patches]))) ** 2, axis=0)
    return power * spacing[0] * spacing[1] / power.size


def radial(spectrum: np.ndarray, spacing: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a spectrum over rings: frequencies in 1/mm (centres of the rings, up to Nyquist) and values."""
    down = np.fft.fftfreq(spectrum.shape[0], spacing[0])[:, None]
    right = np.fft.fftfreq(spectrum.shape[1], spacing[1])[None, :]
    frequency = np.hypot(down, right)
    width = 1 / (spectrum.shape[0] * max(spacing))
    rings = np.rint(frequency / width).astype(int)
    numbers = np.arange(1, int(0.5 / max(spacing) / width) + 1)  # ring 0 was taken off with the plane
    return numbers * width, np.array([spectrum[rings == number].mean() for number in numbers])


def _box_mean(image: np.ndarray) -> np.ndarray:
    """Mean of the SIDE × SIDE pixels that begin at each pixel, where they fit."""
    means = uniform_filter(image, SIDE, mode="nearest")
    first = SIDE // 2
    return means[first : first + image.shape[0] - SIDE + 1, first : first + image.shape[1] - SIDE + 1]


@dataclass
class EdgeMeter:
    """Collects profiles across the clean steps of the truth, at the same places in every image.

    `least_step`: in the image's unit. Steps that are not flat on both sides (thin layers, texture) are left out.
    """

    least_step: float
    count: int = 0
    sums: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, truth: np.ndarray, images: dict[str, np.ndarray], mask: np.ndarray | None = None) -> None:
        """Add the edges of one truth (H, W); `images`: name → (H, W)."""
        truth = np.asarray(truth, dtype=np.float64)
        points, normals = _edge_points(truth, self.least_step, np.random.default_rng([0, self.count]), mask)
        if not len(points):
            return
        profiles = _sample(truth, points, normals)
        low, high, clean = _steps(profiles, self.least_step)
        middle = np.full(len(points), np.nan)
        middle[clean] = _crossings(profiles[clean], (low + high)[clean] / 2)
        keep = np.abs(middle) < 1
        if not keep.any():
            return
        points, normals, low, high = (points + normals * middle[:, None])[keep], normals[keep], low[keep], high[keep]
        self.count += len(points)
        for name, image in images.items():
            shape = (_sample(image, points, normals) - low[:, None]) / (high - low)[:, None]
            self.sums[name] = self.sums.get(name, 0) + shape.sum(axis=0)

    def profile(self, name: str) -> np.ndarray:
        """Mean edge of the image `name`: 0 and 1 are the truth's levels. There must be an edge (count > 0)."""
        return self.sums[name] / self.count

    def distance(self, name: str) -> float:
        """10–90 % distance in pixels of the mean edge, between its own levels; nan where there is no edge."""
        if self.count == 0:
            return float("nan")
        return rise(OFFSETS, self.profile(name))


def rise(offsets: np.ndarray, profile: np.ndarray) -> float:
    """10–90 % distance of a rising profile, outward from its half height; nan where it does not rise."""
    low, high = profile[offsets < -PLATEAU].mean(), profile[offsets > PLATEAU].mean()
    if not high > low:
        return float("nan")
    level = (profile - low) / (high - low)
    centre = int(np.argmin(np.abs(level - 0.5) + (np.abs(offsets) > PLATEAU)))
    below = np.nonzero(level[: centre + 1] <= 0.1)[0]
    above = np.nonzero(level[centre:] >= 0.9)[0]
    if not len(below) or not len(above):
        return float("nan")
    left, right = below[-1], centre + above[0]
    start = np.interp(0.1, level[left : left + 2], offsets[left : left + 2])
    end = np.interp(0.9, level[right - 1 : right + 1], offsets[right - 1 : right + 1])
    return float(end - start)


def _edge_points(
    truth: np.ndarray, least_step: float, generator: np.random.Generator, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (K, 2) on edges, away from the border, and the directions (K, 2) in which the image rises."""
    smooth = gaussian_filter(truth, 1.0)
    gradient = np.stack(np.gradient(smooth), axis=-1)
    strength = np.linalg.norm(gradient, axis=-1)
    edges = canny(truth, sigma=1.0, low_threshold=least_step / 20, high_threshold=least_step / 10, mask=mask)
    edges &= strength > 0
    margin = int(REACH) + 2
    edges[:margin] = edges[-margin:] = edges[:, :margin] = edges[:, -margin:] = False
    points = np.argwhere(edges)
    if len(points) > EDGES_PER_SLICE:
        points = points[np.sort(generator.choice(len(points), EDGES_PER_SLICE, replace=False))]
    normals = gradient[tuple(points.T)] / strength[tuple(points.T)][:, None]
    return points.astype(np.float64), normals


def _sample(image: np.ndarray, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Cubic spline values (K, len(OFFSETS)) of an image along the normals."""
    places = points[:, None, :] + normals[:, None, :] * OFFSETS[None, :, None]
    coefficients = spline_filter(np.asarray(image, dtype=np.float64))
    return map_coordinates(coefficients, np.moveaxis(places, -1, 0), order=3, prefilter=False, mode="nearest")


def _steps(profiles: np.ndarray, least_step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels below and above, and whether each profile is a clean step."""
    left, right = profiles[:, OFFSETS < -PLATEAU], profiles[:, OFFSETS > PLATEAU]
    low, high = left.mean(axis=1), right.mean(axis=1)
    step = high - low
    keep = (step >= least_step) & (left.std(axis=1) <= FLAT * step) & (right.std(axis=1) <= FLAT * step)
    return low, high, keep


def _crossings(profiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Where each rising profile passes its level, next to the middle; nan where it does not."""
    result = np.full(len(profiles), np.nan)
    for number, (profile, level) in enumerate(zip(profiles, levels, strict=True)):
        signs = np.nonzero((profile[:-1] < level) & (profile[1:] >= level))[0]
        if len(signs):
            place = signs[np.argmin(np.abs(OFFSETS[signs]))]
            result[number] = np.interp(level, profile[place : place + 2], OFFSETS[place : place + 2])
    return result


class Physics:
    """Add every scene, then ask. `spacing` in mm (down, right), or None: then pixels are the unit.

    `window`: the full range; a CT (unit HU) has its own limits for what is uniform tissue and what an edge.
    """

    def __init__(self, window: Window, unit: str, spacing: tuple[float, float] | None) -> None:
        self.length = "pixel" if spacing is None else "mm"
        self._spacing = spacing or (1.0, 1.0)
        if unit == "HU":
            self._limits, least_step = (*TISSUE, UNIFORM_CT), STEP_CT
        else:
            margin = 0.05 * window.range
            self._limits = window.lower + margin, window.upper - margin, UNIFORM_SHARE * window.range
            least_step = STEP_SHARE * window.range
        self._edges = EdgeMeter(least_step)
        self._regions: list[tuple[float, dict[str, np.ndarray]]] = []  # deviation in the truth, row → patch

    def add(self, truth: np.ndarray, images: dict[str, np.ndarray], mask: np.ndarray | None) -> None:
        """Gather from the images of all rows of one slice; colour has neither."""
        if truth.ndim != 2:
            return
        images = {**images, TRUTH: truth}
        for deviation, row, column in uniform_regions(truth, *self._limits, mask)[:REGIONS_PER_SLICE]:
            box = np.s_[row : row + SIDE, column : column + SIDE]
            self._regions.append((deviation, {name: image[box].copy() for name, image in images.items()}))
        self._edges.add(truth, images, mask)

    def result(self) -> dict:
        """row → noise (standard deviation in the regions), frequency (mean of the noise power's), nps (frequencies,
        values) and edge (10–90 % distance), edge_profile; what is not there is left out. And how many there were."""
        chosen = [patches for _, patches in sorted(self._regions, key=lambda one: one[0])[:MOST]]
        rows: dict[str, dict] = {}
        for name in chosen[0] if chosen else []:
            patches = [patch[name] for patch in chosen]
            frequency, power = radial(power_spectrum(patches, self._spacing), self._spacing)
            weights = power * frequency  # rings grow with their radius
            rows[name] = {
                "noise": float(np.sqrt(np.mean([detrend(patch).var() for patch in patches]))),
                "frequency": float((weights * frequency).sum() / weights.sum()) if weights.sum() > 0 else float("nan"),
                "nps": (frequency.tolist(), power.tolist()),
            }
        square = abs(self._spacing[0] / self._spacing[1] - 1) <= ISOTROPIC
        pixel = self._spacing[0] if square else 1.0
        for name in self._edges.sums:
            rows.setdefault(name, {}).update(
                edge=self._edges.distance(name) * pixel,
                edge_profile=((OFFSETS * pixel).tolist(), self._edges.profile(name).tolist()),
            )
        return {
            "regions": len(chosen),
            "edges": self._edges.count,
            "length": self.length,
            "edge_length": self.length if square else "pixel",
            "rows": rows,
        }
