"""Snapshots: the whole state of a training in one npz file, written whole or not at all.

Chainer's own npz functions pickle ``None`` and unpickle what they read; these do neither.

What each rank of a distributed training has of its own (random state, history pools) is in the same file: entries
``rank:<n>/…`` are those of rank n; ranks are counted from 0, and the first one's are where those of a training alone
are. ``ranks`` says how many there were.
"""
import itertools
import json
import re
import zipfile
from pathlib import Path

import numpy

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.json_files import parse_json
from medi2i.common.npz_files import BrokenFile, read_arrays_of, refuse_not_finite
from medi2i.datasets.outputs import whole_file

FORMAT = 1
_FORMAT_NAME = "format"
_NONE = "none:"  # an entry of this name says that the value was None
_NAME = re.compile(r"snapshot_(\d+)\.npz")


class Writer(chainer.serializer.Serializer):
    """A Chainer serializer that fills the dict ``arrays`` (name -> NumPy array) and never pickles."""

    def __init__(self, arrays, path=""):
        self.arrays = arrays
        self.path = path

    def __getitem__(self, key):
        return Writer(self.arrays, f"{self.path}{key.strip('/')}/")

    def __call__(self, key, value):
        name = self.path + key.lstrip("/")
        if name in self.arrays or _NONE + name in self.arrays:
            raise ValueError(f"{name} is serialised twice; each entry of a snapshot needs its own name")
        if value is None:
            self.arrays[_NONE + name] = numpy.zeros(0, numpy.uint8)
            return value
        on_device = isinstance(value, chainer.get_array_types())
        array = numpy.asarray(chainer.backends.cuda.to_cpu(value) if on_device else value)
        if array.dtype.hasobject:
            raise TypeError(f"{name}: {type(value).__name__} cannot be stored without pickling")
        self.arrays[name] = array
        return value


class Reader(chainer.serializer.Deserializer):
    """The counterpart of Writer: gives values back, arrays in place. Raises KeyError for what is not there.

    ``unread()`` tells what was never asked for.
    """

    def __init__(self, arrays, path="", read=None):
        self.arrays = arrays
        self.path = path
        self.read = set() if read is None else read

    def __getitem__(self, key):
        return Reader(self.arrays, f"{self.path}{key.strip('/')}/", self.read)

    def unread(self):
        """Names of entries that nothing has asked for, sorted."""
        return sorted(set(self.arrays) - self.read)

    def __call__(self, key, value):
        name = self.path + key.lstrip("/")
        self.read.update((name, _NONE + name))
        if _NONE + name in self.arrays:
            return None
        stored = self.arrays[name]
        if value is None:
            return stored
        if isinstance(value, chainer.get_array_types()):
            if value.shape != stored.shape:
                raise ValueError(f"{name} is {stored.shape} in the file and {value.shape} here")
            if isinstance(value, numpy.ndarray):
                numpy.copyto(value, stored)
            else:
                value.set(numpy.asarray(stored, dtype=value.dtype))
            return value
        return type(value)(stored[()])


def serialize_json(serializer, key, value):
    """Store or read back ``value``, anything JSON can hold: one more entry of a Chainer (de)serializer."""
    if isinstance(serializer, chainer.serializer.Serializer):
        serializer(key, numpy.frombuffer(json.dumps(value).encode("utf-8"), numpy.uint8))
        return value
    return parse_json(numpy.asarray(serializer(key, None), numpy.uint8).tobytes(), constant=float)


def write_npz(path, arrays):
    """Write ``arrays``, a dict or pairs (name, array) one after the other, as an npz: a temporary file, fsync, rename.

    A kill leaves the old file or the new.
    """
    with (whole_file(Path(path), force=True, lasting=True) as temporary, open(temporary, "wb") as file,
          zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive):
        for name, array in arrays.items() if isinstance(arrays, dict) else arrays:
            with archive.open(name + ".npy", "w", force_zip64=True) as member:
                numpy.lib.format.write_array(member, numpy.asanyarray(array), allow_pickle=False)


def read_npz(path):
    """All arrays of an npz file, every checksum verified, nothing unpickled. Raises BrokenFile, or OSError."""
    return read_arrays_of(path)


def state_of(trainer):
    """The state of a trainer as a dict of arrays: its updater, extensions and triggers."""
    arrays = {}
    trainer.serialize(Writer(arrays))
    return {_FORMAT_NAME: numpy.asarray(FORMAT), **arrays}


def restore(trainer, arrays, source, partial=False):
    """Put the state ``arrays`` back into a trainer assembled the same way. ``source`` is named in a UserError.

    partial: the trainer has fewer extensions than the one that was saved.
    """
    arrays = dict(arrays)
    if int(arrays.pop(_FORMAT_NAME, -1)) != FORMAT:
        raise UserError(f"{source}: a snapshot of another version of medi2i; resume with the version that wrote it")
    refuse_not_finite(arrays, source, right="without this file, --resume takes the snapshot before it")
    reader = Reader(arrays)
    try:
        trainer.serialize(reader)
        if reader.unread() and not partial:
            raise ValueError(f"it has {reader.unread()[0]}, which has no place here")
    except (KeyError, ValueError) as error:
        raise UserError(f"{source}: does not fit this training ({error}); "
                        "was the args file or the data changed?") from None


class SnapshotStore:
    """The snapshots of one run: ``snapshot_<iteration>.npz`` in ``folder``, the ``keep`` newest of them."""

    def __init__(self, folder, keep=2, warn=print):
        self.folder = Path(folder)
        self.keep = keep
        self.warn = warn

    def files(self):
        """Paths of all snapshots, oldest first."""
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)] if self.folder.is_dir() else []
        return sorted(found, key=iteration_of)

    def write(self, trainer, more=()):
        """Write a snapshot of ``trainer``, drop the oldest beyond ``keep``, and return the path.

        more: further pairs (name, array), each asked for when the one before it is written.
        """
        path = self.folder / f"snapshot_{trainer.updater.iteration:09d}.npz"
        write_npz(path, itertools.chain(state_of(trainer).items(), more))
        for old in self.files()[:-self.keep]:
            old.unlink()
        return path

    def newest(self):
        """(path, arrays) of the newest snapshot that can be read, or None.

        One that cannot is renamed to ``….broken`` with a warning, and the one before it is taken.
        """
        for path in reversed(self.files()):
            try:
                return path, read_npz(path)
            except BrokenFile as error:
                path.replace(path.with_name(path.name + ".broken"))
                self.warn(f"warning: {error}; taking the snapshot before it")
        return None


def iteration_of(path):
    """The iteration in a snapshot's name."""
    return int(_NAME.fullmatch(Path(path).name).group(1))


_COUNT = "ranks"
_OWN = re.compile(r"((?:none:)?)rank:(\d+)/(.+)")


def collected(ranks, updater):
    """Pairs (name, array) of all ranks for the snapshot that the first one writes.

    The others hand theirs over meanwhile, array by array, so that the first never has to hold them all; they get ().
    """
    if ranks.first:
        return _pairs(ranks) if ranks.count > 1 else ()
    arrays = {}
    updater.serialize_own(Writer(arrays))
    ranks.send(arrays)
    return ()


def _pairs(ranks):
    yield _COUNT, numpy.asarray(ranks.count)
    for rank, name, array in ranks.incoming():
        mark = "none:" if name.startswith("none:") else ""
        yield f"{mark}rank:{rank}/{name.removeprefix(mark)}", array


def split(arrays):
    """(the dict ``arrays`` without what ranks have of their own, [the own of rank 1, of rank 2, …])."""
    count = int(arrays.get(_COUNT, 1))
    common, own = {}, [{} for _ in range(1, count)]
    for name, array in arrays.items():
        match = _OWN.fullmatch(name)
        if match is not None:
            own[int(match[2]) - 1][match[1] + match[3]] = array
        elif name != _COUNT:
            common[name] = array
    return common, own


def deal(ranks, found):
    """(path, arrays that all ranks share, own arrays of this rank or None, number of ranks that wrote them).

    found: on the first rank (path, arrays) of a snapshot, None elsewhere.
    """
    head = shares = None
    if ranks.first:
        path, arrays = found
        common, own = split(arrays)
        head = path, common, 1 + len(own)
        shares = [None, *own, *(None for _ in range(len(own) + 1, ranks.count))][:ranks.count]
    path, common, before = ranks.agreed(head)
    return path, common, ranks.dealt(shares), before


def take_up(ranks, updater, own, seed):
    """Give ``updater``, which has just been restored as the first rank's, what is this rank's own.

    own: None where no rank of this number wrote the snapshot: its random state begins anew, with empty pools.
    """
    if ranks.first:
        return
    if own is not None:
        updater.serialize_own(Reader(own))
        return
    updater.random.restart(seed, ranks.rank, updater.iteration)
    for pool in updater.pools.values():
        pool.images = []
