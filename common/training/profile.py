"""``--profile``: where the time of a training goes, in words and as rows of profile.csv."""

import contextlib
import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medi2i.common.compat import chainer
from medi2i.common.options.reading import AnyOptions
from medi2i.datasets.outputs import csv_text, write_text

WAITING, TRANSFER, FORWARD, BACKWARD, UPDATE = "waiting for images", "to the device", "forward", "backward", "update"
SNAPSHOTS, LOG, REST = "snapshots", "log and plots", "the rest"
COLUMNS = ("first_iteration", "last_iteration", "phase", "seconds", "share", "times")
SMALLEST_SHARE = 0.005
# Below this share of waiting, an infinitely quick loader would make the training hardly any quicker.
WORTH_WORKERS = 0.05

_NOTHING = contextlib.nullcontext()


class NoProfile:
    """What stands in for a Profile where nobody asked for one: it does not even look at the clock."""

    def __call__(self, phase: str) -> contextlib.AbstractContextManager[None]:
        """A context that does nothing."""
        return _NOTHING


OFF = NoProfile()


class Profile:
    """Seconds and number of times of each phase. Phases nest, and the inner one alone gets the time: they add up.

    clock: function without arguments, in seconds. synchronise: the same, called before each look at the clock; it
    waits for the device, since a GPU works on behind the program's back. A profiled GPU run is slower for it.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, synchronise: Callable[[], None] | None = None
    ) -> None:
        self.seconds: dict[str, float] = {}
        self.times: dict[str, int] = {}
        self._clock = clock
        self._synchronise = synchronise
        self._phases = [REST]
        self._since: float | None = None
        self._started = False

    def start(self) -> None:
        """The time begins; before it, nothing counts."""
        self._started = True
        self._look()

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """What the block does is ``phase``, but for phases within it."""
        self._look()
        self._phases.append(phase)
        self.times[phase] = self.times.get(phase, 0) + 1
        try:
            yield
        finally:
            self._look()
            self._phases.pop()

    def stop(self) -> float:
        """Count what has passed since the last phase. Returns the seconds of all phases together."""
        self._look()
        return sum(self.seconds.values())

    def _look(self) -> None:
        if not self._started:
            return
        if self._synchronise is not None:
            self._synchronise()
        now = self._clock()
        if self._since is not None:
            phase = self._phases[-1]
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now

    def rows(self, first: int, last: int) -> list[dict[str, Any]]:
        """Dicts with ``COLUMNS``, the longest phase first, of the iterations ``first`` to ``last``."""
        total = sum(self.seconds.values())
        return [
            dict(
                zip(
                    COLUMNS,
                    (first, last, phase, round(seconds, 3), round(_share(seconds, total), 4), self.times.get(phase, 1)),
                    strict=True,
                )
            )
            for phase, seconds in sorted(self.seconds.items(), key=lambda item: -item[1])
        ]


def profile_of(options: AnyOptions, device: chainer.backend.Device | None) -> "Profile | NoProfile":
    """The Profile of a training on ``device`` (of ``chainer.get_device``, or None); ``OFF`` without ``--profile``."""
    if not options.profile:
        return OFF
    if device is None or device.xp.__name__ != "cupy":
        return Profile()
    return Profile(synchronise=chainer.backends.cuda.Stream.null.synchronize)


class Timed(chainer.training.Extension):
    """``extension`` as one phase of ``profile``; for the trainer and its snapshots it is the extension itself."""

    def __init__(self, extension: chainer.training.Extension, profile: Profile) -> None:
        self.extension = extension
        self.profile = profile
        self.phase = getattr(extension, "phase", LOG)
        self.trigger, self.priority, self.name = extension.trigger, extension.priority, extension.name

    @property
    def default_name(self) -> str:
        return self.extension.default_name

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        with self.profile(self.phase):
            self.extension(trainer)

    def initialize(self, trainer: chainer.training.Trainer) -> None:
        """Called by the trainer before the first iteration."""
        self.extension.initialize(trainer)

    def finalize(self) -> None:
        """Called by the trainer when training ends."""
        self.extension.finalize()

    def on_error(self, trainer: chainer.training.Trainer, exc: Exception, tb: Any) -> None:
        """Called by the trainer when training fails."""
        self.extension.on_error(trainer, exc, tb)

    def serialize(self, serializer: chainer.AbstractSerializer) -> None:
        """As the extension's: a run can be resumed with and without a profile."""
        self.extension.serialize(serializer)


def words(profile: Profile, workers: int, loading: float) -> str:
    """One sentence: the shares of the phases, how long the training waited for images, and whether workers would help.

    workers: ``--workers``. loading: seconds that they spent on the images that were used, together.
    """
    total = sum(profile.seconds.values())
    shares = [
        (phase, _share(seconds, total)) for phase, seconds in sorted(profile.seconds.items(), key=lambda item: -item[1])
    ]
    parts = ", ".join(f"{100 * share:.0f} % {phase}" for phase, share in shares if share >= SMALLEST_SHARE)
    waited = profile.seconds.get(WAITING, 0.0)
    if workers == 0:
        found = f"loading in the main thread took {_seconds(waited)}"
    else:
        found = (
            f"{workers} --workers loaded for {_seconds(loading)} meanwhile, "
            f"and the loader kept {_seconds(waited)} waiting"
        )
    return f"Of {_seconds(total)}, {parts}; {found}: {_advice(_share(waited, total), workers)}."


def _advice(waiting: float, workers: int) -> str:
    if waiting < WORTH_WORKERS:
        return "more --workers would not help"
    if workers == 0:
        return "--workers 2 would load while the networks are busy"
    return "more --workers, or a larger --cache_mb, may help"


def write_rows(path: str | Path, profile: Profile, first: int, last: int) -> None:
    """Write the rows of the iterations ``first`` to ``last`` after those of earlier sessions in the csv ``path``.

    Rows of iterations that are run again after a resume are left out.
    """
    path = Path(path)
    earlier = []
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            earlier = [row for row in csv.DictReader(file) if int(row["last_iteration"]) < first]
    rows = [*earlier, *profile.rows(first, last)]
    write_text(path, csv_text([COLUMNS, *([row.get(name, "") for name in COLUMNS] for row in rows)]))


def _share(part: float, total: float) -> float:
    return part / total if total > 0 else 0.0


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
