"""Every way a training ends."""

import os
import signal
import types

import numpy as np
import pytest

from medi2i.common.compat import chainer
from medi2i.common.options import PairedOptions
from medi2i.common.training.distributed import ALONE
from medi2i.common.training.ending import Best, Ending, LossGuard, SignalWatch, TrainingTime, scalars
from medi2i.common.training.snapshot import Reader, Writer
from medi2i.common.training.trainer import Snapshots


def trainer_at(epoch=0, iteration=0, ending=None, **observation):
    return types.SimpleNamespace(
        updater=types.SimpleNamespace(epoch=epoch, iteration=iteration, is_new_epoch=True),
        stop_trigger=ending,
        observation=observation,
    )


def test_epochs_or_iterations_end_it():
    assert not Ending(3)(trainer_at(epoch=2, iteration=99))
    assert Ending(3)(trainer_at(epoch=3))
    assert Ending(3, 10)(trainer_at(epoch=1, iteration=10))
    ending = Ending(3)
    ending.stop("first", 5)
    ending.stop("second", 6, bad=True)
    assert ending(trainer_at()) and (ending.reason, ending.status, ending.bad) == ("first", 5, False)


@pytest.mark.parametrize(
    "value,said",
    [
        (float("nan"), "is nan"),
        (float("inf"), "is inf"),
        (-float("inf"), "is -inf"),
        (2000.0, "--loss_limit 1000: 2000"),
        (-1001.0, "--loss_limit 1000: -1001"),
    ],
)
def test_a_bad_loss_ends_it(value, said):
    ending = Ending(3)
    guard = LossGuard(1000)
    guard(trainer_at(iteration=6, ending=ending, fine=np.float32(999)))
    assert ending.reason is None
    guard(trainer_at(iteration=7, ending=ending, loss=np.array(value, np.float32)))
    assert ending.bad and ending.status == 1
    assert "loss" in ending.reason and said in ending.reason and "iteration 7" in ending.reason


def test_no_limit_for_losses():
    ending = Ending(3)
    LossGuard(0)(trainer_at(ending=ending, loss=1e30))
    assert ending.reason is None


def follow(values, larger=False, patience=None, start=None):
    kept, ending = [], Ending(100)
    best = Best("m", larger, patience, lambda *args: kept.append(args))
    if start is not None:
        best.serialize(Reader(start))
    first = (best.epoch or 0) + 1
    for epoch, value in enumerate(values, first):
        best(trainer_at(epoch=epoch, ending=ending, m=value))
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
    ending, written = Ending(3), []
    options = PairedOptions(max_hours=0.5, snapshot_minutes=0)
    store = types.SimpleNamespace(write=lambda *_: written.append(now[0]))
    signals = types.SimpleNamespace(received=None)
    snapshots = Snapshots(
        types.SimpleNamespace(ending=ending, ranks=ALONE, signals=signals, options=options, store=store)
    )
    trainer = trainer_at()
    trainer.updater.get_all_optimizers = dict
    now[0] = 5000.0
    snapshots.initialize(None)  # the time before the training does not count
    now[0] = 5000.0 + 1799
    snapshots(trainer)
    assert ending.reason is None and not written
    now[0] += 2
    snapshots(trainer)
    assert written == [now[0]]
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


def timed(seconds, epoch=0, new=False, **observation):
    trainer = trainer_at(epoch=epoch, **observation)
    trainer.updater.elapsed, trainer.updater.is_new_epoch = (lambda: seconds), new
    return trainer


def test_minutes_complete_a_training_whatever_the_epoch():
    ending = Ending(None)
    limit = TrainingTime(2)
    limit.initialize(timed(119.9, ending=ending))
    assert not ending(timed(0, epoch=1000))
    limit(timed(120.0, ending=ending))
    late = timed(0)
    assert ending(late) and ending.complete(late.updater) and ending.reason is None and ending.status == 0
    assert Ending(None, 10).complete(trainer_at(iteration=10).updater)


def test_a_resumed_run_that_has_had_its_minutes_does_nothing():
    ending = Ending(None)
    TrainingTime(2).initialize(timed(500.0, ending=ending))
    assert ending(timed(500.0))


def test_the_epoch_in_which_a_training_ends_is_judged_and_judged_again_if_it_goes_on():
    kept, ending = [], Ending(None)
    best = Best("m", False, 1, lambda *args: kept.append(args))
    best(timed(1, epoch=1, new=True, ending=ending, m=5.0))
    best(timed(2, epoch=1, ending=ending))  # in the middle of an epoch nothing is measured
    ending.time_over = True
    best(timed(3, epoch=1, ending=ending, m=4.0))
    assert kept == [(1, "m", 5.0, None), (2, "m", 4.0, None)] and best.latest == (2, 4.0)
    state = {}
    best.serialize(Writer(state))
    over = Best("m", False, 1, lambda *args: kept.append(args))
    over.serialize(Reader(state))
    over.initialize(timed(3, epoch=1, ending=ending))
    assert kept[2:] == [(2, "m", 4.0, None)] and over.latest == (2, 4.0)
    ending.time_over = False
    worse = Best("m", False, 1, lambda *args: kept.append(args))
    worse.serialize(Reader(state))
    worse.initialize(timed(3, epoch=1, ending=ending))
    assert worse.latest == (1, 5.0)
    ending.time_over = True
    worse(timed(3, epoch=1, ending=ending, m=6.0))
    assert len(kept) == 3 and worse.latest == (1, 5.0)


def test_all_losses_on_a_gpu_cost_one_copy(monkeypatch):
    class Far(np.ndarray):
        """Stands for an array on a GPU."""

    copies = []
    far = types.SimpleNamespace(stack=np.stack)
    near = chainer.backend.get_array_module
    monkeypatch.setattr(chainer.backend, "get_array_module", lambda a: far if isinstance(a, Far) else near(a))
    monkeypatch.setattr(chainer.backends.cuda, "to_cpu", lambda a: copies.append(a.shape) or np.asarray(a))
    losses = {
        "a": np.array(1.5, "float32").view(Far),
        "b": 2.5,
        "c": chainer.Variable(np.array(3.5, "float32")),
        "d": np.array([4.5], "float16").view(Far),
    }
    assert scalars(losses) == {"a": 1.5, "b": 2.5, "c": 3.5, "d": 4.5}
    assert copies == [(2,)]
