"""What headers say of slices: each frame of a file as a ``SliceRef``, and a ``Series`` of them in order.

Which slices are one series is decided in ``grouping``. Positions and normals are in the patient's coordinate system of
DICOM (LPS, mm; PS3.3 C.7.6.2.1.1).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from medi2i.datasets.dicom.header_checks import (
    functional_group,
    is_valid_uid,
    numbers,
    sequence_item,
    syntax_uid,
    text,
    whole,
)

_PER_FRAME = "PerFrameFunctionalGroupsSequence"
T = TypeVar("T")


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
        if normal is None or height is None:
            return None
        return height if normal[np.argmax(np.abs(normal))] > 0 else -height


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

    @property
    def uid(self) -> str:
        return self.slices[0].series_uid

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
        if heights is None:
            return None
        order = np.argsort(heights, kind="stable")
        places = np.empty(len(order), int)
        places[order] = _places(heights[order], min((self.spacing or (0.1,)) + (1.0,)) / 10)
        return places.tolist()

    def steps(self) -> np.ndarray | None:
        """Distances in mm from each place to the next; a slice that repeats a place makes none."""
        places, heights = self.places(), self.heights()
        if places is None or heights is None:
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
        normal, spacing = first.normal, first.spacing
        if first.position is None or first.orientation is None or normal is None or spacing is None:
            return None
        step = normal * (first.thickness or 1.0)
        if len(self.slices) > 1:
            step = (np.array(last.position) - np.array(first.position)) / max([1, *(self.places() or [])])
        rows, columns = np.reshape(first.orientation, (2, 3))
        matrix = np.eye(4)
        matrix[:3] = np.column_stack([rows * spacing[1], columns * spacing[0], step, first.position])
        return matrix


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


# What tells images at one place apart, most telling first: (functional group, keyword).
TRAITS = (
    ("", "ImageType"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("", "EchoTime"),
    ("", "EchoNumbers"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("CTReconstructionSequence", "ConvolutionKernel"),
    ("", "KVP"),
    ("", "InversionTime"),
    ("", "FlipAngle"),
    ("", "ContrastBolusAgent"),
    ("FrameContentSequence", "StackID"),
    ("", "TemporalPositionIdentifier"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("", "NominalPercentageOfCardiacPhase"),
    ("", "AcquisitionNumber"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
    ("MRDiffusionSequence", "DiffusionGradientOrientation"),
    ("", "SeriesDescription"),
    ("", "SeriesNumber"),
    ("", "TriggerTime"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("", "FrameReferenceTime"),
    ("", "AcquisitionTime"),
    ("FrameContentSequence", "FrameAcquisitionDateTime"),
    ("", "SeriesTime"),
    ("", "ContentTime"),
)
MEANING = frozenset(
    {"ImageType", "FrameType", "EffectiveEchoTime", "EchoTime", "DiffusionBValue", "ConvolutionKernel", "KVP"}
)
"""Traits of which another value is another kind of image, wherever it lies."""
MEASURED = frozenset({"EffectiveEchoTime", "EchoTime", "InversionTime", "FlipAngle", "KVP"})
"""Numbers that may differ by rounding."""
TIMES = ("TriggerTime", "FrameReferenceTime", "NominalCardiacTriggerDelayTime", "AcquisitionTime", "ContentTime")
"""Numbers that grow from one volume to the next, though each image may have its own."""


class FrameHeaders:
    """Describes the frames of one data set: what is the same for all of them is looked up once."""

    def __init__(self, path: Path, dataset: Dataset, frames: int) -> None:
        self.path, self.dataset, self.frames = path, dataset, frames
        shared = functools.cache(lambda macro: functional_group(dataset, -1, macro) if macro else dataset)
        self._shared = functools.cache(lambda read, macro, *arguments: read(shared(macro), *arguments))
        self._plain = frames == 1 or sequence_item(dataset, _PER_FRAME) is None
        self._one = self._describe(0) if self._plain else None

    def __getitem__(self, frame: int) -> SliceRef:
        """The header of one frame as a SliceRef, without its pixels. Geometry that makes no sense is dropped, with a
        warning."""
        return self._describe(frame) if self._one is None else replace(self._one, frame=frame)

    def _describe(self, frame: int) -> SliceRef:
        item, notes = sequence_item(self.dataset, _PER_FRAME, frame), []

        def value(read: Callable[..., T], macro: str, *arguments: object) -> T:
            """``read`` of the data set that holds the attributes of a macro: the frame's own, or one that all share."""
            if item is not None and macro and tag_for_keyword(macro) in item.keys():  # noqa: SIM118 (converts values)
                own = sequence_item(item, macro)
                if own is not None:
                    return read(own, *arguments)
            return self._shared(read, macro, *arguments)

        axes = value(numbers, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
        orientation = None if axes is None else _unit_axes(axes)
        if axes is not None and orientation is None:
            notes.append("ImageOrientationPatient is not two perpendicular unit vectors: ignored")
        position = value(numbers, "PlanePositionSequence", "ImagePositionPatient", 3)
        if self.frames > 1 and self._plain:
            position = None  # what the header has is one of many
        if orientation is None or position is None:
            notes.append("no position in the patient: order and distance of slices are not known")
        told = value(numbers, "PixelMeasuresSequence", "PixelSpacing", 2)
        spacing = None if told is None or min(told) <= 0 else (told[0], told[1])
        if spacing is None:
            notes.append("no PixelSpacing: size in mm is not known")
        thickness = value(numbers, "PixelMeasuresSequence", "SliceThickness", 1)
        notes.extend(value(_uid_notes, ""))
        return SliceRef(
            path=self.path,
            frame=frame,
            frames=self.frames,
            series_uid=value(text, "", "SeriesInstanceUID"),
            study_uid=value(text, "", "StudyInstanceUID"),
            sop_uid=value(text, "", "SOPInstanceUID"),
            frame_of_reference=value(text, "", "FrameOfReferenceUID"),
            patient=value(text, "", "PatientID"),
            modality=value(text, "", "Modality"),
            description=value(text, "", "SeriesDescription"),
            number=value(whole, "", "SeriesNumber"),
            instance=value(whole, "", "InstanceNumber"),
            shape=(int(self.dataset.Rows), int(self.dataset.Columns)),
            spacing=spacing,
            thickness=thickness[0] if thickness else None,
            orientation=orientation,
            position=position,
            syntax=value(syntax_uid, "").name,
            warnings=tuple(notes),
            traits=tuple(value(text, macro, keyword) for macro, keyword in TRAITS),
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
    if sequence_item(dataset, _PER_FRAME) is None and (whole(dataset, "NumberOfFrames") or 1) > 1:
        notes.append("several frames without functional groups")
    return notes
