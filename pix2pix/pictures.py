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
    reach_of,
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
        first, clips = dataset.images[0], [dataset.clip_in, dataset.clip_out]
        modalities = [
            one.modality for one in (first.inputs[0], first.inputs[0] if options.class_num else first.outputs[0])
        ]
        super().__init__(folder, name, [dataset], [options.nvis], clips, modalities, device, options)
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
        titles = [f"input\n{range_text(low, high, self.modalities[0])}"]
        if self.options.class_num > 0:
            classes = self.options.class_num
            titles += ["truth", "output", "wrong pixels"]
            rows = [
                [
                    Panel(x, low, high),
                    Panel(t, 0, 19, Style.LABELS),
                    Panel(y, 0, 19, Style.LABELS),
                    Panel((y != t).astype(float), 0, 1),
                ]
                for x, t, y in self._planes(inputs, labels_of(truths, classes), labels_of(outputs, classes))
            ]
        else:
            truths, outputs = (self.dataset.clip_out.from_unit(images) for images in (truths, outputs))
            low_out, high_out = window_of(truths, self.dataset.clip_out, self.windows[1])
            alike = self.modalities[0] == self.modalities[1] and self.dataset.clip_in == self.dataset.clip_out
            reach = reach_of(inputs, truths, high_out - low_out, alike)
            shown = range_text(low_out, high_out, self.modalities[1])
            titles += [f"truth\n{shown}", f"output\n{shown}", f"output − truth\nblue {-reach:.3g}, red {reach:.3g}"]
            rows = [
                [
                    Panel(x, low, high),
                    Panel(t, low_out, high_out),
                    Panel(y, low_out, high_out),
                    difference(y, t, reach),
                ]
                for x, t, y in self._planes(inputs, truths, outputs)
            ]
        draw_grid(path, rows, titles, [str(self.dataset.name(i)) for i in chosen[0]])

    def _planes(self, *stacks: np.ndarray) -> list[list[np.ndarray]]:
        """What is shown of each image of equally many stacks (N, C, H, W), image by image."""
        return [[plane(image, self.colour) for image in images] for images in zip(*stacks, strict=True)]
