"""Learning-rate schedules as functions of how far training has come.

They keep no state of their own: a resumed run knows how far it is, so it has the same rate as one that never stopped.
"""

import math
from collections.abc import Iterable

from medi2i.common.compat import chainer
from medi2i.common.training.distributed import ALONE, Alone
from medi2i.common.training.optimizers import RateControl


def cosine_factor(epoch: int, epochs: int, restarts: int) -> float:
    """(1 + cos(pi s / S)) / 2, S = max(epochs // restarts, 1), s = epoch mod S (Loshchilov and Hutter, 2017).

    From 1 towards 0, ``restarts`` times in ``epochs``; ``epoch`` is the number of epochs completed. (In the released
    code the first epoch of each restart but the first ran at rate 0, because the end of one period overwrote the start
    of the next; here it runs at the full rate.)
    """
    period = max(epochs // restarts, 1)
    return 0.5 * (1.0 + math.cos(math.pi * (epoch % period) / period))


def linear_factor(epoch_detail: float, epochs: float) -> float:
    """1 for the first half of ``epochs``, then linear to 0. ``epoch_detail`` is the fraction of epochs seen."""
    return min(1.0, max(0.0, 2.0 * (1.0 - epoch_detail / epochs)))


def timed_factor(fraction: float, restarts: int) -> float:
    """The same schedules by time: ``fraction`` of it is over. restarts: as ``lr_drop``, 0 for the linear one."""
    if restarts == 0:
        return linear_factor(fraction, 1.0)
    return 0.5 * (1.0 + math.cos(math.pi * (fraction * restarts % 1.0))) if fraction < 1.0 else 0.0


class LearningRateSchedule(chainer.training.Extension):
    """Trainer extension that sets the rate of several optimizers before training and after each iteration.

    Args:
        controls: list of :class:`medi2i.common.training.optimizers.RateControl`.
        epochs: number of epochs of the whole run.
        lr_drop: n > 0: cosine with n periods, stepped once an epoch; 0: constant, then linear to 0 at each iteration.
        minutes: of the whole run, which then counts in place of ``epochs``; the cosine, too, goes down each iteration.
        ranks: of medi2i.common.training.distributed; the first one's clock counts.
    """

    trigger = 1, "iteration"
    # Loggers (PRIORITY_WRITER) come first, so that a logged rate is the one that was used.
    priority = chainer.training.PRIORITY_READER
    name = "learning_rate_schedule"

    def __init__(
        self,
        controls: Iterable[RateControl],
        epochs: int,
        lr_drop: int,
        minutes: float | None = None,
        ranks: Alone = ALONE,
    ) -> None:
        self.controls = list(controls)
        self.epochs = epochs
        self.lr_drop = lr_drop
        self.minutes = minutes
        self.ranks = ranks

    def factor(self, updater: chainer.training.Updater) -> float:
        """The factor on the full rate for the next update."""
        if self.lr_drop > 0:
            return cosine_factor(updater.epoch, self.epochs, self.lr_drop)
        return linear_factor(updater.epoch_detail, self.epochs)

    def initialize(self, trainer: chainer.training.Trainer) -> None:
        self(trainer)

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        if self.minutes is None:
            factor = self.factor(trainer.updater)
        else:
            factor = timed_factor(self.ranks.agreed(trainer.elapsed_time) / (60 * self.minutes), self.lr_drop)
        for control in self.controls:
            control.set_factor(factor)
