"""Small DICOM files made for a test: valid ones, to be spoilt in one place."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SERIES = "1.2.826.0.1.3680043.8.498.7"


def make_ct(stored, **changes) -> FileDataset:
    """A CT data set with the stored values (H, W). changes: keyword=value; None removes the element."""
    stored = np.asarray(stored)
    instance = changes.get("InstanceNumber", 1)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"{SERIES}.{instance}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d = FileDataset(None, {}, preamble=b"\0" * 128, file_meta=meta)
    d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.Modality, d.Manufacturer, d.SeriesDescription = "CT", "maker", "test"
    d.StudyDate = d.SeriesDate = "20200102"
    d.StudyTime = d.SeriesTime = "101112"
    d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = "A^B", "P1", "", ""
    d.AccessionNumber = d.ReferringPhysicianName = d.PositionReferenceIndicator = ""
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = "1.2.3.4", SERIES, "1.2.3.5"
    d.StudyID, d.SeriesNumber, d.AcquisitionNumber, d.InstanceNumber = "1", 3, 1, instance
    d.SliceThickness, d.KVP = "2", "120"
    d.ImagePositionPatient = ["-10", "-20", str(2.0 * instance)]
    d.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    d.PixelSpacing = ["0.5", "0.75"]
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Rows, d.Columns = stored.shape[-2:]
    d.BitsAllocated, d.BitsStored, d.HighBit = 16, 16, 15
    d.PixelRepresentation = int(stored.dtype.kind == "i")
    d.WindowCenter, d.WindowWidth = "40", "400"
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = "-1024", "1", "HU"
    d.add_new("PixelData", "OW", stored.astype(stored.dtype.newbyteorder("<")).tobytes())
    for keyword, value in changes.items():
        if value is None:
            delattr(d, keyword)
        else:
            setattr(d, keyword, value)
    return d


@pytest.fixture
def ct():
    """``make_ct``."""
    return make_ct


@pytest.fixture
def ct_file(tmp_path):
    """write(name, stored, **changes) -> path of a CT file below tmp_path."""

    def write(name, stored, **changes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_ct(stored, **changes).save_as(path, enforce_file_format=True)
        return path

    return write
