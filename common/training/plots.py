"""Plots of the log: one PNG for each network and one for the validation."""
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medi2i.common.compat import chainer
from medi2i.common.errors import one_line
from medi2i.common.training.log import read_log
from medi2i.common.training.pictures import save_figure

MAX_POINTS = 2000  # more would not be seen


class Plots(chainer.training.Extension):
    """Draws ``<folder>/<group>.png`` from the log, at most every ``seconds`` and at the end of the training."""

    priority = chainer.training.PRIORITY_READER - 50  # after the log has written its line

    def __init__(self, log_path: str | Path, folder: str | Path, seconds: float = 60) -> None:
        self.log_path = Path(log_path)
        self.folder = Path(folder)
        self.seconds = seconds
        self._drawn = 0.0

    def initialize(self, trainer: chainer.training.Trainer) -> None:
        """Called by the trainer before the first iteration."""
        self._drawn = time.monotonic()

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        now = time.monotonic()
        if now - self._drawn >= self.seconds:
            self._drawn = now
            draw_all(read_log(self.log_path), self.folder)

    def finalize(self) -> None:
        """Called by the trainer when training ends, however it ends."""
        try:
            draw_all(read_log(self.log_path), self.folder)
        except OSError as error:  # what comes after must be closed, too, and a training that ended has its weights
            print(f"warning: {one_line(error)}", file=sys.stderr, flush=True)


def draw_all(entries: list[dict[str, Any]], folder: str | Path) -> list[Path]:
    """One picture for each group of ``entries`` (see ``grouped``) in ``folder``. Returns the paths."""
    paths = []
    for group, curves in grouped(entries).items():
        paths.append(Path(folder) / f"{group}.png")
        draw(group, curves, paths[-1])
    return paths


def grouped(entries: list[dict[str, Any]]) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """{group: {label: (iterations, values)}}: ``dis/loss_fake`` is the curve loss_fake of the group dis.

    All learning rates make one group. Names without a slash (epoch, iteration, …) are left out.
    """
    groups: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for entry in entries:
        for name, value in entry.items():
            group, slash, label = name.partition("/")
            if not slash:
                continue
            if label == "learning_rate":
                group, label = label, group
            xs, ys = groups.setdefault(group, {}).setdefault(label, ([], []))
            xs.append(entry["iteration"])
            ys.append(float(value))
    return groups


def draw(title: str, curves: Mapping[str, tuple[list[int], list[float]]], path: str | Path) -> None:
    """Write the curves {label: (iterations, values)} as a PNG; a logarithmic axis where values span 100 times."""
    figure = Figure(figsize=(7, 4.2), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.12, 0.87, 0.8))
    largest, smallest = -math.inf, math.inf
    for label, (xs, ys) in sorted(curves.items()):
        step = max(1, len(xs) // MAX_POINTS)
        axes.plot(xs[::step], ys[::step], label=label, linewidth=1.2, marker="o" if len(xs) < 30 else None,
                  markersize=3)
        finite = [y for y in ys if abs(y) != float("inf") and y == y]
        if finite:
            largest, smallest = max(largest, *finite), min(smallest, *finite)
    if smallest > 0 and largest > 100 * smallest:
        axes.set_yscale("log")
    axes.set_xlabel("iteration")
    axes.set_title(title)
    axes.grid(True, alpha=0.3)
    if curves:
        axes.legend(fontsize=8, loc="upper right")  # "best" would look at every point
    save_figure(figure, path)
