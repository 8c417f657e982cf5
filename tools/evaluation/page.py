"""The report of an evaluation: one HTML file with everything in it, its images exact to the stored step.

An image becomes unsigned 16-bit numbers q with value = offset + step·q. Each q is predicted from its neighbours (the
median edge detector of JPEG-LS, ISO/IEC 14495-1 A.4.2), the differences are folded to unsigned (0, -1, 1, -2 → 0, 1, 2,
3), high bytes and low bytes are laid apart, deflated (zlib) and written as base64. viewer.js does the way back.
"""

import base64
import datetime
import math
import platform
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from medi2i.common import VERSION, compat
from medi2i.common.errors import UserError
from medi2i.common.inference.report import find_report, read_report
from medi2i.tools.evaluation import measure, picture, table
from medi2i.tools.evaluation.files import load
from medi2i.tools.evaluation.measure import Evaluation
from medi2i.tools.evaluation.metrics import WINDOWS, Window
from medi2i.tools.evaluation.physics import TRUTH

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
    factor}; `blobs`: base64 text by number. Slices that did not fit are left out."""

    entries: dict[int, dict] = field(default_factory=dict)
    blobs: list[str] = field(default_factory=list)

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
        if packed.size + sum(map(len, blobs)) <= budget:
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


MEGABYTE = 10**6


def write_page(
    path: Path, evaluation: Evaluation, title: str, judged: str, verdicts: Sequence[table.Verdict], budget_mb: float
) -> Packed:
    """Write the page; `judged`: the row that it shows beside the first one, and sorts by.

    The images take at most `budget_mb` megabytes, the worst slices (by the first metric of the judged row) first.
    """

    def load(number: int) -> dict[str, np.ndarray]:
        scene = measure.read(evaluation.slices[number], evaluation.rows)
        kept = {row.name: scene.images[row.name] for row in evaluation.rows if row.shift is None}
        return {**kept, TRUTH: scene.truth}

    windows = list(evaluation.windows or [evaluation.shown])
    if evaluation.unit == "HU":
        named = {window.name for window in windows}
        windows += [window for window in WINDOWS.values() if window.name not in named]
    middle = measure.read(evaluation.slices[len(evaluation.slices) // 2], evaluation.rows)
    scale = scale_of(middle.truth, windows[0])
    order = evaluation.worst_first(judged)
    packed = pack_slices(order, load, scale, int(budget_mb * MEGABYTE))
    data = {
        "unit": evaluation.unit,
        "metrics": list(evaluation.records[0].values),
        "labels": {name: table.label(name) for name in evaluation.records[0].values},
        "worst_first": order,
        "windows": [{"name": window.name, "lower": window.lower, "upper": window.upper} for window in windows],
        "images": [*(row.name for row in evaluation.rows), TRUTH] if packed.entries else [],
        "derived": {row.name: vars(row.shift) for row in evaluation.rows if row.shift is not None},
        "colours": colours_of(evaluation),
        "shown": [evaluation.rows[0].name if evaluation.rows[0].name != judged else TRUTH, judged],
        "offset": scale.offset,
        "step": scale.step,
        "difference_range": picture.difference_range(middle.images[judged] - middle.truth),
        "slices": slices_data(evaluation, packed),
    }
    parts = {
        "title": title,
        "lead": table.lead(evaluation),
        "verdicts": verdicts,
        "figures": figures(evaluation, judged),
        "nothing": [(row.name, row.note) for row in evaluation.nothing],
        "classes": bool(evaluation.pooled),
        "remarks": "; ".join(table.remarks(evaluation)),
        "tables": tables(evaluation),
        "plots": plots(evaluation),
        "slices": slice_lines(evaluation, order),
        "slices_caption": table.heading(evaluation.first_metric, evaluation.unit),
        "order": order,
        "provenance": provenance(evaluation),
        "data": data,
        "blobs": packed.blobs,
    }
    table.write_html(path, "page.html", parts)
    return packed


def colours_of(evaluation: Evaluation) -> list[list[int]]:
    """[red, green, blue], 0 to 255, of each class, as in the pictures; none where images hold no classes."""
    if not evaluation.pooled:
        return []
    count = len(next(iter(evaluation.pooled.values()))["dice"]) + 1
    colours: list[list[int]] = compat.chainercv.visualizations.colormap.voc_colormap(range(count)).tolist()
    return [[int(part) for part in colour] for colour in colours]


def figures(evaluation: Evaluation, judged: str) -> list[dict]:
    """Three numbers on the row `judged`: {name, value, beside: (row, value) of the first row and of the truth}.

    Error, similarity, and noise (bias where none was measured); of classes Dice, IoU and the lowest class of all.
    """
    names = list(evaluation.records[0].values)
    measured = (evaluation.physics or {"rows": {}})["rows"]
    noise = {row: number(one["noise"]) for row, one in measured.items() if "noise" in one}
    similar = [name for name in names if name.startswith("ssim")][-1:]
    chosen = ["dice mean", "iou mean"] if evaluation.pooled else [names[0], *similar, *(["bias"] * (not noise))]
    found = {
        table.heading(name, evaluation.unit): {
            row.name: number(evaluation.summary[row.name, measure.ALL, name].mean) for row in evaluation.rows
        }
        for name in chosen
        if name in names
    }
    if noise:
        found["Noise" + (evaluation.unit and f" / {evaluation.unit}")] = noise
    if evaluation.pooled:
        lowest = int(np.argmin(np.nan_to_num(evaluation.pooled[judged]["dice"], nan=2)))
        found[f"Dice of class {lowest + 1}, the lowest"] = {
            row: number(one["dice"][lowest]) for row, one in evaluation.pooled.items()
        }
    beside = {evaluation.rows[0].name, TRUTH} - {judged, *list(evaluation.folders)}
    return [
        {"name": name, "value": own[judged], "beside": [pair for pair in own.items() if pair[0] in beside]}
        for name, own in found.items()
    ]


def scale_of(truth: np.ndarray, window: Window) -> Scale:
    """How to store the images of an evaluation: the full range, and what one of its truths has beyond it."""
    lower, upper = min(window.lower, float(truth.min())), max(window.upper, float(truth.max()))
    return Scale.of(lower, upper if upper > lower else lower + 1, bool(np.all(truth == np.rint(truth))))


def slices_data(evaluation: Evaluation, packed: Packed) -> list[dict]:
    """What viewer.js reads of each slice."""
    values: dict[str, dict] = {one.key: {} for one in evaluation.slices}
    for record in evaluation.records:
        values[record.slice][record.row] = {name: number(value) for name, value in record.values.items()}
    return [
        {
            "key": one.key,
            "series": one.series,
            "values": values[one.key],
            "images": packed.entries.get(index),
            "spacing": one.truth.spacing,
        }
        for index, one in enumerate(evaluation.slices)
    ]


def tables(evaluation: Evaluation) -> list[tuple[str, table.Lines]]:
    """(caption, table): of all slices, and the first of each series where there are several."""
    series = evaluation.series if len(evaluation.series) > 1 else []
    return table.overall(evaluation) + [(f"series {name}", table.blocks(evaluation, name)[0]) for name in series]


def slice_lines(evaluation: Evaluation, order: Iterable[int]) -> table.Lines:
    """The first metric of every row, a line each slice."""
    values = [evaluation.of(row.name, evaluation.first_metric) for row in evaluation.rows]
    lines = [["slice", "series", *(row.name for row in evaluation.rows)]]
    for index in order:
        one = evaluation.slices[index]
        lines.append([one.key, one.series, *(number(own[index]) for own in values)])
    return lines


def number(value: float) -> str:
    """Four digits; what is not a number is a dash."""
    return "–" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.4g}"


def plots(evaluation: Evaluation) -> list[str]:
    """SVG: the first metric slice by slice, and noise power and mean edge where they were measured."""
    unit, metric = evaluation.unit, evaluation.first_metric
    numbers = list(range(1, len(evaluation.slices) + 1))
    curves = {row.name: (numbers, evaluation.of(row.name, metric)) for row in evaluation.rows}
    drawn = [
        picture.line_plot(
            curves,
            "slice, in the order of the series",
            table.heading(metric, unit),
            f"{table.label(metric)} by slice",
            markers=len(numbers) <= 60,
            log=_spread([values for _, values in curves.values()]),
        )
    ]
    measured = evaluation.physics or {"rows": {}}
    nps = {name: one["nps"] for name, one in measured["rows"].items() if "nps" in one}
    edges = {name: one["edge_profile"] for name, one in measured["rows"].items() if "edge_profile" in one}
    if nps:
        length = measured["length"]
        drawn.append(
            picture.line_plot(
                nps,
                f"frequency / {length}⁻¹",
                f"{unit or 'value'}² {length}²",
                f"noise power in {measured['regions']} uniform regions",
            )
        )
    if edges:
        drawn.append(
            picture.line_plot(
                edges,
                f"distance from the edge / {measured['edge_length']}",
                "height of the step",
                f"mean of {measured['edges']} edges",
            )
        )
    return drawn


def _spread(curves: Sequence[Sequence[float]]) -> bool:
    """Whether a logarithmic axis is needed to tell the small ones apart."""
    every = np.concatenate(curves)
    every = every[np.isfinite(every)]
    return bool(len(every) and every.min() > 0 and every.max() > 8 * np.median(every))


def provenance(evaluation: Evaluation) -> dict[str, dict[str, str]]:
    """Title → name → what there is to know of data, rows, models and this evaluation."""
    counts = Counter(one.series for one in evaluation.slices)
    first = evaluation.slices[0].truth
    height, width = load(first).array.shape[-2:]
    data = {
        "kind": first.kind + (f", {first.modality}" if first.modality else ""),
        "size": f"{width}×{height} pixels",
        **({"pixel spacing": f"{first.spacing[1]:g}×{first.spacing[0]:g} mm"} if first.spacing else {}),
        "series": "; ".join(f"{name}: {counts[name]} slices" for name in evaluation.series),
    }
    parts = {"Data": data, "Rows": {row.name: row.note for row in evaluation.rows}}
    for name, folder in evaluation.folders.items():
        said = conversion_of(folder)
        if said:
            parts[f"Model of {name}"] = said
    parts["Files left out"] = {
        name: f"{len(keys)}: {', '.join(keys[:5])}{' …' if len(keys) > 5 else ''}"
        for name, keys in evaluation.left_out.items()
        if keys
    } or {"": "none"}
    parts["Evaluation"] = {
        "medi2i": VERSION,
        "made": datetime.datetime.now().isoformat(" ", "minutes"),
        "on": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "interval": "95 % percentile bootstrap of the mean; of several series, drawn first",
    }
    return parts


def conversion_of(folder: Path | str) -> dict[str, str]:
    """What the conversion.json of a converted folder says of model and settings, flat; {} where there is none."""
    path = find_report(folder)
    try:
        said = {} if path is None else read_report(path, ("model", "settings"))
    except (OSError, UserError):
        said = {}
    return dict(pair for part in ("model", "settings") for pair in _flat(said.get(part)))


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{prefix}{name} ")
    elif value is not None and prefix:
        yield prefix.strip(), ", ".join(map(str, value)) if isinstance(value, list) else str(value)
