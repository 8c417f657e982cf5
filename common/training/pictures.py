"""What a training shows as PNG: grids of pictures, each panel in its own window; and plots of the log."""

import dataclasses
import enum
import math
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image as Pillow

from medi2i.common import compat
from medi2i.common.compat import chainer
from medi2i.common.errors import one_line
from medi2i.common.options.reading import AnyTraining
from medi2i.common.outputs import whole_file
from medi2i.common.training.log import read_log
from medi2i.datasets.scaling import SOFT_TISSUE, Clip

DPI = 100
SMALLEST, LARGEST = 160, 560  # a panel's longer side in the picture's pixels
GAP, HEAD, SIDE = 6, 34, 22  # pixels between panels, above a row of titles, left of a row


class Style(enum.Enum):
    """How the numbers of an image become colours."""

    VALUES = "gray"
    DIFFERENCE = "RdBu_r"
    LABELS = "classes"


@dataclasses.dataclass(frozen=True)
class Panel:
    """``image``: (H, W), or (3, H, W) for colour, in its own unit (HU, grey levels; labels: whole numbers).

    ``low`` and ``high`` are the values shown black and white (blue and red for a difference).
    """

    image: np.ndarray
    low: float
    high: float
    style: Style = Style.VALUES


def difference(first: np.ndarray, second: np.ndarray, reach: float) -> Panel:
    """The panel of ``first - second`` (equal shapes, colour is averaged), full colour at ``reach`` and beyond."""
    minus = first - second
    if minus.ndim == 3:
        minus = minus.mean(axis=0)
    return Panel(minus, -reach, reach, Style.DIFFERENCE)


def reach_of(inputs: np.ndarray, truths: np.ndarray, width: float, alike: bool) -> float:
    """Where differences to the truth get their full colour: at twice the standard deviation of the inputs' own.

    What is left of the noise then fades from picture to picture, and a constant bias does not count. inputs, truths:
    (N, C, H, W). A quarter of ``width``, that of the window, where they are not ``alike``: of one kind and shape.
    """
    noise = float(np.std(inputs - truths)) if alike and inputs.shape == truths.shape else 0.0
    return 2 * noise or width / 4


def plane(stack: np.ndarray, colour: bool = False) -> np.ndarray:
    """What of a (C, H, W) image is shown: all of a colour image of 3 channels, else the middle channel."""
    return stack if colour and len(stack) == 3 else stack[len(stack) // 2]


def window_of(images: Iterable[np.ndarray], clip: Clip, window: Sequence[float] | None = None) -> tuple[float, float]:
    """(low, high) to show ``images`` in: ``window`` if given, else the clip, else the smallest and largest value."""
    if window is not None:
        return window[0], window[1]
    if clip.lower is not None and clip.upper is not None:
        return clip.lower, clip.upper
    finite = np.concatenate([image[np.isfinite(image)] for image in map(np.asarray, images)])
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return low, high if high > low else low + 1.0


def tissue_window(modalities: Collection[str], clip: Clip) -> Sequence[float] | None:
    """Soft tissue where CT comes of CT and the clip holds more than that; None, so the clip, for all else."""
    low, high = SOFT_TISSUE
    held = clip.lower is not None and clip.upper is not None and clip.lower <= low and high <= clip.upper
    return SOFT_TISSUE if held and set(modalities) == {"CT"} else None


def range_text(low: float, high: float, modality: str = "") -> str:
    """What a window is called in a title; values of CT are HU."""
    return f"{low:g} … {high:g}" + (" HU" if modality == "CT" else "")


@matplotlib.rc_context({"text.parse_math": False})  # a name of a file may hold dollar signs
def draw_grid(path: str | Path, rows: Sequence[Sequence[Panel]], titles: Sequence[str], labels: Sequence[str]) -> None:
    """Write ``rows`` of panels as a PNG; some may be shorter.

    ``titles``: one above each column; ``labels``: one left of each row, usually a file name.
    """
    sizes = [panel.image.shape[-2:] for row in rows for panel in row]
    height, width = np.max(sizes, axis=0)
    zoom = _zoom(max(height, width))
    height, width = round(height * zoom), round(width * zoom)
    columns = max(len(row) for row in rows)
    total_width = SIDE + columns * (width + GAP)
    total_height = HEAD + len(rows) * (height + GAP)
    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI, facecolor="white")
    for i, row in enumerate(rows):
        top = HEAD + i * (height + GAP)
        figure.text(
            SIDE / 2 / total_width,
            1 - (top + height / 2) / total_height,
            _shortened(labels[i], height),
            rotation=90,
            ha="center",
            va="center",
            fontsize=7,
        )
        for j, panel in enumerate(row):
            pixels = _scaled(_colours(panel), zoom)
            figure.figimage(pixels, xo=SIDE + j * (width + GAP), yo=total_height - top - len(pixels), origin="upper")
    for j, title in enumerate(titles):
        centre = SIDE + j * (width + GAP) + width / 2
        figure.text(
            centre / total_width,
            1 - HEAD / 2 / total_height,
            title,
            ha="center",
            va="center",
            fontsize=min(9, max(5, width / 22)),
        )
    save_figure(figure, path)


def _zoom(longer: int) -> float:
    if longer > LARGEST:
        return LARGEST / longer
    return max(1, -(-SMALLEST // longer))


def _colours(panel: Panel) -> np.ndarray:
    """(H, W, 3) uint8."""
    image = np.asarray(panel.image, dtype=np.float64)
    unit = np.clip((np.nan_to_num(image) - panel.low) / (panel.high - panel.low), 0, 1)
    if image.ndim == 3:
        return np.rint(np.moveaxis(unit, 0, -1) * 255).astype(np.uint8)
    if panel.style is Style.LABELS:
        labels = image.astype(np.int32)
        colours = compat.chainercv.visualizations.colormap.voc_colormap(range(int(labels.max()) + 1))
        return colours.astype(np.uint8)[labels]
    if panel.style is Style.VALUES:
        return np.repeat(np.rint(unit * 255).astype(np.uint8)[..., None], 3, axis=2)
    return colormaps[panel.style.value](unit, bytes=True)[..., :3]


def _scaled(pixels: np.ndarray, zoom: float) -> np.ndarray:
    height, width = pixels.shape[:2]
    how = Pillow.Resampling.BOX if zoom < 1 else Pillow.Resampling.NEAREST
    return np.asarray(Pillow.fromarray(pixels).resize((round(width * zoom), round(height * zoom)), how))


def _shortened(text: str, pixels: float) -> str:
    room = max(8, int(pixels / 5.5))
    return text if len(text) <= room else "…" + text[-(room - 1) :]


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a matplotlib figure as PNG, whole or not at all."""
    with whole_file(Path(path), force=True) as temporary:
        figure.savefig(temporary, format="png")


def chosen_samples(length: int, count: int, seed: int | None, iteration: int) -> list[int]:
    """Indices of ``count`` samples out of ``length``: evenly spread, or random ones that depend on the iteration."""
    count = min(count, length)
    if seed is None:
        return [i * length // count for i in range(count)]
    return sorted(int(i) for i in np.random.default_rng([seed, iteration]).permutation(length)[:count])


class Pictures(chainer.training.Extension):
    """Draws ``<folder>/<name>_<iteration>.png``: images of each of ``datasets`` (None: there is none), unaugmented.

    counts: how many of each. With ``--vis_random`` they are others in each picture, else always the same, evenly
    spread ones. ``clips``, ``modalities``: of domain A and B; ``windows``: (low, high) that they are shown in.
    """

    phase = "pictures"

    def __init__(
        self,
        folder: Path,
        name: str,
        datasets: Sequence,
        counts: Sequence[int],
        clips: Sequence[Clip],
        modalities: Sequence[str],
        device: chainer.backend.Device,
        options: AnyTraining,
    ) -> None:
        self.folder = folder
        self.name = name
        self.datasets = datasets
        self.counts = counts
        self.device = device
        self.options: Any = options  # which of both classes, the application knows
        self.modalities = modalities
        given = options.vis_window, options.vis_windowB or options.vis_window
        self.windows = [own or tissue_window(modalities, clip) for own, clip in zip(given, clips, strict=True)]

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        iteration = trainer.updater.iteration
        seed = self.options.seed if self.options.vis_random else None
        chosen = [
            [] if dataset is None else chosen_samples(len(dataset), count, seed, iteration)
            for dataset, count in zip(self.datasets, self.counts, strict=True)
        ]
        if any(chosen):
            self.draw(chosen, self.folder / f"{self.name}_{iteration:07d}.png")

    def draw(self, chosen: Sequence[Sequence[int]], path: Path) -> None:
        """Write the picture of the images with these indices of each data set."""
        raise NotImplementedError


MAX_POINTS = 2000  # more would not be seen
SPAN = 10  # of values that need a logarithmic axis
NOTHING = "_identity"
WIDTH, HEIGHT = 7.0, 4.0  # inches, of a plot without its legend
LEFT, BOTTOM, RIGHT, TOP = 0.8, 0.6, 0.2, 0.35  # around its axes
LEGEND_COLUMNS, LEGEND_ROW = 3, 0.2  # and the height of a row of it


@dataclasses.dataclass(eq=False)
class Plots(chainer.training.Extension):
    """Draws ``<folder>/<group>.png`` from the log, at most every ``seconds`` and at the end of the training."""

    priority = chainer.training.PRIORITY_READER - 50  # after the log has written its line

    log_path: Path
    folder: Path
    seconds: float = 60
    _drawn: float = dataclasses.field(default=0.0, init=False)

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


def draw_all(entries: list[dict[str, Any]], folder: Path) -> None:
    """One picture for each group of ``entries`` (see ``grouped``) in ``folder``."""
    for group, curves in grouped(entries).items():
        draw(group, curves, folder / f"{group}.png")


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
    """Write the curves {label: (iterations, values)} as a PNG; a logarithmic axis where values span 10 times.

    What doing nothing would be (``…_identity``) is a dashed line in the colour of its curve. Where it would press the
    curves together, only the legend, which stands beside them, says it.
    """
    nothing = {label.removesuffix(NOTHING): ys[-1] for label, (_, ys) in curves.items() if label.endswith(NOTHING)}
    own = {label: both for label, both in sorted(curves.items()) if not label.endswith(NOTHING)}
    finite = [y for _, ys in own.values() for y in ys if math.isfinite(y)]
    smallest, largest = min(finite, default=0.0), max(finite, default=0.0)
    log = smallest > 0 and largest > SPAN * smallest
    room = largest - smallest or math.inf
    legend = LEGEND_ROW * -(-(len(own) + len(nothing)) // LEGEND_COLUMNS)
    figure = Figure(figsize=(WIDTH, HEIGHT + legend), dpi=100)
    # Every place is given: to have them found takes longer than to draw.
    figure.subplots_adjust(
        LEFT / WIDTH, (BOTTOM + legend) / (HEIGHT + legend), 1 - RIGHT / WIDTH, 1 - TOP / (HEIGHT + legend)
    )
    axes = figure.subplots()
    for label, (xs, ys) in own.items():
        step = max(1, len(xs) // MAX_POINTS)
        marker = "o" if len(xs) < 30 else None
        (line,) = axes.plot(xs[::step], ys[::step], label=label, linewidth=1.2, marker=marker, markersize=3)
        if label in nothing:
            value = nothing[label]
            near = smallest / SPAN < value < largest * SPAN if log else smallest - room < value < largest + room
            axes.plot(
                [xs[0], xs[-1]] if near else [],
                [value] * 2 if near else [],
                "--",
                color=line.get_color(),
                linewidth=1.2,
                label=f"{label} of doing nothing: {value:.4g}" + ("" if near else ", beyond"),
            )
    if log:
        axes.set_yscale("log")
    axes.set_xlabel("iteration")
    axes.set_title(title, y=1)
    axes.grid(True, alpha=0.3)
    if curves:
        figure.legend(fontsize=8, loc="lower center", ncols=LEGEND_COLUMNS)
    save_figure(figure, path)
