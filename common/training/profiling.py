"""What a training costs: ``--check`` says so before, by a rehearsal; ``--profile`` afterwards, where the time went."""

import contextlib
import dataclasses
import functools
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError, one_line
from medi2i.common.options.reading import AnyTraining
from medi2i.common.training.ending import scalars
from medi2i.common.training.log import duration, rewrite_rows
from medi2i.common.training.validation import Measure, batches
from medi2i.datasets.paired import PairedDataset
from medi2i.datasets.unpaired import UnpairedDataset

SHOWN_ERRORS = 10
MIB = 2**20
WAITING, TRANSFER, FORWARD, BACKWARD, UPDATE = "waiting for images", "to the device", "forward", "backward", "update"
SNAPSHOTS, LOG, REST = "snapshots", "log and plots", "the rest"
COLUMNS = ("first_iteration", "last_iteration", "phase", "seconds", "share", "times")
SMALLEST_SHARE = 0.005
# Below this share of waiting, an infinitely quick loader would make the training hardly any quicker.
WORTH_WORKERS = 0.05


def check(
    datasets: Mapping[str, Any],
    updater: chainer.training.updaters.StandardUpdater,
    measure: Measure | None,
) -> int:
    """Rehearse and print a report. Nothing is written. Returns the status of the process.

    datasets: dict name -> data set (or None), all images of which are read. updater: AdversarialUpdater.
    measure(indices): validates these images of the data set "validation"; None without one.
    Raises UserError, with all files that cannot be read, or a loss that is not finite.
    """
    datasets = {name: dataset for name, dataset in datasets.items() if dataset is not None}
    for name, dataset in datasets.items():
        print(
            f"{name:<12} {len(dataset)} examples read in {_timed(functools.partial(read_all, dataset)):.1f} s, "
            f"{dataset.size[0]}×{dataset.size[1]} pixels (height × width)"
        )
    options = updater.options
    for name, link in updater.networks.as_dict().items():
        print(f"{name:<12} {sum(p.size for p in link.params() if p.array is not None):,} weights")

    gpu = updater.device is not None and updater.device.xp.__name__ == "cupy"
    first = _timed(lambda: _update(updater))
    # The first update also allocates, and compiles kernels on a GPU; where that could matter, later ones are timed.
    again = updater.ranks.agreed(gpu or first < 2.0)
    update = min(_timed(lambda: _update(updater)) for _ in range(3)) if again else first
    validation = 0.0
    if measure is not None:
        first_batch = range(min(options.batch_size, measure.count))
        validation = _timed(lambda: measure(first_batch)) * len(batches(measure.count, options.batch_size))
    iterator = updater.get_iterator("main")
    per_epoch = iterator.per_epoch / iterator.examples_per_update
    iterations = min(options.epoch * per_epoch, getattr(options, "iteration", None) or math.inf)
    seconds = iterations * update + iterations / per_epoch * validation
    print(f"{'update':<12} {update:.3g} s; validation {validation:.3g} s each epoch")
    if options.minutes is not None:
        epochs = 60 * options.minutes / (per_epoch * update + validation)
        seconds, iterations = 60 * options.minutes, epochs * per_epoch
    print(f"{'expected':<12} {duration(seconds)} for {iterations:,.0f} updates, {per_epoch:g} in an epoch")
    growth = sum((pool.size - len(pool)) * pool.images[0].nbytes for pool in updater.pools.values() if len(pool))
    memory = f"{(_peak() + (0 if gpu else growth)) / MIB:,.0f} MiB"
    if gpu:
        with chainer.using_device(updater.device):
            taken = updater.device.xp.get_default_memory_pool().total_bytes()
        memory += f"; GPU {(taken + growth) / MIB:,.0f} MiB"
    print(f"{'memory':<12} {memory}")
    updater.finalize()
    return 0


def read_all(dataset: PairedDataset | UnpairedDataset) -> None:
    """Load every example, unaugmented. Raises UserError with all that fail (the first ten by name)."""
    errors = []
    for i in range(len(dataset)):
        try:
            dataset.load(i, None)
        except (UserError, OSError) as error:
            errors.append(one_line(error))
    if errors:
        more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        raise UserError(
            f"{len(errors)} of {len(dataset)} examples cannot be read: " + "; ".join(errors[:SHOWN_ERRORS]) + more
        )


def _update(updater: chainer.training.updaters.StandardUpdater) -> None:
    reporter = chainer.Reporter()
    for name, optimizer in updater.get_all_optimizers().items():
        reporter.add_observer(name, optimizer.target)
    observation: dict[str, Any] = {}
    with reporter.scope(observation):
        updater.update()
    for name, value in scalars(observation).items():  # on a GPU this also waits for the update
        if not math.isfinite(value):
            raise UserError(f"{name} is {value} in the very first update; look at the data's clip and the loss weights")


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


OFF = contextlib.nullcontext
"""What stands in for a Profile where nobody asked for one: OFF(phase) does not even look at the clock."""


@dataclasses.dataclass(eq=False)
class Profile:
    """Seconds and number of times of each phase. Phases nest, and the inner one alone gets the time: they add up.

    clock: function without arguments, in seconds.
    """

    clock: Callable[[], float] = time.perf_counter
    seconds: dict[str, float] = dataclasses.field(default_factory=dict, init=False)
    times: dict[str, int] = dataclasses.field(default_factory=dict, init=False)
    _phases: list[str] = dataclasses.field(default_factory=lambda: [REST], init=False)
    _since: float | None = dataclasses.field(default=None, init=False)

    def start(self) -> None:
        """The time begins; before it, nothing counts."""
        self._since = self.clock()

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

    def stop(self) -> None:
        """Count what has passed since the last phase."""
        self._look()

    def _look(self) -> None:
        if self._since is not None:
            now, phase = self.clock(), self._phases[-1]
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
            self._since = now

    def by_length(self) -> Iterator[tuple[str, float, float]]:
        """(phase, its seconds, its share of all), the longest first."""
        total = sum(self.seconds.values())
        for phase, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            yield phase, seconds, _share(seconds, total)


Phases: TypeAlias = Callable[[str], contextlib.AbstractContextManager]
"""A Profile, or OFF."""


def profile_of(options: AnyTraining, device: chainer.backend.Device | None) -> Phases:
    """The Profile of a training on ``device`` (of ``chainer.get_device``, or None); ``OFF`` without ``--profile``."""
    if not options.profile:
        return OFF
    if device is None or device.xp.__name__ != "cupy":
        return Profile()
    return Profile(_gpu_clock)


def _gpu_clock() -> float:
    """The time once the GPU, which works on behind the program's back, is done. A profiled run is slower for it."""
    chainer.backends.cuda.Stream.null.synchronize()
    return time.perf_counter()


@dataclasses.dataclass(eq=False)
class Timed:
    """``extension`` as one phase of ``profile``; for the trainer and its snapshots it is the extension itself."""

    extension: chainer.training.Extension
    profile: Profile

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        with self.profile(getattr(self.extension, "phase", LOG)):
            self.extension(trainer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.extension, name)


def in_words(profile: Profile, workers: int, loading: float) -> str:
    """One sentence: the shares of the phases, how long the training waited for images, and whether workers would help.

    workers: ``--workers``. loading: seconds that they spent on the images that were used, together.
    """
    total = sum(profile.seconds.values())
    parts = ", ".join(
        f"{100 * share:.0f} % {phase}" for phase, _, share in profile.by_length() if share >= SMALLEST_SHARE
    )
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
    rows = [
        (first, last, phase, round(seconds, 3), round(share, 4), profile.times.get(phase, 1))
        for phase, seconds, share in profile.by_length()
    ]
    rewrite_rows(Path(path), COLUMNS, "last_iteration", first - 1, rows)


def _share(part: float, total: float) -> float:
    return part / total if total > 0 else 0.0


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
