"""Pictures of pix2pix while it trains: rows of input, truth, output and difference."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.training.pictures import (
    Panel,
    Style,
    chosen_samples,
    difference,
    draw_grid,
    plane,
    range_text,
    window_of,
)
from medi2i.common.training.validation import apply
from medi2i.datasets.paired import PairedDataset
from medi2i.pix2pix.validation import labels_of


class PairedPictures(chainer.training.Extension):
    """Draws ``<folder>/<name>_<iteration>.png``: some pairs of a data set, unaugmented, as the networks see them now.

    count: number of rows. window, window_out: (low, high) in HU for input and output; None: the clip.
    colour: images of three channels are shown as red, green, blue.
    seed: None for always the first, evenly spread pairs; a number for random ones (new ones in each picture).
    """

    phase = "pictures"

    def __init__(
        self,
        folder: str | Path,
        name: str,
        dataset: PairedDataset,
        translate: Callable[[Array], chainer.Variable],
        device: chainer.backend.Device,
        count: int,
        window: Sequence[float] | None = None,
        window_out: Sequence[float] | None = None,
        class_num: int = 0,
        colour: bool = False,
        seed: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.name = name
        self.dataset = dataset
        self.translate = translate
        self.device = device
        self.count = min(count, len(dataset))
        self.window = window
        self.window_out = window_out if window_out is not None else window
        self.class_num = class_num
        self.colour = colour
        self.seed = seed

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        iteration = trainer.updater.iteration
        chosen = chosen_samples(len(self.dataset), self.count, self.seed, iteration)
        if chosen:
            self.draw(chosen, self.folder / f"{self.name}_{iteration:07d}.png")

    def draw(self, indices: Iterable[int], path: str | Path) -> None:
        """Write the picture of these pairs."""
        pairs = [self.dataset.load(i, None) for i in indices]
        # One image at a time: a batch of pictures could need more memory than the training has.
        outputs = np.concatenate([apply(self.translate, [x], self.device) for x, _ in pairs])
        inputs = self.dataset.clip_in.from_unit(np.stack([x for x, _ in pairs]))
        low, high = window_of(inputs, self.dataset.clip_in, self.window)
        truths = np.stack([t for _, t in pairs])
        if self.class_num > 0:
            rows = self._label_rows(inputs, truths, outputs, low, high)
            titles = [f"input\n{self._range(low, high)}", "truth", "output", "wrong pixels"]
        else:
            rows, titles = self._rows(inputs, truths, outputs, low, high)
        draw_grid(path, rows, titles, [str(self.dataset.name(i)) for i in indices])

    def _rows(
        self, inputs: np.ndarray, truths: np.ndarray, outputs: np.ndarray, low: float, high: float
    ) -> tuple[list[list[Panel]], list[str]]:
        truths = self.dataset.clip_out.from_unit(truths)
        outputs = self.dataset.clip_out.from_unit(outputs)
        low_out, high_out = window_of(truths, self.dataset.clip_out, self.window_out)
        rows = []
        for x, t, y in zip(inputs, truths, outputs, strict=True):
            truth, output = plane(t, self.colour), plane(y, self.colour)
            rows.append(
                [
                    Panel(plane(x, self.colour), low, high),
                    Panel(truth, low_out, high_out),
                    Panel(output, low_out, high_out),
                    difference(output, truth, high_out - low_out),
                ]
            )
        shown, quarter = self._range(low_out, high_out, "outputs"), (high_out - low_out) / 4
        return rows, [
            f"input\n{self._range(low, high)}",
            f"truth\n{shown}",
            f"output\n{shown}",
            f"output − truth\nblue {-quarter:g}, red {quarter:g}",
        ]

    def _range(self, low: float, high: float, side: str = "inputs") -> str:
        return range_text(low, high, vars(self.dataset.images[0])[side][0].modality)

    def _label_rows(
        self, inputs: np.ndarray, truths: np.ndarray, outputs: np.ndarray, low: float, high: float
    ) -> list[list[Panel]]:
        truths, outputs = labels_of(truths, self.class_num), labels_of(outputs, self.class_num)
        rows = []
        for x, t, y in zip(inputs, truths, outputs, strict=True):
            truth, output = plane(t), plane(y)
            rows.append(
                [
                    Panel(plane(x, self.colour), low, high),
                    Panel(truth, 0, 19, Style.LABELS),
                    Panel(output, 0, 19, Style.LABELS),
                    Panel((output != truth).astype(float), 0, 1),
                ]
            )
        return rows
