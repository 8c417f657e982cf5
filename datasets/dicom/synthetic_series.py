"""A DICOM series made from an array and its geometry: for phantoms, and for volumes that come without DICOM headers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from medi2i.common.outputs import whole_file
from medi2i.common.version import VERSION
from medi2i.datasets.dicom.derived_header import STORAGE, as_file, put, uid_from
from medi2i.datasets.dicom.encoding import Encoded, Encoding, decimal, put_pixels

DATE = "20190101"
"""Of every series made here. Fixed, so that the same input makes the same files on any day."""


@dataclass
class NewSeries:
    """What the slices of a new series share.

    affine: 4×4, from (column, row, slice) to patient coordinates in mm (LPS), rows and columns at right angles.
    entropy: whatever decides the pixels; it decides the UIDs. image_type: values 1 to 3. extra: further keywords and
    values.
    """

    modality: str
    affine: np.ndarray
    encoding: Encoding
    entropy: tuple
    patient_id: str
    patient_name: str
    study_description: str
    description: str
    comment: str
    manufacturer_model: str
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "AXIAL")
    extra: dict = field(default_factory=dict)

    def write(self, path: Path, index: int, encoded: Encoded, force: bool) -> None:
        """``image`` as a file. UserError where it is there and ``force`` is not given."""
        with whole_file(path, force) as temporary:
            self.image(index, encoded).save_as(temporary, enforce_file_format=True)

    def image(self, index: int, encoded: Encoded) -> FileDataset:
        """Slice ``index`` (from 0) as a data set ready to be saved (PS3.3 A.3, A.4)."""
        header = put(
            Dataset(),
            SpecificCharacterSet="ISO_IR 192",
            SOPClassUID=STORAGE[self.modality],
            SOPInstanceUID=uid_from("instance", self.entropy, index),
            StudyInstanceUID=uid_from("study", self.entropy),
            SeriesInstanceUID=uid_from("series", self.entropy),
            FrameOfReferenceUID=uid_from("frame of reference", self.entropy),
            ImageType=list(self.image_type),
            **dict.fromkeys(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"), DATE),
            **dict.fromkeys(("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"), "120000"),
            Modality=self.modality,
            Manufacturer="medi2i",
            ManufacturerModelName=self.manufacturer_model,
            SoftwareVersions=VERSION,
            StudyDescription=self.study_description[:64],
            SeriesDescription=self.description[:64],
            PatientName=self.patient_name[:64],
            PatientID=self.patient_id[:64],
            **dict.fromkeys(("AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "PatientSex"), ""),
            ImageComments=self.comment,
            StudyID="1",
            SeriesNumber=1,
            AcquisitionNumber=1,
            InstanceNumber=index + 1,
            LossyImageCompression="00",
        )
        if self.modality == "CT":
            header.KVP = ""
        elif self.modality == "MR":  # RM: research mode; how it was acquired is not known
            put(header, ScanningSequence="RM", SequenceVariant="NONE", ScanOptions="", MRAcquisitionType="")
            put(header, RepetitionTime=None, EchoTime=None, EchoTrainLength=None)
        self._put_geometry(header, index)
        put_pixels(header, encoded, self.encoding)
        return as_file(put(header, **self.extra))

    def _put_geometry(self, header: Dataset, index: int) -> None:
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        axes = (self.affine[:3, :2] / spacing[:2]).T
        thickness = abs(float(np.cross(*axes) @ self.affine[:3, 2]))  # of slices that may be shifted, too
        if "BodyPartExamined" not in self.extra:  # it might be one of a pair (type 2C)
            header.Laterality = ""
        put(
            header,
            PatientPosition="HFS",
            SliceThickness=decimal(thickness),
            ImagePositionPatient=[decimal(v) for v in self.affine[:3, 3] + index * self.affine[:3, 2]],
            ImageOrientationPatient=[decimal(v) for v in axes.ravel()],
            PositionReferenceIndicator="",
            PixelSpacing=[decimal(spacing[1]), decimal(spacing[0])],
        )
