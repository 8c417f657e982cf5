"""One comparison of some rows over some slices: metrics slice by slice, and means with how sure one can be of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medi2i.common.errors import UserError
from medi2i.datasets.grid import enlarge, enlarge_mask
from medi2i.datasets.preparing import body_mask
from medi2i.datasets.writing import write_npy
from medi2i.tools.evaluation import metrics
from medi2i.tools.evaluation.files import Slice, load
from medi2i.tools.evaluation.physics import Physics

LEVEL = 0.95
DRAWS = 2000
ALL = "all"
FEW = 20  # slices that need no progress bar


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n - 1) and bootstrap interval of the mean of `count` slices."""

    count: int
    mean: float
    sd: float
    low: float
    high: float


def summarise(values: Sequence[float], groups: Sequence[str], seed: int = 0) -> Summary:
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
    means = _bootstrap(numbers, [group for _, group in kept], np.random.default_rng(seed))
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Summary(len(numbers), mean, float(numbers.std(ddof=1)), float(low), float(high))


def _bootstrap(numbers: np.ndarray, groups: Sequence[str], generator: np.random.Generator) -> np.ndarray:
    names = sorted(set(groups))
    members = [numbers[[group == name for group in groups]] for name in names]
    chosen = generator.integers(len(members), size=(DRAWS, len(members)))
    sums, counts = np.empty(chosen.shape), np.empty(chosen.shape)
    for index, values in enumerate(members):  # slices anew for every time that the series was drawn
        drawn = chosen == index
        picks = generator.integers(len(values), size=(int(drawn.sum()), len(values)))
        sums[drawn], counts[drawn] = values[picks].sum(axis=1), len(values)
    return sums.sum(axis=1) / counts.sum(axis=1)


@dataclass(frozen=True)
class Shift:
    """A row that is another one minus a constant, but not below `lower`."""

    of: str
    minus: float
    lower: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return np.maximum(image - np.float32(self.minus), np.float32(self.lower))


@dataclass(frozen=True)
class Row:
    """One line of the table: a name, what it is, and how to get its image for a slice.

    `shift` where the image is that of another row but for a constant: a page then need not hold it twice.
    """

    name: str
    note: str
    image: Callable[[Slice], np.ndarray]
    shift: Shift | None = None


@dataclass(frozen=True)
class Record:
    """The metrics of one row on one slice: name → value."""

    row: str
    series: str
    slice: str
    values: dict[str, float]


@dataclass(frozen=True)
class Scene:
    """A slice with everything read: truth and images (row → array), mask bool (H, W) of what counts, or None."""

    key: str
    truth: np.ndarray
    mask: np.ndarray | None
    images: dict[str, np.ndarray]


def file_row(name: str, note: str) -> Row:
    """The images found for the slice under `name`, as they are."""
    return Row(name, note, lambda one: load(one.images[name]).array)


def input_row(name: str, scale: int = 1) -> Row:
    """Doing nothing: the input as it is, or enlarged `scale` times by bicubic interpolation where it is so coarse."""
    if scale == 1:
        return file_row(name, "the input as it is: doing nothing")

    def image(one: Slice) -> np.ndarray:
        array = load(one.images[name]).array
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


def water_row() -> Row:
    """0 HU everywhere: what anybody can say of a body of which nothing is known."""
    return Row("water", "0 HU everywhere", lambda one: np.zeros_like(load(one.truth).array))


def histogram_row(source: Row, pairs: Sequence[Scene]) -> Row:
    """Grey values of row `source`, each as the value of the same rank in the truths of `pairs`, in their bodies: what a
    look-up table can do."""
    ranks = np.linspace(0, 1, 257)
    seen: list[list[np.ndarray]] = [[], []]
    for scene in pairs:
        for kept, image in zip(seen, (scene.images[source.name], scene.truth), strict=True):
            kept.append((image if scene.mask is None else image[..., scene.mask]).ravel())
    inputs, truths = (np.quantile(np.concatenate(kept), ranks) for kept in seen)
    values, first = np.unique(inputs, return_index=True)
    return Row(
        "histogram",
        f"{source.name} by a look-up table that matches the histograms of validation pairs",
        lambda one: np.interp(source.image(one), values, truths[first]).astype(np.float32),
    )


def filtered(source: Row, name: str, note: str, change: Callable[[np.ndarray], np.ndarray], folder: Path) -> Row:
    """What `change`, which takes long, makes of the images of row `source`: once, and then read from `folder`."""
    folder.mkdir()
    paths: dict[str, Path] = {}

    def image(one: Slice) -> np.ndarray:
        if one.key in paths:
            return np.load(paths[one.key], allow_pickle=False)
        array = change(source.image(one))
        path = paths[one.key] = folder / f"{len(paths)}.npy"
        write_npy(path, array)
        return array

    return Row(name, note, image)


def read(one: Slice, rows: Sequence[Row], body: bool = False) -> Scene:
    """The scene of a slice. What the truth or the first row (the input) marks as padding counts in no row; with `body`
    neither does what lies outside of the body in the truth (CT).

    Raises UserError where an image is not of the truth's size, Unreadable.
    """
    loaded = load(one.truth)
    size = loaded.array.shape[-2:]
    padding = load(one.images[rows[0].name]).mask
    if padding is not None and size[1] >= 2 * padding.shape[1]:
        padding = enlarge_mask(padding, size[1] // padding.shape[1])
    outside = ~body_mask(loaded.array.reshape(-1, *size)[0]) if body else None
    masks = [mask for mask in (loaded.mask, padding, outside) if mask is not None and mask.shape == size]
    images = {}
    for row in rows:
        images[row.name] = row.image(one)
        if images[row.name].shape != loaded.array.shape:
            raise UserError(
                f"{one.key}: {row.name} has shape {images[row.name].shape}, the truth {one.truth.path} "
                f"{loaded.array.shape}; both must be of one size"
            )
    return Scene(one.key, loaded.array, ~np.logical_or.reduce(masks) if masks else None, images)


@dataclass
class Evaluation:
    """`rows`, `slices`: what was compared; `windows`: of PSNR and SSIM; `shown`: of the pictures.

    `records`, `summary`: the metrics; `physics`: noise and edges, or None; `folders`: row → converted folder;
    `left_out`: why → files that are in no table. `pooled`: row → {dice: [of class 1, 2, …], iou: likewise} of all
    slices' pixels together, {} without classes.
    """

    rows: Sequence[Row]
    slices: Sequence[Slice]
    windows: Sequence[metrics.Window]
    shown: metrics.Window
    unit: str
    records: list[Record]
    summary: dict[tuple[str, str, str], Summary]
    physics: dict | None
    folders: dict[str, str]
    left_out: dict[str, list[str]]
    pooled: dict[str, dict[str, list[float]]]

    @property
    def first_metric(self) -> str:
        """The metric that slices are sorted by."""
        return next(iter(self.records[0].values))

    @property
    def nothing(self) -> list[Row]:
        """The rows of doing nothing: the input as it is, and minus its known bias."""
        first = self.rows[0]
        return [row for row in self.rows if row.name not in self.folders and (row is first or row.shift is not None)]

    @property
    def series(self) -> list[str]:
        """Their names, in order."""
        return list(dict.fromkeys(one.series for one in self.slices))

    def worst_first(self, row: str) -> list[int]:
        """Numbers of the slices by the first metric of a row, the worst first; those without a number last."""
        sign = 1 if metrics.larger_is_better(self.first_metric) else -1
        values = [sign * value for value in self.of(row, self.first_metric)]
        return sorted(range(len(values)), key=lambda index: (math.isnan(values[index]), values[index]))

    def of(self, row: str, metric: str) -> list[float]:
        """The metric of a row, slice by slice."""
        return [record.values[metric] for record in self.records if record.row == row]


def evaluate(
    rows: Sequence[Row],
    slices: Sequence[Slice],
    windows: Sequence[metrics.Window],
    shown: metrics.Window,
    unit: str,
    *,
    classes: int | None = None,
    body: bool = False,
    folders: dict[str, str] | None = None,
    left_out: dict[str, list[str]] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure all rows on all slices. With `classes` the images are class numbers; with `body` only what lies in it
    counts, and so does bone. Raises UserError, Unreadable."""
    spacings = {one.truth.spacing for one in slices}
    physics = None if classes else Physics(windows[0], unit, spacings.pop() if len(spacings) == 1 else None)
    records = []
    counts: dict[str, np.ndarray] = {}
    for one in tqdm(slices, desc="measuring", unit="slice", disable=True if len(slices) <= FEW else None):
        scene = read(one, rows, body)
        for name, image in scene.images.items():
            if classes:
                found = metrics.confusion(image, scene.truth, classes, scene.mask)
                counts[name] = np.add(counts.get(name, 0), found)
                values = metrics.of_labels(found)
            else:
                values = metrics.of_image(image, scene.truth, windows, scene.mask, body)
            records.append(Record(name, one.series, one.key, values))
        if physics is not None:
            physics.add(scene.truth, scene.images, scene.mask)
    pooled = {name: metrics.dice_and_iou(totals) for name, totals in counts.items()}
    return Evaluation(
        rows,
        slices,
        windows,
        shown,
        unit,
        records,
        summaries(records, seed),
        physics.result() if physics else None,
        folders or {},
        left_out or {},
        pooled,
    )


def summaries(records: Sequence[Record], seed: int = 0) -> dict[tuple[str, str, str], Summary]:
    """(row, series, metric) → Summary, for every series and for all slices together (series `all`).

    Where a row equals the truth in a slice (its PSNR is infinite), that slice is left out of this metric's mean in all
    rows alike; if that leaves none, the mean is infinite.
    """
    result = {}
    for row in dict.fromkeys(record.row for record in records):
        own = [record for record in records if record.row == row]
        for name in own[0].values:
            equal = {record.slice for record in records if math.isinf(record.values[name])}
            for group in dict.fromkeys((ALL, *(record.series for record in own))):
                chosen = [record for record in own if group in (ALL, record.series)]
                chosen = [record for record in chosen if record.slice not in equal] or chosen
                result[row, group, name] = summarise(
                    [record.values[name] for record in chosen], [record.series for record in chosen], seed
                )
    return result


def left_out_of_means(records: Sequence[Record]) -> dict[str, int]:
    """metric → how many slices its means leave out because a row equals the truth there."""
    counts = {
        name: len({record.slice for record in records if math.isinf(record.values[name])}) for name in records[0].values
    }
    every = len({record.slice for record in records})
    return {name: count for name, count in counts.items() if 0 < count < every}
