"""Means over slices, and how sure one can be of them."""
import math
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
DRAWS = 2000


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n - 1) and bootstrap interval of the mean of `count` slices."""
    count: int
    mean: float
    sd: float
    low: float
    high: float


def summarise(values, groups, seed: int = 0, draws: int = DRAWS, level: float = LEVEL) -> Summary:
    """Summary of one number per slice; `groups` names the series of each.

    The interval is the percentile bootstrap (Efron 1979) of the mean. Slices of one series resemble each other, so
    where there are several series whole series are drawn, and then slices within them; with one series the interval
    only tells of other slices of the same series, not of other patients. Values that are not a number (a metric that
    does not exist for the slice) are left out; an infinite one (PSNR of equal images) makes mean and bounds infinite.
    """
    kept = [(float(value), group) for value, group in zip(values, groups, strict=True) if not math.isnan(value)]
    if not kept:
        return Summary(0, math.nan, math.nan, math.nan, math.nan)
    numbers = np.array([value for value, _ in kept])
    mean = float(numbers.mean())
    if not math.isfinite(mean):
        return Summary(len(numbers), mean, math.nan, mean, mean)
    if len(numbers) == 1:
        return Summary(1, mean, math.nan, math.nan, math.nan)
    means = _bootstrap(numbers, [group for _, group in kept], np.random.default_rng(seed), draws)
    low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
    return Summary(len(numbers), mean, float(numbers.std(ddof=1)), float(low), float(high))


def _bootstrap(numbers, groups, generator, draws):
    names = sorted(set(groups))
    members = [numbers[[group == name for group in groups]] for name in names]
    if len(members) == 1:
        return numbers[generator.integers(len(numbers), size=(draws, len(numbers)))].mean(axis=1)
    chosen = generator.integers(len(members), size=(draws, len(members)))
    sums, counts = np.empty(chosen.shape), np.empty(chosen.shape)
    for index, values in enumerate(members):  # slices anew for every time that the series was drawn
        drawn = chosen == index
        picks = generator.integers(len(values), size=(int(drawn.sum()), len(values)))
        sums[drawn], counts[drawn] = values[picks].sum(axis=1), len(values)
    return sums.sum(axis=1) / counts.sum(axis=1)
