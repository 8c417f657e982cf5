"""Pictures of pix2pix while it trains: rows of input, truth, output and difference."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.options import PairedOptions
from medi2i.common.training.pictures import (
    Panel,
    Pictures,
    Style,
    difference,
    draw_grid,
    plane,
    range_text,
    window_of,
)
from medi2i.common.training.validation import apply
from medi2i.datasets.paired import PairedDataset
from medi2i.pix2pix.validation import labels_of


class PairedPictures(Pictures):
    """Some pairs of a data set as the networks see them now.

    With one column of inputs and one of outputs, images of three channels are shown as red, green, blue.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        dataset: PairedDataset,
        translate: Callable[[Array], chainer.Variable],
        device: chainer.backend.Device,
        options: PairedOptions,
    ) -> None:
        super().__init__(folder, name, [dataset], [options.nvis], device, options)
        self.dataset = dataset
        self.translate = translate
        self.colour = options.stack == 1 and len(options.from_col) == len(options.to_col) == 1

    def draw(self, chosen: Sequence[Sequence[int]], path: Path) -> None:
        pairs = [self.dataset.load(i, None) for i in chosen[0]]
        # One image at a time: a batch of pictures could need more memory than the training has.
        outputs = np.concatenate([apply(self.translate, [x], self.device) for x, _ in pairs])
        inputs = self.dataset.clip_in.from_unit(np.stack([x for x, _ in pairs]))
        low, high = window_of(inputs, self.dataset.clip_in, self.windows[0])
        truths = np.stack([t for _, t in pairs])
        if self.options.class_num > 0:
            rows = self._label_rows(inputs, truths, outputs, low, high)
            titles = [f"input\n{self._range(low, high)}", "truth", "output", "wrong pixels"]
        else:
            rows, titles = self._rows(inputs, truths, outputs, low, high)
        draw_grid(path, rows, titles, [str(self.dataset.name(i)) for i in chosen[0]])

    def _rows(
        self, inputs: np.ndarray, truths: np.ndarray, outputs: np.ndarray, low: float, high: float
    ) -> tuple[list[list[Panel]], list[str]]:
        truths = self.dataset.clip_out.from_unit(truths)
        outputs = self.dataset.clip_out.from_unit(outputs)
        low_out, high_out = window_of(truths, self.dataset.clip_out, self.windows[1])
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
        truths, outputs = labels_of(truths, self.options.class_num), labels_of(outputs, self.options.class_num)
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
