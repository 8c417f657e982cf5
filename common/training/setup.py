"""From options to what a training needs, where both applications do the same; in the order in which they do it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medi2i.common.compat import chainer
from medi2i.common.device import choose_device, use_cpu_engine, use_gpu_engine
from medi2i.common.kernels.gpu.cudnn_graphs import WORKSPACE
from medi2i.common.networks.from_options import check_size
from medi2i.common.networks.summary import summary_text
from medi2i.common.training.averaging import Reestimation, WeightAverage, has_batch_statistics, training_crops
from medi2i.common.training.distributed import ALONE, Alone, share_batches
from medi2i.common.training.ending import Ending
from medi2i.common.training.optimizers import RateControl, make_controls, make_optimizer
from medi2i.common.training.randomness import RandomState
from medi2i.common.training.run_folder import AnyOptions, RunFolder, lasting
from medi2i.common.training.weights import load_optimizers
from medi2i.datasets.augment import examples_for
from medi2i.datasets.iterator import ImageIterator
from medi2i.datasets.paired import PairedDataset
from medi2i.datasets.unpaired import UnpairedDataset

log = logging.getLogger(__name__)


def prepare(options: AnyOptions, ranks: Alone) -> tuple[chainer.backend.Device, RandomState]:
    """(Chainer device, RandomState) of this rank's training: device and engines are in use, global states seeded."""
    device = choose_device(options.gpu, options.tf32, ranks.local)
    ranks.fits(device)
    device.use()
    use_cpu_engine(options.cpu_engine)
    workspace(device, use_gpu_engine(options.gpu_engine, options.tf32))
    random = RandomState(options.seed, device.xp, ranks.rank)
    random.seed_global()
    return device, random


def workspace(device: chainer.backend.Device, convolutions: str | None = None) -> None:
    """Let cuDNN use more than its 8 MiB to choose fast algorithms, and say what ``convolutions`` run on.

    Nothing on the CPU.
    """
    if device.xp.__name__ == "cupy":
        chainer.cuda.set_max_workspace_size(WORKSPACE)
        if convolutions is not None:
            print(f"convolutions on the GPU: {convolutions}")


def check_sizes(options: AnyOptions, datasets: Sequence) -> None:
    """UserError unless the generator gives images of all ``datasets`` (None: there is none) back in their size."""
    for dataset in datasets:
        if dataset is not None:
            check_size(options, dataset.size)


def place(
    networks: Any,
    options: AnyOptions,
    device: chainer.backend.Device,
    ranks: Alone,
    sizes: Mapping[str, tuple[int, int]],
) -> tuple[Any, WeightAverage | None]:
    """Bring ``networks`` (a dataclass of links) to ``device``, with weights everywhere. Prints the ``--summary``.

    sizes: dict "x" (and "y") -> (height, width) of that domain's images.
    Returns (networks to validate, draw and save, WeightAverage or None): with ``--ema`` those of averaged weights.
    """
    links = networks.as_dict()
    if options.summary:
        print(summary_text(links, options, sizes["x"]))
    for link in links.values():
        link.to_device(device)
    ranks.initialise(links, sizes)
    if options.sync_bn:
        share_batches(links, ranks)
    if not options.ema:
        return networks, None
    average = WeightAverage(networks, options.ema)
    return average.averaged, average


def make_optimizers(
    links: Mapping, options: AnyOptions, loaded: Mapping[str, Path] | None = None, ranks: Alone = ALONE
) -> tuple[Mapping[str, chainer.Optimizer], dict[str, RateControl]]:
    """(optimizers, controls): dicts name -> optimizer and name -> RateControl for the dict ``links`` name -> network.

    Names that begin with ``dis`` learn at the discriminator's rate. A pretrained part learns at its own ratio.
    loaded: dict name -> file of weights; with ``--load_optimizer`` states come from beside them.
    ranks: those that take each step together.
    """
    generator_rate, discriminator_rate = options.rates
    optimizers = {
        name: make_optimizer(
            options.optimizer,
            link,
            discriminator_rate if name.startswith("dis") else generator_rate,
            options.weight_decay,
            getattr(options, "weight_decay_norm", "l2"),
            options.adam_beta1,
        )
        for name, link in links.items()
    }
    controls = make_controls(options.optimizer, optimizers)
    for name, link in links.items():
        if getattr(link.spec, "pretrained", None) is not None:
            kind = "dis" if name.startswith("dis") else "gen"
            controls[name].slow_down(link.base, getattr(options, f"{kind}_pretrained_lr_ratio"))
    if options.load_optimizer:
        load_optimizers(loaded or {}, optimizers)
    return ranks.wrapped(optimizers), controls


def make_iterator(
    dataset: PairedDataset | UnpairedDataset, options: AnyOptions, ranks: Alone, seed: int
) -> ImageIterator:
    """The batches of ``dataset`` for this rank's training."""
    return ImageIterator(
        examples_for(dataset, options.augment_on),
        options.batch_size,
        seed,
        workers=options.workers,
        processes=options.worker_processes,
        crops=options.crops_per_image,
        rank=ranks.rank,
        ranks=ranks.count,
    )


def validation_batch(options: AnyOptions) -> int:
    """How many images are validated at once: whole images need more memory than crops."""
    return 1 if options.random_translate < 0 else options.batch_size


def open_run(options: AnyOptions, resumed: str | None, command_line: Sequence[str], ranks: Alone) -> RunFolder | None:
    """The folder of this run, a new one or that of the run ``resumed``; None on other ranks than the first."""
    if not ranks.first:
        return None
    if resumed is None:
        return RunFolder.create(options.out, lasting(options), command_line)
    return RunFolder.open(resumed, lasting(options), command_line)


def reestimation_of(
    forward: Callable,
    datasets: Sequence,
    networks: Any,
    options: AnyOptions,
    device: chainer.backend.Device,
    ending: Ending,
) -> Reestimation | None:
    """The Reestimation of ``--bn_reestimate``, or None; with a warning where no network has batch statistics.

    forward: runs ``networks`` (a dataclass of links) on one array for each of ``datasets``.
    """
    if not options.bn_reestimate:
        return None
    if not has_batch_statistics(link for name, link in networks.as_dict().items() if not name.startswith("dis")):
        log.warning(
            "--bn_reestimate: the generator has no batch normalisation (--gen_norm %s); nothing to estimate",
            options.gen_norm,
        )
        return None
    return Reestimation(
        forward,
        lambda: [training_crops(dataset, options.bn_reestimate, options.seed) for dataset in datasets],
        device,
        ending,
    )
