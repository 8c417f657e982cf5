"""What is drawn of an evaluation: a picture of one slice with its differences, and plots of lines for a page."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from medi2i.common import compat
from medi2i.common.outputs import whole_file
from medi2i.tools.evaluation.metrics import Window

DIFFERENCE_QUANTILE = 0.995  # the colour scale shall show structure, not one outlier
PANEL, GAP = 3.2, 0.15  # inches: an image, and between two
NAME, TITLE, BAR = 0.5, 0.55, 0.9  # inches: above an image, above all, and right of all


@matplotlib.rc_context({"text.parse_math": False})  # a name of a file may hold dollar signs
def comparison(
    path: Path,
    title: str,
    images: dict[str, np.ndarray],
    truth: np.ndarray,
    window: Window,
    unit: str,
    notes: Mapping[str, str],
    scaled_by: str | None = None,
    classes: int = 0,
) -> None:
    """Write a PNG: `images` (name → (H, W) or (3, H, W)) and the truth, shown in `window`; differences to the truth.

    The differences share one symmetric scale, what holds 99.5 % of the pixels of the image `scaled_by` (the converted
    one, else the last; the noisy input may go off the scale). `notes`: name → a few words below the name.
    classes: how many there are where the images hold class numbers: these are coloured, and wrong pixels are white.
    """
    differences = {name: _grey(image) - _grey(truth) for name, image in images.items()}
    largest = difference_range(differences[scaled_by or list(differences)[-1]])
    columns = len(images) + 1
    height, width = _grey(truth).shape
    panel_height = PANEL * height / width
    wide, high = columns * (PANEL + GAP) + BAR, 2 * (panel_height + NAME) + TITLE
    figure = Figure(figsize=(wide, high))
    # Every place is given: to have them found takes longer than to draw.
    figure.subplots_adjust(
        GAP / wide, GAP / high, 1 - BAR / wide, 1 - (TITLE + NAME - GAP) / high, GAP / PANEL, NAME / panel_height
    )
    axes = figure.subplots(2, columns, squeeze=False)
    unit = unit and f" {unit}"
    shown_range = "" if classes else f"\nshown: {window.lower:g}…{window.upper:g}{unit}"
    figure.suptitle(title + shown_range, y=1 - GAP / high, fontsize=10)
    for axis, (name, image) in zip(axes[0], {**images, "truth": truth}.items(), strict=True):
        axis.set_title(name + (f"\n{notes[name]}" if name in notes else ""), fontsize=9, y=1)
        if classes:
            known = np.where(np.isin(_grey(image), range(classes)), _grey(image), -1).astype(np.int32)
            _, legend = compat.chainercv.visualizations.vis_semantic_segmentation(
                None, known, [*map(str, range(classes))], all_label_names_in_legend=True, ax=axis
            )  # by which ChainerCV means those that are there
        else:
            shown = axis.imshow(
                _display(image, window), cmap="gray", vmin=window.lower, vmax=window.upper, interpolation="nearest"
            )
    for axis, (name, difference) in zip(axes[1], differences.items(), strict=False):
        if classes:
            axis.imshow(difference != 0, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        else:
            changed = axis.imshow(difference, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
        axis.set_title(f"{name}: wrong pixels" if classes else f"{name} - truth", fontsize=9, y=1)
    if classes:
        axes[1, -1].legend(handles=legend, title="class", loc="center left", ncols=1 + classes // 12)
    else:
        figure.colorbar(shown, cax=axes[0, -1].inset_axes([1.04, 0, 0.06, 1]))
        bar = figure.colorbar(changed, cax=axes[1, -1].inset_axes([0.04, 0, 0.06, 1]), extend="both")
        bar.set_label("difference" + (unit and f" /{unit}"))
    for axis in axes.flat:
        axis.set_axis_off()
    with whole_file(path, force=True) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def difference_range(difference: np.ndarray) -> float:
    """Up to where a scale of differences goes that shows most pixels; 1 where there are none."""
    return float(np.quantile(np.abs(difference), DIFFERENCE_QUANTILE)) or 1.0


def line_plot(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    title: str,
    markers: bool = False,
    log: bool = False,
) -> str:
    """SVG of `curves`: name → (x values, y values)."""
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 10,
            "svg.hashsalt": "medi2i",
            "text.parse_math": False,
        }
    ):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
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


def _grey(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image, dtype=np.float64)
    return image.mean(axis=0) if image.ndim == 3 else image


def _display(image: np.ndarray, window: Window) -> np.ndarray:
    if image.ndim == 3 and len(image) == 3:
        return np.clip((np.moveaxis(image, 0, -1) - window.lower) / window.range, 0, 1)
    return _grey(image)
