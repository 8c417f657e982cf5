"""Pictures of CycleGAN while it trains: x, x → y, x → y → x, x → z → x, and the mirror rows of y."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.options import UnpairedOptions
from medi2i.common.training.pictures import Panel, Pictures, draw_grid, plane, range_text, window_of
from medi2i.common.training.validation import apply
from medi2i.cyclegan import net
from medi2i.datasets.unpaired import UnpairedDataset

TITLES = ["x → y\n(y → x)", "x → y → x\n(y → x → y)", "x → z → x\n(y → z → y)"]


class UnpairedPictures(Pictures):
    """Some images of both domains as the networks see them now.

    datasets: of domain x and y, each of which may be None. images: those of the training, whose clips and modalities
    count. An image is shown in the window of the domain it is in, a translated one in that of the domain it went to.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        datasets: Sequence[UnpairedDataset | None],
        images: Sequence[UnpairedDataset],
        networks: net.Networks,
        device: chainer.backend.Device,
        options: UnpairedOptions,
    ) -> None:
        self.clips = [dataset.clip for dataset in images]
        modalities = [dataset.images[0].modality for dataset in images]
        super().__init__(
            folder, name, datasets, (options.nvis_A, options.nvis_B), self.clips, modalities, device, options
        )
        self.networks = networks
        self.colour = options.stack == 1

    def draw(self, chosen: Sequence[Sequence[int]], path: Path) -> None:
        n = self.networks
        paths = (
            (n.translate, lambda x: n.translate_back(n.translate(x)), lambda x: n.dec_x(n.enc_x(x))),
            (n.translate_back, lambda y: n.translate(n.translate_back(y)), lambda y: n.dec_y(n.enc_y(y))),
        )
        found = []  # (side, name, [(side of the domain it is in, image in HU) for each column])
        for side, (dataset, indices) in enumerate(zip(self.datasets, chosen, strict=True)):
            if dataset is None:
                continue
            for i in indices:
                image = dataset.load(i, None)
                outputs = [apply(function, [image], self.device)[0] for function in paths[side]]
                sides = (side, 1 - side, side, side)
                images = [(s, self.clips[s].from_unit(x)) for s, x in zip(sides, [image, *outputs], strict=True)]
                found.append((side, dataset.name(i), images))
        windows = [self._window(side, found) for side in (0, 1)]
        rows = [[Panel(plane(image, self.colour), *windows[s]) for s, image in images] for _, _, images in found]
        own = "\n".join(
            f"{letter}: {range_text(*windows[side], self.modalities[side])}" for side, letter in enumerate("xy")
        )
        draw_grid(path, rows, [own, *TITLES], [f"{'xy'[side]}: {name}" for side, name, _ in found])

    def _window(self, side: int, found: list[tuple[int, str, list[tuple[int, np.ndarray]]]]) -> tuple[float, float]:
        """One window for all images in a domain; that of its own images, not of what networks make of others."""
        there = [image for _, _, images in found for s, image in images if s == side]
        originals = [images[0][1] for s, _, images in found if s == side]
        return window_of(originals or there, self.clips[side], self.windows[side])
