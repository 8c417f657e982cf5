"""Noise power and edge width of all rows, gathered over the slices of an evaluation."""
from dataclasses import dataclass, field

import numpy as np

from medi2i.common.evaluation import noise
from medi2i.common.evaluation.edges import EdgeMeter

TRUTH = "truth"
REGIONS_PER_SLICE = 4
STEP_CT = 200.0     # HU: smallest edge
STEP_SHARE = 0.1    # of the full range, for images that are no CT
ISOTROPIC = 0.01    # pixels are square up to this


@dataclass
class Physics:
    """Add every scene, then ask. `spacing` in mm (down, right), or None: then pixels are the unit.

    `window`: the full range; a CT (unit HU) has its own limits for what is uniform tissue and what an edge.
    """
    window: object
    unit: str
    spacing: tuple | None
    regions: list = field(default_factory=list)   # (deviation in the truth, {row: patch})
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
        limits = noise.TISSUE if self.unit == "HU" else (self.window.lower + 0.05 * self.window.range,
                                                         self.window.upper - 0.05 * self.window.range)
        largest = noise.UNIFORM_CT if self.unit == "HU" else noise.UNIFORM_SHARE * self.window.range
        found = noise.uniform_regions(0, scene.truth, *limits, largest, scene.mask)
        for region in found[:REGIONS_PER_SLICE]:
            self.regions.append((region.deviation, {name: region.of(image).copy() for name, image in images.items()}))
        self.edges.add(scene.truth, images, scene.mask)

    def result(self) -> dict:
        """row → noise (standard deviation in the regions), frequency (mean of the noise power's), nps (frequencies,
        values) and edge (10–90 % distance), edge_profile; what is not there is left out. And how many there were."""
        chosen = [patches for _, patches in sorted(self.regions, key=lambda one: one[0])[:noise.MOST]]
        rows = {}
        for name in chosen[0] if chosen else []:
            patches = [patch[name] for patch in chosen]
            frequency, power = noise.radial(noise.power_spectrum(patches, self._mm), self._mm)
            weights = power * frequency  # rings grow with their radius
            rows.setdefault(name, {}).update(
                noise=float(np.sqrt(np.mean([noise.detrend(patch).var() for patch in patches]))),
                frequency=float((weights * frequency).sum() / weights.sum()) if weights.sum() > 0 else float("nan"),
                nps=(frequency.tolist(), power.tolist()))
        pixel = self._square
        for name in self.edges.sums:
            rows.setdefault(name, {}).update(
                edge=self.edges.distance(name) * pixel,
                edge_profile=((self.edges.offsets * pixel).tolist(), self.edges.profile(name).tolist()))
        return {"regions": len(chosen), "edges": self.edges.count, "length": self.length,
                "edge_length": self.length if self._is_square else "pixel", "rows": rows}

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
    head = ["", f"noise{unit and ' / ' + unit}", f"mean frequency / {result['length']}⁻¹",
            f"edge 10–90 % / {result['edge_length']}"]
    return [head] + [[name, *("-" if one.get(key) is None or np.isnan(one[key]) else f"{one[key]:.{digits}f}"
                              for key, digits in (("noise", 2), ("frequency", 3), ("edge", 2)))]
                     for name, one in result["rows"].items()]


def description(result: dict) -> str:
    """Where the numbers come from, in words."""
    return (f"noise: standard deviation in {result['regions']} regions of {noise.SIDE}×{noise.SIDE} pixels where the "
            f"truth is most uniform; edge: mean of {result['edges']} clean steps of the truth")
