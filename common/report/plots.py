"""The plots of a report, as SVG text to stand in the page."""
import io

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

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
    return text[text.index("<svg"):]
