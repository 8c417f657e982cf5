"""The trainer that both applications assemble: Chainer's, with everything a training of days needs."""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError, one_line
from medi2i.common.training import profiling
from medi2i.common.training.adversarial import AdversarialUpdater
from medi2i.common.training.averaging import Reestimation, WeightAverage
from medi2i.common.training.ending import Best, Ending, LossGuard, SignalWatch, TrainingTime
from medi2i.common.training.log import EventFiles, Log, ParameterStatistics, Progress, duration
from medi2i.common.training.optimizers import LearningRateSchedule, RateControl
from medi2i.common.training.pictures import Plots
from medi2i.common.training.run_folder import RunFolder, WeightStore
from medi2i.common.training.snapshot import SnapshotStore, collected, deal, restore, take_up, weights_of
from medi2i.common.training.validation import Measure, Validation

GPU_CHECK_INTERVAL = 20  # iterations between two looks at the losses on a GPU, each of which waits for it


class Training:
    """A Chainer trainer in a run folder, with log, plots, progress, weights, snapshots and all ways to end.

    updater: with optimizers named as its networks.
    controls: dict name -> RateControl, the optimizers' learning rates.
    run: RunFolder; None on other ranks than the first, which write nothing.
    shown: names of log entries for the progress bar.
    saved: object with the networks as they are saved: those of ``updater``, or with averaged weights.
    """

    def __init__(
        self,
        updater: AdversarialUpdater,
        controls: Mapping[str, RateControl],
        run: RunFolder | None,
        shown: Sequence[str],
        saved: Any,
    ) -> None:
        self.updater = updater
        self.options = options = updater.options
        self.ranks = ranks = updater.ranks
        iterations = getattr(options, "iteration", None)
        self.ending = Ending(options.epoch if options.minutes is None else None, iterations)
        self.signals = SignalWatch(speaks=ranks.first)
        self.best: Best | None = None
        self.profile = updater.profile
        self.trainer = chainer.training.Trainer(updater, self.ending, out="." if run is None else str(run.path))
        updater.elapsed = lambda: ranks.agreed(self.trainer.elapsed_time)

        on_gpu = updater.device is not None and updater.device.xp.__name__ == "cupy"
        self.extend(LossGuard(options.loss_limit), trigger=(GPU_CHECK_INTERVAL if on_gpu else 1, "iteration"))
        self.extend(LearningRateSchedule(controls.values(), options))
        if options.minutes is not None:
            self.extend(TrainingTime(options.minutes))
        if run is not None:
            self._keep_records(run, controls, shown, saved)
        self.extend(Snapshots(self))

    def _keep_records(
        self,
        run: RunFolder,
        controls: Mapping[str, RateControl],
        shown: Sequence[str],
        saved: Any,
    ) -> None:
        options, updater = self.options, self.updater
        self.run_folder = run
        updater.graphs = run.path
        self.weights = WeightStore(run.path, saved.as_dict(), updater.get_all_optimizers(), options.snapinterval)
        self.store = SnapshotStore(run.snapshots, options.snapshot_keep)
        self.log = Log(run.path, options.display_interval, lambda: _rates(controls))
        self.extend(self.weights)
        self.extend(self.log)
        if options.parameter_statistics:
            self.extend(ParameterStatistics(run.path / "parameters.csv"))
        if options.tensorboard:
            self.extend(EventFiles(self.log))
        self.extend(Plots(self.log.path, run.plots), trigger=(1, "epoch"))
        iterator, iterations = updater.get_iterator("main"), self.ending.iterations
        total = options.epoch * iterator.per_epoch / iterator.examples_per_update
        total = -(-total // 1) if iterations is None else min(iterations, -(-total // 1))
        self.extend(Progress(self.log, int(total) if options.minutes is None else None, shown, minutes=options.minutes))

    def extend(self, extension: chainer.training.Extension, **kwargs: Any) -> None:
        """Add an extension to the trainer; arguments as for ``chainer.training.Trainer.extend``."""
        self.trainer.extend(
            profiling.Timed(extension, self.profile) if isinstance(self.profile, profiling.Profile) else extension,
            **kwargs,
        )

    def follow(self, average: WeightAverage | None, reestimation: Reestimation | None) -> None:
        """Add a ``WeightAverage`` and a ``Reestimation`` (None: none), which also runs before weights are saved."""
        if average is not None:
            self.extend(average)
        if reestimation is not None:
            self.extend(reestimation)
            if self.ranks.first:
                self.weights.prepare = lambda: reestimation.run(self.updater.iteration)

    def validate(self, measure: Measure, metric: str | None, larger: bool) -> None:
        """Add a ``Validation`` by ``measure()``; keep the weights of the best epoch, and heed ``--patience``.

        metric: a name that ``measure`` gives, which says what is best; None keeps none. larger: larger is better.
        """
        self.extend(Validation(measure))
        if metric is not None and self.ranks.first:
            self.best = Best(f"validation/{metric}", larger, self.options.patience, self._keep)
            self.extend(self.best)

    def draw(self, pictures: chainer.training.Extension) -> None:
        """Add an extension that draws pictures: every ``--vis_freq`` iterations, or each epoch."""
        often = self.options.vis_freq
        self.extend(pictures, trigger=(1, "epoch") if often is None else (often, "iteration"))

    def _keep(self, epoch: int, metric: str, value: float, previous: int | None) -> None:
        if not self.weights.regular(epoch):
            self.weights.save(epoch)
        self.run_folder.write_best(epoch, metric, value)
        if previous is not None and not self.weights.regular(previous):
            self.weights.remove(previous)

    def run(self) -> int:
        """Train, from the newest snapshot if the folder is a resumed one. Returns the status of the process.

        Raises UserError when a loss went bad, naming the last good snapshot.
        """
        try:
            return self._train()
        finally:
            if self.ranks.first:
                self.run_folder.close()

    def _train(self) -> int:
        if self.ranks.agreed(self.ranks.first and self.run_folder.resumed):
            self._resume()
        if self.ranks.first:
            together = f" on {self.ranks.count} ranks" if self.ranks.count > 1 else ""
            print(f"training in {self.run_folder.path}{together}", flush=True)
        began, self._first = time.monotonic(), self.updater.iteration + 1
        if isinstance(self.profile, profiling.Profile):
            self.profile.start()
        # A loss that overflows is told once, by LossGuard; NumPy's warnings would come before it, without the place.
        with self.signals, np.errstate(over="ignore", invalid="ignore"):
            try:
                self.trainer.run(show_loop_exception_msg=False)
            except Exception as error:
                if error is self.updater.failure:
                    self._rescue(error)
                raise
        return self._finish(time.monotonic() - began)

    def _resume(self) -> None:
        ranks = self.ranks
        found = self.store.newest(weights_of(self.updater.get_all_optimizers().values())) if ranks.first else None
        if ranks.agreed(found is not None):
            path, arrays, before = deal(ranks, found)
            restore(self.trainer, arrays, path, partial=not ranks.first)
            take_up(ranks, self.updater, arrays, before, self.options.seed)
            print(f"resumed from {path}: epoch {self.updater.epoch}, iteration {self.updater.iteration}", flush=True)
            if before != ranks.count:
                print(
                    f"written by {before} rank(s), now {ranks.count}: not the same training bit for bit "
                    "(docs/distributed.md)",
                    flush=True,
                )
        elif ranks.first:
            print(f"{self.run_folder.path}: no snapshot yet, so the training starts from its beginning", flush=True)
        if not ranks.first:
            return
        self.weights.remove_after(self.updater.epoch)
        best = self.best
        self.run_folder.write_best(*((None, None, None) if best is None else (best.epoch, best.metric, best.value)))

    def _rescue(self, error: Exception) -> None:
        """Write a snapshot of the last whole update, and raise ``error`` with how to go on. Alone only: other ranks
        are in the middle of an update, and end with this one.
        """
        if self.ranks.count > 1 or bad_parameter(self.updater) is not None:
            return
        try:
            path = self.store.write(self.trainer)
        except OSError as second:
            raise UserError(f"{one_line(error)}; and no snapshot could be written: {one_line(second)}") from None
        raise UserError(
            f"{one_line(error)}. The training up to here is in {path}: --resume {self.run_folder.path} "
            "goes on as if nothing had been"
        ) from None

    def _finish(self, seconds: float) -> int:
        updater, ending = self.updater, self.ending
        if not self.ranks.first:
            return ending.status
        if ending.bad:
            files = self.store.files()
            last = f"the last good snapshot is {files[-1]}" if files else "there is no snapshot yet"
            raise UserError(f"{ending.reason}; {last}. A lower learning rate or another seed may help")
        # The weights of an epoch that is not over carry its number; finishing it writes them again.
        epoch = updater.epoch if updater.is_new_epoch else updater.epoch + 1
        with self.profile(profiling.SNAPSHOTS):
            self.weights.save(epoch)
        print(
            f"trained to epoch {updater.epoch}, iteration {updater.iteration} in {duration(seconds)}; "
            f"weights: {self.run_folder.path} (epoch {epoch})"
        )
        if self.best is not None and self.best.latest is not None:
            epoch, value = self.best.latest
            print(f"best epoch {epoch}: {self.best.metric} {value:.6g}")
        for name in sorted(updater._iterators):
            idle = updater.get_iterator(name).idle
            print(f"waited for images ({name}) {idle.fraction:.2%} of the time")
        if isinstance(self.profile, profiling.Profile):
            self.profile.stop()
            loading = sum(iterator.loading for iterator in updater._iterators.values())
            print(profiling.in_words(self.profile, self.options.workers, loading))
            profiling.write_rows(self.run_folder.path / "profile.csv", self.profile, self._first, updater.iteration)
        if not ending.complete(updater):
            print(f"stopped early: {ending.reason}; --resume {self.run_folder.path} goes on", file=sys.stderr)
        return ending.status


@dataclasses.dataclass(eq=False)
class Snapshots(chainer.training.Extension):
    """Writes snapshots: by ``--snapshot_interval``, ``--snapshot_minutes`` and when the training ends or shall, as by a
    signal or after ``--max_hours`` of this process.

    It comes last in an iteration: what it stores is the state from which the next iteration starts. Where there are
    several ranks, it is here that they agree on whether the training ends, and the first one's clock counts.
    """

    priority = -1000
    phase = profiling.SNAPSHOTS

    training: Training
    _began: float = dataclasses.field(init=False)
    _last: float = dataclasses.field(init=False)

    def initialize(self, trainer: chainer.training.Trainer) -> None:
        """Called by the trainer before the first iteration of this process."""
        self._began = self._last = time.monotonic()

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        # Looked at only here, so that a signal can never end the loop behind a snapshot that is one iteration old.
        ending, ranks, received = self.training.ending, self.training.ranks, self.training.signals.received
        hours = self.training.options.max_hours
        if hours is not None and time.monotonic() - self._began >= hours * 3600:
            ending.stop(f"--max_hours {hours:g} are over")
        if received is not None:
            ending.stop(f"{received.name} received", status=128 + received)
        ending.agree(ranks)
        if ending.bad or not ranks.agreed(self._due(trainer)):
            return
        bad = ranks.agreed(bad_parameter(trainer.updater))
        if bad is not None:
            ending.stop(f"the weights {bad} are not finite at iteration {trainer.updater.iteration}", 1, bad=True)
            return
        more = collected(ranks, trainer.updater)
        if ranks.first:
            self.training.store.write(trainer, more)
        self._last = time.monotonic()

    def _due(self, trainer: chainer.training.Trainer) -> bool:
        interval, minutes = self.training.options.snapshot_interval, self.training.options.snapshot_minutes
        by_count = interval > 0 and trainer.updater.iteration % interval == 0
        by_time = minutes > 0 and time.monotonic() - self._last >= minutes * 60
        return by_count or by_time or self.training.ending(trainer)


def bad_parameter(updater: chainer.training.Updater) -> str | None:
    """The name of a parameter that is NaN or infinite somewhere, or None."""
    for name, optimizer in sorted(updater.get_all_optimizers().items()):
        for path, parameter in optimizer.target.namedparams():
            if parameter.array is not None and not bool(parameter.xp.isfinite(parameter.array).all()):
                return name + path
    return None


def _rates(controls: Mapping[str, RateControl]) -> dict[str, float]:
    rates = {f"{name}/learning_rate": control.rate for name, control in sorted(controls.items())}
    return {name: rate for name, rate in rates.items() if rate == rate}
