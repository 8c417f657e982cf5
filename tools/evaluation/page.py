"""Writing a report: one HTML file with everything in it."""

import html
import io
import json
import math
from dataclasses import dataclass, field
from importlib import resources

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from medi2i.datasets.outputs import write_text
from medi2i.tools.evaluation import packing

MEGABYTE = 10**6


@dataclass
class Content:
    """What a report tells. `rows`, `metrics`: names; `labels`: metric → how people write it.

    `slices`: dicts with key, series and values (row → metric → number), in the order of the series.
    `windows`: dicts with name, lower, upper; `scale`: of the packed images; `derived`: rows that the page computes,
    name → dict of, minus, lower. `plots`: SVG texts; `provenance`: title → {name: text}.
    """

    title: str
    lead: str
    verdicts: list
    windows_text: str
    tables: list
    rows: list
    metrics: list
    labels: dict
    larger_is_better: list
    judged: str
    slices: list
    windows: list
    unit: str
    scale: packing.Scale
    difference_range: float
    derived: dict = field(default_factory=dict)
    plots: list = field(default_factory=list)
    provenance: dict = field(default_factory=dict)


def write_page(path, content: Content, load, budget_mb: float) -> packing.Packed:
    """Write the page; `load(number)` → {row: array} with the images of a slice, the truth under `truth`.

    The images take at most `budget_mb` megabytes, the worst slices (by the first metric of the judged row) first.
    """
    order = worst_first(content)
    packed = packing.pack_slices(order, load, content.scale, int(budget_mb * MEGABYTE))
    for number, entry in packed.entries.items():
        content.slices[number]["images"] = entry
    parts = {
        "title": html.escape(content.title),
        "lead": html.escape(content.lead),
        "verdicts": "\n".join(
            f'<p class="verdict{" worse" if one.worse else ""}">{html.escape(one.text)}</p>' for one in content.verdicts
        ),
        "windows": html.escape(content.windows_text),
        "tables": "\n".join(table(*one) for one in content.tables),
        "plots": "\n".join(f"<figure>{svg}</figure>" for svg in content.plots) or "<p>none</p>",
        "slices": slice_table(content, order),
        "provenance": "\n".join(definitions(title, entries) for title, entries in content.provenance.items()),
        "data": json_text(page_data(content)),
        "images": "\n".join(
            f'<script type="text/plain" id="image-{number}">{blob}</script>' for number, blob in enumerate(packed.blobs)
        ),
        "style": asset("page.css"),
        "script": asset("viewer.js"),
    }
    text = asset("page.html")
    before, *pieces = text.split("{{")
    out = [before]
    for piece in pieces:  # filled in one pass: what is filled in may hold braces itself
        name, _, after = piece.partition("}}")
        out += [parts[name], after]
    write_text(path, "".join(out))
    return packed


def content_size(packed: packing.Packed) -> int:
    """Characters that the images of a page take."""
    return sum(map(len, packed.blobs))


def page_data(content: Content) -> dict:
    """What viewer.js reads."""
    with_images = next((one["images"] for one in content.slices if one.get("images")), {"ids": {}})
    names = [row for row in [*content.rows, "truth"] if row in with_images["ids"] or row in content.derived]
    return {
        "unit": content.unit,
        "metrics": content.metrics,
        "labels": content.labels,
        "judged": content.judged,
        "worst_first": worst_first(content),
        "windows": content.windows,
        "images": names,
        "derived": content.derived,
        "shown": [content.judged, "truth"],
        "offset": content.scale.offset,
        "step": content.scale.step,
        "difference_range": content.difference_range,
        "slices": [
            {
                "images": None,
                **one,
                "values": {
                    row: {name: number(value) for name, value in values.items()}
                    for row, values in one["values"].items()
                },
            }
            for one in content.slices
        ],
    }


def worst_first(content: Content) -> list[int]:
    """Numbers of the slices, the worst of the judged row by the first metric first."""
    metric = content.metrics[0]
    sign = 1 if metric in content.larger_is_better else -1
    values = [sign * one["values"][content.judged][metric] for one in content.slices]
    return sorted(range(len(values)), key=lambda index: (math.isnan(values[index]), values[index]))


def slice_table(content: Content, order) -> str:
    """The first metric of every row, a line each slice."""
    metric = content.metrics[0]
    lines = [
        f"<tr data-slice={index}><td>{html.escape(content.slices[index]['key'])}</td>"
        f"<td>{html.escape(content.slices[index]['series'])}</td>"
        + "".join(f"<td>{number(content.slices[index]['values'][row][metric])}</td>" for row in content.rows)
        + "</tr>"
        for index in order
    ]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("slice", "series", *content.rows))
    return (
        f"<table><caption>{html.escape(content.labels[metric])}{content.unit and ' / ' + content.unit}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def table(title: str, lines: list) -> str:
    """An HTML table; the first line is its head."""
    head, *body = lines
    return (
        f'<div class="wide"><table>{title and f"<caption>{html.escape(title)}</caption>"}<thead><tr>'
        + "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        + "</tr></thead><tbody>"
        + "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in body)
        + "</tbody></table></div>"
    )


def definitions(title: str, entries: dict) -> str:
    """A headed list of names and texts."""
    return (
        f"<h3>{html.escape(title)}</h3><dl>"
        + "".join(
            f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(str(text))}</dd>" for name, text in entries.items()
        )
        + "</dl>"
    )


def number(value: float) -> str:
    """Four digits; what is not a number is a dash."""
    return "–" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.4g}"


def json_text(content) -> str:
    """JSON that may stand in a script element: nothing in it can be taken for markup."""
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")


def asset(name: str) -> str:
    """A text file that lies beside this module."""
    return resources.files("medi2i.tools.evaluation").joinpath(name).read_text(encoding="utf-8")


SETTINGS = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "medi2i"}


def line_plot(curves: dict, x_label: str, y_label: str, title: str, markers: bool = False, log: bool = False) -> str:
    """SVG of `curves`: name → (x values, y values)."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        axis = figure.subplots()
        for name, (x, y) in curves.items():
            axis.plot(x, y, label=name, linewidth=1.4, marker="." if markers else None)
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        axis.set_title(title, fontsize=11)
        if log:
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
