"""The results as tables and sentences for people, and as CSV and JSON for programs."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from medi2i.common.errors import counted
from medi2i.common.outputs import csv_text, strict, write_text
from medi2i.datasets.writing import write_npy
from medi2i.tools.evaluation import measure, metrics, physics
from medi2i.tools.evaluation.measure import ALL, Evaluation, Record, Summary
from medi2i.tools.evaluation.metrics import Window

DIGITS = {"rmse": 2, "mae": 2, "bias": 2, "psnr": 2, "ssim": 4, "dice": 4, "iou": 4}
Lines = list[list[str]]
"""A table of text: lines of cells, the head first."""


def overall(evaluation: Evaluation) -> list[tuple[str, Lines]]:
    """(caption, table) of all slices together: pooled classes, metrics, noise and edges; what there is of it."""
    tables = [("", lines) for lines in (*pooled(evaluation), *blocks(evaluation))]
    if evaluation.physics and evaluation.physics["rows"]:
        tables.append((describe_physics(evaluation.physics), physics_lines(evaluation.physics, evaluation.unit)))
    return tables


def blocks(evaluation: Evaluation, series: str = ALL) -> list[Lines]:
    """Errors with the interval of the first, then PSNR and SSIM, or Dice and IoU; a line each row, mean ± standard
    deviation over the slices."""
    names = list(evaluation.records[0].values)
    tables = []
    for block in (("rmse", "mae", "bias"), ("psnr", "ssim"), ("dice",), ("iou",)):
        chosen = [name for name in names if name.partition(" ")[0] in block]
        if not chosen:
            continue
        first, *others = (heading(name, evaluation.unit) for name in chosen)
        lines = [["", first, f"95 % interval of {label(chosen[0])}", *others]]
        for row in evaluation.rows:
            found = [(evaluation.summary[row.name, series, name], DIGITS[name.partition(" ")[0]]) for name in chosen]
            first, *others = (_mean(one, digits) for one, digits in found)
            lines.append([row.name, first, _interval(*found[0]), *others])
        tables.append(lines)
    return tables


def _mean(one: Summary, digits: int) -> str:
    return _number(one.mean, digits) + ("" if math.isnan(one.sd) else f" ± {one.sd:.{digits}f}")


def _interval(one: Summary, digits: int) -> str:
    return "-" if math.isnan(one.low) else f"{_number(one.low, digits)} … {_number(one.high, digits)}"


def pooled(evaluation: Evaluation) -> list[Lines]:
    """Dice and IoU of the pixels of all slices together; nothing without classes."""
    if not evaluation.pooled:
        return []
    classes = range(1, len(next(iter(evaluation.pooled.values()))["dice"]) + 1)
    head = ["all slices together"]
    for shown in ("Dice", "IoU"):
        head += [f"{shown} mean", *(f"{shown} {number}" for number in classes)]
    lines = [head]
    for row, one in evaluation.pooled.items():
        values = [value for each in (one["dice"], one["iou"]) for value in (metrics.mean_of_known(each), *each)]
        lines.append([row, *(_number(value, 4) for value in values)])
    return [lines]


def physics_lines(result: dict, unit: str) -> Lines:
    """Noise and edges of every row that has them."""
    head = [
        "",
        f"noise{unit and ' / ' + unit}",
        f"mean frequency / {result['length']}⁻¹",
        f"edge 10–90 % / {result['edge_length']}",
    ]
    shown = (("noise", 2), ("frequency", 3), ("edge", 2))
    return [head] + [
        [name, *(_number(one.get(key, math.nan), digits) for key, digits in shown)]
        for name, one in result["rows"].items()
    ]


def describe_physics(result: dict) -> str:
    """Where the numbers of noise and edges come from, in words."""
    return (
        f"noise: standard deviation in {result['regions']} regions of {physics.SIDE}×{physics.SIDE} pixels where the "
        f"truth is most uniform; edge: mean of {result['edges']} clean steps of the truth"
    )


def aligned(lines: Lines) -> str:
    """Lines of cells as text in columns, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    )


def label(name: str) -> str:
    """`psnr soft` as people write it."""
    metric, _, window = name.partition(" ")
    shown = {"iou": "IoU", "dice": "Dice", "bias": "Bias"}.get(metric, metric.upper())
    return f"{shown} {window}" if window else shown


def lead(evaluation: Evaluation) -> str:
    """What the tables are of, in words."""
    return (
        f"{counted(len(evaluation.slices), 'slice')} of {len(evaluation.series)} series; "
        "mean ± standard deviation over slices"
    )


def remarks(evaluation: Evaluation) -> list[str]:
    """In words: the windows of PSNR and SSIM with their data ranges, and which means leave slices out."""
    told = []
    if evaluation.windows:
        unit = evaluation.unit and " " + evaluation.unit
        told.append(
            "PSNR and SSIM: both images clipped to "
            + ", ".join(
                f"{window.name} = {window.lower:g}…{window.upper:g}{unit} (data range {window.range:g})"
                for window in evaluation.windows
            )
        )
    left_out = measure.left_out_of_means(evaluation.records)
    if left_out:
        told.append(
            "; ".join(
                f"mean {label(name)} without {count} slices in which a row equals the truth"
                for name, count in left_out.items()
            )
        )
    return told


@dataclass(frozen=True)
class Verdict:
    """One sentence on one row; `worse`: it lost against a row that is there for comparison."""

    text: str
    worse: bool


def verdicts(evaluation: Evaluation, baselines: Sequence[str]) -> list[Verdict]:
    """For every converted row: how its mean of the first metric compares with the best of the rows in `baselines`."""
    metric = evaluation.first_metric
    sign = 1 if metrics.larger_is_better(metric) else -1
    values = {row.name: evaluation.of(row.name, metric) for row in evaluation.rows}
    means = {row: float(np.mean(own)) for row, own in values.items()}
    best = max(baselines, key=lambda row: sign * means[row])
    told = f"{evaluation.unit and ' ' + evaluation.unit}"
    result = []
    for row in evaluation.folders:
        better = sum(sign * a > sign * b for a, b in zip(values[row], values[best], strict=True))
        worse = sign * means[row] <= sign * means[best]
        relation = "no better than" if means[row] == means[best] else "WORSE than" if worse else "better than"
        result.append(
            Verdict(
                f"{row}: {label(metric)} {means[row]:.4g}{told}, {relation} {best} "
                f"({means[best]:.4g}{told}); better on {better} of "
                f"{counted(len(values[row]), 'slice')}",
                worse,
            )
        )
    return result


def write_slices_csv(path: Path, records: Sequence[Record]) -> None:
    """One line a row and slice: row, series, slice, metrics."""
    head = ["row", "series", "slice", *records[0].values]
    lines = [[record.row, record.series, record.slice, *record.values.values()] for record in records]
    write_text(path, csv_text([head, *lines]))


def write_summary_csv(path: Path, summary: dict[tuple[str, str, str], Summary], windows: Sequence[Window]) -> None:
    """One line a row, series and metric: count, mean, sd, interval, and the window where the metric has one."""
    head = "row series metric window_lower window_upper slices mean sd interval_low interval_high".split()
    limits = {window.name: (window.lower, window.upper) for window in windows}
    lines = [
        [*key, *limits.get(key[2].partition(" ")[2], ("", "")), one.count, one.mean, one.sd, one.low, one.high]
        for key, one in summary.items()
    ]
    write_text(path, csv_text([head, *lines]))


def write_maps(folder: Path, evaluation: Evaluation) -> None:
    """Image - truth, float32, as ROW/SLICE.npy below `folder`; colour keeps its channels."""
    for one in evaluation.slices:
        scene = measure.read(one, evaluation.rows)
        for row, image in scene.images.items():
            write_npy(folder / row.replace(os.sep, "_") / f"{one.key}.npy", image - scene.truth)


def write_html(path: Path, template: str, parts: dict) -> None:
    """Write a page by one of the templates beside this module."""
    templates = Environment(loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined)
    write_text(path, templates.get_template(template).render(parts))


def write_json(path: Path, content: dict) -> None:
    """Write JSON; what is not a finite number becomes a string (inf, nan), which JSON has no number for."""
    write_text(path, json.dumps(strict(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _number(value: float, digits: int) -> str:
    return str(value) if math.isinf(value) else "-" if math.isnan(value) else f"{value:.{digits}f}"


def heading(name: str, unit: str) -> str:
    """`psnr soft` as people write it, with its unit."""
    metric = name.partition(" ")[0]
    told = "dB" if metric == "psnr" else unit if metric in ("rmse", "mae", "bias") else ""
    return label(name) + (f" / {told}" if told else "")
