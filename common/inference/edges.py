"""Did the translation keep the anatomy? Edges of input and output compared, as numbers and as maps.

The paper warns that image-to-image translation can add and remove structures. Grey values of two domains (or of a noisy
and a clean image) cannot be compared directly, but edges should stay where they are: both images are smoothed, so that
noise is not taken for edges, and the lengths of their gradients are compared. This finds moved, added and lost
outlines; it cannot tell that a faint lesion is gone, and a high correlation proves nothing about diagnosis.
"""

import dataclasses
import functools
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from medi2i.common.outputs import whole_file
from medi2i.common.resources import bands
from medi2i.common.training.likeness import BLOCK, block_means
from medi2i.datasets.writing import write_npy

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

SMOOTHING = 1.5  # pixels (sd); takes the noise of a low-dose CT out of the gradient, keeps outlines
SQUARE = 2  # pixels, of the squares whose edges are taken: smooth as they are, more would tell nothing
NEIGHBOURHOOD = 8.0  # pixels (sd) over which the local correlation is taken
FLOOR = 0.05  # variance of edges (in units of their mean square) below which there is nothing to compare


@dataclasses.dataclass(frozen=True)
class Structure:
    """What ``compare`` found.

    change: 1 - the correlation of the edges of both images, 0 (same) to 2. worst: the same in the neighbourhood where
    it is largest, among those with clear edges, and its ``row`` and ``column``. edges_in, edges_out: mean gradient
    length per pixel of input and output, in their own [-1, 1] units. shape: (H, W) of the images.
    """

    change: float
    worst: float
    row: int
    column: int
    edges_in: float
    edges_out: float
    shape: tuple[int, int]
    before: np.ndarray  # (h, w) edges of the input, divided by their rms, for squares of SQUARE pixels
    after: np.ndarray  # (h, w) those of the output by theirs
    blocks: np.ndarray  # 1 - local correlation, 0 where there is no edge to compare, for squares of BLOCK pixels

    @property
    def difference(self) -> np.ndarray:
        """(H, W) edges of the output minus those of the input, each divided by its own rms; float32."""
        return spread(self.after - self.before, SQUARE, self.shape)

    @property
    def local(self) -> np.ndarray:
        """(H, W) 1 - local correlation, 0 where there is no edge to compare; float32."""
        return spread(self.blocks, BLOCK, self.shape)

    def numbers(self) -> dict[str, float | list[int]]:
        """Everything but the maps, rounded, for a report."""
        return {
            "edge_change": round(self.change, 4),
            "worst_local_change": round(self.worst, 4),
            "worst_at": [self.row, self.column],
            "edges_in": round(self.edges_in, 6),
            "edges_out": round(self.edges_out, 6),
        }


def edges(image: np.ndarray) -> np.ndarray:
    """The gradient's length of a smoothed image (H, W), per pixel: float32 (h, w), for squares of ``SQUARE`` pixels."""
    image = np.asarray(image)
    means = [_means(np.asarray(image[rows], np.float32), SQUARE) for rows in bands(image.shape)]
    # The mean over a square is a part of the smoothing.
    rest = math.sqrt(SMOOTHING**2 - (SQUARE**2 - 1) / 12) / SQUARE
    smooth = ndimage.gaussian_filter(np.concatenate(means), rest, mode="nearest")
    down, right = np.gradient(smooth, SQUARE)
    down *= down
    right *= right
    down += right
    return np.sqrt(down, out=down)


def spread(values: np.ndarray, side: int, shape: tuple[int, int]) -> np.ndarray:
    """Values of squares of ``side`` pixels (h, w) -> of the pixels of an image, (H, W) = ``shape``."""
    return values.repeat(side, 0).repeat(side, 1)[: shape[0], : shape[1]]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two images; two constant ones are taken as equal (1), one of them alone as 0."""
    mean_a, mean_b = (v.dtype.type(v.mean(dtype=np.float64)) for v in (a, b))
    aa = bb = ab = 0.0
    for rows in bands(a.shape):
        from_a, from_b = a[rows] - mean_a, b[rows] - mean_b
        aa += (from_a * from_a).sum(dtype=np.float64)
        bb += (from_b * from_b).sum(dtype=np.float64)
        ab += (from_a * from_b).sum(dtype=np.float64)
    norm = np.sqrt(aa * bb)
    if norm < 1e-12:
        farthest = max(max(abs(v.max() - mean), abs(v.min() - mean)) for v, mean in ((a, mean_a), (b, mean_b)))
        return 1.0 if farthest < 1e-6 else 0.0
    return float(ab / norm)


def compare(x: np.ndarray, y: np.ndarray) -> Structure:
    """Compare the edges of an input and an output (H, W), which have more than ``SQUARE`` rows and columns."""
    if x.shape != y.shape or x.ndim != 2 or min(x.shape) <= SQUARE:
        raise ValueError(f"images of shapes {x.shape} and {y.shape}; two (H, W) of the same size are needed")
    before, after = edges(x), edges(y)
    change = max(1 - correlation(before, after), 0.0)
    edges_in, edges_out = float(before.mean()), float(after.mean())
    _divide_by_rms(before)
    _divide_by_rms(after)
    blocks = _local_change(before, after)
    row, column = np.unravel_index(int(blocks.argmax()), blocks.shape)
    return Structure(
        change,
        float(blocks[row, column]),
        int(row) * BLOCK,
        int(column) * BLOCK,
        edges_in,
        edges_out,
        x.shape,
        before,
        after,
        blocks,
    )


def _divide_by_rms(values: np.ndarray) -> None:
    squares = sum((values[rows] * values[rows]).sum(dtype=np.float64) for rows in bands(values.shape))
    rms = float(np.sqrt(squares / values.size))
    if rms > 1e-6:
        values /= rms
    else:
        values.fill(0)


def _local_change(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - correlation over a Gaussian neighbourhood, weighted down where neither image has edges, by blocks."""

    def mean(u: np.ndarray, v: np.ndarray | None = None) -> np.ndarray:
        blocks = _means(u if v is None else u * v, BLOCK // SQUARE)
        return ndimage.gaussian_filter(blocks, NEIGHBOURHOOD / BLOCK, mode="nearest")

    mean_a, mean_b = mean(a), mean(b)
    var_a = (mean(a, a) - mean_a**2).clip(0)
    var_b = (mean(b, b) - mean_b**2).clip(0)
    # Where the larger of both hardly varies there is nothing to lose or to invent: the floor takes the map to 0 there.
    strongest = np.maximum(var_a, var_b)
    agreement = (mean(a, b) - mean_a * mean_b) / (np.sqrt(var_a * var_b) + 1e-6)
    return (1 - agreement.clip(-1, 1)) * strongest / (strongest + FLOOR)


def _means(v: np.ndarray, side: int) -> np.ndarray:
    """(H, W) -> means over squares of ``side``, the last ones over what repeating the edge gives."""
    height, width = v.shape
    if height % side or width % side:
        v = np.pad(v, ((0, -height % side), (0, -width % side)), mode="edge")
    return block_means(v, side)


def summary(changes: Mapping[str, float]) -> dict[str, float | str]:
    """Mean and largest edge change of many images: a dict for a report. ``changes``: name -> ``Structure.change``."""
    if not changes:
        return {}
    worst = max(sorted(changes), key=lambda name: changes[name])
    return {
        "images": len(changes),
        "mean_edge_change": round(math.fsum(changes.values()) / len(changes), 4),
        "largest_edge_change": round(changes[worst], 4),
        "largest_in": worst,
    }


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


def draw_maps(path: Path, panels: Sequence[Panel]) -> None:
    """Write the panels as one PNG, four in a row. The same panels give the same bytes. Threads may call it."""
    with _lock, whole_file(path, force=True) as temporary:
        figure, images = _sheet(tuple((panel.title, panel.colours, panel.values.shape) for panel in panels))
        for image, panel in zip(images, panels, strict=True):
            image.set_data(panel.values)
            image.set_clim(panel.lowest, panel.highest)
        figure.savefig(temporary, format="png", metadata={"Software": None})


@functools.lru_cache(maxsize=2)
def _sheet(panels: tuple[tuple[str, str, tuple[int, int]], ...]) -> "tuple[Figure, list[AxesImage]]":
    """What pictures of panels (title, colour map, shape) have in common, to be drawn again and again."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes time to import, and most conversions draw none
    from matplotlib.figure import Figure

    rows, columns = -(-len(panels) // COLUMNS), min(len(panels), COLUMNS)
    tallest = max(height / width for _, _, (height, width) in panels)
    height = SIDE * min(max(tallest, 0.3), 3.0)  # inches of an image
    figure = Figure(figsize=(columns * (SIDE + BAR), rows * (height + TITLE)), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(
        0.01, 0.01, 1 - BAR / figure.get_figwidth(), 1 - TITLE / figure.get_figheight(), BAR / SIDE, TITLE / height
    )
    images = []
    for axes in places:
        axes.set_axis_off()
    for axes, (title, colours, shape) in zip(places, panels, strict=False):
        images.append(axes.imshow(np.zeros(shape), cmap=colours, vmin=0, vmax=1, interpolation="nearest"))
        axes.set_title(title, fontsize=9, pad=3, y=1)
        bar = axes.inset_axes((1.03, 0.05, 0.1 / SIDE, 0.9))
        figure.colorbar(images[-1], cax=bar)
        bar.tick_params(labelsize=7)
    return figure, images


def write_maps(base: Path, x: np.ndarray, y: np.ndarray, found: Structure) -> None:
    """Write ``<base>.png`` (input, output, both maps) and ``<base>.npy`` (the maps, (2, H, W)); x, y are (H, W).

    ``found``: the ``Structure`` of x and y. Existing files are replaced.
    """
    limit = max(float(np.percentile(np.abs(found.difference), 99.5)), 1e-6)
    draw_maps(
        base.with_name(base.name + ".png"),
        [
            Panel("input", x, "gray", -1, 1),
            Panel("output", y, "gray", -1, 1),
            Panel("edges of output - input (rms)", found.difference, "RdBu_r", -limit, limit),
            Panel("1 - local correlation of edges", found.local, "magma", 0, max(1.0, float(found.local.max()))),
        ],
    )
    write_npy(base.with_name(base.name + ".npy"), np.stack([found.difference, found.local]))
