"""The folder of one training run: made whole in one step, opened again to resume with the options saved in it."""

import contextlib
import dataclasses
import json
import shlex
import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias, TypeVar

from medi2i.common.errors import UserError
from medi2i.common.options import PairedOptions, UnpairedOptions, load_args, parse, save_args
from medi2i.common.options.machinery import default_of, given_values
from medi2i.common.training.log import summary_writer
from medi2i.datasets import pairs
from medi2i.datasets.locks import FolderLock
from medi2i.datasets.outputs import append_text, clear_unfinished, write_text

AnyOptions: TypeAlias = PairedOptions | UnpairedOptions
T = TypeVar("T", bound=AnyOptions)

_now = time.time
FOLDERS = ("plots", "vis", "snapshots")


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
    def create(cls, out: str | Path, options: AnyOptions, command_line: Sequence[str]) -> "RunFolder":
        """A new folder ``<out>/<YYYYmmdd_HHMMSS>`` holding ``args`` and ``command.txt``; it appears complete."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".new_", dir=out))
        try:
            temporary.chmod(0o755)
            for name in FOLDERS:
                (temporary / name).mkdir()
            now = _now()
            started = datetime.fromtimestamp(now, UTC).isoformat()
            save_args(dataclasses.replace(options, started=started), temporary / "args")
            write_text(temporary / "command.txt", shlex.join(command_line) + "\n")
            path = _renamed(temporary, out / time.strftime("%Y%m%d_%H%M%S", time.localtime(now)))
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return cls(path, resumed=False)

    @classmethod
    def open(cls, path: str | Path, options: AnyOptions, command_line: Sequence[str]) -> "RunFolder":
        """The existing folder of a run, whose ``args`` become ``options``."""
        run = cls(path, resumed=True)
        for folder in (run.plots, run.vis, run.snapshots):
            folder.mkdir(exist_ok=True)
        for folder in (run.path, run.plots, run.vis, run.snapshots):
            clear_unfinished(folder)
        save_args(options, run.path / "args")
        append_text(run.path / "command.txt", shlex.join(command_line) + "\n")
        return run

    def write_best(self, epoch: int | None, metric: str | None, value: float | None) -> None:
        """``best.json``: which epoch was best, by which metric; removed for epoch None."""
        path = self.path / "best.json"
        if epoch is None:
            path.unlink(missing_ok=True)
            return
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


# What can change without the training being another one: where it runs, how far, what it shows. -e also stretches
# the learning-rate schedule from here on.
CHANGEABLE = (
    "epoch",
    "iteration",
    "minutes",
    "gpu",
    "gpu_engine",
    "root",
    "workers",
    "cache_mb",
    "snapinterval",
    "snapshot_minutes",
    "snapshot_interval",
    "snapshot_keep",
    "patience",
    "max_hours",
    "loss_limit",
    "display_interval",
    "vis_freq",
    "vis_window",
    "vis_windowB",
    "vis_random",
    "nvis",
    "nvis_A",
    "nvis_B",
    "parameter_statistics",
    "profile",
    "tensorboard",
    "train",
    "val",
)
# What concerns the one command and not the run.
MOMENTARY = ("resume", "check", "summary", "argfile", "communicator")


def training_options(cls: type[T], argv: Sequence[str] | None, description: str) -> tuple[T, str | None]:
    """Options of a training: (options, run folder to resume or None).

    With ``--resume RUN`` the options are those in RUN's ``args``, with the changes that leave it the same training.
    Raises UserError for any other change.
    """
    options = parse(cls, argv, description=description)
    if options.tensorboard:
        summary_writer()  # now, not when the data are read
    if options.resume is None:
        return options, None
    given = given_values(cls, argv)
    if "argfile" in given:
        raise UserError("--argfile: a resumed run has its own args file; give one of --resume and --argfile")
    if not Path(options.resume).is_dir():
        raise UserError(
            f"--resume: {options.resume}: no such folder; it should be the folder of a run, as training "
            "makes and names it"
        )
    saved = load_args(options.resume)
    if not isinstance(saved, cls):
        raise UserError(f"--resume: {options.resume} is a run of {saved.APPLICATION}, not of {cls.APPLICATION}")
    for name in given:
        if name not in CHANGEABLE and name not in MOMENTARY and getattr(options, name) != getattr(saved, name):
            raise UserError(
                f"--{name}: cannot change in a resumed run, which has {getattr(saved, name)}; "
                "start a new run, with -m for the weights"
            )
    resumed = dataclasses.replace(saved, **given)
    _find_data(resumed, options.resume)
    return resumed, options.resume


def _find_data(options: AnyOptions, run: str) -> None:
    """Raises UserError where the data of ``run`` are no longer where they were."""
    root, listed = Path(options.root), getattr(options, "train", "__train__")
    if listed in pairs.FOLDERS:
        there = [root / folder for folder in pairs.FOLDERS[listed]]
        missing = next((folder for folder in (root, *there) if not folder.is_dir()), None)
        where = "-R FOLDER"
    else:
        missing = (
            root
            if not root.is_dir()
            else None
            if any(path.is_file() for path in (Path(listed), root / listed))
            else Path(listed)
        )
        where = "-R FOLDER (and -t LIST)"
    if missing is not None:
        raise UserError(
            f"--resume: {missing}, with data of this run, is not there; if they were moved, "
            f"--resume {run} {where} goes on with them where they are"
        )


def lasting(options: T) -> T:
    """``options`` as they are saved in the run folder, without what concerned the one command."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    return dataclasses.replace(options, **{name: default_of(fields[name]) for name in MOMENTARY})
