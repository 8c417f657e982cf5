"""Pixels of a parsed file: encoded frames -> words -> stored values -> modality values (HU for CT); and its padding.

Padding becomes air in ``fill_padding``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut

from medi2i.common.errors import Unreadable
from medi2i.common.limits import in_words
from medi2i.common.resources import bands
from medi2i.datasets.dicom.compressed import Fragments, decode, frame_fragments, measure
from medi2i.datasets.dicom.header_checks import PARSE_ERRORS, Layout, Rescale, short, text, whole
from medi2i.datasets.dicom.parse import Parsed, Read


@dataclass(frozen=True)
class Words:
    """Samples (H, W) as unsigned words; the lowest ``bits`` of each hold something. ``extended``: these are signed
    numbers already, whatever the header says."""

    values: np.ndarray
    bits: int
    extended: bool = False


class FramePixels:
    """The frames of an image, each read and decoded when it is wanted. Raises Unreadable where the file does not hold
    what its header declares."""

    def __init__(self, parsed: Parsed, layout: Layout) -> None:
        self.parsed, self.layout = parsed, layout
        self._fragments: list[Fragments] | None = None
        if layout.syntax.is_encapsulated:
            self._fragments = frame_fragments(parsed, layout.frames)
            self.encoded_bytes = sum(length for frame in self._fragments for _, length in frame)
        else:
            _check_length(parsed, layout)
            self.encoded_bytes = layout.frame_bytes * layout.frames

    def words(self, frame: int) -> Words:
        """The samples of a frame as they are stored. Raises Unreadable."""
        with self.parsed.open() as read:
            if self._fragments is None:
                return _native(self.parsed, self.layout, read, frame)
            size = sum(length for _, length in self._fragments[frame])
            if size > 2 * self.layout.frame_bytes + (1 << 20):
                raise Unreadable(
                    self.parsed.path,
                    f"a compressed frame of {in_words(size)} for {in_words(self.layout.frame_bytes)} of pixels",
                )
            encoded = b"".join(read(start, length) for start, length in self._fragments[frame])
        return _decode(self.parsed.path, self.layout, encoded)


def _check_length(parsed: Parsed, layout: Layout) -> None:
    expected, place = layout.frame_bytes * layout.frames, parsed.pixels
    if place.length is None:
        raise Unreadable(parsed.path, "pixel data of undefined length that are not compressed")
    with parsed.open() as read:
        length = place.length
        if len(read(place.start + min(length, expected) - 1, 1)) < 1:
            length = parsed.available(place.start)
        surplus = length - expected
        wrong = surplus > max(layout.columns * layout.allocated // 8, 2)
        if surplus > (1 if _swapped(parsed, layout) else 0) and not wrong:
            wrong = bool(read(place.start + expected, surplus).strip(b"\0"))
    if surplus < 0 or wrong:
        raise Unreadable(
            parsed.path,
            f"PixelData holds {length} bytes where Rows {layout.rows} × Columns {layout.columns} × {layout.frames} "
            f"frame(s) × {layout.allocated // 8} byte(s) need {expected}: "
            + ("cut off" if surplus < 0 else "Rows, Columns or NumberOfFrames are wrong"),
        )


def _swapped(parsed: Parsed, layout: Layout) -> bool:
    """Whether samples of 8 bits lie in big-endian words of 16."""
    return not layout.syntax.is_little_endian and layout.allocated == 8 and parsed.pixels.vr == "OW"


def _native(parsed: Parsed, layout: Layout, read: Read, frame: int) -> Words:
    little, size = layout.syntax.is_little_endian, layout.frame_bytes
    swap = _swapped(parsed, layout)
    odd = frame * size % 2 if swap else 0
    data = read(parsed.pixels.start + frame * size - odd, size + odd + ((size + odd) % 2 if swap else 0))
    if swap:
        data = np.frombuffer(data, "u2").byteswap().tobytes()[odd : odd + size]
    kind = ("<u" if little else ">u") + str(layout.allocated // 8)
    values = np.frombuffer(data, kind).reshape(layout.rows, layout.columns)
    return Words(values.astype(values.dtype.newbyteorder("=")), layout.allocated)


def _decode(path: Path, layout: Layout, encoded: bytes) -> Words:
    bits, signed = measure(path, encoded, layout)
    if bits > 32:
        raise Unreadable(path, f"the compressed image has {bits} bits; up to 32 are read")
    # The decoder writes into an array of the size that the header says: it allocates none for what it finds.
    size = 1 if bits <= 8 else 2 if bits <= 16 else 4
    decoded = np.empty((layout.rows, layout.columns), f"{'i' if signed else 'u'}{size}")
    try:
        decode(encoded, layout.syntax, decoded)
    except PARSE_ERRORS as error:
        raise Unreadable(path, f"pixels cannot be decoded ({layout.syntax.name}: {short(error)})") from error
    values = decoded.view(f"u{size}")
    if signed:
        return Words(values, 8 * size, extended=True)
    if layout.signed and bits < layout.stored and (values >> (bits - 1)).any():
        raise Unreadable(
            path,
            f"the compressed image has {bits} bits without a sign, the header says {layout.stored} with one: what has "
            f"bit {bits} may be negative or not",
        )
    return Words(values, bits)


# --- which bits of a word are the value (PS3.5 8.1.1) ----------------------------------------------------------------


def to_stored(
    path: Path | str, words: Words, layout: Layout, overlay: bool
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """The values in the stored bits of words (PS3.5 8.1.1), sign extended. Spare bits may be 0, copies of the sign, or
    an ``overlay``. Raises Unreadable where the header leaves two readings that differ.

    Returns (stored values (H, W) as integers; True where a negative one has no sign in its spare bits, or None; notes).
    """
    if words.extended and not layout.signed and (words.values >> (words.bits - 1)).any():
        raise Unreadable(path, "the compressed image has negative values, PixelRepresentation 0 says there are none")
    shift = layout.high - layout.stored + 1
    readings = [_Field(words, 0, min(layout.stored, words.bits), layout.signed)]
    if shift:
        if shift < 0:
            readings.append(_Field(words, 0, min(max(layout.high, 0) + 1, words.bits), layout.signed))
        elif layout.high < words.bits:
            readings.append(_Field(words, shift, layout.stored, layout.signed))
        good = [reading for reading in readings if reading.clean]
        if not good or not all(np.array_equal(good[0].values, other.values) for other in good[1:]):
            raise Unreadable(
                path, f"HighBit {layout.high} contradicts BitsStored {layout.stored}, and the pixels do not tell which "
                "is right"
            )  # fmt: skip
        readings = good[:1]
    field, notes = readings[0], []
    if field.shift != shift:
        notes.append(f"HighBit {layout.high} is not BitsStored {layout.stored} - 1: taken as {field.bits - 1}")
    if field.mixed and not overlay:
        raise Unreadable(
            path,
            f"BitsStored {layout.stored} is too small: values reach {int(words.values[field.unextended].max())} and "
            "negative ones are sign extended beyond it",
        )
    if field.garbage is not None and not overlay:  # an overlay lives in the spare bits, as it did before 2004
        notes.append(
            f"{int(field.garbage.sum())} pixels use bits above BitsStored {layout.stored}, which are ignored: is "
            "BitsStored right?"
        )
    kind = f"{'i' if layout.signed else 'u'}{layout.allocated // 8}"
    return field.values.astype(kind, copy=False), field.unextended, notes


class _Field:
    """``bits`` bits of words from bit ``shift`` on, as numbers; and what the other bits hold."""

    def __init__(self, words: Words, shift: int, bits: int, signed: bool) -> None:
        self.shift, self.bits = shift, bits
        spare = words.bits - shift - bits
        self.unextended: np.ndarray | None = None
        self.garbage: np.ndarray | None = None
        self.mixed = False
        if bits == 8 * words.values.itemsize:  # the whole word: nothing to copy
            self.values = words.values.view(f"{'i' if signed else 'u'}{words.values.itemsize}")
        else:
            wide = np.int32 if words.values.itemsize < 4 else np.int64
            self.values = (words.values >> shift).astype(wide)
            self.values &= (1 << bits) - 1
            if signed:
                self.values -= ((self.values >> (bits - 1)) & 1) << bits
        if spare > 0:
            negative = self.values < 0
            top = words.values >> (shift + bits)
            copies = (top == (1 << spare) - 1) & negative
            odd = (top != 0) & ~copies
            without = negative & (top == 0)
            self.garbage = odd if odd.any() else None
            self.unextended = without if without.any() else None
            self.mixed = self.garbage is None and bool(copies.any() and without.any())
        low = shift > 0 and bool((words.values & ((1 << shift) - 1)).any())
        self.clean = self.garbage is None and not self.mixed and not low


# --- values ----------------------------------------------------------------------------------------------------------


def to_modality(stored: np.ndarray, rescale: Rescale) -> np.ndarray:
    """Stored values -> float32 modality values of the same shape (HU for CT), computed in double precision.

    MONOCHROME1 changes how values are shown, not what they mean (PS3.3 C.7.6.3.1.2 comes after the modality
    transformation), so HU are never inverted.
    """
    if rescale.lookup is not None:
        return apply_modality_lut(stored, rescale.lookup).astype(np.float32)
    found = np.empty(stored.shape, np.float32)
    for rows in bands(stored.shape):
        values = stored[rows].astype(np.float64)
        values *= rescale.slope
        values += rescale.intercept
        with np.errstate(over="ignore"):  # whoever reads the file says what is infinite, and why
            found[rows] = values
    return found


def check_stored(
    path: Path | str, dataset: Dataset, values: np.ndarray, unextended: np.ndarray | None, rescale: Rescale
) -> None:
    """Raise Unreadable where the values of a CT tell of a wrong PixelRepresentation.

    Signed pixels read as unsigned show air near +64 000: every value is either small or in the top 8 192 of the range.
    Unsigned ones read as signed show dense bone below air. values, unextended: of ``to_stored``.
    """
    if text(dataset, "Modality") != "CT":
        return
    if values.dtype == np.uint16 and values.max() >= 0xE000:
        top = values >= 0xE000
        padding = padding_mask(dataset, values)
        if not np.any((values >= 0x8000) & ~top) and (padding is None or not np.all(padding[top])):
            raise Unreadable(
                path,
                f"stored values reach {int(values.max())} with none from 32768 to 57343: signed pixels declared "
                "unsigned (PixelRepresentation should be 1)",
            )
    if unextended is not None and rescale.intercept <= -1000:
        raise Unreadable(
            path,
            f"{int(unextended.sum())} pixels have the sign bit of BitsStored {whole(dataset, 'BitsStored')} but no "
            f"sign, and would be below {rescale.intercept:g} HU: unsigned pixels declared signed (PixelRepresentation "
            "should be 0)",
        )


# --- padding ---------------------------------------------------------------------------------------------------------


AIR_HU = -1024.0
"""What padding reads as in a CT: not tissue, so the lowest value of the usual scale."""


def padding_mask(dataset: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """True (H, W) where a pixel is padding by PixelPaddingValue and PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2).

    None where the file declares no padding or no pixel has it. Writers store the value as signed or unsigned without
    regard to PixelRepresentation, so it is taken modulo the allocated bits.
    """
    ends = padding_range(dataset)
    if ends is None:
        return None
    mask = (stored >= min(ends)) & (stored <= max(ends))
    return mask if mask.any() else None


def padding_range(dataset: Dataset) -> tuple[int, int] | None:
    """Stored values of PixelPaddingValue and PixelPaddingRangeLimit, the same twice without one; None without both."""
    value = whole(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = whole(dataset, "PixelPaddingRangeLimit")
    return _as_stored(value, dataset), _as_stored(value if limit is None else limit, dataset)


def _as_stored(value: int, dataset: Dataset) -> int:
    span = 1 << int(dataset.BitsAllocated)
    value %= span
    return value - span if int(dataset.PixelRepresentation) == 1 and value >= span // 2 else value


def fill_padding(values: np.ndarray, mask: np.ndarray, modality: str) -> None:
    """Make padding, where ``mask`` (H, W) is True, read as air in a CT, and elsewhere as the lowest value of the
    tissue; ``values`` (H, W) are changed."""
    tissue = values[~mask]
    values[mask] = AIR_HU if modality == "CT" or not tissue.size else tissue.min()
