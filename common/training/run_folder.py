"""The folder of one training run: made whole in one step, opened again to resume."""
import contextlib
import dataclasses
import json
import shlex
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from medi2i.common.errors import UserError
from medi2i.common.options import save_args
from medi2i.datasets.locks import FolderLock
from medi2i.datasets.outputs import append_text, clear_unfinished, write_text

_now = time.time
FOLDERS = ("plots", "vis", "snapshots")


class RunFolder:
    """``args``, ``command.txt``, weights, log, and the folders ``plots``, ``vis`` and ``snapshots``.

    Holds a lock as long as it lives, so that two processes never train in one folder. Raises UserError if another does.
    """

    def __init__(self, path, resumed):
        self.path = Path(path)
        self.resumed = resumed
        self.plots, self.vis, self.snapshots = (self.path / name for name in FOLDERS)
        self._lock = FolderLock(self.path, "training")

    @classmethod
    def create(cls, out, options, command_line):
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
    def open(cls, path, options, command_line):
        """The existing folder of a run, whose ``args`` become ``options``."""
        run = cls(path, resumed=True)
        for folder in (run.plots, run.vis, run.snapshots):
            folder.mkdir(exist_ok=True)
        for folder in (run.path, run.plots, run.vis, run.snapshots):
            clear_unfinished(folder)
        save_args(options, run.path / "args")
        append_text(run.path / "command.txt", shlex.join(command_line) + "\n")
        return run

    def write_best(self, epoch, metric, value):
        """``best.json``: which epoch was best, by which metric; removed for epoch None."""
        path = self.path / "best.json"
        if epoch is None:
            path.unlink(missing_ok=True)
            return
        write_text(path, json.dumps({"epoch": epoch, "metric": metric, "value": value}) + "\n")

    def close(self):
        """Give the lock back."""
        self._lock.release()


def _renamed(temporary, wanted):
    for number in range(1, 1000):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        if path.exists():
            continue
        with contextlib.suppress(FileExistsError):  # another training may have taken the name this moment
            return temporary.rename(path)
    raise UserError(f"{wanted}: a thousand runs of this second exist already; choose another --out")
