"""A DICOM series made from an array and its geometry: for phantoms, and for volumes that come without DICOM headers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medi2i.common.version import VERSION
from medi2i.datasets.dicom.derived_header import STORAGE, uid_from
from medi2i.datasets.dicom.derived_series import IMPLEMENTATION_UID
from medi2i.datasets.dicom.encoding import Encoding, decimal

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
    number: int = 1
    extra: dict = field(default_factory=dict)

    def image(self, index: int, stored: np.ndarray, padding_value: int | None = None) -> FileDataset:
        """Slice ``index`` (from 0) with the stored integers (H, W) as a data set ready to be saved (PS3.3 A.3, A.4)."""
        storage = STORAGE[self.modality]
        instance = uid_from("instance", self.entropy, index)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, instance
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = IMPLEMENTATION_UID
        meta.ImplementationVersionName = f"MEDI2I_{VERSION}"[:16]
        d = FileDataset(None, {}, preamble=b"\0" * 128, file_meta=meta)
        d.SpecificCharacterSet = "ISO_IR 192"
        d.SOPClassUID, d.SOPInstanceUID = storage, instance
        d.ImageType = list(self.image_type)
        d.StudyDate = d.SeriesDate = d.AcquisitionDate = d.ContentDate = DATE
        d.StudyTime = d.SeriesTime = d.AcquisitionTime = d.ContentTime = "120000"
        d.AccessionNumber = d.ReferringPhysicianName = ""
        d.Modality, d.Manufacturer, d.ManufacturerModelName = self.modality, "medi2i", self.manufacturer_model
        d.SoftwareVersions = VERSION
        d.StudyDescription, d.SeriesDescription = self.study_description[:64], self.description[:64]
        d.PatientName, d.PatientID = self.patient_name[:64], self.patient_id[:64]
        d.PatientBirthDate = d.PatientSex = ""
        d.ImageComments = self.comment
        d.StudyInstanceUID, d.SeriesInstanceUID = uid_from("study", self.entropy), uid_from("series", self.entropy)
        d.FrameOfReferenceUID = uid_from("frame of reference", self.entropy)
        d.StudyID, d.SeriesNumber, d.AcquisitionNumber, d.InstanceNumber = "1", self.number, 1, index + 1
        self._put_geometry(d, index)
        if self.modality == "CT":
            d.KVP = ""
        elif self.modality == "MR":  # RM: research mode; how it was acquired is not known
            d.ScanningSequence, d.SequenceVariant, d.ScanOptions, d.MRAcquisitionType = "RM", "NONE", "", ""
            d.RepetitionTime = d.EchoTime = d.EchoTrainLength = None
        self._put_pixels(d, stored, padding_value)
        for keyword, value in self.extra.items():
            setattr(d, keyword, value)
        return d

    def _put_geometry(self, d: FileDataset, index: int) -> None:
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        position = self.affine[:3, 3] + index * self.affine[:3, 2]
        d.PatientPosition = "HFS"
        if "BodyPartExamined" not in self.extra:  # it might be one of a pair (type 2C)
            d.Laterality = ""
        across = np.cross(*(self.affine[:3, :2] / spacing[:2]).T)
        d.SliceThickness = decimal(abs(float(across @ self.affine[:3, 2])))  # of slices that may be shifted, too
        d.ImagePositionPatient = [decimal(v) for v in position]
        d.ImageOrientationPatient = [decimal(v) for v in (self.affine[:3, :2] / spacing[:2]).T.ravel()]
        d.PositionReferenceIndicator = ""
        d.PixelSpacing = [decimal(spacing[1]), decimal(spacing[0])]

    def _put_pixels(self, d: FileDataset, stored: np.ndarray, padding_value: int | None) -> None:
        e = self.encoding
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.Rows, d.Columns = stored.shape
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, e.bits, e.bits - 1, int(e.signed)
        if self.modality == "CT" or (e.slope, e.intercept) != (1, 0):
            d.RescaleIntercept, d.RescaleSlope = decimal(e.intercept), decimal(e.slope)
            d.RescaleType = "HU" if self.modality == "CT" else "US"
        if padding_value is not None:
            d.add_new("PixelPaddingValue", "SS" if e.signed else "US", padding_value)
        d.LossyImageCompression = "00"
        d.add_new("PixelData", "OW", stored.astype("<i2" if e.signed else "<u2").tobytes())
