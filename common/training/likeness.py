"""Is a translation the negative of its input, or its input again? Measured image by image, and told in words.

An unpaired loss is as low for bone that is black as for bone that is white, and a network that hands its input on has
perfect cycles: neither shows in a curve. Noise must not decide, so correlations are those of means over squares of
pixels. What tells "nothing learnt" from "little noise" is how far apart the training images were (``of_pairs``,
``of_domains``).
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medi2i.common.resources import bands

BLOCK = 4  # pixels, of the squares whose means are compared
AIR = -0.9  # in [-1, 1]: what is no higher in the input lies outside of the body
LEAST_SQUARES = 16  # of the body, for a correlation in it
CLEAR = 0.3  # an expected correlation that is weaker has another sign in the next patient
UNLIKE = 0.5  # a correlation of the other sign that is farther from the expected one is an inverted contrast
SHARE_VALIDATED, SHARE_CONVERTED = 0.1, 0.02
"""Of the expected change, below which nothing was learnt: a hundredth of its variance on images like those of training;
less on any other image, whose noise may be a fifth as strong."""
NAMES = "correlation", "inside", "change"


def block_means(values: np.ndarray, side: int) -> np.ndarray:
    """(H, W) -> means over squares of ``side`` pixels, without the rest at the ends.

    NumPy adds slices far more quickly than it takes the mean of four neighbours.
    """
    height, width = (n // side * side for n in values.shape)
    rows = functools.reduce(np.add, (values[i:height:side, :width] for i in range(side)))
    return functools.reduce(np.add, (rows[:, i::side] for i in range(side))) / np.float32(side * side)


def whole_blocks(mask: np.ndarray, side: int) -> np.ndarray:
    """(H, W) bool -> which squares of ``side`` pixels are True all over, those of ``block_means``."""
    height, width = (n // side * side for n in mask.shape)
    rows = np.logical_and.reduce([mask[i:height:side, :width] for i in range(side)])
    return np.logical_and.reduce([rows[:, i::side] for i in range(side)])


def compare(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """An input and its translation (H, W) in [-1, 1]: Pearson's "correlation" of the means over squares of ``BLOCK``
    pixels, the same "inside", of squares all above ``AIR`` in the input, and the "change", the standard deviation of
    y - x over the pixels about its mean, in [-1, 1] units. Those are left out for which an image shows too little.
    """
    side = BLOCK if min(x.shape) >= 4 * BLOCK else 1
    before, after = block_means(x, side).ravel(), block_means(y, side).ravel()
    body = whole_blocks(x > AIR, side).ravel()  # edges of air would outdo all tissue
    found = {
        "correlation": _correlation(before, after),
        "inside": _correlation(before[body], after[body]) if np.count_nonzero(body) >= LEAST_SQUARES else None,
        "change": _deviation(x, y),
    }
    return {name: round(value, 6) for name, value in found.items() if value is not None}


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    a, b = (v.astype(np.float64) - v.mean(dtype=np.float64) for v in (a, b))
    # Not by ``@``: BLAS would wake its threads for it, and they wait for the cores that the network is on.
    aa, bb, ab = (float((one * other).sum()) for one, other in ((a, a), (b, b), (a, b)))
    norm = math.sqrt(aa * bb)
    return ab / norm if norm > 1e-8 * a.size else None


def _deviation(x: np.ndarray, y: np.ndarray) -> float:
    total = squares = 0.0
    for rows in bands(x.shape):
        change = np.subtract(y[rows], x[rows], dtype=np.float64)
        total, squares = total + float(change.sum()), squares + float((change * change).sum())
    return math.sqrt(max(squares / x.size - (total / x.size) ** 2, 0.0))


def sums(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """What ``means`` is made of, for images (N, C, H, W) and their translations (N, C', H, W): float64 (2, 3), sums and
    counts of ``NAMES``. Those of several batches are added up."""
    found = [compare(x.mean(0), y.mean(0)) for x, y in zip(inputs, outputs, strict=True)]
    return np.array(
        [[sum(one.get(n, 0.0) for one in found) for n in NAMES], [sum(n in one for one in found) for n in NAMES]]
    )


def means(added: np.ndarray) -> dict[str, float]:
    """The means by ``sums``, of what was found at all."""
    return {name: float(s / count) for name, s, count in zip(NAMES, *added, strict=True) if count}


def typical(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The median of each number over the images of a series, each as ``compare`` has it."""
    found = list(found)
    some = {name: [one[name] for one in found if isinstance(one.get(name), float)] for name in NAMES}
    return {name: float(np.median(numbers)) for name, numbers in some.items() if numbers}


ASSUMED = 1.0
"""The correlation that is expected of one modality where no pair shows it; one that was measured is below it."""


def spread(count: int, examples: int = 16) -> list[int]:
    """At most ``examples`` evenly spread indices below ``count``."""
    return [int(i) for i in np.linspace(0, count - 1, min(examples, count)).round()]


def of_pairs(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """What training ``pairs`` let expect of a model, as options: the means of ``NAMES`` of x (C, H, W) and t (C', H, W)
    in [-1, 1]; NaN does not count."""
    total = np.zeros((2, 3))
    for x, t in pairs:
        grey, truth = x.mean(0), t.mean(0)
        total += sums(grey[np.newaxis, np.newaxis], np.where(np.isnan(truth), grey, truth)[np.newaxis, np.newaxis])
    return _as_options(means(total))


def of_domains(one_unit: bool, texture: float, contrast: float) -> dict[str, float]:
    """What two domains let expect of a model, as options. Of one unit: a positive correlation, and a change as large
    as their differences of neighbours are apart (``texture``, which no constant moves); else a change of the size of
    the images' own ``contrast``, for another modality is another image. In [-1, 1] units.
    """
    if one_unit:
        return _as_options({"correlation": ASSUMED, "inside": ASSUMED, "change": texture})
    return _as_options({"change": contrast})


def _as_options(numbers: Mapping[str, float]) -> dict[str, float]:
    return {f"expected_{name}": round(number, 6) for name, number in numbers.items()}


def known(options: Any, share: float = 1.0) -> tuple[float | None, float | None, float | None]:
    """``NAMES`` as the options of a training have them; of the change only ``share`` is made."""
    change = options.expected_change
    return options.expected_correlation, options.expected_inside, None if change is None else share * change


def warnings(found: Mapping[str, float], expected: Sequence[float | None], share: float) -> list[str]:
    """What is wrong with a translation, in words; [] for a good one.

    found: ``NAMES`` of it, as ``compare`` has them. expected: as ``known`` has them, None where a model does
    not say. share: of the expected change, below which nothing was learnt.
    """
    correlation, inside, change = expected
    said = []
    for name, sign, where in (("correlation", correlation, ""), ("inside", inside, " without air")):
        if (
            sign is not None
            and abs(sign) >= CLEAR
            and name in found
            and found[name] * sign < 0
            and abs(found[name] - sign) > UNLIKE
        ):
            right = (
                "within one modality it is positive, unless the contrasts are opposite by nature, as of T1 and T2"
                if sign == ASSUMED
                else f"of training pairs it is {sign:+.2f}"
            )
            said.append(f"inverted contrast: correlation of input and translation{where} {found[name]:+.2f}; {right}")
            break
    if "change" in found and found["change"] <= (1e-6 if change is None else share * change):
        reason = ""
        if change and found["change"] > 1e-6:
            reason = f", and training images differ {change / found['change']:.3g} times as much"
        said.append("nothing learnt: the translation equals its input, but for a constant" + reason)
    return said


def of_validations(entries: Sequence[Mapping[str, Any]], options: Any, suffix: str = "") -> list[str]:
    """``warnings`` of the last validation among the ``entries`` of a log, where ``NAMES`` have a ``suffix``; by the
    options of the training."""
    entry: Mapping[str, Any] = next((one for one in reversed(entries) if f"validation/change{suffix}" in one), {})
    found = {name: entry[f"validation/{name}{suffix}"] for name in NAMES if f"validation/{name}{suffix}" in entry}
    return [f"warning: {said}" for said in warnings(found, known(options), SHARE_VALIDATED)]


def in_words(series: Sequence[Mapping[str, float]]) -> str | None:
    """The correlations of several series, each by ``typical``, as a line; None where none is known."""
    parts = []
    for name, where in (("correlation", "correlation of input and result"), ("inside", "without air")):
        if numbers := sorted(one[name] for one in series if name in one):
            ends = [f"{number:+.3f}" for number in (numbers[0], numbers[-1])]
            parts.append(
                f"{where} " + (ends[0] if len(numbers) == 1 else f"{ends[0]} to {ends[1]} in {len(numbers)} series")
            )
    return ", ".join(parts) or None
