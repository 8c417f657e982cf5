"""Weights in the released layout beside ``args``: ``enc_x50.npz dec_y50.npz dis50.npz`` and ``opt_enc_x50.npz`` …"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.checkpoint import load_link, save_networks
from medi2i.common.npz_files import refuse_not_finite
from medi2i.common.training.ending import Ending
from medi2i.common.training.optimizers import missing_states_allowed, serialize_float32_copies
from medi2i.common.training.snapshot import Reader, Writer, read_npz, weights_of, write_npz

_NUMBERED = re.compile(r"(?P<name>.+?)(?P<epoch>\d+)\.npz")


class WeightStore:
    """Saves and removes the weights of some epochs. ``networks`` and ``optimizers`` are dicts name -> object.

    ``prepare()`` is called before networks are saved.
    """

    def __init__(
        self,
        folder: str | Path,
        networks: dict[str, chainer.Link],
        optimizers: Mapping[str, chainer.Optimizer],
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = Path(folder)
        self.networks = networks
        self.optimizers = optimizers
        self.prepare = prepare

    def save(self, epoch: int) -> None:
        """Write all networks and the state of all optimizers under the number ``epoch``."""
        self.prepare()
        save_networks(self.folder, self.networks, epoch)
        for name, optimizer in self.optimizers.items():
            arrays: dict[str, np.ndarray] = {}
            optimizer.serialize(Writer(arrays))
            serialize_float32_copies(Writer(arrays)["float32"], optimizer)
            write_npz(self.folder / f"opt_{name}{epoch}.npz", arrays)

    def remove(self, epoch: int) -> None:
        """Remove what ``save`` wrote for ``epoch``."""
        for name in self._names():
            (self.folder / f"{name}{epoch}.npz").unlink(missing_ok=True)

    def remove_after(self, epoch: int) -> None:
        """Remove weights of epochs later than ``epoch``: a resumed run makes them again."""
        for path in self.folder.glob("*.npz"):
            match = _NUMBERED.fullmatch(path.name)
            if match and match["name"] in self._names() and int(match["epoch"]) > epoch:
                path.unlink()

    def _names(self) -> list[str]:
        return [*self.networks, *("opt_" + name for name in self.optimizers)]


class SaveWeights(chainer.training.Extension):
    """Saves the weights every ``interval`` epochs (never for interval <= 0)."""

    priority = chainer.training.PRIORITY_EDITOR
    phase = "snapshots"

    def __init__(self, store: WeightStore, interval: int, ending: Ending) -> None:
        self.store = store
        self.interval = interval
        self.ending = ending

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        updater = trainer.updater
        if updater.is_new_epoch and not self.ending.bad and self.regular(updater.epoch):
            self.store.save(updater.epoch)

    def regular(self, epoch: int) -> bool:
        """Whether the weights of ``epoch`` are kept whether or not they are the best."""
        return self.interval > 0 and epoch % self.interval == 0


def siblings(path: str | Path, names: Sequence[str]) -> dict[str, Path]:
    """{name: file} of the networks saved together with ``path``: ``enc_x50.npz`` leads to ``dec_y50.npz`` …

    Raises UserError when ``path`` is not named like one of ``names`` with an epoch. The files need not exist.
    """
    path = Path(path)
    match = _NUMBERED.fullmatch(path.name)
    if match is None or match["name"] not in names:
        raise UserError(f"--model_gen/--model_dis: {path} is not named like {', '.join(f'{n}50.npz' for n in names)}")
    return {name: path.with_name(f"{name}{match['epoch']}.npz") for name in names}


def load_initial(path: str | Path, networks: Mapping[str, chainer.Link], needed: Iterable[str]) -> dict[str, Path]:
    """Load weights to start from: those saved together with the file ``path``. Returns {name: file} of what was loaded.

    networks: dict name -> link. needed: names without which there is nothing to start from; others are loaded if there.
    """
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
            reader = Reader(arrays, check=lambda name, array, path=path: refuse_not_finite({name: array}, path))
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
