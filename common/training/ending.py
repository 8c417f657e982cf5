"""When a training ends and with which words and status: epochs done, patience, time, bad losses, signals."""

import dataclasses
import math
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.training.distributed import Ranks
from medi2i.common.training.snapshot import serialize_json


@dataclasses.dataclass(eq=False)
class Ending:
    """Stop trigger of the trainer, as which extensions find it. They call ``stop``; the first reason counts.

    epochs: how many make a whole training, None where ``TrainingTime`` says when. iterations: end after so many, too.
    Attributes: ``time_over`` (``TrainingTime`` sets it), ``reason`` (None while nothing but the end of the whole
    training ends it), ``status`` (of the process), ``bad`` (the weights are not worth keeping).
    """

    epochs: int | None
    iterations: int | None = None
    time_over: bool = dataclasses.field(default=False, init=False)
    reason: str | None = dataclasses.field(default=None, init=False)
    status: int = dataclasses.field(default=0, init=False)
    bad: bool = dataclasses.field(default=False, init=False)

    def stop(self, reason: str, status: int = 0, bad: bool = False) -> None:
        """End the training after this iteration."""
        if self.reason is None:
            self.reason, self.status, self.bad = reason, status, bad

    def agree(self, ranks: Ranks) -> None:
        """Take over the reason of the lowest rank that has one, so that all end after the same iteration.

        ranks: of medi2i.common.training.distributed, each of which calls this.
        """
        own = None if self.reason is None else (ranks.rank, self.reason, self.status, self.bad)
        told = ranks.earliest(own)
        if told is not None:
            rank, self.reason, self.status, self.bad = told
            if rank > 0:
                self.reason = f"{self.reason} (rank {rank})"

    def complete(self, updater: chainer.training.Updater) -> bool:
        """Whether all epochs (or iterations, or minutes) are done."""
        if self.iterations is not None and updater.iteration >= self.iterations:
            return True
        return self.time_over if self.epochs is None else updater.epoch >= self.epochs

    def epoch_over(self, updater: chainer.training.Updater) -> bool:
        """Whether an epoch is done, or the training is, within one."""
        return updater.is_new_epoch or self.complete(updater)

    def __call__(self, trainer: chainer.training.Trainer) -> bool:
        return self.reason is not None or self.complete(trainer.updater)


@dataclasses.dataclass(eq=False)
class LossGuard(chainer.training.Extension):
    """Ends the training when a reported loss is NaN or infinite, or beyond ``limit`` (0: no limit).

    On a GPU, looking at a loss makes the CPU wait for it, so trigger it every few iterations there.
    """

    priority = chainer.training.PRIORITY_EDITOR

    limit: float

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        for name, value in scalars(trainer.observation).items():
            if not math.isfinite(value) or (self.limit and abs(value) > self.limit):
                what = f"is above --loss_limit {self.limit:g}: {value:g}" if math.isfinite(value) else f"is {value}"
                trainer.stop_trigger.stop(f"{name} {what} at iteration {trainer.updater.iteration}", status=1, bad=True)


@dataclasses.dataclass(eq=False)
class TrainingTime(chainer.training.Extension):
    """Completes the training after ``minutes`` of it, all sessions of the run together.

    It looks once an iteration, before all others, so that they agree on which iteration is the last.
    """

    priority = 1000

    minutes: float

    def initialize(self, trainer: chainer.training.Trainer) -> None:
        """Called by the trainer: a run that is resumed may have had its time."""
        self(trainer)

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        trainer.stop_trigger.time_over = trainer.updater.elapsed() >= 60 * self.minutes


@dataclasses.dataclass(eq=False)
class Best(chainer.training.Extension):
    """Keeps the weights of the epoch whose ``metric`` is best, and ends the training after ``patience`` epochs without
    a better one (None: never). Looks at the end of each epoch, and of a training that is complete within one.

    metric: name of an observation; ``larger``: whether larger values are better.
    keep(epoch, metric, value, previous_epoch): called for each new best epoch.
    """

    priority = chainer.training.PRIORITY_EDITOR
    phase = "snapshots"

    metric: str
    larger: bool
    patience: int | None
    keep: Callable[[int, str, float, int | None], None]
    epoch: int | None = dataclasses.field(default=None, init=False)
    value: float | None = dataclasses.field(default=None, init=False)
    unfinished: tuple[int, float] | None = dataclasses.field(default=None, init=False)

    def initialize(self, trainer: chainer.training.Trainer) -> None:
        """Called by the trainer. A run that is resumed and extended finishes the epoch that it ended within, and judges
        it again; one that was over is kept as it was.
        """
        if self.unfinished is not None and trainer.stop_trigger.complete(trainer.updater):
            self.keep(self.unfinished[0], self.metric, self.unfinished[1], None)
        else:
            self.unfinished = None

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        updater = trainer.updater
        if not trainer.stop_trigger.epoch_over(updater):
            return
        value = float(chainer.as_array(trainer.observation[self.metric]))
        better = math.isfinite(value) and (
            self.value is None or (value > self.value if self.larger else value < self.value)
        )
        if not updater.is_new_epoch:
            if better:
                self.unfinished = updater.epoch + 1, value
                self.keep(updater.epoch + 1, self.metric, value, None)
        elif better:
            before, self.epoch, self.value = self.epoch, updater.epoch, value
            self.keep(updater.epoch, self.metric, value, before)
        elif self.patience is not None and updater.epoch - (self.epoch or 0) >= self.patience:
            trainer.stop_trigger.stop(
                f"{self.metric} has not been better than {self.value} of epoch {self.epoch} "
                f"for --patience {self.patience} epochs"
            )

    @property
    def latest(self) -> tuple[int, float] | None:
        """(epoch, value) of the best weights there are; an epoch that the training ended within counts. Or None."""
        return self.unfinished or (None if self.epoch is None or self.value is None else (self.epoch, self.value))

    def serialize(self, serializer: chainer.AbstractSerializer) -> None:
        """Store or restore the best so far."""
        self.epoch, self.value, unfinished = serialize_json(
            serializer, "best", [self.epoch, self.value, self.unfinished]
        )
        self.unfinished = None if unfinished is None else (unfinished[0], unfinished[1])


def scalars(values: Mapping[str, Any]) -> dict[str, float]:
    """The dict ``values`` (Variables, arrays of one element on any device, numbers) with every entry as a Python float.

    Those on a GPU come in one copy, with one wait.
    """
    arrays = {name: chainer.as_array(value) for name, value in values.items()}
    far = [name for name, array in arrays.items() if chainer.backend.get_array_module(array) is not np]
    if far:
        xp = chainer.backend.get_array_module(arrays[far[0]])
        near = chainer.backends.cuda.to_cpu(xp.stack([arrays[name].reshape(()).astype(np.float64) for name in far]))
        arrays.update(zip(far, near, strict=True))
    return {name: float(array) for name, array in arrays.items()}


class SignalWatch:
    """A context in which SIGINT, SIGTERM and SIGHUP set ``received`` (a signal.Signals, else None) and end nothing.

    A second one raises KeyboardInterrupt at once. Outside the main thread, where Python takes no signals, it does
    nothing. ``speaks``: whether it says what it will do; ``plan``: that, in words.
    """

    def __init__(self, speaks: bool = True, plan: str = "finishing this iteration, then a snapshot") -> None:
        self.speaks, self.plan = speaks, plan
        self.received: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "SignalWatch":
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
                numbers.append(signal.SIGHUP)
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        if self.speaks:
            print(f"\n{self.received.name}: {self.plan}; once more to leave at once", file=sys.stderr)
