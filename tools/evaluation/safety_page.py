"""The safety report: one HTML file for people, and the same figures as JSON for programs."""

import base64
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from medi2i.common import VERSION
from medi2i.common.errors import UserError, counted
from medi2i.datasets import dicom
from medi2i.datasets.catalogue import Source
from medi2i.datasets.noise_level import Noise
from medi2i.tools.evaluation import files, picture, table
from medi2i.tools.evaluation.metrics import WINDOWS
from medi2i.tools.evaluation.safety import RESULT, Change, Safety, SafetyMeter

PAGE, FIGURES = "safety.html", "safety.json"
SHOWN = 4  # slices of a series, the most changed
LISTED = 40
MEASURED = 24  # slices of a series, of which noise and edges are measured

Load = Callable[[str], tuple[np.ndarray, np.ndarray]]
"""Name of a slice -> it in HU (H, W), before and after."""


def measured(
    name: str, spacing: tuple[float, float] | None, pairs: Mapping[str, tuple[Source, Path | Source]]
) -> tuple[Safety, Load]:
    """The Safety of a series, and what reads its slices again. pairs: name of a slice -> it, and its result, a file of
    one frame or a Source. Noise and edges are those of some ``MEASURED`` evenly spaced slices. Raises Unreadable."""

    def images(key: str) -> tuple[dicom.DicomImage, dicom.DicomImage]:
        source, result = pairs[key]
        path, frame = (result, 0) if isinstance(result, Path) else (result.path, result.frame)
        return dicom.read(source.path, source.frame), dicom.read(path, frame)

    def load(key: str) -> tuple[np.ndarray, np.ndarray]:
        before, after = images(key)
        return before.hu, after.hu

    meter, every = SafetyMeter(name, spacing), max(1, len(pairs) // MEASURED)
    for number, key in enumerate(pairs):
        before, after = images(key)
        meter.add(key, before.hu, after.hu, before.mask, whole=number % every == every // 2)
    return meter.result(), load


def of_folders(before: str, after: str, out: Path, title: str) -> None:
    """The report on the CT images in the folder ``before`` and what became of them in ``after``. Raises UserError."""
    inputs, results = (files.list_folder(folder, "dcm") for folder in (before, after))
    slices, _, _ = files.match(inputs, {RESULT: results})
    if not slices:
        raise UserError(f"{after}: no image has the name of one in {before}; without --truth, these two are compared")
    if inputs.first.modality != "CT":
        raise UserError(
            f"--truth: is needed for {inputs.first.modality}; what is safe without one is known for CT alone"
        )
    by_series: dict[str, dict[str, tuple[Source, Path | Source]]] = {}
    for one in slices:
        by_series.setdefault(one.series, {})[one.key] = one.truth, one.images[RESULT]
    found = [measured(name, next(iter(pairs.values()))[0].spacing, pairs) for name, pairs in by_series.items()]
    write_report(out, title, f"{after}, from {before}; without a truth", found)


def write_report(
    folder: Path, title: str, lead: str, found: Sequence[tuple[Safety, Load]], left_alone: Sequence[str] = ()
) -> Path:
    """Write ``safety.html`` and ``safety.json`` into ``folder`` and tell the verdicts; returns the page's path."""
    series = [
        {
            "name": f"{one.name}, {counted(len(one.slices), 'slice')}",
            "verdicts": one.verdicts(),
            "pictures": [_picture(change, *load(change.name)) for change in one.slices[:SHOWN]],
            "tables": tables(one),
            "plots": [Markup(svg) for svg in plots(one)],  # drawn here, from numbers
        }
        for one, load in found
    ]
    parts = {"title": title, "lead": lead, "left_alone": list(left_alone), "series": series}
    table.write_html(folder / PAGE, PAGE, parts)
    content = {
        "medi2i_version": VERSION,
        "left_alone": list(left_alone),
        "series": [figures(one) for one, _ in found],
    }
    table.write_json(folder / FIGURES, content)
    for one, _ in found:
        print(f"\n{one.name}")
        for verdict in one.verdicts():
            print(f"  {'LOOK: ' if verdict.worse else ''}{verdict.text}")
    print(f"\nreport: {folder / PAGE}")
    return folder / PAGE


def figures(one: Safety) -> dict:
    """All that was measured, plain."""
    return {
        "name": one.name,
        "verdicts": [dataclasses.asdict(verdict) for verdict in one.verdicts()],
        "noise": {"before": _noise(one.before), "after": _noise(one.after)},
        "mean_change": one.means,
        "edge": {"before": one.edge[0], "after": one.edge[1], "unit": one.unit},
        "anatomy": one.anatomy,
        "inserts": [dataclasses.asdict(insert) for insert in one.inserts],
        "unknown": one.unknown,
        "slices": [dataclasses.asdict(change) for change in one.slices],
    }


def _noise(noise: Noise | None) -> dict | None:
    if noise is None:
        return None
    return {
        "level": noise.level,
        "mean_frequency": noise.mean_frequency,
        "neighbours": list(noise.neighbours),
        "frequencies": noise.frequencies.tolist(),
        "power": noise.power.tolist(),
    }


def tables(one: Safety) -> list[tuple[str, table.Lines]]:
    """(caption, lines) of means, inserts and slices."""
    found: list[tuple[str, table.Lines]] = []
    if one.means:
        found.append(
            (
                "change of the mean / HU, by what the input is",
                [["", *one.means], ["change", *(f"{change:+.2f}" for change in one.means.values())]],
            )
        )
    if one.inserts:
        lines = [["contrast / HU", "diameter / mm", "in the result", "discs"]]
        lines += [[f"{i.contrast:g}", f"{i.diameter:g}", f"{i.kept:.0%}", str(i.count)] for i in one.inserts]
        found.append(("discs put into the input, and how much of their contrast is in the result", lines))
    lines = [
        ["slice", "largest wide change / HU", "row, column", "rms change / HU", "noise / HU", "edges in difference"]
    ]
    lines += [
        [
            change.name,
            f"{change.structure:.1f}",
            f"{change.row}, {change.column}",
            f"{change.rms:.1f}",
            f"{_number(change.noise_in)} → {_number(change.noise_out)}",
            _number(change.anatomy, 2),
        ]
        for change in one.slices[:LISTED]
    ]
    more = "" if len(one.slices) <= LISTED else f"; {len(one.slices) - LISTED} more in {FIGURES}"
    found.append((f"slices, the most changed first{more}", lines))
    return found


def plots(one: Safety) -> list[str]:
    """The noise spectra as SVG."""
    spectra = {
        name: (noise.frequencies.tolist(), noise.power.tolist())
        for name, noise in (("input", one.before), ("result", one.after))
        if noise is not None and noise.level > 0
    }
    if not spectra:
        return []
    title = "Noise in uniform soft tissue"
    return [picture.line_plot(spectra, "frequency / pixel⁻¹", "noise power / HU² pixel²", title, log=True)]


def _picture(change: Change, before: np.ndarray, after: np.ndarray) -> dict[str, str]:
    """Input, result and difference of a slice, with a circle where it changed most."""
    window, difference = WINDOWS["soft"], after - before
    limit = picture.difference_range(difference)
    figure = Figure(figsize=(12, 4.2 * before.shape[0] / before.shape[1] + 0.2), layout="constrained")
    for axis, name, image in zip(
        figure.subplots(1, 3), ("input", "result", "result - input"), (before, after, difference), strict=True
    ):
        if image is difference:
            shown = axis.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            figure.colorbar(shown, ax=axis, label="HU", shrink=0.8)
        else:
            axis.imshow(image, cmap="gray", vmin=window.lower, vmax=window.upper, interpolation="nearest")
        axis.plot(change.column, change.row, "o", markersize=14, fillstyle="none", color="#ffb000")
        axis.set_title(name, fontsize=9)
        axis.set_axis_off()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=80)
    where = f"row {change.row}, column {change.column}"
    return {
        "caption": f"{change.name}: changes by {change.structure:.1f} HU at {where} (circle), over more than a pixel; "
        f"window {window.lower:g}…{window.upper:g} HU",
        "data": base64.b64encode(out.getvalue()).decode(),
    }


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"
