"""Pictures of maps: panels side by side, each with its colour bar."""
import dataclasses
import threading

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medi2i.datasets.outputs import whole_file

COLUMNS = 4
SIDE = 3.4  # inches of a panel
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
    rows = -(-len(panels) // COLUMNS)
    columns = min(len(panels), COLUMNS)
    aspect = panels[0].values.shape[0] / panels[0].values.shape[1]
    height = rows * (0.35 + SIDE * 0.82 * min(max(aspect, 0.4), 2.5))
    figure = Figure(figsize=(columns * SIDE, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        image = axes.imshow(panel.values, cmap=panel.colours, vmin=panel.lowest, vmax=panel.highest,
                            interpolation="nearest")
        axes.set_title(panel.title, fontsize=9)
        axes.set_axis_off()
        bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
        bar.ax.tick_params(labelsize=7)
    return figure
