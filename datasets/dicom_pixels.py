"""Encoded pixels of a parsed DICOM file -> stored values -> modality values (HU for CT), and the mask of padding."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, get_decoder

from medi2i.datasets.dicom_file import (
    PARSE_ERRORS,
    Unreadable,
    frame_count,
    functional_group,
    items,
    numbers,
    short,
    syntax_uid,
    text,
    whole,
)

AIR_HU = -1024.0
"""What padding reads as in a CT: not tissue, so the lowest value of the usual scale."""

# JPEG markers that start a frame (SOF0–SOF15 without DHT, JPG, DAC; 0xF7 is JPEG-LS): ISO/IEC 10918-1 table B.1,
# 14495-1.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}


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
    if items(dataset, "ModalityLUTSequence"):
        return Rescale(1.0, 0.0, True, dataset, text(items(dataset, "ModalityLUTSequence")[0], "ModalityLUTType"))
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


def decode(path: Path | str, dataset: Dataset, frame: int) -> np.ndarray:
    """Stored values (H, W) of one frame as integers, whatever the transfer syntax. Raises Unreadable."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    syntax = syntax_uid(dataset)
    try:
        if syntax.is_encapsulated:
            _check_codestream(path, dataset, frame)
        array, _ = get_decoder(syntax).as_array(dataset, index=frame, raw=True)
    except Unreadable:
        raise
    except NotImplementedError as error:
        raise Unreadable(path, f"no decoder for transfer syntax {syntax.name}") from error
    except PARSE_ERRORS as error:
        raise Unreadable(path, f"pixels cannot be decoded ({syntax.name}: {short(error)})") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what a decoder in Rust raises is no Exception, and has no module
            raise
        raise Unreadable(path, f"pixels cannot be decoded ({syntax.name}: {short(error)})") from error
    if array.shape != (rows, columns):
        raise Unreadable(path, f"decodes to {array.shape} instead of Rows {rows} × Columns {columns}")
    return array


def _check_codestream(path: Path | str, dataset: Dataset, frame: int) -> None:
    """Compare the size inside a compressed frame with Rows and Columns, before a decoder allocates what it asks for."""
    size = codestream_size(get_frame(dataset.PixelData, frame, number_of_frames=frame_count(dataset)))
    if size is not None and size != (dataset.Rows, dataset.Columns):
        raise Unreadable(
            path, f"the compressed image is {size[0]}×{size[1]}, Rows × Columns say {dataset.Rows}×{dataset.Columns}"
        )


def codestream_size(encoded: bytes) -> tuple[int, int] | None:
    """(rows, columns) from the header of a JPEG, JPEG-LS or JPEG 2000 codestream; None for RLE and where there is no
    header."""
    start = encoded[:1024].find(b"\xff\x4f\xff\x51")  # not at 0 when a JP2 box is around it
    if start >= 0 and len(encoded) >= start + 24:
        x1, y1, x0, y0 = struct.unpack(">4I", encoded[start + 8 : start + 24])
        return y1 - y0, x1 - x0
    if encoded[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker in _START_OF_FRAME:
            return struct.unpack(">2H", encoded[at + 5 : at + 9])
        if marker == 0xFF or 0xD0 <= marker <= 0xD9:
            at += 1 if marker == 0xFF else 2
            continue
        at += 2 + struct.unpack(">H", encoded[at + 2 : at + 4])[0]
    return None


def check_stored(path: Path | str, dataset: Dataset, frame: int, stored: np.ndarray, rescale: Rescale) -> list[str]:
    """Compare the values with what the header declares. Returns warnings; raises Unreadable for a wrong
    PixelRepresentation.

    Signed pixels read as unsigned show air near +64 000: every value is either small or in the top 8 192 of the range.
    Unsigned ones read as signed show dense bone below air.
    """
    bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    signed, is_ct = int(dataset.PixelRepresentation) == 1, text(dataset, "Modality") == "CT"
    if is_ct and not signed and allocated == 16 and stored.max() >= 0xE000:
        top = stored >= 0xE000
        if not np.any((stored >= 0x8000) & ~top) and not _is_padding_only(dataset, stored, top):
            raise Unreadable(
                path,
                f"stored values reach {int(stored.max())} with none from 32768 to 57343: signed pixels declared "
                "unsigned (PixelRepresentation should be 1)",
            )
    raw = _raw_frame(dataset, frame, stored.shape)
    if bits == allocated or raw is None or np.array_equal(raw, stored):
        return []
    changed = raw != stored
    if is_ct and signed and rescale.intercept <= -1000 and np.all(raw[changed] >= 0):
        raise Unreadable(
            path,
            f"{int(changed.sum())} pixels have the sign bit of BitsStored {bits} but no sign, and would be below "
            f"{rescale.intercept:g} HU: unsigned pixels declared signed (PixelRepresentation should be 0)",
        )
    if any(0x6000 <= tag.group < 0x6100 for tag in dataset.keys()):  # noqa: SIM118 (iterating converts every value)
        return []  # an overlay lives in the spare bits, as it did before 2004
    return [f"{int(changed.sum())} pixels use bits above BitsStored {bits}, which are ignored: is BitsStored right?"]


def _raw_frame(dataset: Dataset, frame: int, shape: tuple[int, int]) -> np.ndarray | None:
    """The words of a native frame with all their bits; None where it is compressed, or not in words of 16 bits."""
    syntax = syntax_uid(dataset)
    if syntax.is_encapsulated or int(dataset.BitsAllocated) != 16:
        return None
    order = "<" if syntax.is_little_endian else ">"
    kind = "i2" if int(dataset.PixelRepresentation) == 1 else "u2"
    size = shape[0] * shape[1]
    return np.frombuffer(dataset.PixelData, order + kind, size, frame * size * 2).reshape(shape)


def _is_padding_only(dataset: Dataset, stored: np.ndarray, where: np.ndarray) -> bool:
    padding = padding_mask(dataset, stored)
    return padding is not None and bool(np.all(padding[where]))


def padding_mask(dataset: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """True (H, W) where a pixel is padding by PixelPaddingValue and PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2).

    None where the file declares no padding or no pixel has it. Writers store the value as signed or unsigned without
    regard to PixelRepresentation, so it is taken modulo the allocated bits.
    """
    value = whole(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = whole(dataset, "PixelPaddingRangeLimit")
    ends = sorted(_as_stored(v, dataset) for v in (value, value if limit is None else limit))
    mask = (stored >= ends[0]) & (stored <= ends[1])
    return mask if mask.any() else None


def _as_stored(value: int, dataset: Dataset) -> int:
    span = 1 << int(dataset.BitsAllocated)
    value %= span
    return value - span if int(dataset.PixelRepresentation) == 1 and value >= span // 2 else value


def to_modality(dataset: Dataset, stored: np.ndarray, rescale: Rescale) -> np.ndarray:
    """Stored values -> float32 modality values of the same shape (HU for CT), computed in double precision.

    MONOCHROME1 changes how values are shown, not what they mean (PS3.3 C.7.6.3.1.2 comes after the modality
    transformation), so HU are never inverted.
    """
    if rescale.lookup is not None:
        return apply_modality_lut(stored, rescale.lookup).astype(np.float32)
    return (stored.astype(np.float64) * rescale.slope + rescale.intercept).astype(np.float32)
