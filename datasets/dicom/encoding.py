"""HU -> the integers of a DICOM file: which type holds them, what is clipped, where padding goes, what the header says.

``Encoding`` is how a file stores its values, ``choose_encoding`` picks one for a derived image, ``encode`` applies it,
``put_pixels`` writes the result into a header and ``reads_as`` checks what a reader makes of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset

from medi2i.common.resources import bands
from medi2i.datasets.dicom.header_checks import text

DEFAULT_CT_RANGE = (-1024.0, 3071.0)
"""What a CT is expected to hold when nobody says: the 12-bit scale."""
STEPS = 1024
"""A range of values is stored in so many steps at least, where it is not HU."""
ROUNDING = 0.01
"""Of a step: what is nearer to a stored value is that value."""


class NotWritable(ValueError):
    """An image or a header that no file can hold as it is meant."""


@dataclass(frozen=True)
class Encoding:
    """value = stored · slope + intercept, with ``bits`` stored bits, signed or not."""

    slope: float
    intercept: float
    bits: int = 16
    signed: bool = True

    @property
    def least(self) -> int:
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def most(self) -> int:
        return (1 << self.bits - self.signed) - 1

    @property
    def allocated(self) -> int:
        """Bits of a word of the file."""
        return 16 if self.bits <= 16 else 32

    @property
    def dtype(self) -> np.dtype:
        """Of the words of the file, little endian."""
        return np.dtype(f"<{'i' if self.signed else 'u'}{self.allocated // 8}")

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value it can hold."""
        ends = (self.least * self.slope + self.intercept, self.most * self.slope + self.intercept)
        return min(ends), max(ends)

    def covers(self, low: float, high: float) -> bool:
        """Whether it holds values from ``low`` to ``high``, which are float32 and may be rounded to a step."""
        slack = abs(self.slope) / 2 + 1e-6 * max(map(abs, self.range))
        return self.range[0] - slack <= low and high <= self.range[1] + slack


SAFE_CT = Encoding(1.0, -1024.0)
"""-33 792 … 31 743 HU in whole numbers: holds every CT."""


def choose_encoding(
    source: Encoding,
    modality: str,
    wanted: tuple[float, float] | None = None,
    values: tuple[float, float] | None = None,
) -> Encoding:
    """The encoding of a derived image: the source's own if it holds what it shall and is fine enough, else another.

    source: with 32 bits where the source has more than 16, and then the result may have them, too. wanted: values that
    such images may have, (-1024, 3071) HU by default for CT and the source's own range for others. values: lowest and
    highest of this image; they count more than ``wanted`` where no encoding holds both. Slopes that differ from the
    source's hold its values exactly where that can be. A slope of 2, 3… becomes 1 in CT; it rounds new values to 1 HU.
    """
    wanted = wanted or (DEFAULT_CT_RANGE if modality == "CT" else source.range)
    values = values or wanted
    both = min(wanted[0], values[0]), max(wanted[1], values[1])
    exact = list(_exact(source, modality, wanted, both))
    rounded = [Encoding(1.0, source.intercept), SAFE_CT] if modality == "CT" else [_coarser(source, wanted)]
    preferred = ((exact, both), (exact, values), (rounded, both), (rounded, wanted))
    return next((one for candidates, needed in preferred for one in candidates if one.covers(*needed)), exact[-1])


def _exact(
    source: Encoding, modality: str, wanted: tuple[float, float], both: tuple[float, float]
) -> Iterator[Encoding]:
    """Encodings that hold the source's values exactly, within their ranges; the one that is liked best first."""
    slope, intercept, bits = source.slope, source.intercept, max(16, source.bits)
    if modality != "CT":
        parts = np.ceil(STEPS * abs(slope) / (wanted[1] - wanted[0]))
        if parts > 1:
            yield Encoding(float(f"{slope / parts:.12g}"), intercept, bits)
        yield source
        yield from (Encoding(slope, intercept, bits, signed) for signed in (source.signed, True, False))
        return
    if slope == int(slope) and intercept == int(intercept) and not 0 < slope <= 1:
        yield from (Encoding(1.0, intercept), SAFE_CT)
    if source.bits <= 16:
        yield source
    yield Encoding(slope, intercept)
    if 0 < slope < 1:
        steps = np.rint((sum(both) / 2 - intercept) / slope)
        yield Encoding(slope, float(f"{intercept + steps * slope:.9g}"))
    yield Encoding(slope, intercept, 16, False)
    if source.bits > 16:  # words of 32 bits are no standard CT
        yield source


def _coarser(source: Encoding, wanted: tuple[float, float]) -> Encoding:
    """``source`` with so large a step that 16 bits hold ``wanted``: a whole multiple of its own."""
    reach = max(abs(end - source.intercept) for end in wanted) / abs(source.slope)
    return Encoding(source.slope * max(1.0, np.ceil(reach / 32767)), source.intercept)


# --- values -> stored integers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Padding:
    """Pixels of a source that are no tissue: ``stored`` (H, W) has their values where its mask is True.

    value, limit: the ends of the range that declares them; limit None where it is a single value.
    """

    stored: np.ndarray
    value: int
    limit: int | None = None


@dataclass(frozen=True)
class Changes:
    """How many pixels left the range of the file and are ``clipped``, how many are ``padded`` and so no tissue, how
    many the steps of the file ``rounded``, and by how much at ``largest``."""

    clipped: int
    padded: int
    rounded: int
    largest: float


@dataclass(frozen=True)
class Encoded:
    """``stored`` (H, W) integers; what storing them changed; the padding value (and the other end of its range), if any
    pixel is padding."""

    stored: np.ndarray
    changes: Changes
    padding_value: int | None = None
    padding_limit: int | None = None


def encode(
    values: np.ndarray,
    encoding: Encoding,
    mask: np.ndarray | None,
    padding: Padding | None = None,
    unchanged: tuple[np.ndarray, np.ndarray] | None = None,
) -> Encoded:
    """Round values (H, W) to the nearest stored integer, clip and count; NotWritable for NaN and infinities.

    mask: True where a pixel is padding; those get what ``padding`` says if no other pixel has it, else one value that
    is free. unchanged: (values, integers) of the source: where the values are the same, so are the integers, which may
    be finer than float32.
    """
    values = np.asarray(values)
    where = None if mask is None or not mask.any() else ~mask
    strange = ~np.isfinite(values)
    bad = int(np.count_nonzero(strange if where is None else strange & where))
    if bad:
        raise NotWritable(f"{bad} of {values.size} pixels are not finite numbers")
    stored = np.empty(values.shape, encoding.dtype)
    clipped = rounded = 0
    largest = 0.0
    for rows in bands(values.shape):
        part = values[rows].astype(np.float64)
        if where is not None:
            part[~where[rows]] = encoding.intercept
        exact = (part - encoding.intercept) / encoding.slope
        wanted = np.rint(exact)
        if unchanged is not None:
            wanted = exact = np.where(values[rows] == unchanged[0][rows], unchanged[1][rows].astype(np.float64), wanted)
        clipped += int(np.count_nonzero((wanted < encoding.least) | (wanted > encoding.most)))
        stored[rows] = np.clip(wanted, encoding.least, encoding.most)
        off = np.abs(exact - wanted)
        # A value and its step are floating-point numbers, too: what they leave over is no change.
        rounded, largest = rounded + int(np.count_nonzero(off > ROUNDING)), max(largest, float(off.max(initial=0)))
    padded = 0 if mask is None else int(np.count_nonzero(mask))
    changes = Changes(clipped, padded, rounded, largest * abs(encoding.slope) if rounded else 0.0)
    if where is None:
        return Encoded(stored, changes)
    if padding is None or not _is_free(padding, stored[where], encoding):
        padding = Padding(stored, _free_value(stored[where], encoding))
        stored[mask] = padding.value
    else:
        stored[mask] = padding.stored[mask]
    return Encoded(stored, changes, padding.value, padding.limit)


def _padding_range(encoding: Encoding) -> tuple[int, int]:
    """What PixelPaddingValue can say of such pixels: it has 16 bits."""
    narrow = replace(encoding, bits=min(encoding.bits, 16))
    return narrow.least, narrow.most


def _is_free(padding: Padding, used: np.ndarray, encoding: Encoding) -> bool:
    (least, most), limit = _padding_range(encoding), padding.value if padding.limit is None else padding.limit
    low, high = min(padding.value, limit), max(padding.value, limit)
    return least <= low and high <= most and not ((used >= low) & (used <= high)).any()


def _free_value(used: np.ndarray, encoding: Encoding) -> int:
    """A stored value that ``used`` does not hold: the lowest, the highest, else the first gap."""
    present = set(np.unique(used).tolist())
    least, most = _padding_range(encoding)
    for value in (least, most, *range(least, most + 1)):
        if value not in present:
            return value
    raise NotWritable("every stored value is used: none is left for padding")


# --- stored integers -> file, and back ------------------------------------------------------------------------------


def put_pixels(header: Dataset, encoded: Encoded, encoding: Encoding) -> None:
    """Pixels and all that describes them (PS3.3 C.7.6.3, C.11.1); what the header has of MONOCHROME1 and RescaleType
    stays."""
    ct = text(header, "Modality") == "CT"
    header.Rows, header.Columns = encoded.stored.shape
    header.SamplesPerPixel = 1
    if text(header, "PhotometricInterpretation") != "MONOCHROME1":
        header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = encoding.allocated, encoding.bits, encoding.bits - 1
    header.PixelRepresentation = int(encoding.signed)
    if ct or (encoding.slope, encoding.intercept) != (1, 0) or "RescaleSlope" in header:
        header.RescaleSlope, header.RescaleIntercept = decimal(encoding.slope), decimal(encoding.intercept)
        header.RescaleType = text(header, "RescaleType") or ("HU" if ct else "US")
    for keyword, value in (
        ("PixelPaddingValue", encoded.padding_value),
        ("PixelPaddingRangeLimit", encoded.padding_limit),
    ):
        if value is not None:
            header.add_new(keyword, "SS" if encoding.signed else "US", value)
    header.add_new("PixelData", "OW", encoded.stored.tobytes())


def decimal(value: float) -> str:
    """A DS: at most 16 characters, as exact as they allow."""
    value = float(value)
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return next(s for digits in range(17, 0, -1) if len(s := f"{value:.{digits}g}") <= 16)


def reads_as(
    values: np.ndarray,
    mask: np.ndarray | None,
    encoded: Encoded,
    encoding: Encoding,
    padding: np.ndarray | None,
) -> bool:
    """Whether what a reader got, ``values`` float32 (H, W) and ``mask`` (True on padding) or None, is ``encoded``.

    padding: the mask that was written, or None; what padding reads as is left to the reader.
    """
    if values.shape != encoded.stored.shape or (mask is None) != (padding is None):
        return False
    for rows in bands(values.shape):
        inside = slice(None) if padding is None else ~padding[rows]
        if mask is not None and padding is not None and not np.array_equal(mask[rows], padding[rows]):
            return False
        stored = encoded.stored[rows][inside].astype(np.float64)
        if not np.array_equal(values[rows][inside], (stored * encoding.slope + encoding.intercept).astype(np.float32)):
            return False
    return True
