"""Pictures of CycleGAN while it trains: x, x → y, x → y → x, x → z → x, and the mirror rows of y."""
from pathlib import Path

import numpy

from medi2i.common.compat import chainer
from medi2i.common.training.pictures import Panel, chosen_samples, draw_grid, plane, window_of
from medi2i.common.training.validation import apply

TITLES = ["x\n(y)", "x → y\n(y → x)", "x → y → x\n(y → x → y)", "x → z → x\n(y → z → y)"]


class UnpairedPictures(chainer.training.Extension):
    """Draws ``<folder>/<name>_<iteration>.png``: some images of both domains, unaugmented.

    datasets, counts, windows: of domain x and y; a data set may be None, a window (low, high) in HU too: the clip.
    An image is shown in the window of the domain it is in, a translated one in that of the domain it went to.
    seed: None for always the same, evenly spread images; a number for random ones (new ones in each picture).
    """

    def __init__(self, folder, name, datasets, clips, networks, device, counts, windows, colour=False, seed=None):
        self.folder = Path(folder)
        self.name = name
        self.datasets = datasets
        self.clips = clips
        self.networks = networks
        self.device = device
        self.counts = counts
        self.windows = (windows[0], windows[1] if windows[1] is not None else windows[0])
        self.colour = colour
        self.seed = seed

    def __call__(self, trainer):
        iteration = trainer.updater.iteration
        chosen = [[] if dataset is None else chosen_samples(len(dataset), count, self.seed, iteration)
                  for dataset, count in zip(self.datasets, self.counts, strict=True)]
        if any(chosen):
            self.draw(chosen, self.folder / f"{self.name}_{iteration:07d}.png")

    def draw(self, chosen, path):
        """Write the picture of the images with indices ``chosen[0]`` of x and ``chosen[1]`` of y."""
        n = self.networks
        paths = ((n.translate, lambda x: n.translate_back(n.translate(x)), lambda x: n.dec_x(n.enc_x(x))),
                 (n.translate_back, lambda y: n.translate(n.translate_back(y)), lambda y: n.dec_y(n.enc_y(y))))
        rows, labels = [], []
        for side, (letter, indices) in enumerate(zip("xy", chosen, strict=True)):
            for i in indices:
                image = self.datasets[side].load(i, None)
                outputs = [apply(function, [image], self.device)[0] for function in paths[side]]
                rows.append(self._row(side, [image, *outputs]))
                labels.append(f"{letter}: {self.datasets[side].name(i)}")
        draw_grid(path, rows, TITLES, labels)

    def _row(self, side, images):
        """Panels of [image, translated, cycle, autoencoded]: the second one is of the other domain."""
        sides = [side, 1 - side, side, side]
        values = [self.clips[s].from_unit(image) for s, image in zip(sides, images, strict=True)]
        own = window_of(values[:1], self.clips[side], self.windows[side])
        other = window_of(values[1:2], self.clips[1 - side], self.windows[1 - side])
        return [Panel(numpy.asarray(plane(value, self.colour)), *(own if s == side else other))
                for s, value in zip(sides, values, strict=True)]
