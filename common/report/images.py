"""Which images go into a page, and how large, so that the page stays within a budget."""
from dataclasses import dataclass

from medi2i.common.report import packing

FULL_SHARE = 0.5  # of the budget goes to whole images of the worst slices; the other slices come reduced
FACTORS = (1, 2, 4, 8)


@dataclass
class Packed:
    """The packed images of some slices. `entries`: slice number → {ids: {row: [number of each channel]}, height, width,
    factor}; `blobs`: base64 text by number; `left_out`: how many slices did not fit."""
    entries: dict
    blobs: list
    left_out: int


def pack_slices(order, load, scale: packing.Scale, budget: int) -> Packed:
    """Pack the slices with the numbers `order`, worst first, into at most `budget` characters.

    `load(number)` → {row: array (H, W) or (3, H, W)}. Where not all fit, the worst keep their size and the others are
    reduced by 2, 4 or 8 (means over squares of pixels), whichever is enough.
    """
    packed = Packed({}, [], 0)
    used, factor = 0, None
    for position, number in enumerate(order):
        arrays = load(number)
        if position == 0:
            entry, blobs = _pack(arrays, scale, 1)
            each = sum(map(len, blobs))
            whole = len(order) if each * len(order) <= budget else int(FULL_SHARE * budget / each)
            rest = max(len(order) - whole, 1)
            factor = next((f for f in FACTORS if rest * each / f ** 2 <= budget - whole * each), FACTORS[-1])
        if position > 0 or whole == 0:
            entry, blobs = _pack(arrays, scale, 1 if position < whole else factor)
        size = sum(map(len, blobs))
        if used + size > budget:
            packed.left_out += 1
            continue
        used += size
        first = len(packed.blobs)
        entry["ids"] = {row: [first + place for place in places] for row, places in entry["ids"].items()}
        packed.entries[number] = entry
        packed.blobs += blobs
    return packed


def _pack(arrays, scale, factor):
    blobs, ids = [], {}
    factor = min(factor, *(max(1, min(array.shape[-2:]) // 16) for array in arrays.values()))
    for row, array in arrays.items():
        array = packing.shrink(array, factor) if factor > 1 else array
        channels = scale.quantise(array if array.ndim == 3 else array[None])
        ids[row] = list(range(len(blobs), len(blobs) + len(channels)))
        blobs += [packing.text(packing.pack(channel)) for channel in channels]
    height, width = channels.shape[1:]
    return {"ids": ids, "height": height, "width": width, "factor": factor}, blobs
