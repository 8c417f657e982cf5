"""Phases add up, by a clock that the test moves; what is said of them; nothing is measured unasked."""

import csv
import time
import types

import pytest

from medi2i.common.compat import chainer
from medi2i.common.options import PairedOptions
from medi2i.common.training import profiling
from medi2i.common.training.profiling import BACKWARD, FORWARD, REST, WAITING, Profile, Timed, in_words, write_rows


class Clock:
    def __init__(self):
        self.now = 100.0
        self.looks = 0

    def __call__(self):
        self.looks += 1
        return self.now


@pytest.fixture
def clock():
    return Clock()


def spend(clock, timed, phase, seconds):
    with timed(phase):
        clock.now += seconds


def test_the_inner_phase_alone_gets_the_time(clock):
    timed = Profile(clock)
    with timed(FORWARD):
        clock.now += 50  # before the start: it does not count
    timed.start()
    clock.now += 1
    with timed(FORWARD):
        clock.now += 2
        spend(clock, timed, BACKWARD, 4)
        clock.now += 8
    clock.now += 16
    timed.stop()
    assert sum(timed.seconds.values()) == 31
    assert timed.seconds == {REST: 17, FORWARD: 10, BACKWARD: 4}


def test_an_error_ends_its_phase(clock):
    timed = Profile(clock)
    timed.start()
    with pytest.raises(ZeroDivisionError), timed(FORWARD):
        clock.now += 2
        raise ZeroDivisionError
    clock.now += 3
    timed.stop()
    assert timed.seconds == {FORWARD: 2, REST: 3}


def test_the_device_is_waited_for_before_each_look(clock, monkeypatch):
    # Work of the "device" that takes 5 s and is waited for only where the profile does.
    behind = []

    def synchronize():
        clock.now += sum(behind)
        behind.clear()

    device = types.SimpleNamespace(xp=types.SimpleNamespace(__name__="cupy"))
    stream = types.SimpleNamespace(null=types.SimpleNamespace(synchronize=synchronize))
    monkeypatch.setattr(chainer.backends.cuda, "Stream", stream, raising=False)
    monkeypatch.setattr("time.perf_counter", clock)
    timed = profiling.profile_of(PairedOptions(profile=True), device)
    timed.start()
    with timed(BACKWARD):
        behind.append(5)
    spend(clock, timed, FORWARD, 1)
    timed.stop()
    assert timed.seconds == {REST: 0, BACKWARD: 5, FORWARD: 1}


def test_on_the_cpu_nothing_is_waited_for():
    assert profiling.profile_of(PairedOptions(profile=True), None).clock is time.perf_counter
    assert profiling.profile_of(PairedOptions(), None) is profiling.OFF
    assert profiling.profile_of(PairedOptions(profile=True), chainer.get_device("@numpy")).clock is time.perf_counter


def test_unasked_nothing_looks_at_the_clock(monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: pytest.fail("looked at the clock"))
    with profiling.OFF(FORWARD), profiling.OFF(BACKWARD):
        pass


def test_words(clock):
    timed = Profile(clock)
    timed.start()
    for phase, seconds in ((FORWARD, 60), (BACKWARD, 130), (WAITING, 4), ("pictures", 0.5)):
        spend(clock, timed, phase, seconds)
    clock.now += 5.5
    timed.stop()
    said = in_words(timed, 2, 40.0)
    assert said == (
        "Of 200 s, 65 % backward, 30 % forward, 3 % the rest, 2 % waiting for images; 2 --workers loaded "
        "for 40 s meanwhile, and the loader kept 4.0 s waiting: more --workers would not help."
    )


@pytest.mark.parametrize(
    "waiting,workers,advice",
    [
        (4, 0, "more --workers would not help."),
        (6, 0, "--workers 2 would load while the networks are busy."),
        (4, 2, "more --workers would not help."),
        (6, 2, "more --workers, or a larger --cache_mb, may help."),
    ],
)
def test_advice(clock, waiting, workers, advice):
    timed = Profile(clock)
    timed.start()
    spend(clock, timed, WAITING, waiting)
    clock.now += 100 - waiting
    timed.stop()
    assert in_words(timed, workers, 1.0).endswith(advice)


def test_rows_of_each_session(clock, tmp_path):
    path = tmp_path / "profile.csv"
    for first, last, seconds in ((1, 10, 3), (11, 20, 1), (11, 15, 9)):  # the second was killed and run again
        timed = Profile(clock)
        timed.start()
        for _ in range(2):
            spend(clock, timed, BACKWARD, seconds)
        timed.stop()
        write_rows(path, timed, first, last)
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == BACKWARD]
    assert [tuple(row.values()) for row in rows] == [
        ("1", "10", BACKWARD, "6.0", "1.0", "2"),
        ("11", "15", BACKWARD, "18.0", "1.0", "2"),
    ]


class Picture(chainer.training.Extension):
    phase = "pictures"
    priority = 77
    trigger = 3, "iteration"

    def __init__(self, clock):
        self.clock = clock
        self.calls = []

    def __call__(self, trainer):
        self.clock.now += 7

    def initialize(self, trainer):
        self.calls.append("initialize")

    def finalize(self):
        self.calls.append("finalize")

    def serialize(self, serializer):
        self.calls.append("serialize")


def test_an_extension_is_timed_and_otherwise_itself(clock):
    timed, extension = Profile(clock), Picture(clock)
    timed.start()
    wrapped = Timed(extension, timed)
    assert (wrapped.priority, wrapped.trigger, wrapped.name, wrapped.default_name) == (
        77,
        (3, "iteration"),
        None,
        "Picture",
    )
    wrapped.initialize(None)
    wrapped(types.SimpleNamespace())
    wrapped.serialize(None)
    wrapped.finalize()
    assert extension.calls == ["initialize", "serialize", "finalize"]
    timed.stop()
    assert timed.seconds["pictures"] == 7 and timed.times["pictures"] == 1
