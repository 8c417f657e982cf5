"""The folder of one training run, made whole in one step or opened again to resume, and the weights in it.

These are in the released layout beside ``args``: ``enc_x50.npz dec_y50.npz dis50.npz`` and ``opt_enc_x50.npz`` …
"""

import contextlib
import dataclasses
import json
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.locks import FolderLock
from medi2i.common.networks.files import save_networks
from medi2i.common.options.reading import AnyTraining, save_args
from medi2i.common.outputs import append_text, clear_unfinished, write_text
from medi2i.common.training.optimizers import serialize_float32_copies
from medi2i.common.training.snapshot import Writer, write_npz
from medi2i.datasets.catalogue import name_below
from medi2i.datasets.examples import ImageDataset

FOLDERS = ("plots", "vis", "snapshots")
NUMBERED = re.compile(r"(?P<name>.+?)(?P<epoch>\d+)\.npz")


class RunFolder:
    """``args``, ``command.txt``, weights, log, and the folders ``plots``, ``vis`` and ``snapshots``.

    Holds a lock as long as it lives, so that two processes never train in one folder. Raises UserError if another does.
    """

    def __init__(self, path: str | Path, resumed: bool) -> None:
        self.path = Path(path)
        self.resumed = resumed
        self.plots, self.vis, self.snapshots = (self.path / name for name in FOLDERS)
        self._lock = FolderLock(self.path, "training")

    @classmethod
    def create(cls, out: str | Path, options: AnyTraining, command_line: Sequence[str]) -> "RunFolder":
        """A new folder ``<out>/<YYYYmmdd_HHMMSS>`` holding ``args`` and ``command.txt``; it appears complete."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".new_", dir=out))
        try:
            temporary.chmod(0o755)
            for name in FOLDERS:
                (temporary / name).mkdir()
            now = time.time()
            started = datetime.fromtimestamp(now, UTC).isoformat()
            save_args(dataclasses.replace(options, started=started), temporary / "args")
            write_text(temporary / "command.txt", shlex.join(command_line) + "\n")
            path = _renamed(temporary, out / time.strftime("%Y%m%d_%H%M%S", time.localtime(now)))
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return cls(path, resumed=False)

    @classmethod
    def open(cls, path: str | Path, options: AnyTraining, command_line: Sequence[str]) -> "RunFolder":
        """The existing folder of a run, whose ``args`` become ``options``."""
        run = cls(path, resumed=True)
        for folder in (run.path, run.plots, run.vis, run.snapshots):
            folder.mkdir(exist_ok=True)
            clear_unfinished(folder)
        save_args(options, run.path / "args")
        append_text(run.path / "command.txt", shlex.join(command_line) + "\n")
        return run

    def list_files(self, root: Path, datasets: Mapping[str, ImageDataset | None]) -> None:
        """``files_<name>.txt`` of each data set: its files below ``root``, in the form of the lists of ``--train``."""
        for name, dataset in datasets.items():
            if dataset is not None:
                rows = ("\t".join(name_below(path, root) for path in row) for row in dataset.files())
                write_text(self.path / f"files_{name}.txt", "".join(f"{row}\n" for row in dict.fromkeys(rows)))

    def write_best(self, epoch: int | None, metric: str | None, value: float | None) -> None:
        """``best.json``: which epoch was best, by which metric; removed for epoch None."""
        path = self.path / "best.json"
        if epoch is None:
            path.unlink(missing_ok=True)
        else:
            write_text(path, json.dumps({"epoch": epoch, "metric": metric, "value": value}) + "\n")

    def close(self) -> None:
        """Give the lock back."""
        self._lock.release()


def _renamed(temporary: Path, wanted: Path) -> Path:
    for number in range(1, 1000):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        if path.exists():
            continue
        with contextlib.suppress(FileExistsError):  # another training may have taken the name this moment
            return temporary.rename(path)
    raise UserError(f"{wanted}: a thousand runs of this second exist already; choose another --out")


@dataclasses.dataclass(eq=False)
class WeightStore(chainer.training.Extension):
    """Saves and removes the weights of some epochs. ``networks`` and ``optimizers`` are dicts name -> object.

    As an extension it saves them every ``interval`` epochs (never for interval <= 0), unless the training ends because
    they are bad. ``prepare()`` is called before networks are saved.
    """

    name = "SaveWeights"  # in snapshots, since there are any
    priority = chainer.training.PRIORITY_EDITOR
    phase = "snapshots"

    folder: Path
    networks: dict[str, chainer.Link]
    optimizers: Mapping[str, chainer.Optimizer]
    interval: int
    prepare: Callable[[], None] = dataclasses.field(default=lambda: None)

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        updater = trainer.updater
        if updater.is_new_epoch and not trainer.stop_trigger.bad and self.regular(updater.epoch):
            self.save(updater.epoch)

    def regular(self, epoch: int) -> bool:
        """Whether the weights of ``epoch`` are kept whether or not they are the best."""
        return self.interval > 0 and epoch % self.interval == 0

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
            match = NUMBERED.fullmatch(path.name)
            if match and match["name"] in self._names() and int(match["epoch"]) > epoch:
                path.unlink()

    def _names(self) -> list[str]:
        return [*self.networks, *("opt_" + name for name in self.optimizers)]
