"""Learning-rate schedules: exact values, and the same ones after a resume."""

import math
import types

import numpy as np
import pytest

from medi2i.common.compat import chainer
from medi2i.common.options import PairedOptions
from medi2i.common.training.adversarial import LossScale
from medi2i.common.training.optimizers import (
    LearningRateSchedule,
    RateControl,
    cosine_factor,
    linear_factor,
    make_optimizer,
)


def test_cosine_once():
    assert [cosine_factor(e, 4, 1) for e in range(4)] == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )


def test_cosine_restarts():
    assert [cosine_factor(e, 6, 3) for e in range(6)] == pytest.approx([1, 0.5] * 3)
    assert [cosine_factor(e, 7, 3) for e in range(7)] == pytest.approx([1, 0.5] * 3 + [1])
    assert cosine_factor(1, 2, 5) == 1  # more restarts than epochs: each epoch is its own period


def test_constant_then_linear():
    assert [linear_factor(e, 10) for e in (0, 5, 6, 7.5, 10, 11)] == pytest.approx([1, 1, 0.8, 0.5, 0, 0])


class Numbers(chainer.training.updaters.StandardUpdater):
    """Counts the rates with which it would update."""

    def __init__(self, iterator, control):
        super().__init__(iterator, control.optimizer, auto_new_epoch=False)
        self.control = control
        self.rates = []

    def update_core(self):
        self.get_iterator("main").next()
        self.rates.append(self.control.rate)
        self.control.optimizer.target.p.grad = np.ones(1, np.float32)
        self.control.optimizer.update()


def trainer_of(out, epochs, lr_drop, stop, name="Adam"):
    link = chainer.Link()
    with link.init_scope():
        link.p = chainer.Parameter(np.zeros(1, np.float32))
    control = RateControl(make_optimizer(name, link, 2.0, 0.0))
    iterator = chainer.iterators.SerialIterator(list(range(4)), 2, shuffle=False)
    trainer = chainer.training.Trainer(Numbers(iterator, control), (stop, "iteration"), out=str(out))
    trainer.extend(LearningRateSchedule([control], PairedOptions(epoch=epochs, lr_drop=lr_drop)))
    return trainer


@pytest.mark.parametrize("name", ["Adam", "Momentum"])
def test_the_rates_of_a_run(tmp_path, name):
    trainer = trainer_of(tmp_path, 4, 2, 8, name)
    trainer.run()
    assert trainer.updater.rates == pytest.approx([2, 2, 1, 1, 2, 2, 1, 1])  # two iterations an epoch
    trainer = trainer_of(tmp_path, 4, 0, 8, name)
    trainer.run()
    assert trainer.updater.rates == pytest.approx([2, 2, 2, 2, 2, 1.5, 1, 0.5])


@pytest.mark.parametrize("lr_drop", [0, 1, 2])
@pytest.mark.parametrize("stop", [1, 4, 5])
def test_a_resumed_run_has_the_same_rates(tmp_path, lr_drop, stop):
    whole = trainer_of(tmp_path, 4, lr_drop, 8)
    whole.run()
    first = trainer_of(tmp_path, 4, lr_drop, stop)
    first.run()
    chainer.serializers.save_npz(str(tmp_path / "state.npz"), first.updater)
    second = trainer_of(tmp_path, 4, lr_drop, 8)
    chainer.serializers.load_npz(str(tmp_path / "state.npz"), second.updater)
    second.run()
    assert first.updater.rates + second.updater.rates == whole.updater.rates


@pytest.mark.parametrize(
    "lr_drop,expected",
    [(1, [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0, 0]), (2, [1, 0.5, 1, 0.5, 0, 0]), (0, [1, 1, 1, 0.5, 0, 0])],
)
def test_rates_by_the_minute(lr_drop, expected):
    seen = []
    control = types.SimpleNamespace(set_factor=seen.append)
    schedule = LearningRateSchedule([control], PairedOptions(epoch=1, lr_drop=lr_drop, minutes=4))
    for seconds in (0, 60, 120, 180, 240, 300):
        schedule(types.SimpleNamespace(updater=types.SimpleNamespace(elapsed=lambda at=seconds: at)))
    assert seen == pytest.approx(expected)


def test_factor_needs_no_trainer():
    schedule = LearningRateSchedule([], PairedOptions(epoch=10, lr_drop=0))
    assert schedule.factor(types.SimpleNamespace(epoch_detail=7.5, epoch=7)) == pytest.approx(0.5)


def with_gradient(*values):
    link = chainer.Link()
    with link.init_scope():
        link.p = chainer.Parameter(np.zeros(len(values), np.float32))
    link.p.grad = np.array(values, np.float32)
    return link


def test_loss_scale_halves_at_infinity_and_doubles_after_good_updates():
    scale = LossScale(8.0, interval=2)
    assert not scale.accept([with_gradient(1.0), with_gradient(0.0, np.inf)])
    assert scale.value == 4
    assert not scale.accept([with_gradient(np.nan)])
    assert scale.value == 2
    assert [scale.accept([with_gradient(1.0)]) for _ in range(3)] == [True] * 3
    assert scale.value == 4


def test_the_gradients_of_all_links_cost_one_look(monkeypatch):
    """Each look makes the CPU wait for a GPU."""
    looks = []

    class Answer(int):
        def __bool__(self):
            looks.append(int(self))
            return bool(int(self))

    stack = np.stack
    monkeypatch.setattr(np, "stack", lambda arrays: types.SimpleNamespace(all=lambda: Answer(stack(arrays).all())))
    scale = LossScale(8.0, interval=2)
    assert scale.accept([with_gradient(1.0, 2.0), with_gradient(3.0)])
    assert not scale.accept([with_gradient(1.0, 2.0), with_gradient(np.inf)])
    assert looks == [1, 0]


def test_loss_scale_is_saved(tmp_path):
    scale = LossScale(8.0, interval=2)
    scale.accept([with_gradient(1.0)])
    chainer.serializers.save_npz(str(tmp_path / "scale.npz"), scale)
    other = LossScale(interval=2)
    chainer.serializers.load_npz(str(tmp_path / "scale.npz"), other)
    other.accept([with_gradient(1.0)])
    assert other.value == 16
