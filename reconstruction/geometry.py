"""Which rays a scan measured: parallel or fan beam, any angles, lengths in mm.

A ray is given by the angle θ of its normal and its distance t from the axis, x·cos θ + y·sin θ = t, with x along the
columns of the image and y down its rows, both from its centre. Kak and Slaney, Principles of Computerized Tomographic
Imaging, chapter 3: a ray of source angle β and fan angle γ has θ = β + γ and t = D·sin γ (section 3.4).
"""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from medi2i.common.bounded_files import read_json
from medi2i.common.errors import UserError
from medi2i.common.outputs import write_text

PARALLEL, ARC, FLAT = "parallel", "arc", "flat"
BEAMS = (PARALLEL, ARC, FLAT)
RIGHT = (
    "JSON with shape [rows, columns], spacing [mm, mm], angles [degrees, ...], bins and bin_width (mm) would be right, "
    "and where they differ beam, source_distance, detector_shift (mm) and mu_water (1/mm)"
)
MU_WATER = 0.0193
"""Attenuation of water in 1/mm at 70 keV, the effective energy of a 120 kV scan (NIST XCOM)."""


@dataclass(frozen=True)
class Geometry:
    """Image, rays and how they become a sinogram (views, bins).

    shape: rows and columns of the image. spacing: mm from row to row and from column to column. angles: of the views,
    degrees (of the source's normal ray, for a fan). bins: of the detector. bin_width: mm; for a fan as it appears at
    the axis. beam: "parallel", "arc" (equiangular fan) or "flat" (fan onto a straight detector). source_distance: mm
    from source to axis, for fans. detector_shift: mm by which the detector's middle lies off the central ray, at the
    axis. mu_water: 1/mm, for HU.

    Raises UserError for what cannot be: numbers that are not finite, a source within the image's circle.
    """

    shape: tuple[int, int]
    spacing: tuple[float, float]
    angles: tuple[float, ...]
    bins: int
    bin_width: float
    beam: str = PARALLEL
    source_distance: float = 0.0
    detector_shift: float = 0.0
    mu_water: float = MU_WATER

    def __post_init__(self) -> None:
        if self.beam not in BEAMS:
            raise UserError(f"beam {self.beam!r}: one of {', '.join(BEAMS)} would be right")
        sizes = dict(rows=self.shape[0], columns=self.shape[1], bins=self.bins, views=len(self.angles))
        for name, size in sizes.items():
            if not 1 <= size <= 16384:
                raise UserError(f"{name} {size}: from 1 to 16384 would be right")
        lengths = dict(spacing=self.spacing, bin_width=(self.bin_width,), mu_water=(self.mu_water,))
        for name, values in lengths.items():
            if not all(math.isfinite(value) and value > 0 for value in values):
                raise UserError(f"{name} {' '.join(map(str, values))}: numbers above 0 would be right")
        if not all(math.isfinite(value) for value in (*self.angles, self.detector_shift, self.source_distance)):
            raise UserError("angles, detector_shift and source_distance have to be finite numbers")
        if self.beam != PARALLEL and self.source_distance <= self.radius:
            raise UserError(
                f"source_distance {self.source_distance:g} mm: the source would lie within the image, whose corners "
                f"are {self.radius:.4g} mm from the axis; more than that would be right"
            )

    @property
    def radius(self) -> float:
        """mm from the axis to a corner of the image."""
        return math.hypot(*(size * space / 2 for size, space in zip(self.shape, self.spacing, strict=True)))

    @property
    def sinogram_shape(self) -> tuple[int, int]:
        """(views, bins)."""
        return len(self.angles), self.bins

    def detector(self) -> np.ndarray:
        """mm at the axis (bins,), of the middle of each bin."""
        return (np.arange(self.bins) - (self.bins - 1) / 2) * self.bin_width + self.detector_shift

    def fan_angles(self) -> np.ndarray:
        """γ (bins,) in radians from the ray through the axis; 0 for parallel beams."""
        if self.beam == PARALLEL:
            return np.zeros(self.bins)
        across = self.detector() / self.source_distance
        return across if self.beam == ARC else np.arctan(across)

    def rays(self, view: int) -> tuple[np.ndarray, np.ndarray]:
        """θ in radians and t in mm, (bins,) each, of one view."""
        beta = math.radians(self.angles[view])
        if self.beam == PARALLEL:
            return np.full(self.bins, beta), self.detector()
        gamma = self.fan_angles()
        return beta + gamma, self.source_distance * np.sin(gamma)

    def to_hu(self, attenuation: np.ndarray) -> np.ndarray:
        """1/mm -> HU, of the same shape."""
        return (attenuation / self.mu_water - 1) * 1000

    def to_attenuation(self, hu: np.ndarray) -> np.ndarray:
        """HU -> 1/mm, of the same shape; below air there is nothing."""
        return np.maximum(1 + hu / 1000, 0) * self.mu_water


def regular(
    shape: tuple[int, int],
    spacing: tuple[float, float],
    views: int,
    *,
    beam: str = PARALLEL,
    source_distance: float = 0.0,
    first: float = 0.0,
    turn: float | None = None,
    bins: int | None = None,
    bin_width: float | None = None,
    mu_water: float = MU_WATER,
) -> Geometry:
    """Views evenly over ``turn`` degrees (default: half a turn for parallel beams, a whole one for fans).

    bins, bin_width: default: bins as wide as a pixel, as many as see the whole image from every side.
    """
    turn = (180.0 if beam == PARALLEL else 360.0) if turn is None else turn
    angles = tuple(first + turn * view / views for view in range(views))
    width = bin_width or min(spacing)
    reach = math.hypot(*(size * space / 2 for size, space in zip(shape, spacing, strict=True)))
    if beam != PARALLEL and source_distance > reach:
        gamma = math.asin(reach / source_distance)
        reach = source_distance * (gamma if beam == ARC else math.tan(gamma))
    bins = bins or 2 * math.ceil(reach / width) + 1
    return Geometry(shape, spacing, angles, bins, width, beam, source_distance, mu_water=mu_water)


def save(path: Path, geometry: Geometry) -> None:
    """The JSON file beside a sinogram."""
    write_text(path, json.dumps(asdict(geometry), indent=1) + "\n")


def load(path: Path) -> Geometry:
    """Read what ``save`` wrote. Raises UserError, one line that names the file and what is wrong."""
    values = read_json(path, RIGHT)
    names = {field.name for field in fields(Geometry)}
    if not isinstance(values, dict) or not {"shape", "spacing", "angles", "bins", "bin_width"} <= set(values) <= names:
        raise UserError(f"{path}: is no geometry of a scan; {RIGHT}")
    try:
        tuples = {name: tuple(values[name]) for name in ("shape", "spacing", "angles")}
        whole = (*tuples["shape"], values["bins"])
        if [len(tuples["shape"]), len(tuples["spacing"])] != [2, 2] or any(type(size) is not int for size in whole):
            raise TypeError
        return Geometry(**values | tuples)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except TypeError:
        raise UserError(f"{path}: a value is not of its kind; {RIGHT}") from None
