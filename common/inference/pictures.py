"""Pictures of maps: panels side by side, each with its colour bar."""
import dataclasses
import threading

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medi2i.datasets.outputs import whole_file

COLUMNS = 4
SIDE, BAR, TITLE = 2.8, 0.7, 0.3  # inches: width of an image, room for its colour bar, room for its title
DPI = 110
_lock = threading.Lock()  # matplotlib's font and text caches are not made for threads


@dataclasses.dataclass(frozen=True)
class Panel:
    """A map (H, W), its title, matplotlib colour map, and the values at the ends of its colour bar."""

    title: str
    values: np.ndarray
    colours: str
    lowest: float
    highest: float


def draw_maps(path, panels):
    """Write the panels as one PNG, four in a row. The same panels give the same bytes. Threads may call it."""
    with _lock, whole_file(path, force=True) as temporary:
        _figure(panels).savefig(temporary, format="png", metadata={"Software": None})


def _figure(panels):
    """Laid out by hand: matplotlib's layout engines take seconds for a dozen axes."""
    rows, columns = -(-len(panels) // COLUMNS), min(len(panels), COLUMNS)
    tallest = max(panel.values.shape[0] / panel.values.shape[1] for panel in panels)
    height = SIDE * min(max(tallest, 0.3), 3.0)  # inches of an image
    width, total_height = columns * (SIDE + BAR), rows * (height + TITLE)
    figure = Figure(figsize=(width, total_height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left, bottom = column * (SIDE + BAR) + 0.05, (rows - 1 - row) * (height + TITLE) + 0.05

        def inches(x, y, w, h, left=left, bottom=bottom):
            return (left + x) / width, (bottom + y) / total_height, w / width, h / total_height

        axes = figure.add_axes(inches(0, 0, SIDE, height), anchor="C")
        image = axes.imshow(panel.values, cmap=panel.colours, vmin=panel.lowest, vmax=panel.highest,
                            interpolation="nearest")
        axes.set_title(panel.title, fontsize=9, pad=3)
        axes.set_axis_off()
        bar = figure.add_axes(inches(SIDE + 0.08, 0.05 * height, 0.1, 0.9 * height))
        figure.colorbar(image, cax=bar)
        bar.tick_params(labelsize=7)
    return figure
