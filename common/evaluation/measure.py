"""The rows of a comparison, and their metrics slice by slice."""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medi2i.common import metrics
from medi2i.common.errors import UserError
from medi2i.common.evaluation.statistics import Summary, summarise

ALL = "all"


@dataclass(frozen=True)
class Row:
    """One line of the table: a name, what it is, and how to get its image for a slice."""
    name: str
    note: str
    image: Callable


@dataclass(frozen=True)
class Record:
    """The metrics of one row on one slice: name → value."""
    row: str
    series: str
    slice: str
    values: dict


def file_row(name: str, note: str) -> Row:
    """The images found for the slice under `name`, as they are."""
    return Row(name, note, lambda one: one.images[name].load().array)


def without_bias(source: str, value: float, lower: float) -> Row:
    """The images of row `source` minus a known bias, not below `lower` (as every converted image is)."""
    return Row(f"{source} - {value:g}", f"{source} minus its known bias {value:g}, not below {lower:g}",
               lambda one: np.maximum(one.images[source].load().array - np.float32(value), np.float32(lower)))


def image_metrics(image, truth, windows, mask=None) -> dict:
    """rmse, mae, bias, and psnr and ssim of every window, as `psnr soft` and so on; no number where it is too small."""
    values = {"rmse": metrics.rmse(image, truth, mask), "mae": metrics.mae(image, truth, mask),
              "bias": metrics.bias(image, truth, mask)}
    for window in windows:
        values[f"psnr {window.name}"] = metrics.psnr(image, truth, window, mask)
        small = min(truth.shape[-2:]) < metrics.SSIM_WIDTH
        values[f"ssim {window.name}"] = float("nan") if small else metrics.ssim(image, truth, window, mask)
    return values


def label_metrics(labels, truth, classes: int, mask=None) -> dict:
    """dice and iou of every class but 0 (the background), and their means over the classes that are there."""
    values = {}
    for name, metric in (("dice", metrics.dice), ("iou", metrics.iou)):
        each = [metric(labels, truth, label, mask) for label in range(1, classes)]
        there = [value for value in each if not np.isnan(value)]
        values[f"{name} mean"] = float(np.mean(there)) if there else float("nan")
        values.update({f"{name} {label}": value for label, value in enumerate(each, start=1)})
    return values


def measure(one, rows, measured) -> list[Record]:
    """The records of all `rows` on the slice `one`; `measured(image, truth, mask)` gives the metrics.

    Pixels that the truth or the first row (the input) marks as padding count in no row. Raises UserError where
    sizes differ.
    """
    loaded = one.truth.load()
    truth, mask = loaded.array, loaded.mask
    given = one.images[rows[0].name].load().mask
    if given is not None and (mask is None or mask.shape == given.shape):
        mask = given if mask is None else mask & given
    records = []
    for row in rows:
        image = row.image(one)
        if image.shape != truth.shape:
            raise UserError(f"{one.key}: {row.name} has shape {image.shape}, the truth {one.truth.path} "
                            f"{truth.shape}; both must be of one size")
        records.append(Record(row.name, one.series, one.key, measured(image, truth, mask)))
    return records


def summaries(records, seed: int = 0) -> dict[tuple[str, str, str], Summary]:
    """(row, series, metric) → Summary, for every series and for all slices together (series `all`)."""
    by_row = {}
    for record in records:
        by_row.setdefault(record.row, []).append(record)
    result = {}
    for row, own in by_row.items():
        series = list(dict.fromkeys(record.series for record in own))
        for name in own[0].values:
            for group in (ALL, *series):
                chosen = [record for record in own if group in (ALL, record.series)]
                result[row, group, name] = summarise([record.values[name] for record in chosen],
                                                     [record.series for record in chosen], seed)
    return result
