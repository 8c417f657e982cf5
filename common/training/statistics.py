"""Statistics of the weights, each epoch, on request: what a network that learns nothing, or too much, shows first."""
import csv
from pathlib import Path

from medi2i.common.compat import chainer
from medi2i.datasets.outputs import append_text, csv_text, write_text

COLUMNS = ("epoch", "iteration", "parameter", "mean", "sd", "smallest", "largest", "gradient_norm")


class ParameterStatistics(chainer.training.Extension):
    """Appends one row for each parameter to the CSV file ``path`` at the end of each epoch.

    networks: dict name -> link. ``gradient_norm`` is that of the last update (empty where there was none).
    """

    def __init__(self, networks, path):
        self.networks = networks
        self.path = Path(path)

    def initialize(self, trainer):
        """Called by the trainer before the first iteration: drop rows that a resumed run writes again."""
        rows = []
        if self.path.is_file():
            with open(self.path, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if None not in row.values()]
        rows = [row for row in rows if int(row["iteration"]) <= trainer.updater.iteration]
        write_text(self.path, csv_text([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)]))

    def __call__(self, trainer):
        updater = trainer.updater
        if not updater.is_new_epoch:
            return
        append_text(self.path, csv_text(
            [updater.epoch, updater.iteration, name + path, *describe(parameter)]
            for name, link in self.networks.items() for path, parameter in sorted(link.namedparams())
            if parameter.array is not None))


def describe(parameter):
    """(mean, sd, smallest, largest, norm of the gradient or "") of a Chainer parameter, as Python numbers."""
    array = parameter.array.astype("float32", copy=False)
    gradient = parameter.grad
    norm = "" if gradient is None else float((gradient.astype("float32", copy=False) ** 2).sum()) ** 0.5
    return float(array.mean()), float(array.std()), float(array.min()), float(array.max()), norm
