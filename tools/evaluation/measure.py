"""The rows of a comparison, their metrics slice by slice, and means over slices with how sure one can be of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medi2i.common.errors import UserError
from medi2i.datasets.grid import enlarge, enlarge_mask
from medi2i.datasets.outputs import naming
from medi2i.tools.evaluation import metrics

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


ALL = "all"


@dataclass(frozen=True)
class Shift:
    """A row that is another one minus a constant, but not below `lower`."""

    of: str
    minus: float
    lower: float

    def __call__(self, image):
        return np.maximum(image - np.float32(self.minus), np.float32(self.lower))


@dataclass(frozen=True)
class Row:
    """One line of the table: a name, what it is, and how to get its image for a slice.

    `shift` where the image is that of another row but for a constant: a page then need not hold it twice.
    """

    name: str
    note: str
    image: Callable
    shift: Shift | None = None


@dataclass(frozen=True)
class Record:
    """The metrics of one row on one slice: name → value."""

    row: str
    series: str
    slice: str
    values: dict


@dataclass(frozen=True)
class Scene:
    """A slice with everything read: truth and images (row → array), mask bool (H, W) of what counts, or None."""

    key: str
    series: str
    truth: np.ndarray
    mask: np.ndarray | None
    images: dict


def file_row(name: str, note: str) -> Row:
    """The images found for the slice under `name`, as they are."""
    return Row(name, note, lambda one: one.images[name].load().array)


def input_row(name: str, scale: int = 1) -> Row:
    """Doing nothing: the input as it is, or enlarged `scale` times by bicubic interpolation where it is so coarse."""
    if scale == 1:
        return file_row(name, "the input as it is: doing nothing")

    def image(one):
        array = one.images[name].load().array
        fine = enlarge(array if array.ndim == 3 else array[np.newaxis], scale)
        return fine if array.ndim == 3 else fine[0]

    return Row(name, f"the input enlarged {scale} times by bicubic interpolation", image)


def without_bias(source: Row, value: float, lower: float) -> Row:
    """The images of row `source` minus a known bias, not below `lower` (as every converted image is)."""
    shift = Shift(source.name, value, lower)
    return Row(
        f"{source.name} - {value:g}",
        f"{source.name} minus its known bias {value:g}, not below {lower:g}",
        lambda one: shift(source.image(one)),
        shift,
    )


def kept_on_disk(row: Row, folder) -> Row:
    """The same row, its images computed once and then read from `folder`: for what takes long."""
    folder = Path(folder)
    folder.mkdir()
    numbers = {}

    def image(one):
        if one.key not in numbers:
            array = row.image(one)
            numbers[one.key] = len(numbers)
            path = folder / f"{numbers[one.key]}.npy"
            with naming(path):
                np.save(path, array, allow_pickle=False)
            return array
        return np.load(folder / f"{numbers[one.key]}.npy", allow_pickle=False)

    return Row(row.name, row.note, image, row.shift)


def read(one, rows) -> Scene:
    """The scene of a slice. What the truth or the first row (the input) marks as padding counts in no row.

    Raises UserError where an image is not of the truth's size, Unreadable.
    """
    loaded = one.truth.load()
    mask = loaded.mask
    given = one.images[rows[0].name].load().mask
    if given is not None:
        scale = loaded.array.shape[-1] // given.shape[-1]
        given = given if scale < 2 else ~enlarge_mask(~given, scale)
    if given is not None and given.shape == loaded.array.shape[-2:]:
        mask = given if mask is None else mask & given
    images = {}
    for row in rows:
        images[row.name] = row.image(one)
        if images[row.name].shape != loaded.array.shape:
            raise UserError(
                f"{one.key}: {row.name} has shape {images[row.name].shape}, the truth {one.truth.path} "
                f"{loaded.array.shape}; both must be of one size"
            )
    return Scene(one.key, one.series, loaded.array, mask, images)


def measure(scene: Scene, measured) -> list[Record]:
    """The records of all rows; `measured(image, truth, mask)` gives the metrics."""
    return [
        Record(name, scene.series, scene.key, measured(image, scene.truth, scene.mask))
        for name, image in scene.images.items()
    ]


def image_metrics(image, truth, windows, mask=None) -> dict:
    """rmse, mae, bias, and psnr and ssim of every window, as `psnr soft` and so on; no number where it is too small."""
    values = {
        "rmse": metrics.rmse(image, truth, mask),
        "mae": metrics.mae(image, truth, mask),
        "bias": metrics.bias(image, truth, mask),
    }
    for window in windows:
        values[f"psnr {window.name}"] = metrics.psnr(image, truth, window, mask)
        small = min(truth.shape[-2:]) < metrics.SSIM_WIDTH
        values[f"ssim {window.name}"] = float("nan") if small else metrics.ssim(image, truth, window, mask)
    return values


def label_metrics(labels, truth, classes: int, mask=None) -> dict:
    """dice and iou of every class but 0 (the background) in a slice, and their means over the classes that are there.

    A class that only one of both images has counts as 0, be it a single pixel; pooled over all slices it weighs less.
    """
    values = {}
    for name, metric in (("dice", metrics.dice), ("iou", metrics.iou)):
        each = [metric(labels, truth, label, mask) for label in range(1, classes)]
        there = [value for value in each if not np.isnan(value)]
        values[f"{name} mean"] = float(np.mean(there)) if there else float("nan")
        values.update({f"{name} {label}": value for label, value in enumerate(each, start=1)})
    return values


def summaries(records, seed: int = 0) -> dict[tuple[str, str, str], Summary]:
    """(row, series, metric) → Summary, for every series and for all slices together (series `all`).

    Where a row equals the truth in a slice (its PSNR is infinite), that slice is left out of this metric's mean in all
    rows alike; if that leaves none, the mean is infinite.
    """
    by_row = {}
    for record in records:
        by_row.setdefault(record.row, []).append(record)
    result = {}
    for row, own in by_row.items():
        series = list(dict.fromkeys(record.series for record in own))
        for name in own[0].values:
            equal = {record.slice for record in records if math.isinf(record.values[name])}
            for group in (ALL, *series):
                chosen = [record for record in own if group in (ALL, record.series)]
                chosen = [record for record in chosen if record.slice not in equal] or chosen
                result[row, group, name] = summarise(
                    [record.values[name] for record in chosen], [record.series for record in chosen], seed
                )
    return result


def left_out_of_means(records) -> dict[str, int]:
    """metric → how many slices its means leave out because a row equals the truth there."""
    names = records[0].values
    counts = {name: len({record.slice for record in records if math.isinf(record.values[name])}) for name in names}
    every = len({record.slice for record in records})
    return {name: count for name, count in counts.items() if 0 < count < every}
