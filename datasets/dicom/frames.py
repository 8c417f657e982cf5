"""Headers of slices: each frame of a data set as a ``SliceRef``, with all that may tell it from its neighbours."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from medi2i.datasets.dicom.file import functional_group, items, numbers, sequence_item, syntax_uid, text, whole
from medi2i.datasets.dicom.series import SliceRef, is_valid_uid

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


class Frames:
    """Describes the frames of one data set: what is the same for all of them is looked up once."""

    def __init__(self, path: Path, dataset: Dataset, frames: int):
        self.path, self.dataset, self.frames = path, dataset, frames
        self._known: dict[tuple, object] = {}
        self._shared: dict[str, Dataset] = {}
        self._item: tuple[int, Dataset | None] = -1, None
        self._plain = frames == 1 or items(dataset, "PerFrameFunctionalGroupsSequence") == []
        self._one = self._describe(0) if self._plain else None

    def __getitem__(self, frame: int) -> SliceRef:
        """The header of one frame as a SliceRef, without its pixels. Geometry that makes no sense is dropped, with a
        warning."""
        return self._describe(frame) if self._one is None else replace(self._one, frame=frame)

    def _holder(self, frame: int, macro: str) -> tuple[Dataset, bool]:
        """The data set that holds the attributes of a macro for a frame, and whether other frames share it."""
        if not macro:
            return self.dataset, True
        if self._item[0] != frame:
            self._item = frame, sequence_item(self.dataset, "PerFrameFunctionalGroupsSequence", frame)
        item = self._item[1]
        if item is not None and tag_for_keyword(macro) in item.keys():  # noqa: SIM118 (iterating converts every value)
            found = sequence_item(item, macro, 0)
            if found is not None:
                return found, False
        if macro not in self._shared:
            self._shared[macro] = functional_group(self.dataset, -1, macro)
        return self._shared[macro], True

    def _value(self, read: Callable, frame: int, macro: str, *arguments) -> object:
        holder, shared = self._holder(frame, macro)
        if not shared:
            return read(holder, *arguments)
        key = (read, macro, *arguments)
        if key not in self._known:
            self._known[key] = read(holder, *arguments)
        return self._known[key]

    def _describe(self, frame: int) -> SliceRef:
        value, notes = self._value, []
        orientation = value(numbers, frame, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
        if orientation is not None:
            orientation = _unit_axes(orientation)
            if orientation is None:
                notes.append("ImageOrientationPatient is not two perpendicular unit vectors: ignored")
        position = value(numbers, frame, "PlanePositionSequence", "ImagePositionPatient", 3)
        if self.frames > 1 and self._plain:
            position = None  # what the header has is one of many
        if orientation is None or position is None:
            notes.append("no position in the patient: order and distance of slices are not known")
        spacing = value(numbers, frame, "PixelMeasuresSequence", "PixelSpacing", 2)
        if spacing is None or min(spacing) <= 0:
            spacing = None
            notes.append("no PixelSpacing: size in mm is not known")
        thickness = value(numbers, frame, "PixelMeasuresSequence", "SliceThickness", 1)
        notes.extend(value(_uid_notes, frame, ""))
        return SliceRef(
            path=self.path,
            frame=frame,
            frames=self.frames,
            series_uid=value(text, frame, "", "SeriesInstanceUID"),
            study_uid=value(text, frame, "", "StudyInstanceUID"),
            sop_uid=value(text, frame, "", "SOPInstanceUID"),
            frame_of_reference=value(text, frame, "", "FrameOfReferenceUID"),
            patient=value(text, frame, "", "PatientID"),
            modality=value(text, frame, "", "Modality"),
            description=value(text, frame, "", "SeriesDescription"),
            number=value(whole, frame, "", "SeriesNumber"),
            instance=value(whole, frame, "", "InstanceNumber"),
            shape=(int(self.dataset.Rows), int(self.dataset.Columns)),
            spacing=spacing,
            thickness=thickness[0] if thickness else None,
            orientation=orientation,
            position=position,
            syntax=value(_syntax_name, frame, ""),
            warnings=tuple(notes),
            traits=tuple(value(text, frame, macro, keyword) for macro, keyword in TRAITS),
        )


def describe(path: Path, dataset: Dataset, frame: int, frames: int) -> SliceRef:
    """One frame of a data set; see ``Frames`` for many."""
    return Frames(path, dataset, frames)[frame]


def _syntax_name(dataset: Dataset) -> str:
    return syntax_uid(dataset).name


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
