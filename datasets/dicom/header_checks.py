"""The values of one DICOM header, checked, and every reason why they make a file no CT or MR image that can be used.

Nothing here guesses: what cannot be trusted is refused with a reason that a person can act on. Values in a header come
from outside, so every one is checked before use.
"""

import logging
import math
import re
import struct
import tokenize
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import RE_VALID_UID, UID

from medi2i.common.errors import Unreadable
from medi2i.common.limits import check_bytes, check_pixels

VOLUME_MODALITIES = ("CT", "MR", "PT")

MAX_FRAMES = 1 << 16
"""Frames of one file that are read: each takes time and memory, however small it is."""

# What pydicom, NumPy and the codecs raise on damaged data. There is no common base class: parsing is spread over
# struct, zlib, NumPy (the header of npy is a Python expression) and C.
PARSE_ERRORS = (
    InvalidDicomError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    BytesLengthException,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zlib.error,
)

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DIRECTORY = "1.2.840.10008.1.3.10"
DEFLATED = "1.2.840.10008.1.2.1.99"
LOSSY_METHODS = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.93": "ISO_15444_2",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
"""LossyImageCompressionMethod of the syntaxes that may lose something: JPEG baseline and extended, JPEG-LS
near-lossless, JPEG 2000 and HTJ2K without the lossless promise."""

# pydicom warns about each odd value of a header (there are many in real files), and writes the value down, which may be
# one of a patient; what matters is reported by our own checks.
warnings.filterwarnings("ignore", module=r"pydicom\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)


def short(error: BaseException) -> str:
    """The first line of an exception's text, without the values that it quotes: they may be a patient's."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", text)
    return text if len(text) <= 100 else text[:99] + "…"


# --- values of a header, checked ------------------------------------------------------------------------------------


def text(dataset: Dataset, keyword: str) -> str:
    """A value as one line of text; several values joined by a backslash as in the file; "" where absent or damaged."""
    try:
        value = dataset.get(keyword)
    except PARSE_ERRORS:
        return ""
    single = isinstance(value, str | bytes | int | float) or not hasattr(value, "__iter__")
    parts = [] if value is None else [value] if single else list(value)
    return " ".join("\\".join(str(part).strip() for part in parts).splitlines()).strip("\0 ")


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly ``count`` finite numbers, or None where they are absent, fewer, more, or not numbers."""
    try:
        value = dataset.get(keyword)
        parts = [value] if isinstance(value, int | float | str) else list(value)
        values = tuple(float(part) for part in parts)
    except PARSE_ERRORS:
        return None
    return values if len(values) == count and all(math.isfinite(v) for v in values) else None


def whole(dataset: Dataset, keyword: str) -> int | None:
    """One whole number, or None."""
    value = numbers(dataset, keyword, 1)
    return int(value[0]) if value is not None and value[0] == int(value[0]) else None


def sequence_item(dataset: Dataset, keyword: str, index: int = 0) -> Dataset | None:
    """One item of a sequence, without a look at the others; None where it is absent or damaged."""
    try:
        found = dataset.get(keyword)
        item = found[index] if found and 0 <= index < len(found) else None
    except PARSE_ERRORS:
        return None
    return item if isinstance(item, Dataset) else None


def functional_group(dataset: Dataset, frame: int, macro: str) -> Dataset:
    """The item of a functional group macro for one frame of an enhanced image: per frame first, else shared, else the
    data set itself, where a classic image keeps the same attributes (PS3.3 C.7.6.16). Frame -1: what frames share."""
    for keyword, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        holder = sequence_item(dataset, keyword, index)
        if holder is not None and (found := sequence_item(holder, macro)) is not None:
            return found
    return dataset


def syntax_uid(dataset: Dataset) -> UID:
    return UID(text(dataset.file_meta, "TransferSyntaxUID"))


def is_valid_uid(uid: str) -> bool:
    return len(uid) <= 64 and re.match(RE_VALID_UID, uid) is not None


def has_overlay(dataset: Dataset) -> bool:
    """Whether the file has an overlay, which may be in spare bits of its pixels."""
    return any(0x6000 <= tag.group < 0x6100 for tag in dataset.keys())  # noqa: SIM118 (iterating converts every value)


def is_lossy(dataset: Dataset) -> bool:
    """True if the pixels were compressed with loss at any time (PS3.3 C.7.6.1.1.5), or are now."""
    return text(dataset, "LossyImageCompression") == "01" or str(syntax_uid(dataset)) in LOSSY_METHODS


def empty_like(source: Dataset) -> Dataset:
    """A data set without elements, whose text is encoded as in ``source``."""
    empty, (implicit, little) = Dataset(), source.original_encoding
    empty.set_original_encoding(implicit, little, source.original_character_set)
    return empty


# --- is it an image we can use? -------------------------------------------------------------------------------------


def refuse_others(path: Path | str, dataset: Dataset, modalities: tuple[str, ...]) -> None:
    """Raise Unreadable for what is DICOM but not a grey CT, MR or PT image: directories, reports, RT objects,
    localizers, colour."""
    sop_class = text(dataset, "SOPClassUID") or text(dataset.file_meta, "MediaStorageSOPClassUID")
    name = UID(sop_class).name if sop_class else "no SOP class"
    if sop_class == DIRECTORY or "DirectoryRecordSequence" in dataset:
        raise Unreadable(path, "DICOMDIR: a directory, not an image")
    modality = text(dataset, "Modality")
    if modality not in modalities:
        raise Unreadable(path, f"modality {modality or 'missing'} ({name}); looking for {', '.join(modalities)}")
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        cut = "; the file is cut off or holds no image" if "Rows" in dataset else ""
        raise Unreadable(path, f"no PixelData ({name}{cut})")
    if "PixelData" not in dataset:
        raise Unreadable(path, "floating-point pixel data: a parametric map, not an acquired image")
    if sop_class.startswith(SECONDARY_CAPTURE) and numbers(dataset, "ImageOrientationPatient", 6) is None:
        raise Unreadable(path, f"{name} without a position in the patient: a screen picture")
    kinds = text(dataset, "ImageType").upper().split("\\")
    if "LOCALIZER" in kinds:
        raise Unreadable(path, "LOCALIZER: an overview for planning, not a slice")
    if "MOSAIC" in kinds:
        raise Unreadable(
            path,
            "MOSAIC: all slices of a volume side by side in one picture; dcm2niix takes them apart, and tools/nifti.py "
            "makes DICOM of that",
        )
    samples = whole(dataset, "SamplesPerPixel")
    photometric = text(dataset, "PhotometricInterpretation")
    if samples not in (None, 1) or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable(
            path,
            f"colour or unknown pixels ({photometric or 'no PhotometricInterpretation'}, "
            f"SamplesPerPixel {samples}); grey MONOCHROME images are needed",
        )


@dataclass(frozen=True)
class Layout:
    """How the samples of an image are stored (PS3.5 8.1): ``frames`` of ``rows`` × ``columns`` words of ``allocated``
    bits, of which ``stored`` up to bit number ``high`` are the value."""

    rows: int
    columns: int
    frames: int
    allocated: int
    stored: int
    high: int
    signed: bool
    syntax: UID

    @property
    def frame_bytes(self) -> int:
        """Size of one frame before it is compressed."""
        return self.rows * self.columns * (self.allocated // 8)


def check_pixel_description(path: Path | str, dataset: Dataset) -> Layout:
    """The Layout of an image. Raises Unreadable where Rows, Columns, bits or frames make no sense or take more memory
    than allowed, before anything is allocated for them."""
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    if not rows or not columns or rows < 0 or columns < 0:
        raise Unreadable(path, f"Rows {rows} and Columns {columns}: no image size")
    check_pixels(path, rows, columns)
    allocated, stored, high = (whole(dataset, keyword) for keyword in ("BitsAllocated", "BitsStored", "HighBit"))
    if allocated not in (8, 16, 32):
        raise Unreadable(path, f"BitsAllocated {allocated}; 8, 16 or 32 are supported")
    if stored is None or not 1 <= stored <= allocated:
        raise Unreadable(path, f"BitsStored {stored} does not fit BitsAllocated {allocated}")
    sign = whole(dataset, "PixelRepresentation")
    if sign not in (0, 1):
        raise Unreadable(
            path, f"PixelRepresentation {text(dataset, 'PixelRepresentation') or 'missing'}; 0 or 1 is needed"
        )
    declared = whole(dataset, "NumberOfFrames")
    frames = 1 if declared is None else declared
    if frames < 1:
        raise Unreadable(path, f"NumberOfFrames {frames}")
    if frames > MAX_FRAMES:
        raise Unreadable(path, f"NumberOfFrames {frames} in one file; up to {MAX_FRAMES} are read")
    syntax = syntax_uid(dataset)
    if not syntax.is_transfer_syntax:
        raise Unreadable(path, f"unknown transfer syntax {syntax or 'missing'}")
    high = stored - 1 if high is None else high
    layout = Layout(rows, columns, frames, allocated, stored, high, sign == 1, syntax)
    check_bytes(path, layout.frame_bytes * frames, f"{frames} frame(s) of {rows}×{columns} pixels")
    return layout


@dataclass(frozen=True)
class Rescale:
    """modality value = stored · slope + intercept, or a lookup table. ``declared`` is False where the file says
    nothing."""

    slope: float
    intercept: float
    declared: bool
    lookup: Dataset | None = None
    kind: str = ""


def rescale_of(path: Path | str, dataset: Dataset, frame: int) -> Rescale:
    """The modality transformation of a frame (PS3.3 C.11.1; for enhanced images C.7.6.16.2.9). Raises Unreadable for
    slope 0."""
    table = sequence_item(dataset, "ModalityLUTSequence")
    if table is not None:
        return Rescale(1.0, 0.0, True, dataset, text(table, "ModalityLUTType"))
    group = functional_group(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = numbers(group, "RescaleSlope", 1), numbers(group, "RescaleIntercept", 1)
    slope_text, intercept_text = text(group, "RescaleSlope"), text(group, "RescaleIntercept")
    if not slope_text and not intercept_text:
        return Rescale(1.0, 0.0, False)
    if slope is None or intercept is None:
        raise Unreadable(
            path, f"RescaleSlope '{slope_text}' and RescaleIntercept '{intercept_text}': both must be one finite number"
        )
    if slope[0] == 0:
        raise Unreadable(path, "RescaleSlope 0: every pixel would be the same")
    return Rescale(slope[0], intercept[0], True, kind=text(group, "RescaleType"))
