"""A slice as plain values, and a series of them: one acquisition, one geometry, sorted along the normal.

Positions and normals are in the patient's coordinate system of DICOM (LPS, mm; PS3.3 C.7.6.2.1.1).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.uid import RE_VALID_UID


@dataclass(frozen=True)
class SliceRef:
    """One frame of one file: where it is, what it belongs to and how it lies. Plain values only, so it crosses
    processes."""

    path: Path
    frame: int = 0
    frames: int = 1
    series_uid: str = ""
    study_uid: str = ""
    sop_uid: str = ""
    frame_of_reference: str = ""
    patient: str = ""
    modality: str = ""
    description: str = ""
    number: int | None = None
    instance: int | None = None
    shape: tuple[int, int] = (0, 0)
    spacing: tuple[float, float] | None = None
    thickness: float | None = None
    orientation: tuple[float, ...] | None = None
    position: tuple[float, ...] | None = None
    syntax: str = ""
    traits: tuple[str, ...] = ()
    hu_range: tuple[float, float] | None = None
    padded: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def normal(self) -> np.ndarray | None:
        """Unit vector across the slice: row direction × column direction."""
        if self.orientation is None:
            return None
        a, b, c, d, e, f = self.orientation
        return np.array([b * f - c * e, c * d - a * f, a * e - b * d])

    @property
    def height(self) -> float | None:
        """Position along the normal in mm; None without a geometry."""
        if self.position is None or self.normal is None:
            return None
        return float(np.dot(self.normal, self.position))

    @property
    def body_height(self) -> float | None:
        """Position in mm along the axis of the body closest to the normal, whatever way the rows run: for axial slices
        it grows towards the head, as patient z does. None without a geometry."""
        normal, height = self.normal, self.height
        if height is None or normal[np.argmax(np.abs(normal))] > 0:
            return height
        return -height


def is_valid_uid(uid: str) -> bool:
    return len(uid) <= 64 and re.match(RE_VALID_UID, uid) is not None


@dataclass
class Series:
    """Slices of one acquisition with one size, spacing and orientation, in order along the normal (row × column
    direction).

    ``uid`` is the SeriesInstanceUID as found (it may be empty, and two Series share it when one series holds two
    geometries). ``spacing`` is (between rows, between columns) in mm, ``slice_distance`` the median distance of
    neighbours in mm; None where the files do not say. ``shape`` is (H, W).
    """

    slices: list[SliceRef]
    warnings: list[str] = field(default_factory=list)
    load_volume: Callable[["Series", bool], tuple[np.ndarray, np.ndarray | None]] | None = field(
        default=None, repr=False
    )

    @property
    def uid(self) -> str:
        return self.slices[0].series_uid

    @property
    def study_uid(self) -> str:
        return self.slices[0].study_uid

    @property
    def modality(self) -> str:
        return self.slices[0].modality

    @property
    def description(self) -> str:
        return self.slices[0].description

    @property
    def number(self) -> int | None:
        return self.slices[0].number

    @property
    def patient(self) -> str:
        return self.slices[0].patient

    @property
    def shape(self) -> tuple[int, int]:
        return self.slices[0].shape

    @property
    def spacing(self) -> tuple[float, float] | None:
        return self.slices[0].spacing

    @property
    def orientation(self) -> tuple[float, ...] | None:
        return self.slices[0].orientation

    @property
    def normal(self) -> np.ndarray | None:
        """Unit vector across the slices, the mean of theirs; None without a geometry."""
        if any(s.orientation is None or s.position is None for s in self.slices):
            return None
        if len(self.slices) == 1:
            return self.slices[0].normal
        axes = np.array([s.orientation for s in self.slices])
        normal = np.cross(axes[:, :3], axes[:, 3:]).mean(0)
        return normal / np.linalg.norm(normal)

    def heights(self) -> np.ndarray | None:
        """Positions (N,) of the slices along their common normal in mm; None without a geometry."""
        normal = self.normal
        return None if normal is None else np.array([s.position for s in self.slices]) @ normal

    def places(self) -> list[int] | None:
        """A number for each slice, from 0 at the low end of the normal: slices at one place have the same."""
        heights = self.heights()
        if heights is None or len(heights) == 1:
            return None if heights is None else [0]
        order = np.argsort(heights, kind="stable")
        places = np.empty(len(order), int)
        places[order] = _places(heights[order], min((self.spacing or (0.1,)) + (1.0,)) / 10)
        return places.tolist()

    def steps(self) -> np.ndarray | None:
        """Distances in mm from each place to the next; a slice that repeats a place makes none."""
        places, heights = self.places(), self.heights()
        if places is None:
            return None
        _, first = np.unique(places, return_index=True)
        return np.diff(heights[first])

    @property
    def slice_distance(self) -> float | None:
        steps = self.steps() if len(self.slices) > 1 else None
        return None if steps is None or not len(steps) else round(float(np.median(np.abs(steps))), 6)

    @property
    def hu_range(self) -> tuple[float, float] | None:
        ranges = [s.hu_range for s in self.slices if s.hu_range is not None]
        return (min(r[0] for r in ranges), max(r[1] for r in ranges)) if ranges else None

    @property
    def syntaxes(self) -> list[str]:
        return sorted({s.syntax for s in self.slices})

    @property
    def paths(self) -> list[Path]:
        """The files, each once, in the order of the slices."""
        return list(dict.fromkeys(s.path for s in self.slices))

    def affine(self) -> np.ndarray | None:
        """4×4 matrix from voxel indices (column, row, slice) to patient coordinates in mm (LPS); None without a
        geometry."""
        first, last = self.slices[0], self.slices[-1]
        if first.position is None or first.orientation is None or first.spacing is None:
            return None
        step = first.normal * (first.thickness or 1.0)
        if len(self.slices) > 1:
            step = (np.array(last.position) - np.array(first.position)) / max(1, max(self.places()))
        matrix = np.eye(4)
        matrix[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
        matrix[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
        matrix[:3, 2] = step
        matrix[:3, 3] = first.position
        return matrix

    def volume(self) -> np.ndarray:
        """All slices as float32 (D, H, W) in HU (CT) or the modality's units, slice 0 at the low end of the normal.

        Padding reads as air (-1024 HU) in CT, as the lowest value of the tissue elsewhere. Raises Unreadable.
        """
        return self.volume_and_mask()[0]

    def volume_and_mask(self) -> tuple[np.ndarray, np.ndarray | None]:
        """``volume()`` and a bool array of the same shape that is True on padding; None where there is none."""
        if self.load_volume is None:
            raise ValueError("this Series was made without a reader; use medi2i.datasets.dicom.scan")
        return self.load_volume(self, True)


def _places(heights: np.ndarray, tolerance: float) -> np.ndarray:
    """Numbers of the places of ascending heights. What differs by rounding is one place, as far as that does not join
    slices that lie closely one beside the other."""
    if len(heights) > 1:  # many slices in a short range are close, not equal
        tolerance = min(tolerance, max(1e-3, (heights[-1] - heights[0]) / (len(heights) - 1) / 2))
    for closer in (*(tolerance / 10**n for n in range(5)), 0.0):
        cuts = np.diff(heights) > closer
        places = np.concatenate([[0], np.cumsum(cuts)])
        starts = np.flatnonzero(np.concatenate([[True], cuts]))
        extent = heights[np.append(starts[1:] - 1, len(heights) - 1)] - heights[starts]
        if extent.max() <= closer:
            break
    return places
