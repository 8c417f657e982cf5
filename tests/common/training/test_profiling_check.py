"""What --check, the progress and the validation say, on data sets made for them."""

import io
import types

import numpy as np
import pytest

from medi2i.common.compat import L, chainer
from medi2i.common.errors import UserError
from medi2i.common.training.log import Progress, describe, duration
from medi2i.common.training.profiling import read_all
from medi2i.common.training.trainer import bad_parameter
from medi2i.common.training.validation import (
    apply,
    batches,
    dice_and_accuracy,
    error_sums,
    overlap_counts,
    rmse_and_mae,
)


class Broken:
    """A data set in which every third of 40 images cannot be read."""

    def __len__(self):
        return 40

    def load(self, i, rng):
        assert rng is None
        if i % 3 == 0:
            raise UserError(f"image{i}.dcm: cut off")


def test_all_errors_are_told_at_once():
    with pytest.raises(UserError) as caught:
        read_all(Broken())
    assert str(caught.value).startswith("14 of 40 examples cannot be read: image0.dcm: cut off; image3.dcm: cut off; ")
    assert "image27" in str(caught.value) and "image30" not in str(caught.value)
    assert str(caught.value).endswith("; and 4 more")


def test_progress_on_a_file_and_on_a_terminal(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = types.SimpleNamespace(entry=None)
    trainer = types.SimpleNamespace(updater=types.SimpleNamespace(iteration=10, epoch=1, is_new_epoch=True))
    stream = io.StringIO()
    progress = Progress(log, 110, ("loss", "absent"), stream)
    progress.initialize(trainer)
    for iteration, seconds, text in ((20, 4.0, ""), (30, 20.0, "epoch 1 iteration 30/110 loss 0.125 left 0:01:20\n")):
        now[0], trainer.updater.iteration, log.entry = seconds, iteration, {"loss": 0.125}
        progress(trainer)
        assert stream.getvalue() == text
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    progress = Progress(log, 110, ("loss",), terminal)
    progress.initialize(trainer)
    trainer.updater.iteration = 40
    progress(trainer)
    progress.finalize()
    assert "40/110" in terminal.getvalue()


def test_progress_by_the_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = types.SimpleNamespace(entry=None)
    trainer = types.SimpleNamespace(
        updater=types.SimpleNamespace(iteration=0, epoch=1, is_new_epoch=False), elapsed_time=0.0
    )
    stream = io.StringIO()
    progress = Progress(log, None, ("loss",), stream, minutes=2)
    progress.initialize(trainer)
    now[0], trainer.elapsed_time, trainer.updater.iteration, log.entry = 30.0, 30.0, 7, {"loss": 0.5}
    progress(trainer)
    assert stream.getvalue() == "epoch 1 iteration 7 loss 0.5 left 0:01:30\n"
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    progress = Progress(log, None, ("loss",), terminal, minutes=2)
    progress.initialize(trainer)
    trainer.updater.iteration = 40
    progress(trainer)
    progress.finalize()
    assert "left 0:01:30" in terminal.getvalue()


@pytest.mark.parametrize("seconds,text", [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (183600, "2 d 3 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_errors_are_summed_over_all_pixels_of_all_images():
    assert np.isnan(rmse_and_mae(np.zeros(3))).all()
    sums = error_sums(np.full((1, 2, 3), 5, np.float32), np.zeros((1, 2, 3), np.float32))
    sums += error_sums(np.full((1, 6, 1), -1, np.float32), np.zeros((1, 6, 1), np.float32))
    assert rmse_and_mae(sums) == (13**0.5, 3)
    with pytest.raises(ValueError, match="cannot be compared"):
        error_sums(np.zeros((2, 3)), np.zeros((3, 2)))


def test_overlap_of_classes():
    assert np.isnan(dice_and_accuracy(np.zeros((3, 4), int))).all()
    counts = overlap_counts(np.array([[0, 0, 1]]), np.array([[0, 1, 1]]), 4)
    counts += overlap_counts(np.array([[1, 2, 2]]), np.array([[1, 1, 1]]), 4)
    dice, accuracy = dice_and_accuracy(counts)
    # class 0: 2·1/(2+1), class 1: 2·2/(2+5), class 2: 0; class 3 does not occur
    assert dice == pytest.approx((2 / 3 + 4 / 7 + 0) / 3) and accuracy == 0.5
    assert batches(7, 3) == [range(0, 3), range(3, 6), range(6, 7)]


def test_networks_are_applied_in_test_mode_without_a_graph():
    norm = L.BatchNormalization(2)
    before = norm.avg_mean.copy()
    images = [np.random.default_rng(i).normal(size=(2, 3, 5)) for i in range(2)]
    seen = []

    def function(x):
        seen.append((chainer.config.train, chainer.config.enable_backprop, x.dtype))
        return norm(x)

    output = apply(function, images, chainer.get_device("@numpy"))
    assert seen == [(False, False, np.float32)] and output.dtype == np.float32
    assert np.array_equal(norm.avg_mean, before) and norm.N == 0
    assert np.allclose(output, np.stack(images), atol=1e-4)


def test_statistics_and_bad_weights_of_a_network():
    link = L.Linear(2, 1, initialW=np.array([[1.0, 3.0]]))
    link.cleargrads()
    assert describe(link.W) == (2.0, 1.0, 1.0, 3.0, "")
    link.W.grad = np.array([[3.0, 4.0]], np.float32)
    assert describe(link.W)[4] == 5.0
    updater = types.SimpleNamespace(get_all_optimizers=lambda: {"dec_y": chainer.optimizers.SGD().setup(link)})
    assert bad_parameter(updater) is None
    link.b.array[0] = np.inf
    assert bad_parameter(updater) == "dec_y/b"
