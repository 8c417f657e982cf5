"""From options to what a training needs, where both applications do the same; in the order in which they do it."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medi2i.common.bounded_files import refuse_not_finite
from medi2i.common.compat import chainer
from medi2i.common.device import choose_device, use_cpu_engine, use_gpu_engine
from medi2i.common.errors import UserError
from medi2i.common.kernels.gpu_engine import WORKSPACE
from medi2i.common.networks.checkpoint import find_run
from medi2i.common.networks.files import load_link
from medi2i.common.networks.from_options import check_size
from medi2i.common.networks.summary import summary_text
from medi2i.common.options import PairedOptions, UnpairedOptions, parse
from medi2i.common.options.learned import LearnedOptions, SynthesisOptions
from medi2i.common.options.machinery import build_parser, default_of, given_values
from medi2i.common.options.reading import AnyOptions, AnyTraining, load_training
from medi2i.common.registry import located
from medi2i.common.training.averaging import Reestimation, WeightAverage, has_batch_statistics, training_crops
from medi2i.common.training.distributed import ALONE, Ranks, share_batches
from medi2i.common.training.log import summary_writer
from medi2i.common.training.optimizers import (
    BETA2,
    RateControl,
    make_optimizer,
    missing_states_allowed,
    serialize_float32_copies,
)
from medi2i.common.training.randomness import RandomState
from medi2i.common.training.run_folder import NUMBERED, RunFolder
from medi2i.common.training.snapshot import Reader, read_npz, weights_of
from medi2i.datasets import pairs
from medi2i.datasets.examples import ImageDataset
from medi2i.datasets.iterator import ImageIterator
from medi2i.datasets.unpacking import unpacked

log = logging.getLogger(__name__)
T = TypeVar("T", PairedOptions, UnpairedOptions, LearnedOptions, SynthesisOptions)


def training_options(cls: type[T], argv: Sequence[str] | None, about: str | None) -> tuple[T, str | None]:
    """Options of a training: (options, run folder to resume or None).

    about: the docstring of the command. With ``--resume RUN`` the options are those in RUN's ``args``, with the changes
    that leave it the same training. Raises UserError for any other change.
    """
    options = parse(cls, argv, about)
    if options.tensorboard:
        summary_writer()  # now, not when the data are read
    if options.resume is None:
        return options, None
    given = given_values(build_parser(cls), argv, cls)
    if "argfile" in given:
        raise UserError("--argfile: a resumed run has its own args file; give one of --resume and --argfile")
    if not Path(options.resume).is_dir():
        raise UserError(
            f"--resume: {options.resume}: no such folder; it should be the folder of a run, as training "
            "makes and names it"
        )
    saved = load_training(options.resume)
    if not isinstance(saved, cls):
        raise UserError(f"--resume: {options.resume} is a run of {saved.APPLICATION}, not of {cls.APPLICATION}")
    for name in given:
        rule = cls.__dataclass_fields__[name].metadata
        fixed = not rule["changeable"] and not rule["momentary"]
        if fixed and getattr(options, name) != getattr(saved, name):
            raise UserError(
                f"--{name}: cannot change in a resumed run, which has {getattr(saved, name)}; "
                "start a new run, with -m for the weights"
            )
    resumed = dataclasses.replace(saved, **given)
    _find_data(resumed, options.resume)
    return resumed, options.resume


def _find_data(options: AnyTraining, run: str) -> None:
    """Raises UserError where the data of ``run`` are no longer where they were."""
    root, listed = unpacked(options.root), getattr(options, "train", "__train__")
    by_list = listed not in pairs.FOLDERS
    folders = pairs.FOLDERS[listed] if isinstance(options, AnyOptions) and not by_list else ()
    missing = next((folder for folder in (root, *(root / name for name in folders)) if not folder.is_dir()), None)
    if missing is None and by_list and not any(path.is_file() for path in (Path(listed), root / listed)):
        missing = Path(listed)
    if missing is not None:
        where = "-R FOLDER (and -t LIST)" if by_list else "-R FOLDER"
        raise UserError(
            f"--resume: {missing}, with data of this run, is not there; if they were moved, "
            f"--resume {run} {where} goes on with them where they are"
        )


def lasting(options: AnyTraining) -> AnyTraining:
    """``options`` as they are saved in the run folder, without what concerned the one command."""
    momentary = {field.name: default_of(field) for field in dataclasses.fields(options) if field.metadata["momentary"]}
    return dataclasses.replace(options, **momentary)


def prepare(options: AnyTraining, ranks: Ranks) -> tuple[chainer.backend.Device, RandomState]:
    """(Chainer device, RandomState) of this rank's training: device and engines are in use, global states seeded."""
    device = choose_device(options.gpu, options.tf32, ranks.local)
    ranks.fits(device)
    device.use()
    use_cpu_engine(options.cpu_engine)
    convolutions = use_gpu_engine(options.gpu_engine, options.tf32)
    if device.xp.__name__ == "cupy":
        # cuDNN may use more than its 8 MiB to choose fast algorithms.
        chainer.cuda.set_max_workspace_size(WORKSPACE)
        print(f"convolutions on the GPU: {convolutions}")
    random = RandomState(options.seed, device.xp, ranks.rank)
    random.seed_global()
    return device, random


def check_sizes(options: AnyOptions, datasets: Sequence) -> None:
    """UserError unless the generator gives images of all ``datasets`` (None: there is none) back in their size."""
    for dataset in datasets:
        if dataset is not None:
            check_size(options, dataset.size)


def place(
    networks: Any,
    options: AnyTraining,
    device: chainer.backend.Device,
    ranks: Ranks,
    sizes: Mapping[str, tuple[int, int]],
) -> tuple[Any, WeightAverage | None]:
    """Bring ``networks`` (a dataclass of links) to ``device``, with weights everywhere. Prints the ``--summary``.

    sizes: dict "x" (and "y") -> (height, width) of that domain's images.
    Returns (networks to validate, draw and save, WeightAverage or None): with ``--ema`` those of averaged weights.
    """
    links = networks.as_dict()
    if options.summary and isinstance(options, AnyOptions):
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
    links: dict[str, chainer.Link],
    options: AnyTraining,
    loaded: Mapping[str, Path] | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Mapping[str, chainer.Optimizer], dict[str, RateControl]]:
    """(optimizers, controls): dicts name -> optimizer and name -> RateControl for the dict ``links`` name -> network.

    Names that begin with ``dis`` learn at the discriminator's rate. A pretrained part learns at its own ratio.
    loaded: dict name -> file of weights; with ``--load_optimizer`` states come from beside them.
    ranks: those that take each step together.
    """
    generator_rate, discriminator_rate = options.rates
    names = {id(link): name for name, link in reversed(links.items())}  # one encoder under two names is trained once
    links = {name: link for name, link in links.items() if names[id(link)] == name}
    optimizers = {
        name: make_optimizer(
            options.optimizer,
            link,
            discriminator_rate if name.startswith("dis") else generator_rate,
            options.weight_decay,
            getattr(options, "weight_decay_norm", "l2"),
            options.adam_beta1,
            getattr(options, "adam_beta2", BETA2),
        )
        for name, link in links.items()
    }
    controls = {name: RateControl(optimizer) for name, optimizer in optimizers.items()}
    for name, link in links.items():
        if getattr(getattr(link, "spec", None), "pretrained", None) is not None:
            kind = "dis" if name.startswith("dis") else "gen"
            controls[name].slow_down(link.base, getattr(options, f"{kind}_pretrained_lr_ratio"))
    if options.load_optimizer:
        load_optimizers(loaded or {}, optimizers)
    return ranks.wrapped(optimizers), controls


def make_iterator(dataset: Any, options: AnyTraining, ranks: Ranks, seed: int) -> ImageIterator:
    """The batches of ``dataset`` for this rank's training."""
    return ImageIterator(
        dataset,
        options.batch_size,
        seed,
        uncut=options.augment_on == "device",
        workers=options.workers,
        processes=options.worker_processes,
        crops=options.crops_per_image,
        rank=ranks.rank,
        ranks=ranks.count,
    )


def open_run(
    options: AnyTraining,
    resumed: str | None,
    argv: Sequence[str],
    ranks: Ranks,
    datasets: Mapping[str, ImageDataset | None] | None = None,
) -> RunFolder | None:
    """The folder of this run, a new one or that of the run ``resumed``; None on other ranks than the first.

    argv: the words behind the name of the command. datasets: those whose files are listed in the folder, by name.
    """
    if not ranks.first:
        return None
    command_line = [f"{options.APPLICATION}/train.py", *argv]
    if resumed is None:
        folder = RunFolder.create(options.out, lasting(options), command_line)
    else:
        folder = RunFolder.open(resumed, lasting(options), command_line)
    if datasets is not None:
        folder.list_files(unpacked(options.root), datasets)
    return folder


def reestimation_of(
    forward: Callable,
    datasets: Sequence,
    networks: Any,
    options: AnyOptions,
    device: chainer.backend.Device,
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
    )


def siblings(path: str | Path, names: Sequence[str]) -> dict[str, Path]:
    """{name: file} of the networks saved together with ``path``: ``enc_x50.npz`` leads to ``dec_y50.npz`` …

    Raises UserError when ``path`` is not named like one of ``names`` with an epoch. The files need not exist.
    """
    path = Path(path)
    match = NUMBERED.fullmatch(path.name)
    if match is None or match["name"] not in names:
        raise UserError(f"--model_gen/--model_dis: {path} is not named like {', '.join(f'{n}50.npz' for n in names)}")
    return {name: path.with_name(f"{name}{match['epoch']}.npz") for name in names}


def load_initial(
    path: str | Path | None, networks: Mapping[str, chainer.Link], needed: Iterable[str]
) -> dict[str, Path]:
    """Load weights to start from: those saved together with the file ``path``. Returns {name: file} of what was loaded.

    path: a file, or a run folder or model by name, of which the best epoch is taken, else the last; None loads nothing.
    networks: dict name -> link. needed: names without which there is nothing to start from; others are loaded if there.
    """
    if path is None:
        return {}
    path = located(path)
    if path.is_dir():
        run = find_run(path)
        path = run.folder / f"{next(iter(needed))}{run.epochs[-1] if run.best is None else run.best}.npz"
    files = siblings(path, list(networks))
    loaded = {}
    for name, file in files.items():
        if name in needed or file.is_file():
            load_link(file, networks[name])
            loaded[name] = file
    return loaded


def load_optimizers(files: Mapping[str, Path], optimizers: Mapping[str, chainer.Optimizer]) -> None:
    """Load the state of the optimizers saved beside the weights ``files`` (dict name -> file). Raises UserError."""
    for name, file in files.items():
        if name not in optimizers:
            continue
        path = Path(file).with_name("opt_" + Path(file).name)
        if not path.is_file():
            raise UserError(f"--load_optimizer: {path} is missing; leave the option out to start with fresh optimizers")
        try:
            arrays = read_npz(path, weights_of([optimizers[name]]))
            reader = Reader(arrays, check=functools.partial(refuse_not_finite, source=path))
            with missing_states_allowed([optimizers[name]]):
                optimizers[name].serialize(reader)
            serialize_float32_copies(reader["float32"], optimizers[name])
            if reader.unread():
                raise ValueError(f"it has {reader.unread()[0]}")
        except UserError:
            raise
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise UserError(
                f"{path}: not the state of this optimizer ({error}); leave --load_optimizer out to start afresh"
            ) from None
