"""Slices described by their headers, and their grouping into series: one acquisition, one geometry, sorted along the
normal.

Positions and normals are in the patient's coordinate system of DICOM (LPS, mm; PS3.3 C.7.6.2.1.1).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RE_VALID_UID

from medi2i.datasets.dicom_file import functional_group, items, numbers, syntax_uid, text, whole


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
        return np.cross(self.orientation[:3], self.orientation[3:])

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


# What tells images at one place apart, most telling first: (functional group, keyword).
TRAITS = (
    ("", "ImageType"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("", "AcquisitionNumber"),
    ("", "EchoTime"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("", "EchoNumbers"),
    ("", "TemporalPositionIdentifier"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("FrameContentSequence", "StackID"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("", "ConvolutionKernel"),
    ("", "TriggerTime"),
    ("", "ContrastBolusAgent"),
    ("", "AcquisitionTime"),
    ("", "SeriesTime"),
)


def describe(path: Path, dataset: Dataset, frame: int, frames: int) -> SliceRef:
    """The header of one frame as a SliceRef, without its pixels. Geometry that makes no sense is dropped, with a
    warning."""
    notes = []
    orientation = numbers(functional_group(dataset, frame, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    if orientation is not None:
        orientation = _unit_axes(orientation)
        if orientation is None:
            notes.append("ImageOrientationPatient is not two perpendicular unit vectors: ignored")
    position = numbers(functional_group(dataset, frame, "PlanePositionSequence"), "ImagePositionPatient", 3)
    if orientation is None or position is None:
        notes.append("no position in the patient: order and distance of slices are not known")
    measures = functional_group(dataset, frame, "PixelMeasuresSequence")
    spacing = numbers(measures, "PixelSpacing", 2)
    if spacing is None or min(spacing) <= 0:
        spacing = None
        notes.append("no PixelSpacing: size in mm is not known")
    thickness = numbers(measures, "SliceThickness", 1)
    notes.extend(_uid_notes(dataset))
    return SliceRef(
        path=path,
        frame=frame,
        frames=frames,
        series_uid=text(dataset, "SeriesInstanceUID"),
        study_uid=text(dataset, "StudyInstanceUID"),
        sop_uid=text(dataset, "SOPInstanceUID"),
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        patient=text(dataset, "PatientID"),
        modality=text(dataset, "Modality"),
        description=text(dataset, "SeriesDescription"),
        number=whole(dataset, "SeriesNumber"),
        instance=whole(dataset, "InstanceNumber"),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        spacing=spacing,
        thickness=thickness[0] if thickness else None,
        orientation=orientation,
        position=position,
        syntax=syntax_uid(dataset).name,
        warnings=tuple(notes),
        traits=tuple(
            text(functional_group(dataset, frame, group) if group else dataset, keyword) for group, keyword in TRAITS
        ),
    )


def _unit_axes(orientation: tuple[float, ...]) -> tuple[float, ...] | None:
    """The two directions with length exactly 1, or None unless they are unit vectors at a right angle within
    rounding."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if any(abs(length - 1) > 1e-2 for length in lengths) or abs(row @ column) > 1e-2:
        return None
    return tuple(float(v) for v in (*(row / lengths[0]), *(column / lengths[1])))


def _uid_notes(dataset: Dataset) -> list[str]:
    notes = []
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        uid = text(dataset, keyword)
        if not uid:
            notes.append(f"{keyword} is missing")
        elif not is_valid_uid(uid):
            notes.append(f"{keyword} is not a valid UID")
    if items(dataset, "PerFrameFunctionalGroupsSequence") == [] and (whole(dataset, "NumberOfFrames") or 1) > 1:
        notes.append("several frames without functional groups")
    return notes


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
    def slice_distance(self) -> float | None:
        heights = [s.height for s in self.slices]
        if None in heights or len(heights) < 2:
            return None
        return round(float(np.median(np.diff(heights))), 6)

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
            step = (np.array(last.position) - np.array(first.position)) / (len(self.slices) - 1)
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
