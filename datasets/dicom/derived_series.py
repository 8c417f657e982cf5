"""Writing a derived DICOM image: HU -> a file that says what it is, from what it was made, and holds what was meant.

A DerivedSeries is made once per source series and writes its slices. Every file is written whole or not at all, read
back, and compared, before it gets its name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medi2i.common.errors import UserError
from medi2i.common.version import VERSION
from medi2i.datasets.dicom import derived_header
from medi2i.datasets.dicom.encoding import Encoded, Encoding, decimal, encode_beside, encoding_of, reads_as
from medi2i.datasets.dicom.header_checks import VOLUME_MODALITIES, is_valid_uid, text, whole
from medi2i.datasets.dicom.reading import DicomImage, read
from medi2i.datasets.outputs import check_target, whole_file

IMPLEMENTATION_UID = derived_header.uid_from("medi2i", "implementation")


@dataclass(frozen=True)
class WriteReport:
    """What was written: ``clipped`` pixels left the range of the file, ``padded`` pixels are not tissue, and the steps
    of the file changed ``rounded`` pixels by ``largest`` at most."""

    path: Path
    sop_uid: str
    clipped_low: int
    clipped_high: int
    padded: int
    range: tuple[float, float]
    rounded: int = 0
    largest: float = 0.0

    @property
    def clipped(self) -> int:
        return self.clipped_low + self.clipped_high


class DerivedSeries:
    """The series that a model (or a simulation) makes of a source series.

    source: header of any slice of it (DicomImage.header). model_name, model_sha256: the file that did it and its hash.
    description: SeriesDescription, and what was done. options: whatever else decides the pixels; it enters the UIDs,
    so that the same source, model and options always give the same UIDs and different ones never. modality: of the
    result (default: the source's). value_range: lowest and highest value expected (the model's clip); it decides the
    stored type.
    encoding: how values are stored, where neither the source's way nor the safe one fits. contrast: what the values are
    where they are no plain image, a fourth value of ImageType as in PS3.3 C.8.16.1.4 (STD_DEVIATION); the source's
    window is then left out.
    Its dates are the source's: reruns, and processes that share the work, write identical files.
    """

    def __init__(
        self,
        source: Dataset,
        *,
        model_name: str,
        model_sha256: str = "",
        description: str,
        options: Mapping[str, object] | str = "",
        modality: str | None = None,
        series_number: int | None = None,
        value_range: tuple[float, float] | None = None,
        encoding: Encoding | None = None,
        contrast: str | None = None,
    ):
        self.modality = modality or text(source, "Modality")
        if self.modality not in derived_header.STORAGE:
            raise ValueError(f"modality {self.modality!r}; one of {', '.join(derived_header.STORAGE)} can be written")
        self.description = description
        self.value_range = value_range
        self.encoding = encoding
        self.contrast = contrast
        self._entropy = (
            model_name,
            model_sha256,
            description,
            dict(options) if isinstance(options, Mapping) else options,
            self.modality,
        )
        series = text(source, "SeriesInstanceUID")
        anchor = (
            series
            if is_valid_uid(series)
            else (
                series,
                text(source, "StudyInstanceUID"),
                text(source, "SeriesNumber"),
                text(source, "SeriesDescription"),
                text(source, "SOPInstanceUID"),
            )
        )
        self.uid = derived_header.uid_from("series", anchor, self._entropy)
        # The source's number and four digits of the UID: another model, another number; the same one, the same.
        number = abs(whole(source, "SeriesNumber") or 0) * 10000 + int(self.uid.rsplit(".", 1)[1]) % 9999 + 1
        self.number = series_number if series_number is not None else number % 2**31
        model = f"{model_name} (sha256 {model_sha256})" if model_sha256 else model_name
        self.derivation = f"medi2i {VERSION}: {description}; by {model}; {derived_header.NOT_ACQUIRED}"

    def write(
        self,
        out_path: Path | str,
        source: DicomImage | Path | str,
        hu: np.ndarray,
        *,
        mask: np.ndarray | None = None,
        frame: int = 0,
        sources: Iterable[DicomImage | Path | str] = (),
        spacing: tuple[float, float] | None = None,
        position: tuple[float, float, float] | None = None,
        force: bool = False,
        verify: bool = True,
    ) -> WriteReport:
        """Write one slice.

        source: the image whose place this slice takes (``frame`` of it, if given as a path); it gives header and
        geometry.
        hu: (H, W) in HU for CT, in the modality's units else. mask: True on padding. sources: all images that went
        in, if more than ``source`` (a stack). spacing: (row, column) mm and position: mm, where the grid differs from
        the source's.
        verify: read the file back and compare before it gets its name.
        Raises UserError: existing file without ``force``, output over an input, NaN, a damaged patient; ValueError:
        shapes that do not fit.
        """
        out_path = Path(out_path)
        image = source if isinstance(source, DicomImage) else read(source, frame)
        inputs = [image, *(s if isinstance(s, DicomImage) else read(s, modalities=VOLUME_MODALITIES) for s in sources)]
        check_target(out_path, [i.path for i in inputs], force)
        hu = np.asarray(hu)
        if hu.ndim != 2 or (hu.shape != image.hu.shape and spacing is None):
            raise ValueError(
                f"image of shape {hu.shape} for a source of {image.hu.shape}; another grid needs its spacing"
            )
        encoding = self.encoding_for(image, hu, mask)
        try:
            encoded = encode_beside(image, self.modality, hu, encoding, mask)
        except ValueError as error:
            raise UserError(f"{image.path}: {error}; nothing was written") from error
        try:
            dataset = self._dataset(image, inputs, encoded, encoding, spacing, position)
        except derived_header.IdentityLost as error:
            raise UserError(f"{image.path}: {error}; nothing was written") from error
        with whole_file(out_path, force) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
            del dataset.PixelData  # is large, and ``encoded`` holds it, too
            if verify:
                _verify(temporary, dataset.SOPInstanceUID, encoded, encoding, mask, self.modality)
        e = encoded
        return WriteReport(
            out_path,
            dataset.SOPInstanceUID,
            e.clipped_low,
            e.clipped_high,
            e.padded,
            encoding.range,
            e.rounded,
            e.largest,
        )

    def encoding_for(self, image: DicomImage, hu: np.ndarray | None = None, mask: np.ndarray | None = None) -> Encoding:
        """How the values ``hu`` (default: the source's) are stored: as in the source where that holds them and
        ``value_range``, else as ``derived_pixels.choose_encoding`` says."""
        if self.encoding is not None:
            return self.encoding
        return encoding_of(image, self.modality, self.value_range, image.hu if hu is None else hu, mask)

    def _dataset(
        self,
        image: DicomImage,
        inputs: list[DicomImage],
        encoded: Encoded,
        encoding: Encoding,
        spacing: tuple[float, float] | None,
        position: tuple[float, float, float] | None,
    ) -> FileDataset:
        header = derived_header.kept_of(image.header, image.frame, self.modality)
        derived_header.complete(header, self.modality, image.header, image.frame)
        header.SOPClassUID = derived_header.STORAGE[self.modality]
        header.SOPInstanceUID = self.uid_of(image, inputs)
        header.SeriesInstanceUID = self.uid
        header.SeriesNumber = self.number
        header.SeriesDescription = _ascii(self.description, 64)
        header.Modality = self.modality
        contrast = [self.contrast] if self.contrast else []
        header.ImageType = derived_header.image_type(image.header, self.modality) + contrast
        header.DerivationDescription = _ascii(self.derivation, 1024)
        sources = derived_header.source_images(
            (
                text(i.header, "SOPClassUID"),
                text(i.header, "SOPInstanceUID"),
                i.frame + 1 if i.where.frames > 1 else None,
            )
            for i in _unique(inputs)
        )
        if sources:
            header.SourceImageSequence = sources
        for item in sources if spacing is not None or position is not None else []:
            item.SpatialLocationsPreserved = "NO"  # of pixels: the grid is another, though it is true to the patient
        equipment = derived_header.equipment(header, _ascii(self.derivation, 1024))
        header.ContributingEquipmentSequence = equipment
        lossy = next((i for i in inputs if i.lossy), None)
        derived_header.mark_lossy(
            header, (lossy or image).header, lossy is not None, None if lossy is None else lossy.compression_ratio
        )
        if self.contrast or not derived_header.has_window_in_units(header):
            for keyword in ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"):
                header.pop(keyword, None)
        if image.where.frames > 1:
            header.InstanceNumber = image.frame + 1
        if spacing is not None:
            header.PixelSpacing = [decimal(v) for v in spacing]
        if position is not None:
            header.ImagePositionPatient = [decimal(v) for v in position]
        self._put_pixels(header, encoded, encoding, image)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = IMPLEMENTATION_UID
        meta.ImplementationVersionName = f"MEDI2I_{VERSION}"[:16]
        dataset = FileDataset(None, header, preamble=b"\0" * 128, file_meta=meta)
        dataset.set_original_encoding(False, True, header.original_character_set)
        return dataset

    def _put_pixels(self, header: Dataset, encoded: Encoded, encoding: Encoding, image: DicomImage) -> None:
        header.Rows, header.Columns = encoded.stored.shape
        header.SamplesPerPixel = 1
        header.PhotometricInterpretation = "MONOCHROME2"
        if image.modality == self.modality and text(image.header, "PhotometricInterpretation") == "MONOCHROME1":
            header.PhotometricInterpretation = "MONOCHROME1"
        header.BitsAllocated, header.BitsStored, header.HighBit = encoding.allocated, encoding.bits, encoding.bits - 1
        header.PixelRepresentation = int(encoding.signed)
        plain = encoding.slope == 1 and encoding.intercept == 0
        if self.modality == "CT" or not plain or "RescaleSlope" in header:
            header.RescaleSlope, header.RescaleIntercept = decimal(encoding.slope), decimal(encoding.intercept)
            kind = text(header, "RescaleType")
            header.RescaleType = (
                kind if kind and image.modality == self.modality else "HU" if self.modality == "CT" else "US"
            )
        for keyword, value in (
            ("PixelPaddingValue", encoded.padding_value),
            ("PixelPaddingRangeLimit", encoded.padding_limit),
        ):
            if value is not None:
                header.add_new(keyword, "SS" if encoding.signed else "US", value)
        header.add_new("PixelData", "OW", encoded.stored.tobytes())

    def uid_of(self, image: DicomImage, inputs: Iterable[DicomImage] = ()) -> str:
        """SOPInstanceUID: decided by the sources and the model. Broken sources share UIDs, so place and pixels count
        too."""
        return derived_header.uid_from(
            "instance",
            self._entropy,
            [
                (
                    text(i.header, "SOPInstanceUID"),
                    text(i.header, "SeriesInstanceUID"),
                    i.frame,
                    i.where.instance,
                    i.where.position,
                    sha256(np.ascontiguousarray(i.stored)).hexdigest(),
                )
                for i in _unique([image, *inputs])
            ],
        )


def _unique(images: Iterable[DicomImage]) -> list[DicomImage]:
    return list({(i.path, i.frame): i for i in images}.values())


def _verify(
    path: Path, sop_uid: str, encoded: Encoded, encoding: Encoding, mask: np.ndarray | None, modality: str
) -> None:
    found = read(path, modalities=(modality,))
    padding = None if encoded.padding_value is None else mask
    same = reads_as(found.hu, found.mask, encoded, encoding, padding)
    if not same or text(found.header, "SOPInstanceUID") != sop_uid:
        raise UserError(f"{path}: reads back differently from what was written (a failing disk?)")


def _ascii(value: str, length: int) -> str:
    """Text that every character set of a file can hold, with the end cut off where it is too long for its VR."""
    value = value.replace("\\", "/").encode("ascii", "replace").decode()
    return value if len(value) <= length else value[: length - 3] + "..."
