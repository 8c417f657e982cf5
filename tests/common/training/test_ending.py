"""Every way a training ends."""
import os
import signal
import types

import numpy
import pytest

from medi2i.common.training.ending import Best, Ending, LossGuard, TimeLimit
from medi2i.common.training.signals import SignalWatch
from medi2i.common.training.snapshot import Reader, Writer


def trainer_at(epoch=0, iteration=0, **observation):
    return types.SimpleNamespace(updater=types.SimpleNamespace(epoch=epoch, iteration=iteration, is_new_epoch=True),
                                 observation=observation)


def test_epochs_or_iterations_end_it():
    assert not Ending(3)(trainer_at(epoch=2, iteration=99))
    assert Ending(3)(trainer_at(epoch=3))
    assert Ending(3, 10)(trainer_at(epoch=1, iteration=10))
    ending = Ending(3)
    ending.stop("first", 5)
    ending.stop("second", 6, bad=True)
    assert ending(trainer_at()) and (ending.reason, ending.status, ending.bad) == ("first", 5, False)


@pytest.mark.parametrize("value,said", [(float("nan"), "is nan"), (float("inf"), "is inf"), (-float("inf"), "is -inf"),
                                        (2000.0, "--loss_limit 1000: 2000"), (-1001.0, "--loss_limit 1000: -1001")])
def test_a_bad_loss_ends_it(value, said):
    ending = Ending(3)
    guard = LossGuard(ending, 1000)
    guard(trainer_at(iteration=6, fine=numpy.float32(999)))
    assert ending.reason is None
    guard(trainer_at(iteration=7, loss=numpy.array(value, numpy.float32)))
    assert ending.bad and ending.status == 1
    assert "loss" in ending.reason and said in ending.reason and "iteration 7" in ending.reason


def test_no_limit_for_losses():
    ending = Ending(3)
    LossGuard(ending, 0)(trainer_at(loss=1e30))
    assert ending.reason is None


def follow(values, larger=False, patience=None, start=None):
    kept, ending = [], Ending(100)
    best = Best(ending, "m", larger, patience, lambda *args: kept.append(args))
    if start is not None:
        best.serialize(Reader(start))
    first = (best.epoch or 0) + 1
    for epoch, value in enumerate(values, first):
        best(trainer_at(epoch=epoch, m=value))
        if ending.reason:
            break
    return best, kept, ending, epoch


def test_the_best_epoch_is_kept():
    best, kept, ending, _ = follow([5.0, 4.0, 4.0, float("nan"), 3.0])
    assert kept == [(1, "m", 5.0, None), (2, "m", 4.0, 1), (5, "m", 3.0, 2)]
    assert (best.epoch, best.value, ending.reason) == (5, 3.0, None)
    assert follow([0.1, 0.3, 0.2], larger=True)[0].epoch == 2


def test_patience():
    best, _, ending, epoch = follow([5.0, 4.0, 4.5, 4.25, 4.1, 1.0], patience=3)
    assert epoch == 5 and best.epoch == 2 and not ending.bad and ending.status == 0
    assert "--patience 3" in ending.reason and "4.0 of epoch 2" in ending.reason


def test_best_so_far_survives_a_resume():
    state = {}
    follow([5.0, 4.0])[0].serialize(Writer(state))
    best, kept, _, _ = follow([4.5, 3.5], start=state)
    assert kept == [(4, "m", 3.5, 2)] and best.value == 3.5


def test_time_limit(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    ending = Ending(3)
    limit = TimeLimit(ending, 0.5)
    now[0] = 5000.0
    limit.initialize(None)  # the time before the training does not count
    now[0] = 5000.0 + 1799
    limit(trainer_at())
    assert ending.reason is None
    now[0] += 2
    limit(trainer_at())
    assert ending.reason == "--max_hours 0.5 are over" and ending.status == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_become_requests(number, capsys):
    before = signal.getsignal(number)
    with SignalWatch() as watch:
        os.kill(os.getpid(), number)
        assert watch.received == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is before
    assert f"{number.name}: finishing this iteration" in capsys.readouterr().err
