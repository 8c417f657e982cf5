"""How far the training is: a bar with the time left on a terminal, a line now and then elsewhere."""
import sys
import time

from tqdm import tqdm

from medi2i.common.compat import chainer
from medi2i.common.training.log import Log

SECONDS = 5  # between two lines where there is no terminal


class Progress(chainer.training.Extension):
    """Shows iterations, the newest losses of the log, and the time left.

    ``total``: iterations of the whole training, None where it takes ``minutes`` instead. ``shown``: names of log
    entries to show, in order.
    """

    priority = chainer.training.PRIORITY_READER - 60  # after the log

    def __init__(self, log: Log, total, shown, stream=None, minutes=None):
        self.log = log
        self.total = total
        self.shown = shown
        self.stream = stream or sys.stderr
        self.minutes = minutes
        self._known = {}
        self._bar = None
        self._first = self._started = self._spoken = None

    def initialize(self, trainer):
        """Called by the trainer before the first iteration of this process."""
        self._first = trainer.updater.iteration
        self._started = self._spoken = time.monotonic()
        if self.stream.isatty():
            self._bar = tqdm(total=self.total, initial=self._first, file=self.stream, dynamic_ncols=True, unit="it")

    def __call__(self, trainer):
        updater = trainer.updater
        entry = self.log.entry
        self._known.update(entry or {})
        if self._bar is not None:
            self._bar.update(updater.iteration - self._bar.n)
            if entry is not None:
                self._bar.set_description(f"epoch {updater.epoch}", refresh=False)
                left = "" if self.minutes is None else f" left {duration(self._left(trainer))}"
                self._bar.set_postfix_str(self._text() + left, refresh=False)
            return
        now = time.monotonic()
        last = self._left(trainer) <= 0
        if entry is None or not (updater.is_new_epoch or self.minutes is not None):
            return
        if last or now - self._spoken >= SECONDS:
            self._spoken = now
            total = "" if self.total is None else f"/{self.total}"
            print(f"epoch {updater.epoch} iteration {updater.iteration}{total} {self._text()} "
                  f"left {duration(self._left(trainer))}", file=self.stream, flush=True)

    def _left(self, trainer):
        """Seconds that the training will still take."""
        if self.minutes is not None:
            return max(60 * self.minutes - trainer.elapsed_time, 0.0)
        updater = trainer.updater
        left = max(self.total - updater.iteration, 0)
        return (time.monotonic() - self._started) / (updater.iteration - self._first) * left

    def _text(self):
        return " ".join(f"{name} {self._known[name]:.4g}" for name in self.shown if name in self._known)

    def finalize(self):
        """Called by the trainer when training ends: closes the bar."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds):
    """``seconds`` as h:mm:ss, or in days and hours when there are days."""
    seconds = int(round(seconds))
    if seconds >= 86400:
        return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
