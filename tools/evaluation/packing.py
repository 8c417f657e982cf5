"""Images small enough to lie inside a page, exact to the stored step, and which of them fit into a budget.

An image becomes unsigned 16-bit numbers q with value = offset + step·q. Each q is predicted from its neighbours (the
median edge detector of JPEG-LS, ISO/IEC 14495-1 A.4.2), the differences are folded to unsigned (0, -1, 1, -2 → 0, 1, 2,
3), high bytes and low bytes are laid apart, deflated (zlib) and written as base64. viewer.js does the way back.
"""

import base64
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

TOP = 65535
FULL_SHARE = 0.5  # of the budget goes to whole images of the worst slices; the other slices come reduced
FACTORS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Scale:
    """value = offset + step·q for q = 0…65535."""

    offset: float
    step: float

    @classmethod
    def of(cls, lower: float, upper: float, whole: bool) -> "Scale":
        """For values in [lower, upper]; with `whole` numbers the step is 1 where that is enough."""
        if whole and upper - lower <= TOP:
            return cls(float(np.floor(lower)), 1.0)
        return cls(float(lower), float(upper - lower) / TOP or 1.0)

    def quantise(self, array: ArrayLike) -> np.ndarray:
        """uint16 of the same shape; values outside the scale go to its ends."""
        steps = (np.asarray(array, dtype=np.float64) - self.offset) / self.step
        return np.clip(np.rint(steps), 0, TOP).astype(np.uint16)


def pack(q: np.ndarray) -> bytes:
    """Compress uint16 (H, W)."""
    q = q.astype(np.int32)
    error = (q - _prediction(q)) & TOP
    error = np.where(error > TOP // 2, error - TOP - 1, error)  # differences are modulo 2^16, the short way round
    folded = np.where(error >= 0, 2 * error, -2 * error - 1).astype(np.uint16)
    return zlib.compress((folded >> 8).astype(np.uint8).tobytes() + (folded & 255).astype(np.uint8).tobytes(), 6)


def shrink(array: np.ndarray, factor: int) -> np.ndarray:
    """Mean over factor × factor pixels of (H, W) or (C, H, W); rows and columns that are left over are dropped."""
    height, width = (length // factor * factor for length in array.shape[-2:])
    blocks = array[..., :height, :width].reshape(*array.shape[:-2], height // factor, factor, width // factor, factor)
    return blocks.mean(axis=(-3, -1), dtype=np.float64).astype(np.float32)


def _prediction(q: np.ndarray) -> np.ndarray:
    padded = np.pad(q, ((1, 0), (1, 0)))
    left, above, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    low, high = np.minimum(left, above), np.maximum(left, above)
    return np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))


@dataclass
class Packed:
    """The packed images of some slices. `entries`: slice number → {ids: {row: [number of each channel]}, height, width,
    factor}; `blobs`: base64 text by number; `left_out`: how many slices did not fit."""

    entries: dict[int, dict] = field(default_factory=dict)
    blobs: list[str] = field(default_factory=list)
    left_out: int = 0

    @property
    def size(self) -> int:
        """Characters."""
        return sum(map(len, self.blobs))


def pack_slices(
    order: Sequence[int], load: Callable[[int], dict[str, np.ndarray]], scale: Scale, budget: int
) -> Packed:
    """Pack the slices with the numbers `order`, worst first, into at most `budget` characters.

    `load(number)` → {row: array (H, W) or (3, H, W)}. Where not all fit, the worst keep their size and the others are
    reduced by 2, 4 or 8 (means over squares of pixels), whichever is enough.
    """
    each = sum(map(len, _pack(load(order[0]), scale, 1, 0)[1]))
    whole = len(order) if each * len(order) <= budget else int(FULL_SHARE * budget / each)
    rest = max(len(order) - whole, 1)
    factor = next((f for f in FACTORS if rest * each / f**2 <= budget - whole * each), FACTORS[-1])
    packed = Packed()
    for position, number in enumerate(order):
        entry, blobs = _pack(load(number), scale, 1 if position < whole else factor, len(packed.blobs))
        if packed.size + sum(map(len, blobs)) > budget:
            packed.left_out += 1
            continue
        packed.entries[number] = entry
        packed.blobs += blobs
    return packed


def _pack(arrays: dict[str, np.ndarray], scale: Scale, factor: int, first: int) -> tuple[dict, list[str]]:
    """The entry of one slice and its blobs, which are numbered from `first` on."""
    blobs: list[str] = []
    ids = {}
    factor = min(factor, *(max(1, min(array.shape[-2:]) // 16) for array in arrays.values()))
    for row, array in arrays.items():
        array = shrink(array, factor) if factor > 1 else array
        channels = scale.quantise(array if array.ndim == 3 else array[None])
        ids[row] = list(range(first + len(blobs), first + len(blobs) + len(channels)))
        blobs += [base64.b64encode(pack(channel)).decode("ascii") for channel in channels]
    height, width = channels.shape[1:]
    return {"ids": ids, "height": height, "width": width, "factor": factor}, blobs
