"""HU -> the integers of a DICOM file: which type holds them, what had to be clipped, where padding goes."""

from dataclasses import dataclass

import numpy as np

DEFAULT_CT_RANGE = (-1024.0, 3071.0)
"""What a CT is expected to hold when nobody says: the 12-bit scale."""


@dataclass(frozen=True)
class Encoding:
    """value = stored · slope + intercept, with ``bits`` stored bits of 16, signed or not."""

    slope: float
    intercept: float
    bits: int = 16
    signed: bool = True

    @property
    def least(self) -> int:
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def most(self) -> int:
        return (1 << self.bits - 1) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value it can hold."""
        ends = (self.least * self.slope + self.intercept, self.most * self.slope + self.intercept)
        return min(ends), max(ends)

    def covers(self, low: float, high: float) -> bool:
        return self.range[0] <= low and high <= self.range[1]


SAFE_CT = Encoding(1.0, -1024.0)
"""-33 792 … 31 743 HU in whole numbers: holds every CT."""


def choose_encoding(source: Encoding, modality: str, wanted: tuple[float, float] | None = None) -> Encoding:
    """The encoding of a derived image: the source's own if it holds ``wanted`` and is fine enough, else a wider one.

    wanted: values to be held, (-1024, 3071) HU by default for CT and the source's own range for others. A slope of 2,
    3… becomes 1 in CT: it holds the source's values exactly, and new values are rounded to 1 HU.
    """
    if modality != "CT":
        wider = Encoding(source.slope, source.intercept, 16, source.signed)
        return source if wanted is None or source.covers(*wanted) else wider
    low, high = wanted or DEFAULT_CT_RANGE
    own = Encoding(1.0, source.intercept)
    whole_numbers = source.slope == int(source.slope) and source.intercept == int(source.intercept)
    if 0 < source.slope <= 1:
        candidates = [source, Encoding(source.slope, source.intercept), own]
    else:
        candidates = [own] if whole_numbers else [Encoding(source.slope, source.intercept), own]
    return next((c for c in candidates if c.covers(low, high)), SAFE_CT)


@dataclass(frozen=True)
class Encoded:
    """``stored`` (H, W) uint16 or int16; how many pixels left the range; the padding value, if any pixel is padding."""

    stored: np.ndarray
    clipped_low: int
    clipped_high: int
    padding_value: int | None
    padded: int


def encode(values: np.ndarray, encoding: Encoding, mask: np.ndarray | None, padding_hint: int | None) -> Encoded:
    """Round values (H, W) to the nearest stored integer, clip and count; ValueError for NaN and infinities.

    mask: True where a pixel is padding; those get one value that no other pixel has: ``padding_hint`` if it is free.
    """
    values = np.asarray(values, np.float64)
    where = np.ones(values.shape, bool) if mask is None else ~mask
    bad = int(np.count_nonzero(~np.isfinite(values[where])))
    if bad:
        raise ValueError(f"{bad} of {values.size} pixels are not finite numbers")
    wanted = np.rint((np.where(where, values, encoding.intercept) - encoding.intercept) / encoding.slope)
    low = int(np.count_nonzero((wanted < encoding.least) & where))
    high = int(np.count_nonzero((wanted > encoding.most) & where))
    stored = np.clip(wanted, encoding.least, encoding.most).astype(np.int16 if encoding.signed else np.uint16)
    if encoding.slope < 0:
        low, high = high, low
    if mask is None or not mask.any():
        return Encoded(stored, low, high, None, 0)
    value = _free_value(stored[where], encoding, padding_hint)
    stored[mask] = value
    return Encoded(stored, low, high, value, int(np.count_nonzero(mask)))


def _free_value(used: np.ndarray, encoding: Encoding, hint: int | None) -> int:
    """A stored value that ``used`` does not hold: the hint, the lowest, the highest, else the first gap."""
    present = set(np.unique(used).tolist())
    for value in (hint, encoding.least, encoding.most):
        if value is not None and encoding.least <= value <= encoding.most and value not in present:
            return value
    for value in range(encoding.least, encoding.most + 1):
        if value not in present:
            return value
    raise ValueError("every stored value is used: none is left for padding")


def decode(encoded: Encoded, encoding: Encoding) -> np.ndarray:
    """What a reader gets back: float32 (H, W)."""
    return (encoded.stored.astype(np.float64) * encoding.slope + encoding.intercept).astype(np.float32)
