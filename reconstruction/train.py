#!/usr/bin/env python
"""Train what reconstructs: a learned primal-dual network, or a critic that tells true images from others.

python tools/make_sinograms.py --of ellipses --num 2000 --size 128 --views 30 --noise 0.025 -o scans
python reconstruction/train.py -i scans --minutes 30
python reconstruction/train.py --resume result/20260101_120000
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.errors import UserError, as_main
from medi2i.common.options.learned import CRITIC, LearnedOptions
from medi2i.common.training.distributed import Ranks, joined
from medi2i.common.training.pictures import (
    Panel,
    Pictures,
    difference,
    draw_grid,
    range_text,
    reach_of,
    window_of,
)
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
from medi2i.common.training.validation import apply, batches, error_sums, inference_mode, rmse_and_mae
from medi2i.datasets.scaling import Clip
from medi2i.reconstruction import geometry as geometries
from medi2i.reconstruction import net
from medi2i.reconstruction.operator import Operator
from medi2i.reconstruction.scans import GEOMETRY, Scans
from medi2i.reconstruction.updater import CriticUpdater, PrimalDualUpdater

RANGE = Clip(-1000, 1000)  # HU
SHOWN = ("net/loss_L2", "critic/loss_real", "critic/loss_fake", "validation/RMSE")


def command(argv: Sequence[str]) -> int:
    """One training. Returns the status of the process; raises UserError."""
    options, resumed = training_options(LearnedOptions, argv, __doc__)
    with joined(options.communicator) as ranks:
        return train(options, resumed, argv, ranks)


def train(options: LearnedOptions, resumed: str | None, argv: Sequence[str], ranks: Ranks) -> int:
    """One rank's training (the whole of it without ``--communicator``). Returns the status of the process."""
    device, random = prepare(options, ranks)

    # data
    scans = Scans(options.root, options.against)
    val = None if options.val is None else Scans(options.val)
    if val is not None and val.geometry != scans.geometry:
        raise UserError(f"--val: {options.val} was scanned by another geometry than {options.root}")

    # networks
    networks = net.build(options, Operator(scans.geometry, xp=device.xp))
    load_initial(options.model_gen, networks.as_dict(), networks.as_dict())
    shown, average = place(networks, options, device, ranks, {"x": scans.size})

    # optimizers
    optimizers, controls = make_optimizers(networks.as_dict(), options, {}, ranks)
    if options.gradient_clip:
        for optimizer in optimizers.values():
            optimizer.add_hook(chainer.optimizer_hooks.GradientClipping(options.gradient_clip))

    # updater
    iterator = make_iterator(scans, options, ranks, options.seed)
    kind = CriticUpdater if options.learns == CRITIC else PrimalDualUpdater
    updater = kind(iterator, optimizers, networks, options, random, device, ranks)
    measure = None if val is None else Measured(val, shown, device, options.batch_size)
    if options.check:
        return check({"training": scans, "validation": val}, updater, measure)

    # trainer
    folder = open_run(options, resumed, argv, ranks)
    if folder is not None:
        geometries.save(folder.path / GEOMETRY, scans.geometry)
    training = Training(updater, controls, folder, SHOWN, shown)

    # extensions
    training.follow(average, None)
    if measure is not None:
        training.validate(measure, None if options.learns == CRITIC else "RMSE", larger=False)
    if folder is not None and options.learns != CRITIC:
        for name, dataset in (("val", val), ("train", scans)):
            if dataset is not None:
                training.draw(ScanPictures(folder.vis, name, dataset, shown, device, options))

    # run
    return training.run()


class Measured:
    """What ``networks`` are worth on all scans: {"RMSE", "RMSE_fbp"} in HU; of a critic {"distance"}.

    That is how much higher it judges filtered back-projections than true images.
    """

    def __init__(self, scans: Scans, networks: net.Networks, device: chainer.backend.Device, batch_size: int) -> None:
        self.scans, self.networks, self.device, self.batch_size = scans, networks, device, batch_size

    @property
    def count(self) -> int:
        """How many scans there are."""
        return len(self.scans)

    def __call__(self, indices: Iterable[int] | None = None) -> dict[str, float]:
        """The measures over the scans ``indices``, by default all."""
        indices = list(range(self.count) if indices is None else indices)
        own, nothing, distance = np.zeros(3), np.zeros(3), 0.0
        for part in batches(len(indices), self.batch_size):
            examples = [self.scans.load(indices[i]) for i in part]
            sinograms, starts, truths = (np.stack(arrays) for arrays in zip(*examples, strict=True))
            if self.networks.critic is not None:
                judged = [apply(self.networks.critic, images, self.device) for images in (starts, truths)]
                distance += float(np.sum(judged[0] - judged[1]))
                continue
            own += error_sums(1000 * reconstructed(self.networks, sinograms, starts, self.device), 1000 * truths)
            nothing += error_sums(1000 * starts, 1000 * truths)
        if self.networks.critic is not None:
            return {"distance": distance / len(indices)}
        return {"RMSE": rmse_and_mae(own)[0], "RMSE_fbp": rmse_and_mae(nothing)[0]}


def reconstructed(
    networks: net.Networks, sinograms: Array, starts: Array, device: chainer.backend.Device
) -> np.ndarray:
    """(N, 1, views, bins) and (N, 1, H, W) -> (N, 1, H, W), all NumPy, water = 1."""
    with chainer.using_device(device), inference_mode():
        images = networks.reconstruct(device.send(sinograms), device.send(starts))
    return np.asarray(chainer.backends.cuda.to_cpu(images.array), np.float32)


class ScanPictures(Pictures):
    """Some scans as they are reconstructed now: filtered back-projection, truth, network, what it is off by."""

    def __init__(
        self,
        folder: Path,
        name: str,
        scans: Scans,
        networks: net.Networks,
        device: chainer.backend.Device,
        options: LearnedOptions,
    ) -> None:
        super().__init__(
            folder, name, [scans], [options.nvis], [RANGE] * 2, [], device, options
        )  # scans may be of no tissue
        self.scans, self.networks = scans, networks

    def draw(self, chosen: Sequence[Sequence[int]], path: Path) -> None:
        scans = [self.scans.load(i) for i in chosen[0]]
        low, high = window_of([], RANGE, self.windows[0])
        starts, truths = (np.stack([one[i] for one in scans]) for i in (1, 2))
        reach = 1000 * reach_of(starts, truths, (high - low) / 1000, True)
        rows = []
        for sinogram, start, truth in scans:
            image = reconstructed(self.networks, sinogram[None], start[None], self.device)[0, 0]
            hu = [1000 * one - 1000 for one in (start[0], truth[0], image)]
            rows.append([*(Panel(one, low, high) for one in hu), difference(hu[2], hu[1], reach)])
        shown = range_text(low, high, "CT")
        titles = [
            f"filtered back-projection\n{shown}",
            "truth",
            "network",
            f"network - truth\n±{reach:.3g} HU",
        ]
        draw_grid(path, rows, titles, [self.scans.name(i) for i in chosen[0]])


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
