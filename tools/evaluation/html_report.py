"""From the results of an evaluation to the content of its page."""

import datetime
import platform
from collections import Counter

import numpy as np

from medi2i.common.errors import UserError, counted
from medi2i.common.inference.report import find_report, read_report
from medi2i.common.version import VERSION
from medi2i.tools.evaluation import measure, packing, page, physics, table
from medi2i.tools.evaluation.metrics import WINDOWS
from medi2i.tools.evaluation.page import Content
from medi2i.tools.evaluation.verdict import larger_is_better


def content(evaluation, title: str, judged: str, verdicts) -> Content:
    """What the page of an Evaluation tells; `judged`: the row that it opens with and sorts by."""
    slices = evaluation.slices
    values = {}
    for record in evaluation.records:
        values.setdefault(record.slice, {})[record.row] = record.values
    metrics = list(evaluation.records[0].values)
    series = list(dict.fromkeys(one.series for one in slices))
    windows = evaluation.windows or [evaluation.shown]
    if evaluation.unit == "HU":
        named = {window.name for window in windows}
        windows = windows + [window for window in WINDOWS.values() if window.name not in named]
    scene = measure.read(slices[len(slices) // 2], evaluation.rows)
    difference = np.abs(scene.images[judged] - scene.truth)
    lower, upper = min(windows[0].lower, float(scene.truth.min())), max(windows[0].upper, float(scene.truth.max()))
    whole = bool(np.all(scene.truth == np.rint(scene.truth)))
    return Content(
        title=title,
        lead=f"{counted(len(slices), 'slice')} of {len(series)} series; mean ± standard deviation over slices",
        verdicts=verdicts,
        windows_text="; ".join(
            filter(
                None,
                (
                    table.describe_windows(evaluation.windows, evaluation.unit) if evaluation.windows else "",
                    table.describe_left_out(evaluation.records),
                ),
            )
        ),
        tables=_tables(evaluation, series),
        rows=[row.name for row in evaluation.rows],
        metrics=metrics,
        labels={name: table.label(name) for name in metrics},
        larger_is_better=[name for name in metrics if larger_is_better(name)],
        judged=judged,
        slices=[{"key": one.key, "series": one.series, "values": values[one.key]} for one in slices],
        windows=[{"name": window.name, "lower": window.lower, "upper": window.upper} for window in windows],
        unit=evaluation.unit,
        scale=packing.Scale.of(lower, upper if upper > lower else lower + 1, whole),
        difference_range=float(np.quantile(difference, 0.995)) or 1.0,
        derived={
            row.name: {"of": row.shift.of, "minus": row.shift.minus, "lower": row.shift.lower}
            for row in evaluation.rows
            if row.shift is not None
        },
        plots=_plots(evaluation, values, metrics[0]),
        provenance=_provenance(evaluation, series),
    )


def _tables(evaluation, series):
    tables = [("", lines) for lines in table.blocks(evaluation.rows, evaluation.summary, evaluation.unit)]
    if evaluation.pooled:
        tables.insert(0, ("", table.pooled_block(evaluation.pooled)))
    measured = physics.table_lines(evaluation.physics, evaluation.unit) if evaluation.physics else []
    if measured:
        tables.append((physics.description(evaluation.physics), measured))
    for name in series if len(series) > 1 else []:
        tables += [
            (f"series {name}", lines)
            for lines in table.blocks(evaluation.rows, evaluation.summary, evaluation.unit, name)[:1]
        ]
    return tables


def _plots(evaluation, values, metric):
    unit = evaluation.unit
    numbers = list(range(1, len(evaluation.slices) + 1))
    curves = {
        row.name: (numbers, [values[one.key][row.name][metric] for one in evaluation.slices]) for row in evaluation.rows
    }
    shown = table.label(metric) + (f" / {unit}" if unit else "")
    drawn = [
        page.line_plot(
            curves,
            "slice, in the order of the series",
            shown,
            f"{table.label(metric)} by slice",
            markers=len(numbers) <= 60,
            log=_spread(curves),
        )
    ]
    measured = evaluation.physics or {"rows": {}}
    nps = {name: one["nps"] for name, one in measured["rows"].items() if "nps" in one}
    edges = {name: one["edge_profile"] for name, one in measured["rows"].items() if "edge_profile" in one}
    if nps:
        length = measured["length"]
        drawn.append(
            page.line_plot(
                nps,
                f"frequency / {length}⁻¹",
                f"{unit or 'value'}² {length}²",
                f"noise power in {measured['regions']} uniform regions",
            )
        )
    if edges:
        drawn.append(
            page.line_plot(
                edges,
                f"distance from the edge / {measured['edge_length']}",
                "height of the step",
                f"mean of {measured['edges']} edges",
            )
        )
    return drawn


def _spread(curves):
    """Whether a logarithmic axis is needed to tell the small ones apart."""
    every = np.concatenate([np.asarray(y, dtype=np.float64) for _, y in curves.values()])
    every = every[np.isfinite(every)]
    return bool(len(every) and every.min() > 0 and every.max() > 8 * np.median(every))


def _provenance(evaluation, series):
    counts = Counter(one.series for one in evaluation.slices)
    first = evaluation.slices[0].truth
    height, width = first.load().array.shape[-2:]
    data = {
        "kind": first.kind + (f", {first.modality}" if first.modality else ""),
        "size": f"{width}×{height} pixels",
        **({"pixel spacing": f"{first.spacing[1]:g}×{first.spacing[0]:g} mm"} if first.spacing else {}),
        "series": "; ".join(f"{name}: {counts[name]} slices" for name in series),
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


def conversion_of(folder) -> dict:
    """What the conversion.json of a converted folder says of model and settings, flat; {} where there is none."""
    path = find_report(folder)
    try:
        said = {} if path is None else read_report(path, ("model", "settings"))
    except (OSError, UserError):
        said = {}
    flat = {}
    for part in ("model", "settings"):
        _flatten(flat, said.get(part), "")
    return flat


def _flatten(flat, value, prefix):
    if isinstance(value, dict):
        for name, inner in value.items():
            _flatten(flat, inner, f"{prefix}{name} ")
    elif value is not None and prefix:
        flat[prefix.strip()] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
