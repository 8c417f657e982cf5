"""One DICOM reader for everything: folders -> series, files -> HU; and what writes derived and new series."""

from medi2i.datasets.dicom.header_checks import VOLUME_MODALITIES, Unreadable
from medi2i.datasets.dicom.reading import DicomImage, iter_frames, read, read_volume
from medi2i.datasets.dicom.scanning import Scan, Skipped, scan
from medi2i.datasets.dicom.series import Series, SliceRef

__all__ = [
    "VOLUME_MODALITIES",
    "DicomImage",
    "Scan",
    "Series",
    "Skipped",
    "SliceRef",
    "Unreadable",
    "iter_frames",
    "read",
    "read_volume",
    "scan",
]
