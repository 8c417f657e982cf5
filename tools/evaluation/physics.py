"""Noise power and edge width of all rows, gathered over the slices of an evaluation."""

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter
from skimage.feature import canny

from medi2i.tools.evaluation import noise

REACH = 6.0  # pixels to each side of an edge
PER_PIXEL = 8  # samples
PLATEAU = 3.5  # pixels from the edge on, both sides must be flat
FLAT = 0.08  # of the step: largest standard deviation of a plateau
EDGES_PER_SLICE = 400


@dataclass
class EdgeMeter:
    """Collects profiles across the clean steps of the truth, at the same places in every image.

    `least_step`: in the image's unit. Steps that are not flat on both sides (thin layers, texture) are left out.
    """

    least_step: float
    seed: int = 0
    count: int = 0
    sums: dict = field(default_factory=dict)

    @property
    def offsets(self) -> np.ndarray:
        """Places of the samples in pixels from the edge, the lower side first."""
        return np.arange(-REACH, REACH + 0.5 / PER_PIXEL, 1 / PER_PIXEL)

    def add(self, truth, images: dict, mask=None):
        """Add the edges of one truth (H, W); `images`: name → (H, W)."""
        truth = np.asarray(truth, dtype=np.float64)
        points, normals = _edge_points(truth, self.least_step, np.random.default_rng([self.seed, self.count]), mask)
        if not len(points):
            return
        splines = {name: spline_filter(np.asarray(image, dtype=np.float64)) for name, image in images.items()}
        spline = spline_filter(truth)
        offsets = self.offsets
        profiles = _sample(spline, points, normals, offsets)
        low, high, keep = _steps(profiles, offsets, self.least_step)
        points, normals = points[keep], normals[keep]
        middle = _crossings(profiles[keep], offsets, (low + high)[keep] / 2)
        keep_middle = np.abs(middle) < 1
        points = (points + normals * np.nan_to_num(middle)[:, None])[keep_middle]
        normals = normals[keep_middle]
        low, high = low[keep][keep_middle], high[keep][keep_middle]
        if not len(points):
            return
        self.count += len(points)
        for name, coefficients in splines.items():
            shape = (_sample(coefficients, points, normals, offsets) - low[:, None]) / (high - low)[:, None]
            self.sums[name] = self.sums.get(name, 0) + shape.sum(axis=0)

    def profile(self, name: str) -> np.ndarray:
        """Mean edge of the image `name`: 0 and 1 are the truth's levels. There must be an edge (count > 0)."""
        return self.sums[name] / self.count

    def distance(self, name: str) -> float:
        """10–90 % distance in pixels of the mean edge, between its own levels; nan where there is no edge."""
        if self.count == 0:
            return float("nan")
        return rise(self.offsets, self.profile(name))


def rise(offsets, profile) -> float:
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


def _edge_points(truth, least_step, generator, mask):
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


def _sample(coefficients, points, normals, offsets):
    """Cubic spline values (K, len(offsets)) along the normals."""
    places = points[:, None, :] + normals[:, None, :] * offsets[None, :, None]
    return map_coordinates(coefficients, np.moveaxis(places, -1, 0), order=3, prefilter=False, mode="nearest")


def _steps(profiles, offsets, least_step):
    """Levels below and above, and whether each profile is a clean step."""
    left, right = profiles[:, offsets < -PLATEAU], profiles[:, offsets > PLATEAU]
    low, high = left.mean(axis=1), right.mean(axis=1)
    step = high - low
    keep = (step >= least_step) & (left.std(axis=1) <= FLAT * step) & (right.std(axis=1) <= FLAT * step)
    return low, high, keep


def _crossings(profiles, offsets, levels):
    """Where each rising profile passes its level, next to the middle; nan where it does not."""
    result = np.full(len(profiles), np.nan)
    for number, (profile, level) in enumerate(zip(profiles, levels, strict=True)):
        signs = np.nonzero((profile[:-1] < level) & (profile[1:] >= level))[0]
        if len(signs):
            place = signs[np.argmin(np.abs(offsets[signs]))]
            result[number] = np.interp(level, profile[place : place + 2], offsets[place : place + 2])
    return result


TRUTH = "truth"
REGIONS_PER_SLICE = 4
STEP_CT = 200.0  # HU: smallest edge
STEP_SHARE = 0.1  # of the full range, for images that are no CT
ISOTROPIC = 0.01  # pixels are square up to this


@dataclass
class Physics:
    """Add every scene, then ask. `spacing` in mm (down, right), or None: then pixels are the unit.

    `window`: the full range; a CT (unit HU) has its own limits for what is uniform tissue and what an edge.
    """

    window: object
    unit: str
    spacing: tuple | None
    regions: list = field(default_factory=list)  # (deviation in the truth, {row: patch})
    edges: EdgeMeter = None

    def __post_init__(self):
        self.edges = EdgeMeter(STEP_CT if self.unit == "HU" else STEP_SHARE * self.window.range)

    @property
    def length(self) -> str:
        """mm, or pixel."""
        return "pixel" if self.spacing is None else "mm"

    def add(self, scene):
        """Gather from one slice; colour images have neither."""
        if scene.truth.ndim != 2:
            return
        images = {**scene.images, TRUTH: scene.truth}
        limits = (
            noise.TISSUE
            if self.unit == "HU"
            else (self.window.lower + 0.05 * self.window.range, self.window.upper - 0.05 * self.window.range)
        )
        largest = noise.UNIFORM_CT if self.unit == "HU" else noise.UNIFORM_SHARE * self.window.range
        found = noise.uniform_regions(0, scene.truth, *limits, largest, scene.mask)
        for region in found[:REGIONS_PER_SLICE]:
            self.regions.append((region.deviation, {name: region.of(image).copy() for name, image in images.items()}))
        self.edges.add(scene.truth, images, scene.mask)

    def result(self) -> dict:
        """row → noise (standard deviation in the regions), frequency (mean of the noise power's), nps (frequencies,
        values) and edge (10–90 % distance), edge_profile; what is not there is left out. And how many there were."""
        chosen = [patches for _, patches in sorted(self.regions, key=lambda one: one[0])[: noise.MOST]]
        rows = {}
        for name in chosen[0] if chosen else []:
            patches = [patch[name] for patch in chosen]
            frequency, power = noise.radial(noise.power_spectrum(patches, self._mm), self._mm)
            weights = power * frequency  # rings grow with their radius
            rows.setdefault(name, {}).update(
                noise=float(np.sqrt(np.mean([noise.detrend(patch).var() for patch in patches]))),
                frequency=float((weights * frequency).sum() / weights.sum()) if weights.sum() > 0 else float("nan"),
                nps=(frequency.tolist(), power.tolist()),
            )
        pixel = self._square
        for name in self.edges.sums:
            rows.setdefault(name, {}).update(
                edge=self.edges.distance(name) * pixel,
                edge_profile=((self.edges.offsets * pixel).tolist(), self.edges.profile(name).tolist()),
            )
        return {
            "regions": len(chosen),
            "edges": self.edges.count,
            "length": self.length,
            "edge_length": self.length if self._is_square else "pixel",
            "rows": rows,
        }

    @property
    def _mm(self):
        return self.spacing or (1.0, 1.0)

    @property
    def _is_square(self):
        return abs(self._mm[0] / self._mm[1] - 1) <= ISOTROPIC

    @property
    def _square(self):
        return self._mm[0] if self._is_square else 1.0


def table_lines(result: dict, unit: str) -> list[list[str]]:
    """The head and a line each row; empty where there are neither uniform regions nor edges."""
    if not result["rows"]:
        return []
    head = [
        "",
        f"noise{unit and ' / ' + unit}",
        f"mean frequency / {result['length']}⁻¹",
        f"edge 10–90 % / {result['edge_length']}",
    ]
    return [head] + [
        [
            name,
            *(
                "-" if one.get(key) is None or np.isnan(one[key]) else f"{one[key]:.{digits}f}"
                for key, digits in (("noise", 2), ("frequency", 3), ("edge", 2))
            ),
        ]
        for name, one in result["rows"].items()
    ]


def description(result: dict) -> str:
    """Where the numbers come from, in words."""
    return (
        f"noise: standard deviation in {result['regions']} regions of {noise.SIDE}×{noise.SIDE} pixels where the "
        f"truth is most uniform; edge: mean of {result['edges']} clean steps of the truth"
    )
