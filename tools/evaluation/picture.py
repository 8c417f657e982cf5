"""A picture of one slice: the rows and the truth in one window, and below each row its difference with a colour bar."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medi2i.datasets.outputs import whole_file

DIFFERENCE_QUANTILE = 0.995  # the colour scale shall show structure, not one outlier
PANEL = 3.2  # inches


def comparison(
    path,
    title: str,
    images: dict,
    truth,
    window,
    unit: str,
    difference_range: float | None = None,
    notes: dict | None = None,
    scaled_by: str | None = None,
):
    """Write a PNG: `images` (name → (H, W) or (3, H, W)) and the truth, shown in `window`; differences to the truth.

    The differences share one symmetric scale: `difference_range`, or what holds 99.5 % of the pixels of the image
    `scaled_by` (the converted one, else the last; the noisy input may go off the scale). `notes`: name → a few words
    below the name.
    """
    notes = notes or {}
    differences = {name: _grey(image) - _grey(truth) for name, image in images.items()}
    if difference_range is None:
        last = np.abs(differences[scaled_by or list(differences)[-1]])
        difference_range = float(np.quantile(last, DIFFERENCE_QUANTILE)) or 1.0
    columns = len(images) + 1
    height, width = _grey(truth).shape
    panel_height = PANEL * height / width
    figure = Figure(figsize=(PANEL * columns + 0.6, 2 * panel_height + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, columns, squeeze=False)
    unit = unit and f" {unit}"
    figure.suptitle(f"{title}\nshown: {window.lower:g}…{window.upper:g}{unit}", fontsize=10)
    for axis, (name, image) in zip(axes[0], {**images, "truth": truth}.items(), strict=True):
        shown = axis.imshow(
            _display(image, window), cmap="gray", vmin=window.lower, vmax=window.upper, interpolation="nearest"
        )
        axis.set_title(name + (f"\n{notes[name]}" if name in notes else ""), fontsize=9)
    figure.colorbar(shown, cax=axes[0, -1].inset_axes([1.04, 0, 0.06, 1]))
    for axis, (name, difference) in zip(axes[1], differences.items(), strict=False):
        shown = axis.imshow(
            difference, cmap="RdBu_r", vmin=-difference_range, vmax=difference_range, interpolation="nearest"
        )
        axis.set_title(f"{name} - truth", fontsize=9)
    bar = figure.colorbar(shown, cax=axes[1, -1].inset_axes([0.04, 0, 0.06, 1]), extend="both")
    bar.set_label("difference" + (unit and f" /{unit}"))
    for axis in axes.flat:
        axis.set_axis_off()
    with whole_file(path, force=True) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _grey(image):
    image = np.asarray(image, dtype=np.float64)
    return image.mean(axis=0) if image.ndim == 3 else image


def _display(image, window):
    if image.ndim == 3 and len(image) == 3:
        return np.clip((np.moveaxis(image, 0, -1) - window.lower) / window.range, 0, 1)
    return _grey(image)
