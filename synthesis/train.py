#!/usr/bin/env python
"""Train what makes images of noise: DCGAN, or PGGAN, which grows.

python synthesis/train.py -i slices --size 64 --minutes 30
python synthesis/train.py -i ct --forceSpacing 4 --network pggan --channels 64 --phase_images 20000 --minutes 60
python synthesis/train.py --resume result/20260101_120000
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.errors import as_main
from medi2i.common.options.learned import SynthesisOptions
from medi2i.common.training.distributed import Ranks, joined
from medi2i.common.training.pictures import Panel, Pictures, draw_grid, plane, range_text, window_of
from medi2i.common.training.profiling import check
from medi2i.common.training.setup import (
    load_initial,
    make_iterator,
    make_optimizers,
    open_run,
    place,
    prepare,
    training_options,
)
from medi2i.common.training.trainer import Training
from medi2i.datasets import unpaired
from medi2i.datasets.preparing import landmarks_of
from medi2i.datasets.unpacking import unpacked
from medi2i.datasets.unpaired import UnpairedDataset
from medi2i.synthesis import net
from medi2i.synthesis.updater import SynthesisUpdater

SHOWN = ("gen/side", "gen/loss_dis", "dis/loss_real", "dis/loss_fake", "dis/loss_gp")
_SAMPLES = 3  # a stream of random numbers of its own, beside those of the training


def command(argv: Sequence[str]) -> int:
    """One training. Returns the status of the process; raises UserError."""
    options, resumed = training_options(SynthesisOptions, argv, __doc__)
    with joined(options.communicator) as ranks:
        return train(options, resumed, argv, ranks)


def train(options: SynthesisOptions, resumed: str | None, argv: Sequence[str], ranks: Ranks) -> int:
    """One rank's training (the whole of it without ``--communicator``). Returns the status of the process."""
    device, random = prepare(options, ranks)

    # data
    images = dataset(options)
    options = complete(options, images)

    # networks
    networks = net.build(options)
    load_initial(options.model_gen, networks.as_dict(), ["gen"])
    shown, average = place(networks, options, device, ranks, {"x": images.size})

    # optimizers
    optimizers, controls = make_optimizers(networks.as_dict(), options, {}, ranks)

    # updater
    iterator = make_iterator(images, options, ranks, options.seed)
    updater = SynthesisUpdater(iterator, optimizers, networks, options, random, device, ranks)
    if options.check:
        return check({"training": images}, updater, None)

    # trainer
    folder = open_run(options, resumed, argv, ranks, {"train": images})
    training = Training(updater, controls, folder, SHOWN, shown)

    # extensions
    training.follow(average, None)
    if folder is not None and options.nvis:
        training.draw(SamplePictures(folder.vis, images, shown, device, options))

    # run
    return training.run()


def dataset(options: SynthesisOptions) -> UnpairedDataset:
    """The images to learn from, and how they are changed. Raises UserError."""
    asked: Any = options  # it has what the data sets of CycleGAN ask
    return unpaired.build(asked, "A", folder=unpacked(options.root))


def complete(options: SynthesisOptions, images: UnpairedDataset) -> SynthesisOptions:
    """``options`` with what the images decide filled in."""
    clip, modalities = images.clip, {source.modality for source in images.images}
    return dataclasses.replace(
        options,
        ch=images.channels,
        clipA=[clip.lower, clip.upper] if clip.scales else options.clipA,
        landmarksA=landmarks_of(images.domain) or options.landmarksA,
        modality=modalities.pop() if len(modalities) == 1 else "",
    )


class SamplePictures(Pictures):
    """A row of real images, and below it what the generator makes of always the same latent vectors."""

    def __init__(
        self,
        folder: Path,
        images: UnpairedDataset,
        networks: net.Networks,
        device: chainer.backend.Device,
        options: SynthesisOptions,
    ) -> None:
        modality = options.modality
        super().__init__(
            folder, "samples", [images], [options.nvis], [images.clip] * 2, [modality] * 2, device, options
        )
        self.images, self.networks = images, networks
        shape = options.nvis, options.nvis, networks.latent
        self.z = np.random.default_rng((options.seed, _SAMPLES)).standard_normal(shape, dtype=np.float32)

    def draw(self, chosen: Sequence[Sequence[int]], path: Path) -> None:
        networks, clip = self.networks, self.images.clip
        with chainer.using_device(self.device):
            real = networks.seen(self.device.send(np.stack([self.images.load(i) for i in chosen[0]])))
            made = [networks.generate(self.device.send(z)) for z in self.z]
        rows = [clip.from_unit(row) for row in (chainer.backends.cuda.to_cpu(real), *made)]
        low, high = window_of(rows, clip, self.windows[0])
        draw_grid(
            path,
            [[Panel(plane(image, len(image) == 3), low, high) for image in row] for row in rows],
            [range_text(low, high, self.modalities[0]), f"{real.shape[2]} pixels"],
            ["real", *("made" for _ in made)],
        )


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
