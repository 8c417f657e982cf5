"""The log of a training: one JSON object a line in log.jsonl, and the same as a table in log.csv."""
import json
from pathlib import Path

from medi2i.common.compat import chainer
from medi2i.common.json_files import parse_json
from medi2i.common.training.ending import scalar, scalars
from medi2i.common.training.snapshot import serialize_json
from medi2i.datasets.outputs import append_text, csv_text, write_text

FIRST = ("epoch", "iteration", "elapsed_time")


class Log(chainer.training.Extension):
    """Means of all observations since the line before, every ``interval`` iterations and at the end of each epoch
    (and of the training: ``ending``, of medi2i.common.training.ending, may be None).

    A line is ``{"epoch", "iteration", "elapsed_time" (s, all sessions of the run), <observation>: mean, …}``; values
    are plain numbers, NaN and infinities as JSON strings. ``rates()`` gives more entries, as they are at that moment.
    ``entry`` is the line just written (None in between), ``lines`` how many there are. After ``serialize`` has restored
    an earlier state, ``initialize`` cuts the files back to it.
    """

    priority = 150  # before the schedule sets the next rate, after all that is observed

    def __init__(self, folder, interval, rates=dict, warn=print, ending=None):
        self.path = Path(folder) / "log.jsonl"
        self.table = Table(Path(folder) / "log.csv")
        self.interval = interval
        self.rates = rates
        self.warn = warn
        self.ending = ending
        self.lines = 0
        self.entry = None
        self._sums = {}

    def initialize(self, trainer):
        """Called by the trainer before the first iteration: cut the files back to what is known of them."""
        entries = read_log(self.path)
        if len(entries) < self.lines:
            self.warn(f"warning: {self.path}: {self.lines - len(entries)} lines are missing")
        entries = entries[:self.lines]
        self.lines = len(entries)
        write_text(self.path, "".join(_line(entry) for entry in entries))
        self.table.rewrite(entries)

    def __call__(self, trainer):
        for name, value in trainer.observation.items():
            if isinstance(value, chainer.Variable):
                value = value.array
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + (float(value) if _on_host(value) else value), count + 1)
        updater = trainer.updater
        self.entry = None
        complete = self.ending is not None and self.ending.complete(updater)
        if updater.iteration % self.interval == 0 or updater.is_new_epoch or complete:
            self.entry = {"epoch": updater.epoch, "iteration": updater.iteration,
                          "elapsed_time": round(trainer.elapsed_time, 3), **self._means(),
                          **self.rates()}
            self._sums = {}
            self._append(self.entry)

    def _means(self):
        totals = scalars({name: total for name, (total, _) in self._sums.items()})
        return {name: totals[name] / count for name, (_, count) in sorted(self._sums.items())}

    def _append(self, entry):
        append_text(self.path, _line(entry), lasting=True)  # the snapshot that counts this line may be written next
        self.lines += 1
        self.table.append(entry, lambda: read_log(self.path))

    def serialize(self, serializer):
        """Store or restore the number of lines and the sums since the last of them."""
        sums = {name: [scalar(total), count] for name, (total, count) in self._sums.items()}
        self.lines, sums = serialize_json(serializer, "log", [self.lines, sums])
        self._sums = {name: (total, count) for name, (total, count) in sums.items()}


class Table:
    """log.csv: a row is appended for each entry; a column that is new has the whole file written again."""

    def __init__(self, path):
        self.path = path
        self.columns = []

    def append(self, entry, all_entries):
        """Add ``entry`` (a dict); ``all_entries()`` gives all rows, this one included."""
        if set(entry) - set(self.columns):
            self.rewrite(all_entries())
            return
        append_text(self.path, csv_text([[entry.get(name, "") for name in self.columns]]))

    def rewrite(self, entries):
        """Write the table of ``entries`` anew."""
        names = {name for entry in entries for name in entry}
        self.columns = [*FIRST, *sorted(names - set(FIRST))] if names else []
        rows = [self.columns, *([entry.get(name, "") for name in self.columns] for entry in entries)]
        write_text(self.path, csv_text(rows) if self.columns else "")


def read_log(path):
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


def _line(entry):
    return json.dumps({name: _plain(value) for name, value in entry.items()}) + "\n"


def _plain(value):
    # Strict JSON has no NaN: a reader in another language would choke on the one line that matters.
    return value if value == value and value not in (float("inf"), float("-inf")) else str(value)


def _on_host(value):
    return not isinstance(value, chainer.backends.cuda.ndarray)
