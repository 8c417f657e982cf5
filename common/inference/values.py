"""What a conversion does to values, counted: the clip, the file's steps and range, and the mean, tissue by tissue.

A network that lowers everything by 100 HU moves no edge, and one that was never shown metal cuts it off at the end of
its clip; neither shows in a picture. So each result is measured against its source, and the numbers of all are said.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medi2i.common.errors import counted
from medi2i.common.resources import bands
from medi2i.common.training.likeness import BLOCK, block_means, whole_blocks
from medi2i.datasets.scaling import Clip

# By the HU of the input, upper ends; between lung and fat there is mostly the edge of the two.
TISSUES = (("air", -900.0), ("lung", -400.0), (None, -150.0), ("fat", -30.0), ("soft tissue", 150.0), ("bone", np.inf))
DEVIATIONS = "uncertainty"  # folder of the maps
QUARTERS = ("lowest quarter", "second quarter", "third quarter", "highest quarter")
"""Of the network's clip, where values are not HU."""


Found = dict[str, Any]


def mean_change(
    before: np.ndarray, after: np.ndarray, where: np.ndarray | None, clip: Clip, ct: bool
) -> dict[str, list[float]]:
    """How much ``after`` is above ``before``: dict of "all" and of each class of the input to [pixels, mean change].

    before, after: (H, W) in the unit of the file. where: (H, W) bool, what counts; None for all. clip: the Clip of the
    input, whose quarters are the classes unless ``ct`` says that values are HU. Classes are those of squares of
    ``BLOCK`` pixels, all of which count. {} without any such square.
    """
    side = BLOCK if min(before.shape) >= 4 * BLOCK else 1
    level = block_means(before, side)
    change = np.concatenate([block_means(after[rows] - before[rows], side) for rows in bands(before.shape)])
    if where is not None:
        inside = whole_blocks(where, side)
        level, change = level[inside], change[inside]
    if not level.size:
        return {}
    names, ends = _classes(clip, ct)
    kinds = np.searchsorted(ends, level.ravel(), side="right")
    pixels = np.bincount(kinds, minlength=len(names)) * side * side
    sums = np.bincount(kinds, change.ravel(), minlength=len(names)) * side * side
    found = {"all": [int(pixels.sum()), _rounded(sums.sum() / pixels.sum())]}
    for name, count, total in zip(names, pixels, sums, strict=True):
        if name is not None and count:
            found[name] = [int(count), _rounded(total / count)]
    return found


def _classes(clip: Clip, ct: bool) -> tuple[Sequence[str | None], list[float]]:
    if ct:
        return [name for name, _ in TISSUES], [end for _, end in TISSUES[:-1]]
    if clip.lower is None:
        return [None], []
    return QUARTERS, [clip.lower + share * clip.width for share in (0.25, 0.5, 0.75)]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def outside_of(beyond: np.ndarray | None, clip: Clip, kept: bool) -> Found:
    """For the report: how many values lie outside of the ``clip``, by ``beyond_clip``, and whether they are kept; {} if
    none."""
    if beyond is None or clip.lower is None or clip.upper is None:
        return {}
    return {
        "outside_clip": {
            "below": int(np.count_nonzero(beyond < 0)),
            "above": int(np.count_nonzero(beyond > 0)),
            "lowest": _rounded(clip.lower + min(float(beyond.min()), 0.0)),
            "highest": _rounded(clip.upper + max(float(beyond.max()), 0.0)),
            "kept": kept,
        }
    }


def of_file(changed: Sequence[tuple[int, int, float]]) -> Found:
    """For the report: how many values the files' range and their steps changed, and these by how much at most.

    changed: (clipped, rounded, by how much at most) of each file.
    """
    clipped, rounded = (sum(one[i] for one in changed) for i in (0, 1))
    return {
        **({"clipped": clipped} if clipped else {}),
        **({"rounded": rounded, "rounded_by": _rounded(max(one[2] for one in changed))} if rounded else {}),
    }


def summary(values: Mapping[str, Found], changes: Mapping[str, Found]) -> dict[str, Found]:
    """Of all images together, for the report: {} or "values" and "mean_change".

    values: name -> what ``outside_of`` and ``of_file`` found of each. changes: name -> ``mean_change``.
    """
    found: Found = {}
    outside = [one["outside_clip"] for one in values.values() if "outside_clip" in one]
    for key, kept in (("kept", True), ("cut", False)):
        if some := [one for one in outside if bool(one["kept"]) is kept]:
            found[key] = {
                "images": len(some),
                **{side: sum(one[side] for one in some) for side in ("below", "above")},
                "lowest": min(one["lowest"] for one in some),
                "highest": max(one["highest"] for one in some),
            }
    for key, of_all in (("clipped", sum), ("rounded", sum), ("rounded_by", max)):
        if numbers := [one[key] for one in values.values() if key in one]:
            found[key] = of_all(numbers)
    means = _means(changes)
    return {**({"values": found} if found else {}), **({"mean_change": means} if means else {})}


def _means(changes: Mapping[str, Found]) -> dict[str, float]:
    names = ["all", *(name for name, _ in TISSUES if name), *QUARTERS]
    found = {}
    for name in names:
        here = [one[name] for _, one in sorted(changes.items()) if name in one]
        if here:
            pixels = sum(count for count, _ in here)
            found[name] = _rounded(math.fsum(count * change for count, change in here) / pixels)
    return found


def lines(found: Mapping[str, Found]) -> Iterator[str]:
    """What ``summary`` found in words, a line each; none where nothing was changed."""
    counts = found.get("values", {})
    for key, what in (
        ("kept", "kept: the result there is the input plus the change at the end of the clip"),
        ("cut", "cut off at its ends"),
    ):
        if key in counts:
            one = counts[key]
            yield (
                f"{counted(one['below'] + one['above'], 'value')} of {counted(one['images'], 'image')} outside of "
                f"the network's clip (input from {one['lowest']:.6g} to {one['highest']:.6g}) {what}"
            )
    if "clipped" in counts:
        yield f"{counted(counts['clipped'], 'value')} beyond what the files hold, clipped to their ends"
    if "rounded" in counts:
        yield (
            f"{counted(counts['rounded'], 'value')} rounded to the steps of the files, by "
            f"{counts['rounded_by']:.3g} at most"
        )
    means = dict(found.get("mean_change", {}))
    if means:
        unit = " HU" if means.keys() & {name for name, _ in TISSUES} else ""
        if unit:  # what the arithmetic of single precision does to a mean is not worth telling
            means = {name: round(change, 2) + 0.0 for name, change in means.items()}
        total = means.pop("all")
        parts = ", ".join(f"{name} {change:+.4g}" for name, change in means.items())
        yield f"mean change: {total:+.4g}{unit}" + (f" ({parts})" if parts else "")


def beyond_clip(array: np.ndarray, mask: np.ndarray | None, clip: Clip) -> np.ndarray | None:
    """(C, H, W) -> what ``clip`` takes off: values minus clipped ones, 0 on padding; None where that is nothing."""
    if not clip.scales or (array.min() >= clip.lower and array.max() <= clip.upper):
        return None
    beyond = np.clip(array, np.float32(clip.lower), np.float32(clip.upper))
    np.subtract(array, beyond, out=beyond)
    if mask is not None:
        beyond[:, mask] = 0
    return beyond if beyond.any() else None


def deviation_summary(found: Mapping[str, Found], samples: str | None) -> Found:
    """Means over images, for the report; {} without any.

    found: name -> ``deviation`` of its map. samples: what was sampled, in words.
    """
    if not found:
        return {}
    found = dict(sorted(found.items()))  # sums and ties do not depend on which image was ready first
    largest = max(found, key=lambda name: found[name]["mean"])
    return {
        "samples": samples,
        "folder": DEVIATIONS,
        "unit": found[largest]["unit"],
        "mean": round(float(np.mean([one["mean"] for one in found.values()])), 4),
        "p95": round(float(np.mean([one["p95"] for one in found.values()])), 4),
        "largest_mean": found[largest]["mean"],
        "largest_in": largest,
    }


def deviation_text(about: Found, folder: Path) -> str:
    """A ``summary`` in words; ``folder``: that of the conversion."""
    unit = f" {about['unit']}" if about["unit"] else ""
    return (
        f"standard deviation of {about['samples']}: mean {about['mean']:.3g}{unit}, 95 % of pixels below "
        f"{about['p95']:.3g}{unit}; largest mean {about['largest_mean']:.3g}{unit} in {about['largest_in']}; "
        f"maps in {folder / DEVIATIONS}"
    )


def deviation(values: np.ndarray, unit: str) -> Found:
    """Mean and 95th percentile of deviations, as the report has them."""
    if not values.size:
        return {"mean": 0.0, "p95": 0.0, "unit": unit}
    return {
        "mean": round(float(values.mean(dtype=np.float64)), 4),
        "p95": round(float(np.percentile(values, 95)), 4),
        "unit": unit,
    }
