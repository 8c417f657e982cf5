"""The results as a table for people, and as CSV and JSON for programs."""

import json
import math
import os

import numpy as np

from medi2i.datasets.outputs import csv_text, whole_file, write_text
from medi2i.tools.evaluation import measure
from medi2i.tools.evaluation.measure import ALL

DIGITS = {"rmse": 2, "mae": 2, "bias": 2, "psnr": 2, "ssim": 4, "dice": 4, "iou": 4}


def blocks(rows, summary, unit: str, series: str = ALL) -> list[list[list[str]]]:
    """Tables of text, the head first: errors with the interval of the first, then PSNR and SSIM, or Dice and IoU;
    a line each row, mean ± standard deviation over the slices."""
    names = list(dict.fromkeys(name for _, _, name in summary))
    chosen = [
        [name for name in names if name.partition(" ")[0] in block]
        for block in (("rmse", "mae", "bias"), ("psnr", "ssim"), ("dice",), ("iou",))
    ]
    return [_block(rows, summary, unit, series, block) for block in chosen if block]


def _block(rows, summary, unit, series, names):
    first = names[0]
    head = ["", *(_heading(name, unit) for name in names)]
    head.insert(2, f"95 % interval of {label(first)}")
    lines = [head]
    for row in rows:
        cells = [row.name]
        for name in names:
            one = summary[row.name, series, name]
            digits = DIGITS[name.partition(" ")[0]]
            cells.append(_number(one.mean, digits) + ("" if math.isnan(one.sd) else f" ± {one.sd:.{digits}f}"))
            if name == first:
                cells.append(
                    "-" if math.isnan(one.low) else f"{_number(one.low, digits)} … {_number(one.high, digits)}"
                )
        lines.append(cells)
    return lines


def pooled_block(pooled) -> list[list[str]]:
    """Dice and IoU of the pixels of all slices together; the head first, empty without classes."""
    if not pooled:
        return []
    count = len(next(iter(pooled.values()))["dice"])
    lines = [
        [
            "all slices together",
            "Dice mean",
            *(f"Dice {label}" for label in range(1, count + 1)),
            "IoU mean",
            *(f"IoU {label}" for label in range(1, count + 1)),
        ]
    ]
    for row, one in pooled.items():
        lines.append(
            [row, *(_number(value, 4) for name in ("dice", "iou") for value in (mean_of_known(one[name]), *one[name]))]
        )
    return lines


def mean_of_known(values) -> float:
    """The mean of what is not nan."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def aligned(lines) -> str:
    """Lines of cells as text in columns, the first one to the left."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def label(name: str) -> str:
    """`psnr soft` as people write it."""
    metric, _, window = name.partition(" ")
    shown = {"iou": "IoU", "dice": "Dice", "bias": "Bias"}.get(metric, metric.upper())
    return f"{shown} {window}" if window else shown


def describe_windows(windows, unit: str) -> str:
    """The windows of PSNR and SSIM and their data ranges, in words."""
    return "PSNR and SSIM: both images clipped to " + ", ".join(
        f"{window.name} = {window.lower:g}…{window.upper:g}{unit and ' ' + unit} (data range {window.range:g})"
        for window in windows
    )


def describe_left_out(records) -> str:
    """Which means leave slices out, in words; empty where none does."""
    return "; ".join(
        f"mean {label(name)} without {count} slices in which a row equals the truth"
        for name, count in measure.left_out_of_means(records).items()
    )


def write_slices_csv(path, records):
    """One line a row and slice: row, series, slice, metrics."""
    names = list(records[0].values)
    _write_csv(
        path,
        ["row", "series", "slice", *names],
        ([record.row, record.series, record.slice, *(record.values[name] for name in names)] for record in records),
    )


def write_summary_csv(path, summary, windows):
    """One line a row, series and metric: count, mean, sd, interval, and the window where the metric has one."""
    ranges = {window.name: window for window in windows}

    def lines():
        for (row, series, name), one in summary.items():
            window = ranges.get(name.partition(" ")[2])
            yield [
                row,
                series,
                name,
                *((window.lower, window.upper) if window else ("", "")),
                one.count,
                one.mean,
                one.sd,
                one.low,
                one.high,
            ]

    _write_csv(
        path,
        [
            "row",
            "series",
            "metric",
            "window_lower",
            "window_upper",
            "slices",
            "mean",
            "sd",
            "interval_low",
            "interval_high",
        ],
        lines(),
    )


def write_maps(folder, evaluation):
    """Image - truth, float32, as ROW/SLICE.npy below `folder`; colour keeps its channels. Returns `folder`."""
    for one in evaluation.slices:
        scene = measure.read(one, evaluation.rows)
        for row, image in scene.images.items():
            path = folder / row.replace(os.sep, "_") / f"{one.key}.npy"
            with whole_file(path, force=True) as temporary, open(temporary, "wb") as file:
                np.save(file, image - scene.truth, allow_pickle=False)
    return folder


def write_json(path, content):
    """Write JSON; what is not a finite number becomes a string (inf, nan), which JSON has no number for."""
    write_text(path, json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _write_csv(path, head, lines):
    write_text(path, csv_text([head, *lines]))


def _number(value, digits):
    return str(value) if math.isinf(value) else "-" if math.isnan(value) else f"{value:.{digits}f}"


def _heading(name, unit):
    metric = name.partition(" ")[0]
    told = "dB" if metric == "psnr" else unit if metric in ("rmse", "mae", "bias") else ""
    return label(name) + (f" / {told}" if told else "")
