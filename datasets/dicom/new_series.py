"""DICOM series that are written: derived of a series, or made of an array alone.

A derived image is HU in a file that says what it is, from what it was made, and holds what was meant. A DerivedSeries
is made once per source series and writes its slices. Every file is written whole or not at all, and compared with what
was meant before it gets its name. A NewSeries is for phantoms, for images of nobody, and for volumes that come without
DICOM headers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from medi2i.common import VERSION
from medi2i.common.errors import UserError
from medi2i.common.outputs import check_target, whole_file
from medi2i.datasets.dicom import derived_header
from medi2i.datasets.dicom.encoding import (
    ROUNDING,
    SAFE_CT,
    Changes,
    Encoded,
    Encoding,
    NotWritable,
    Padding,
    choose_encoding,
    decimal,
    encode,
    put_pixels,
    reads_as,
)
from medi2i.datasets.dicom.header_checks import SECONDARY_CAPTURE, is_lossy, is_valid_uid, text, whole
from medi2i.datasets.dicom.pixels import padding_range
from medi2i.datasets.dicom.reading import DicomImage, read


@dataclass(frozen=True)
class WriteReport(Changes):
    """What was written: what the file changed, and the ``range`` of values that it can hold."""

    path: Path
    sop_uid: str
    range: tuple[float, float]


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
        value_range: tuple[float, float] | None = None,
        encoding: Encoding | None = None,
        contrast: str | None = None,
    ) -> None:
        self.modality = modality or text(source, "Modality")
        if self.modality not in derived_header.STORAGE:
            raise ValueError(f"modality {self.modality!r}; one of {', '.join(derived_header.STORAGE)} can be written")
        self.description = description
        self.value_range = value_range
        self.encoding = encoding
        self.contrast = contrast
        self._known: derived_header.Known = {}
        self._checked: set[tuple] = set()
        self._entropy = (
            model_name,
            model_sha256,
            description,
            dict(options) if isinstance(options, Mapping) else options,
            self.modality,
        )
        series = text(source, "SeriesInstanceUID")
        others = ("StudyInstanceUID", "SeriesNumber", "SeriesDescription", "SOPInstanceUID")
        anchor = series if is_valid_uid(series) else (series, *(text(source, keyword) for keyword in others))
        self.uid = derived_header.uid_from("series", anchor, self._entropy)
        # The source's number and four digits of the UID: another model, another number; the same one, the same.
        number = abs(whole(source, "SeriesNumber") or 0) * 10000 + int(self.uid.rsplit(".", 1)[1]) % 9999 + 1
        self.number = number % 2**31
        model = f"{model_name} (sha256 {model_sha256})" if model_sha256 else model_name
        self.derivation = f"medi2i {VERSION}: {description}; by {model}; {derived_header.NOT_ACQUIRED}"

    def write(
        self,
        out_path: Path | str,
        image: DicomImage,
        hu: np.ndarray,
        *,
        mask: np.ndarray | None = None,
        sources: Iterable[DicomImage] = (),
        spacing: tuple[float, float] | None = None,
        position: tuple[float, float, float] | None = None,
        force: bool = False,
    ) -> WriteReport:
        """Write one slice.

        image: whose place this slice takes; it gives header and geometry. hu: (H, W) in HU for CT, in the modality's
        units else. mask: True on padding. sources: all images that went in, if more than ``image`` (a stack). spacing:
        (row, column) mm and position: mm, where the grid differs from the image's.
        Raises UserError: existing file without ``force``, output over an input, NaN, a damaged patient; ValueError:
        shapes that do not fit.
        """
        out_path, hu = Path(out_path), np.asarray(hu)
        inputs = list({(one.path, one.frame): one for one in (image, *sources)}.values())
        check_target(out_path, [one.path for one in inputs], force)
        if hu.ndim != 2 or (hu.shape != image.hu.shape and spacing is None):
            raise ValueError(
                f"image of shape {hu.shape} for a source of {image.hu.shape}; another grid needs its spacing"
            )
        encoding = self.encoding or _encoding_for(image, self.modality, self.value_range, hu, mask)
        try:
            encoded = _encode_beside(image, self.modality, hu, encoding, mask)
            header = self._header(image, inputs, spacing, position)
        except NotWritable as error:
            raise UserError(f"{image.path}: {error}; nothing was written") from error
        put_pixels(header, encoded, encoding)
        dataset = derived_header.as_file(header)
        file = BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        content = file.getvalue()
        del dataset.PixelData  # is large, and ``encoded`` holds it, too
        with whole_file(out_path, force) as temporary:
            temporary.write_bytes(content)
            same = temporary.read_bytes() == content
            kind = hu.shape, encoding, encoded.padding_value, encoded.padding_limit
            if same and kind not in self._checked:  # what a reader makes of it: the same for all of a kind
                same = _reads_back(temporary, dataset, encoded, encoding, mask)
            if not same:
                raise UserError(f"{temporary}: reads back differently from what was written (a failing disk?)")
            self._checked.add(kind)
        return WriteReport(**vars(encoded.changes), path=out_path, sop_uid=dataset.SOPInstanceUID, range=encoding.range)

    def _header(
        self,
        image: DicomImage,
        inputs: list[DicomImage],
        spacing: tuple[float, float] | None,
        position: tuple[float, float, float] | None,
    ) -> Dataset:
        header = derived_header.kept_of(image.header, image.frame, self.modality, self._known)
        derived_header.complete(header, self.modality, image.header, image.frame)
        derived_header.mark_lossy(header, next((one for one in inputs if is_lossy(one.header)), None))
        if self.contrast or not derived_header.has_window_in_units(header):
            for keyword in ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"):
                header.pop(keyword, None)
        derivation, contrast = _ascii(self.derivation, 1024), [self.contrast] if self.contrast else []
        derived_header.put(
            header,
            SOPClassUID=derived_header.STORAGE[self.modality],
            SOPInstanceUID=self.uid_of(*inputs),
            SeriesInstanceUID=self.uid,
            SeriesNumber=self.number,
            SeriesDescription=_ascii(self.description, 64),
            Modality=self.modality,
            ImageType=derived_header.image_type(image.header, self.modality) + contrast,
            DerivationDescription=derivation,
            ContributingEquipmentSequence=derived_header.equipment(header, derivation),
        )
        sources = derived_header.source_images(inputs, same_grid=spacing is None and position is None)
        if sources:
            header.SourceImageSequence = sources
        if image.where.frames > 1:
            header.InstanceNumber = image.frame + 1
        if spacing is not None:
            header.PixelSpacing = [decimal(v) for v in spacing]
        if position is not None:
            header.ImagePositionPatient = [decimal(v) for v in position]
        return header

    def uid_of(self, *inputs: DicomImage) -> str:
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
                    sha256(np.ascontiguousarray(i.stored).data).hexdigest(),
                )
                for i in inputs
            ],
        )


def _reads_back(path: Path, dataset: Dataset, encoded: Encoded, encoding: Encoding, mask: np.ndarray | None) -> bool:
    """Whether a reader finds in a file the image that it was meant to hold."""
    found = read(path, modalities=(dataset.Modality,))
    padding = None if encoded.padding_value is None else mask
    same = reads_as(found.hu, found.mask, encoded, encoding, padding)
    return same and text(found.header, "SOPInstanceUID") == dataset.SOPInstanceUID


# --- as in the source -----------------------------------------------------------------------------------------------


def _encoding_for(
    image: DicomImage,
    modality: str,
    value_range: tuple[float, float] | None,
    hu: np.ndarray,
    mask: np.ndarray | None,
) -> Encoding:
    """As the source ``image`` where that holds the values ``hu`` (H, W) and ``value_range``, which a series of this
    ``modality`` is expected to have, else as ``choose_encoding`` says."""
    tissue = hu if mask is None else hu[~mask]
    ends = (float(tissue.min()), float(tissue.max())) if tissue.size else (np.nan, np.nan)
    own = Encoding(*_scale_of(image))
    if image.modality != modality:
        own = SAFE_CT if modality == "CT" else Encoding(1.0, 0.0)
    elif "ModalityLUTSequence" not in image.header and int(image.header.BitsAllocated) != 8:
        own = replace(own, bits=int(image.header.BitsStored), signed=int(image.header.PixelRepresentation) == 1)
    return choose_encoding(own, modality, value_range, ends if np.isfinite(ends).all() else None)


def _encode_beside(
    image: DicomImage, modality: str, hu: np.ndarray, encoding: Encoding, mask: np.ndarray | None
) -> Encoded:
    """``encode``; what is the same as in the source ``image`` is stored as there, where stored values mean the same."""
    if (
        image.modality != modality
        or "ModalityLUTSequence" in image.header
        or hu.shape != image.hu.shape
        or (encoding.slope, encoding.intercept) != _scale_of(image)
    ):
        return encode(hu, encoding, mask)
    ends, padding = padding_range(image.header), None
    if ends is not None and mask is not None and mask is image.mask:
        padding = Padding(image.stored, ends[0], ends[1] if "PixelPaddingRangeLimit" in image.header else None)
    # A step of the file may get lost in float32, which the values are in.
    largest = float(np.abs(image.stored).max(initial=0)) * abs(encoding.slope) + abs(encoding.intercept)
    finer = largest * np.finfo(np.float32).eps > ROUNDING * abs(encoding.slope)
    return encode(hu, encoding, mask, padding, (image.hu, image.stored) if finer else None)


def _scale_of(image: DicomImage) -> tuple[float, float]:
    """Slope and intercept as a file can say them."""
    return float(decimal(image.slope)), float(decimal(image.intercept))


def _ascii(value: str, length: int) -> str:
    """Text that every character set of a file can hold, with the end cut off where it is too long for its VR."""
    value = value.replace("\\", "/").encode("ascii", "replace").decode()
    return value if len(value) <= length else value[: length - 3] + "..."


DATE = "20190101"
"""Of every series made here. Fixed, so that the same input makes the same files on any day."""


@dataclass
class NewSeries:
    """What the slices of a new series share.

    affine: 4×4, from (column, row, slice) to patient coordinates in mm (LPS), rows and columns at right angles. None:
    the images lie nowhere, and are Secondary Capture (PS3.3 A.8.1) with neither place nor pixel size.
    entropy: whatever decides the pixels; it decides the UIDs. image_type: values 1 to 3. extra: further keywords and
    values.
    """

    modality: str
    affine: np.ndarray | None
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
        header = derived_header.put(
            Dataset(),
            SpecificCharacterSet="ISO_IR 192",
            SOPClassUID=SECONDARY_CAPTURE if self.affine is None else derived_header.STORAGE[self.modality],
            SOPInstanceUID=derived_header.uid_from("instance", self.entropy, index),
            StudyInstanceUID=derived_header.uid_from("study", self.entropy),
            SeriesInstanceUID=derived_header.uid_from("series", self.entropy),
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
            derived_header.put(
                header,
                ScanningSequence="RM",
                SequenceVariant="NONE",
                ScanOptions="",
                MRAcquisitionType="",
                RepetitionTime=None,
                EchoTime=None,
                EchoTrainLength=None,
            )
        if "BodyPartExamined" not in self.extra:  # it might be one of a pair (type 2C)
            header.Laterality = ""
        if self.affine is None:  # WSD: made by a workstation
            derived_header.put(header, ConversionType="WSD", PatientOrientation="")
        else:
            self._put_geometry(header, index, self.affine)
        put_pixels(header, encoded, self.encoding)
        return derived_header.as_file(derived_header.put(header, **self.extra))

    def _put_geometry(self, header: Dataset, index: int, affine: np.ndarray) -> None:
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        axes = (affine[:3, :2] / spacing[:2]).T
        thickness = abs(float(np.cross(*axes) @ affine[:3, 2]))  # of slices that may be shifted, too
        derived_header.put(
            header,
            FrameOfReferenceUID=derived_header.uid_from("frame of reference", self.entropy),
            PatientPosition="HFS",
            SliceThickness=decimal(thickness),
            ImagePositionPatient=[decimal(v) for v in affine[:3, 3] + index * affine[:3, 2]],
            ImageOrientationPatient=[decimal(v) for v in axes.ravel()],
            PositionReferenceIndicator="",
            PixelSpacing=[decimal(spacing[1]), decimal(spacing[0])],
        )
