"""Order, batches, skipped inputs and errors of the conversion pipeline."""

import threading
import time

import numpy as np
import pytest

from medi2i.common.errors import UserError
from medi2i.common.inference import pipeline
from medi2i.common.inference.pipeline import Job, run


class Log:
    """Jobs numbered 0, 1, …; job i loads an image of constant i, and notes what happens to it."""

    def __init__(self, count, bad=(), wide=()):
        self.collected, self.written, self.reasons, self.batches = [], [], [], []
        self.lock = threading.Lock()
        self.jobs = [
            Job(
                lambda i=i: self.load(i, i in bad, i in wide),
                lambda y, i=i: self.collect(i, y),
            )
            for i in range(count)
        ]

    def load(self, i, bad, wide):
        time.sleep(0.01 if i % 3 == 0 else 0)
        if bad:
            raise UserError(f"file {i} is bad")
        return np.full((1, 2, 5 if wide else 3), i, np.float32)

    def collect(self, i, y):
        if isinstance(y, Exception):
            self.reasons.append((i, str(y)))
        self.collected.append((i, None if isinstance(y, Exception) else float(y.mean())))
        return [] if isinstance(y, Exception) else [lambda: self.write(i)]

    def write(self, i):
        with self.lock:
            self.written.append(i)

    def network(self, x):
        self.batches.append(x.shape)
        return x * 2


def test_results_come_in_order_and_all_are_written():
    log = Log(17, bad=(4,), wide=(7, 8))
    run(log.jobs, log.network, batch_size=3, workers=3)
    assert log.collected == [(i, None if i == 4 else 2.0 * i) for i in range(17)]
    assert sorted(log.written) == [i for i in range(17) if i != 4]
    assert log.reasons == [(4, "file 4 is bad")]
    assert {shape[1:] for shape in log.batches} == {(1, 2, 3), (1, 2, 5)}
    assert log.batches[0] == (3, 1, 2, 3) and max(shape[0] for shape in log.batches) == 3


@pytest.mark.parametrize("at_once", [1, 3])
def test_an_error_of_the_network_ends_the_run_but_what_was_begun_is_written(at_once):
    log = Log(30)

    def network(x):
        if x.mean() == 4:
            raise ArithmeticError("no such network")
        return x

    with pytest.raises(ArithmeticError):
        run(log.jobs, network, batch_size=1, workers=2, at_once=at_once)
    assert set(log.written) <= {0, 1, 2, 3}
    assert [i for i, _ in log.collected] == [0, 1, 2, 3]
    assert not any(t.name.startswith("network") for t in threading.enumerate())


def test_an_error_while_writing_is_raised():
    def write():
        raise PermissionError("disk is read-only")

    job = Job(lambda: np.zeros((1, 2, 2), np.float32), lambda y: [write])
    with pytest.raises(PermissionError):
        run([job] * 3, lambda x: x, batch_size=1, workers=1)


def test_reading_goes_on_while_the_network_runs():
    loaded, states = [], []

    def load(i):
        loaded.append(i)
        return np.zeros((1, 2, 2), np.float32)

    def network(x):
        deadline = time.monotonic() + 5
        while len(loaded) < min(6, len(states) + 3) and time.monotonic() < deadline:
            time.sleep(0.001)
        states.append(len(loaded))
        return x

    run([Job(lambda i=i: load(i), lambda y: []) for i in range(6)], network, batch_size=1, workers=2)
    assert states[0] >= 3 and states[1] >= 4


def test_several_batches_in_the_network_together_come_in_order_all_the_same():
    log = Log(17, bad=(4,), wide=(7, 8))
    barrier, together, begun = threading.Barrier(2), [], []

    def network(x):
        begun.append(float(x.mean()))
        if x.mean() == 0:  # the first is alone
            time.sleep(0.05)
            assert begun == [0]
        if x.mean() in (1, 2):  # the next two are in here at once, and the first of them leaves last
            barrier.wait(10)
            together.append(threading.current_thread().name)
        time.sleep(0.02 if x.mean() % 2 == 1 else 0)
        return log.network(x)

    run(log.jobs, network, batch_size=1, workers=3, at_once=2)
    assert log.collected == [(i, None if i == 4 else 2.0 * i) for i in range(17)]
    assert sorted(log.written) == [i for i in range(17) if i != 4]
    assert log.reasons == [(4, "file 4 is bad")] and len(set(together)) == 2


@pytest.mark.parametrize("at_once", [1, 3])
def test_an_image_that_is_too_large_has_no_result_and_the_others_of_its_batch_have(at_once):
    log = Log(9)

    def network(x):
        if (x == 4).any():
            raise MemoryError("Unable to allocate 9 GiB")
        if (x == 7).any():
            raise UserError("no kernel for it")
        return x

    run(log.jobs, network, batch_size=3, workers=2, at_once=at_once)
    assert sorted(log.written) == [0, 1, 2, 3, 5, 6, 8]
    assert log.reasons == [
        (4, "out of memory at 2 x 3 pixels (Unable to allocate 9 GiB); --tile 512, or a smaller one, needs less"),
        (7, "no kernel for it"),
    ]


class Tally:
    """Jobs of given sizes, and the most bytes of them that were between reading and the disk."""

    def __init__(self, sizes):
        self.lock, self.now, self.most, self.written = threading.Lock(), 0, 0, []
        self.jobs = [
            Job(lambda i=i: self.load(sizes[i], i), lambda y, i=i: [lambda: self.write(sizes[i], i)], sizes[i])
            for i in range(len(sizes))
        ]

    def load(self, size, i):
        with self.lock:
            self.now += size
            self.most = max(self.most, self.now)
        return np.full((1, 2, 3), i, np.float32)

    def write(self, size, i):
        time.sleep(0.003)
        with self.lock:
            self.now -= size
            self.written.append(i)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("at_once", [1, 2])
def test_images_under_way_are_bounded_by_their_bytes_and_a_larger_one_goes_alone(at_once, batch_size):
    many, large = Tally([pipeline.ROOM // 4] * 20), Tally([7, pipeline.ROOM + 1, 5, 3, 2 * pipeline.ROOM, 1])
    for tally in (many, large):
        run(tally.jobs, lambda x: x * 2, batch_size=batch_size, workers=3, at_once=at_once)
        assert sorted(tally.written) == list(range(len(tally.jobs)))
    assert many.most <= pipeline.ROOM
    assert large.most == 2 * pipeline.ROOM


def test_small_images_are_read_ahead_all_the_same():
    begun, read = threading.Event(), threading.Semaphore(0)

    def load():
        read.release()
        return np.zeros((1, 2, 2), np.float32)

    def network(x):
        if not begun.is_set():
            begun.set()
            for _ in range(3 + 1):  # the image that is here, and what three workers and a batch read meanwhile
                assert read.acquire(timeout=20)
        return x

    run([Job(load, lambda y: [], 1000)] * 9, network, batch_size=1, workers=3)
    assert begun.is_set()
