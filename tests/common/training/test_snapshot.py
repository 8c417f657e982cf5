"""Snapshots: read back exactly, never pickled, whole or passed over."""

import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from run_files import iteration_of

from medi2i.common.compat import F, L, chainer
from medi2i.common.errors import UserError
from medi2i.common.training.distributed import ALONE
from medi2i.common.training.snapshot import (
    BrokenFile,
    Reader,
    SnapshotStore,
    Writer,
    deal,
    read_npz,
    restore,
    serialize_json,
    state_of,
    weights_of,
    write_npz,
)


class Everything:
    """Holds one of each kind of value that Chainer's objects serialise."""

    def __init__(self, number=0, text="", nothing=None, flag=False, array=None, facts=None):
        self.values = {"number": number, "text": text, "nothing": nothing, "flag": flag, "ratio": number / 7}
        self.array = np.zeros((3, 5), np.float32) if array is None else array
        self.facts = facts

    def serialize(self, serializer):
        for name in self.values:
            self.values[name] = serializer(name, self.values[name])
        serializer["inner"]("array", self.array)
        self.facts = serialize_json(serializer, "facts", self.facts)


def test_all_kinds_of_values_come_back_with_their_types(tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    saved = Everything(2**40, "Grüße", None, True, array, {"best": [3, 0.1], "none": None})
    arrays = {}
    saved.serialize(Writer(arrays))
    write_npz(tmp_path / "a.npz", arrays)
    found = Everything(nothing=5)
    place = found.array
    found.serialize(Reader(read_npz(tmp_path / "a.npz")))
    assert found.values == saved.values
    assert {name: type(value) for name, value in found.values.items()} == {
        "number": int,
        "text": str,
        "nothing": type(None),
        "flag": bool,
        "ratio": float,
    }
    assert found.array is place and np.array_equal(found.array, array)
    assert found.facts == saved.facts
    np.load(tmp_path / "a.npz", allow_pickle=False)["inner/array"]


def test_objects_are_refused_in_both_directions(tmp_path):
    with pytest.raises(TypeError, match="x: object cannot be stored"):
        Writer({})("x", object())
    np.savez(tmp_path / "evil.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BrokenFile, match="evil.npz"):
        read_npz(tmp_path / "evil.npz")
    with zipfile.ZipFile(tmp_path / "pickle.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps([1]))
    with pytest.raises(BrokenFile):
        read_npz(tmp_path / "pickle.npz")


def test_a_name_is_used_once():
    writer = Writer({})
    writer["a"]("x", 1)
    with pytest.raises(ValueError, match="a/x is serialised twice"):
        writer["a"]("x", 2)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_file_is_noticed(tmp_path, damage):
    path = tmp_path / "a.npz"
    write_npz(path, {"x": np.arange(1000)})
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-100], "flip": content, "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(BrokenFile, match="a.npz"):
        read_npz(path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    write_npz(path, {"x": np.arange(3)})
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(handle))
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_npz(path, {"x": np.arange(5)})
    assert len(synced) == 1  # the content was on the disk before the rename
    assert list(read_npz(path)["x"]) == [0, 1, 2]


def small_trainer(optimizer=None):
    """A trainer of one linear layer on pairs of numbers."""
    link = L.Linear(2, 1, initialW=np.array([[0.5, -0.25]]))
    optimizer = optimizer or chainer.optimizers.Adam()
    optimizer.setup(link)
    data = [np.array(pair, np.float32) for pair in ((1, 2), (3, 4), (5, 6))]
    iterator = chainer.iterators.SerialIterator(data, 1, shuffle=False)
    updater = chainer.training.StandardUpdater(iterator, optimizer, loss_func=lambda x: F.sum(link(x) ** 2))
    return chainer.training.Trainer(updater, (100, "epoch"))


def advance(trainer, steps):
    trainer._start_at = trainer._start_at or 0.0
    for _ in range(steps):
        trainer.updater.update()
    return trainer.updater.get_optimizer("main").target.W.array


def test_a_restored_trainer_goes_on_bit_for_bit(tmp_path):
    straight = small_trainer(chainer.optimizers.Adam(alpha=0.0013))
    advance(straight, 4)
    write_npz(tmp_path / "s.npz", state_of(straight))
    expected = advance(straight, 9).copy()
    resumed = small_trainer(chainer.optimizers.Adam(alpha=0.0013))
    restore(resumed, read_npz(tmp_path / "s.npz"), "s.npz")
    assert resumed.updater.iteration == 4
    assert np.array_equal(advance(resumed, 9), expected)


def test_a_snapshot_of_another_network_is_refused():
    trainer = small_trainer()
    advance(trainer, 1)
    arrays = state_of(trainer)
    arrays["updater/model:main/W"] = np.zeros((3, 3), np.float32)
    with pytest.raises(UserError, match=r"old.npz: does not fit .*\(3, 3\) in the file and \(1, 2\) here"):
        restore(small_trainer(), arrays, "old.npz")
    with pytest.raises(UserError, match="it has updater/pool, which has no place here"):
        restore(small_trainer(), {**state_of(trainer), "updater/pool": np.zeros(3)}, "old.npz")
    with pytest.raises(UserError, match="another version"):
        restore(small_trainer(), {**arrays, "format": np.asarray(99)}, "old.npz")


def test_the_newest_are_kept_and_a_truncated_one_falls_back(tmp_path, capsys):
    store = SnapshotStore(tmp_path, keep=2)
    assert store.newest() is None
    trainer = small_trainer()
    for _ in range(4):
        advance(trainer, 1)
        store.write(trainer)
    assert [iteration_of(path) for path in store.files()] == [3, 4]
    newest = store.files()[-1]
    newest.write_bytes(newest.read_bytes()[:-20])
    path, arrays = store.newest()
    assert iteration_of(path) == 3 and int(arrays["updater/iteration"]) == 3
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and "snapshot_000000004.npz" in warnings[0]
    assert (tmp_path / "snapshot_000000004.npz.broken").is_file()
    assert [iteration_of(path) for path in store.files()] == [3]


def with_zeros(path, name, count):
    """One more member, of packed zeros."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(name + ".npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (count,)})
        for _ in range(count >> 20):
            member.write(bytes(1 << 20))


@pytest.mark.parametrize("name", ["extra", "rank:1/random", "updater/model:main/c/W", "none:rank:9999999/x"])
def test_what_nothing_asks_for_is_never_in_memory(tmp_path, name):
    trainer = small_trainer()
    advance(trainer, 2)
    path = SnapshotStore(tmp_path).write(trainer)
    with_zeros(path, name, 64 << 20)
    tracemalloc.start()
    try:
        found, arrays = SnapshotStore(tmp_path).newest()
        assert found == path and name in arrays
        with pytest.raises(UserError, match="has no place here|says 1 ranks"):
            restore(small_trainer(), deal(ALONE, (path, arrays))[1], path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["updater/model:main/W", "updater/iteration", "format"])
def test_what_is_asked_for_is_measured_first(tmp_path, name):
    trainer = small_trainer()
    advance(trainer, 2)
    arrays = state_of(trainer)
    del arrays[name]
    path = tmp_path / "s.npz"
    write_npz(path, arrays)
    with_zeros(path, name, 64 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"is \(67108864,\) in the file and|another version"):
            restore(small_trainer(), read_npz(path), "s.npz")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_snapshot_has_a_bound_that_grows_with_the_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDI2I_MAX_PIXELS", "100")
    path = tmp_path / "s.npz"
    for size, weights in ((3200, 0), (3200 + 16 * 12, 12)):
        write_npz(path, {"a": np.zeros(size - 8, np.uint8), "b": np.zeros(8, np.uint8)})
        assert len(read_npz(path, weights)) == 2
        write_npz(path, {"a": np.zeros(size - 8, np.uint8), "b": np.zeros(9, np.uint8)})
        with pytest.raises(UserError, match=r"s.npz: unpacks to .*; --max-pixels 1\d\d would allow it"):
            read_npz(path, weights)
    assert weights_of(small_trainer().updater.get_all_optimizers().values()) == 12


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("updater/model:main/W", np.zeros((1, 2), np.complex64)),
        ("updater/model:main/W", np.full((1, 2), "x")),
        ("updater/iteration", np.array(1j)),
        ("updater/iteration", np.array("x")),
        ("format", np.array("x")),
    ],
)
def test_values_of_another_kind_are_one_line(name, value):
    trainer = small_trainer()
    advance(trainer, 1)
    with pytest.raises(UserError, match=r"^s.npz: (does not fit this training|a snapshot of another version)"):
        restore(small_trainer(), {**state_of(trainer), name: value}, "s.npz")
