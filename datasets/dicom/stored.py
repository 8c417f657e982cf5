"""Words of pixel data -> stored values: which bits are the value, and what the others hold (PS3.5 8.1.1)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medi2i.common.errors import Unreadable
from medi2i.datasets.dicom.file import Layout


@dataclass(frozen=True)
class Words:
    """Samples (H, W) as unsigned words; the lowest ``bits`` of each hold something. ``extended``: these are signed
    numbers already, whatever the header says."""

    values: np.ndarray
    bits: int
    extended: bool = False


@dataclass(frozen=True)
class Stored:
    """Stored values (H, W) as integers. ``unextended``: True where a negative value has no sign in its spare bits."""

    values: np.ndarray
    unextended: np.ndarray | None
    notes: tuple[str, ...]


def to_stored(path: Path | str, words: Words, layout: Layout, overlay: bool) -> Stored:
    """The values in the stored bits of words (PS3.5 8.1.1), sign extended. Spare bits may be 0, copies of the sign, or
    an ``overlay``. Raises Unreadable where the header leaves two readings that differ."""
    if words.extended and not layout.signed and (words.values >> (words.bits - 1)).any():
        raise Unreadable(path, "the compressed image has negative values, PixelRepresentation 0 says there are none")
    readings = [_Field(words, 0, min(layout.stored, words.bits), layout.signed)]
    if layout.high != layout.stored - 1:
        readings += _other_readings(words, layout)
        good = [reading for reading in readings if reading.clean]
        if not good or not all(np.array_equal(good[0].values, other.values) for other in good[1:]):
            raise Unreadable(
                path, f"HighBit {layout.high} contradicts BitsStored {layout.stored}, and the pixels do not tell which "
                "is right"
            )  # fmt: skip
        readings = good[:1]
    field, notes = readings[0], []
    if field.shift != layout.high - layout.stored + 1:
        notes.append(f"HighBit {layout.high} is not BitsStored {layout.stored} - 1: taken as {field.bits - 1}")
    if field.mixed and not overlay:
        raise Unreadable(
            path,
            f"BitsStored {layout.stored} is too small: values reach {int(field.words[field.unextended].max())} and "
            "negative ones are sign extended beyond it",
        )
    if field.garbage is not None and not overlay:  # an overlay lives in the spare bits, as it did before 2004
        notes.append(
            f"{int(field.garbage.sum())} pixels use bits above BitsStored {layout.stored}, which are ignored: is "
            "BitsStored right?"
        )
    kind = f"{'i' if layout.signed else 'u'}{layout.allocated // 8}"
    return Stored(field.values.astype(kind, copy=False), field.unextended, tuple(notes))


def _other_readings(words: Words, layout: Layout) -> list["_Field"]:
    shift = layout.high - layout.stored + 1
    if shift < 0:
        return [_Field(words, 0, min(max(layout.high, 0) + 1, words.bits), layout.signed)]
    if layout.high < words.bits:
        return [_Field(words, shift, layout.stored, layout.signed)]
    return []


class _Field:
    """``bits`` bits of words from bit ``shift`` on, as numbers; and what the other bits hold."""

    def __init__(self, words: Words, shift: int, bits: int, signed: bool):
        self.words, self.shift, self.bits = words.values, shift, bits
        spare = words.bits - shift - bits
        self.unextended = self.garbage = None
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
