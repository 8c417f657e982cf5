"""Pinned transfers, with a device that copies only when it is waited for."""

import types

import numpy as np
import pytest

from medi2i.common.compat import chainer
from medi2i.common.training import adversarial
from medi2i.common.training.adversarial import PinnedConverter
from medi2i.datasets.augment import Draw, Uncut
from medi2i.datasets.scaling import Clip

CPU = chainer.get_device("@numpy")


class LateArray:
    """Gets its content when the event after its copy is waited for, as on a GPU that is behind."""

    def __init__(self, shape, dtype, pending):
        self.content, self.pending = np.zeros(shape, dtype), pending

    def set(self, source, stream):
        assert stream == "current"
        self.pending.append(lambda: self.content.__setitem__(..., source))


class Event:
    def __init__(self, pending):
        self.pending, self.mine = pending, []

    def record(self):
        self.mine = list(self.pending)
        self.pending.clear()

    def synchronize(self):
        for copy in self.mine:
            copy()
        self.mine = []


@pytest.fixture
def late(monkeypatch):
    """A converter, a device, and all buffers and events that were made."""
    pending, buffers, events = [], [], []

    def pinned(shape, dtype):
        buffers.append(np.full(shape, -7, dtype))
        return buffers[-1]

    def event(disable_timing):
        assert disable_timing
        events.append(Event(pending))
        return events[-1]

    xp = types.SimpleNamespace(empty=lambda shape, dtype: LateArray(shape, dtype, pending))
    monkeypatch.setattr(chainer, "using_device", lambda device: chainer.using_config("train", True))
    cuda = types.SimpleNamespace(Event=event, get_current_stream=lambda: "current")
    monkeypatch.setattr(chainer.backends.cuda, "cupy", types.SimpleNamespace(cuda=cuda), raising=False)
    monkeypatch.setattr(adversarial, "_pinned", pinned)
    return PinnedConverter(), types.SimpleNamespace(xp=xp), buffers, events


def examples(number):
    rng = np.random.default_rng(number)
    return [(rng.random((1, 3, 4), dtype=np.float32), rng.random((2, 3, 4), dtype=np.float32)) for _ in range(2)]


def test_batches_arrive_whole_however_late_the_copies_are(late):
    converter, device, buffers, events = late
    batches = [examples(number) for number in range(7)]
    results = [converter(batch, device) for batch in batches]
    for event in events:
        event.synchronize()
    for batch, result in zip(batches, results, strict=True):
        for place in (0, 1):
            np.testing.assert_array_equal(result[place].content, np.stack([example[place] for example in batch]))
    assert len(buffers) == len(events) == 2 * adversarial.DEPTH


def test_uncut_images_of_any_size_are_copied_one_by_one_and_finished_where_they_arrive(late, monkeypatch):
    converter, device, buffers, events = late
    device.xp.stack = list
    monkeypatch.setattr(adversarial.augment, "finish", lambda values, example: (values, example.key))
    monkeypatch.setattr(LateArray, "__getitem__", lambda self, index: self, raising=False)
    sizes = [(1, 3, 4), (1, 5, 2)]
    batches = [
        [
            (Uncut(np.full(size, 10 * turn + i, np.int16), Clip(0, 1), Draw(), (2, 2), key=i), np.float32([turn]))
            for i, size in enumerate(sizes)
        ]
        for turn in range(5)
    ]
    results = [converter(batch, device) for batch in batches]
    for event in events:
        event.synchronize()
    for turn, (images, plain) in enumerate(results):
        for i, (size, (values, key)) in enumerate(zip(sizes, images, strict=True)):
            assert key == i and values.content.shape == (1, *size) and values.content.dtype == np.int16
            assert (values.content == 10 * turn + i).all()
        assert plain.content.tolist() == [[turn], [turn]]
    assert len(buffers) == 3 * adversarial.DEPTH


def test_on_the_cpu_uncut_images_are_finished_too():
    uncut = Uncut(np.arange(12, dtype=np.int16).reshape(1, 3, 4), Clip(0, 11), Draw(), (1, 2))
    (pairs,) = (PinnedConverter()([(uncut, np.float32([7]))] * 2, CPU),)
    np.testing.assert_allclose(pairs[0], np.float32([[[[5, 6]]]] * 2) / 5.5 - 1, atol=1e-6)
    assert pairs[1].tolist() == [[7], [7]]


def test_a_last_smaller_batch_gets_its_own_buffer(late):
    converter, device, buffers, events = late
    sizes = [2, 2, 1, 1, 2]
    results = [converter([example[0] for example in examples(n)][:size], device) for n, size in enumerate(sizes)]
    for event in events:
        event.synchronize()
    for n, (size, result) in enumerate(zip(sizes, results, strict=True)):
        assert result.content.shape == (size, 1, 3, 4)
        np.testing.assert_array_equal(result.content[0], examples(n)[0][0])


def test_on_the_cpu_it_is_chainers():
    batch = examples(1)
    x, t = PinnedConverter()(batch, CPU)
    assert type(x) is type(t) is np.ndarray and x.shape == (2, 1, 3, 4)
    np.testing.assert_array_equal(t, np.stack([example[1] for example in batch]))


@pytest.mark.gpu
def test_a_gpu_gets_what_was_sent():
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("there is no GPU")
    converter, device = PinnedConverter(), chainer.get_device("@cupy:0")
    batches = [examples(number) for number in range(5)]
    results = [converter(batch, device) for batch in batches]
    for batch, (x, _) in zip(batches, results, strict=True):
        np.testing.assert_array_equal(x.get(), np.stack([example[0] for example in batch]))
