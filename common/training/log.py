"""What a training says of itself as it runs: the log (one JSON object a line in log.jsonl, and the same as a table in
log.csv); from that the progress on the terminal and, on request, event files for TensorBoard; statistics of weights.
"""

import csv
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medi2i.common.bounded_files import parse_json
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.outputs import append_text, csv_text, strict, write_text
from medi2i.common.training.ending import scalars
from medi2i.common.training.snapshot import serialize_json

FIRST = ("epoch", "iteration", "elapsed_time")


class Log(chainer.training.Extension):
    """Means of all observations since the line before, every ``interval`` iterations and at the end of each epoch
    (and of the training).

    A line is ``{"epoch", "iteration", "elapsed_time" (s, all sessions of the run), <observation>: mean, …}``; values
    are plain numbers, NaN and infinities as JSON strings. ``rates()`` gives more entries, as they are at that moment.
    ``entry`` is the line just written (None in between), ``lines`` how many there are. After ``serialize`` has restored
    an earlier state, ``initialize`` cuts the files back to it.
    """

    priority = 150  # before the schedule sets the next rate, after all that is observed

    def __init__(
        self,
        folder: str | Path,
        interval: int,
        rates: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self.path = Path(folder) / "log.jsonl"
        self.table = Path(folder) / "log.csv"
        self.interval = interval
        self.rates = rates
        self.lines = 0
        self.entry: dict[str, Any] | None = None
        self._columns: list[str] = []
        self._sums: dict[str, tuple[Any, int]] = {}

    def initialize(self, trainer: chainer.training.Trainer) -> None:
        """Called by the trainer before the first iteration: cut the files back to what is known of them."""
        entries = read_log(self.path)
        if len(entries) < self.lines:
            print(f"warning: {self.path}: {self.lines - len(entries)} lines are missing", file=sys.stderr, flush=True)
        entries = entries[: self.lines]
        self.lines = len(entries)
        write_text(self.path, "".join(_line(entry) for entry in entries))
        self._tabulate(entries)

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        for name, value in trainer.observation.items():
            value = chainer.as_array(value)
            total, count = self._sums.get(name, (0.0, 0))
            on_gpu = isinstance(value, chainer.backends.cuda.ndarray)
            self._sums[name] = (total + (value if on_gpu else float(value)), count + 1)
        updater = trainer.updater
        self.entry = None
        if updater.iteration % self.interval == 0 or trainer.stop_trigger.epoch_over(updater):
            self.entry = {
                "epoch": updater.epoch,
                "iteration": updater.iteration,
                "elapsed_time": round(trainer.elapsed_time, 3),
                **self._means(),
                **self.rates(),
            }
            self._sums = {}
            append_text(self.path, _line(self.entry), lasting=True)  # the snapshot that counts it may be written next
            self.lines += 1
            if set(self.entry) <= set(self._columns):
                append_text(self.table, csv_text([[self.entry.get(name, "") for name in self._columns]]))
            else:
                self._tabulate(read_log(self.path))

    def _means(self) -> dict[str, float]:
        totals = scalars({name: total for name, (total, _) in self._sums.items()})
        return {name: totals[name] / count for name, (_, count) in sorted(self._sums.items())}

    def _tabulate(self, entries: list[dict[str, Any]]) -> None:
        """Write the table anew: for what a resumed run has to write again, and where there is a new column."""
        names = {name for entry in entries for name in entry}
        self._columns = [*FIRST, *sorted(names - set(FIRST))] if names else []
        rows = [self._columns, *([entry.get(name, "") for name in self._columns] for entry in entries)]
        write_text(self.table, csv_text(rows) if names else "")

    def serialize(self, serializer: chainer.AbstractSerializer) -> None:
        """Store or restore the number of lines and the sums since the last of them."""
        sums = {name: [float(total), count] for name, (total, count) in self._sums.items()}
        self.lines, sums = serialize_json(serializer, "log", [self.lines, sums])
        self._sums = {name: (total, count) for name, (total, count) in sums.items()}


def rewrite_rows(
    path: Path, columns: Sequence[str], counted: str, last: int, more: Iterable[Sequence[object]] = ()
) -> None:
    """Write a CSV file anew: its whole rows up to ``last`` in the column ``counted``, which a resumed run does not make
    again, and ``more``."""
    rows: list[list[str]] = []
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            rows = [
                [row[name] for name in columns]
                for row in csv.DictReader(file)
                if None not in row.values() and int(row[counted]) <= last
            ]
    write_text(path, csv_text([columns, *rows, *more]))


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a log.jsonl, a list of dicts; a half-written last line ends it. No file: an empty list."""
    path = Path(path)
    entries = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entries.append(parse_json(line, constant=str))
            except ValueError:
                break
    return entries


def _line(entry: dict[str, Any]) -> str:
    # Without NaN, at which a reader in another language would choke, on the one line that matters.
    return json.dumps(strict(entry)) + "\n"


SECONDS = 5  # between two lines where there is no terminal


class Progress(chainer.training.Extension):
    """Shows iterations, the newest losses of the log, and the time left.

    ``total``: iterations of the whole training, None where it takes ``minutes`` instead. ``shown``: names of log
    entries to show, in order.
    """

    priority = chainer.training.PRIORITY_READER - 60  # after the log

    def __init__(
        self, log: Log, total: int | None, shown: Sequence[str], stream: Any = None, minutes: float | None = None
    ) -> None:
        self.log = log
        self.total = total
        self.shown = shown
        self.stream = stream or sys.stderr
        self.minutes = minutes
        self._known: dict[str, Any] = {}

    def initialize(self, trainer: chainer.training.Trainer) -> None:
        """Called by the trainer before the first iteration of this process."""
        self._first = trainer.updater.iteration
        self._started = self._spoken = time.monotonic()
        self._bar = tqdm(
            total=self.total,
            initial=self._first,
            file=self.stream,
            dynamic_ncols=True,
            unit="it",
            disable=None,  # but for a terminal
        )

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        updater = trainer.updater
        entry = self.log.entry
        self._known.update(entry or {})
        if not self._bar.disable:
            self._bar.update(updater.iteration - self._bar.n)
            if entry is not None:
                self._bar.set_description(f"epoch {updater.epoch}", refresh=False)
                left = "" if self.minutes is None else f" left {duration(self._left(trainer))}"
                self._bar.set_postfix_str(self._text() + left, refresh=False)
            return
        if entry is None or not (updater.is_new_epoch or self.minutes is not None):
            return
        if self._left(trainer) <= 0 or time.monotonic() - self._spoken >= SECONDS:
            self._spoken = time.monotonic()
            total = "" if self.total is None else f"/{self.total}"
            print(
                f"epoch {updater.epoch} iteration {updater.iteration}{total} {self._text()} "
                f"left {duration(self._left(trainer))}",
                file=self.stream,
                flush=True,
            )

    def _left(self, trainer: chainer.training.Trainer) -> float:
        """Seconds that the training will still take."""
        if self.minutes is not None:
            return max(60 * self.minutes - trainer.elapsed_time, 0.0)
        updater = trainer.updater
        left = max(self.total - updater.iteration, 0)
        return (time.monotonic() - self._started) / (updater.iteration - self._first) * left

    def _text(self) -> str:
        return " ".join(f"{name} {self._known[name]:.4g}" for name in self.shown if name in self._known)

    def finalize(self) -> None:
        """Called by the trainer when training ends: closes the bar."""
        self._bar.close()


def duration(seconds: float) -> str:
    """``seconds`` as h:mm:ss, or in days and hours when there are days."""
    seconds = int(round(seconds))
    if seconds >= 86400:
        return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


@dataclasses.dataclass(eq=False)
class EventFiles(chainer.training.Extension):
    """Writes every line of ``log`` (a ``Log``) as scalars to event files in ``tensorboard`` of the run folder."""

    priority = chainer.training.PRIORITY_READER - 10  # after the log

    log: Log
    _writer: Any = dataclasses.field(init=False)

    def initialize(self, trainer: chainer.training.Trainer) -> None:
        """Called by the trainer before the first iteration: hides what a resumed run writes again."""
        self._writer = summary_writer()(
            str(Path(trainer.out) / "tensorboard"), purge_step=trainer.updater.iteration + 1
        )

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        entry = self.log.entry
        if entry is None:
            return
        for name, value in entry.items():
            if name not in ("iteration", "elapsed_time"):
                self._writer.add_scalar(name, value, entry["iteration"])
        self._writer.flush()

    def finalize(self) -> None:
        """Called by the trainer when training ends."""
        self._writer.close()


def summary_writer() -> type:
    """tensorboardX's SummaryWriter. Raises UserError if it is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"--tensorboard: tensorboardX cannot be imported ({error}); pip install 'medi2i[tensorboard]'"
        ) from None
    return SummaryWriter


COLUMNS = ("epoch", "iteration", "parameter", "mean", "sd", "smallest", "largest", "gradient_norm")


@dataclasses.dataclass(eq=False)
class ParameterStatistics(chainer.training.Extension):
    """Appends one row for each parameter to the CSV file ``path`` at the end of each epoch.

    ``gradient_norm`` is that of the last update (empty where there was none).
    """

    path: Path

    def initialize(self, trainer: chainer.training.Trainer) -> None:
        """Called by the trainer before the first iteration: drop rows that a resumed run writes again."""
        rewrite_rows(self.path, COLUMNS, "iteration", trainer.updater.iteration)

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        updater = trainer.updater
        if updater.is_new_epoch:
            append_text(
                self.path,
                csv_text(
                    [updater.epoch, updater.iteration, name + path, *describe(parameter)]
                    for name, link in updater.networks.as_dict().items()
                    for path, parameter in sorted(link.namedparams())
                    if parameter.array is not None
                ),
            )


def describe(parameter: chainer.Parameter) -> tuple[float, float, float, float, float | str]:
    """(mean, sd, smallest, largest, norm of the gradient or "") of a Chainer parameter, as Python numbers."""
    array = parameter.array.astype("float32", copy=False)
    gradient = parameter.grad
    norm = "" if gradient is None else float((gradient.astype("float32", copy=False) ** 2).sum()) ** 0.5
    return float(array.mean()), float(array.std()), float(array.min()), float(array.max()), norm
