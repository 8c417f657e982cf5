"""Snapshots: the whole state of a training in one npz file, written whole or not at all.

Chainer's own npz functions pickle ``None`` and unpickle what they read; these do neither.

What each rank of a distributed training has of its own (random state, history pools) is in the same file: entries
``rank:<n>/…`` are those of rank n; ranks are counted from 0, and the first one's are where those of a training alone
are. ``ranks`` says how many there were.
"""

import dataclasses
import functools
import itertools
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from medi2i.common.bounded_files import BrokenFile, StoredArrays, declared_in, parse_json, refuse_not_finite
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.limits import check_bytes, max_bytes
from medi2i.common.outputs import whole_file
from medi2i.common.training.distributed import Ranks

Arrays: TypeAlias = Mapping[str, np.ndarray]
FORMAT = 1
_FORMAT_NAME = "format"
_NONE = "none:"  # an entry of this name says that the value was None
_COPIES = 16  # of the weights: float32 beside float16, up to four states of an optimizer, the average
_COUNT = "ranks"
DIGITS = 9  # of the iteration in a name
_OWN = re.compile(r"(?:none:)?rank:(\d{1,6})/")
_BEFORE = "--resume takes the snapshot before it"


@dataclasses.dataclass(eq=False)
class Writer(chainer.serializer.Serializer):
    """A Chainer serializer that fills the dict ``arrays`` (name -> NumPy array) and never pickles."""

    arrays: dict[str, np.ndarray]
    path: str = ""

    def __getitem__(self, key: str) -> "Writer":
        return Writer(self.arrays, f"{self.path}{key.strip('/')}/")

    def __call__(self, key: str, value: Any) -> Any:
        name = self.path + key.lstrip("/")
        if name in self.arrays or _NONE + name in self.arrays:
            raise ValueError(f"{name} is serialised twice; each entry of a snapshot needs its own name")
        if value is None:
            self.arrays[_NONE + name] = np.zeros(0, np.uint8)
            return value
        on_device = isinstance(value, chainer.get_array_types())
        array = np.asarray(chainer.backends.cuda.to_cpu(value) if on_device else value)
        if array.dtype.hasobject:
            raise TypeError(f"{name}: {type(value).__name__} cannot be stored without pickling")
        self.arrays[name] = array
        return value


@dataclasses.dataclass(eq=False)
class Reader(chainer.serializer.Deserializer):
    """The counterpart of Writer: gives values back, arrays in place. Raises KeyError for what is not there.

    ``unread()`` tells what was never asked for. Of a ``StoredArrays`` only what fits is unpacked.
    check: called with {name: array} before an array is given back.
    """

    arrays: Mapping[str, np.ndarray]
    path: str = ""
    read: set[str] = dataclasses.field(default_factory=set)
    check: Callable[[dict[str, np.ndarray]], None] = lambda arrays: None

    def __getitem__(self, key: str) -> "Reader":
        return Reader(self.arrays, f"{self.path}{key.strip('/')}/", self.read, self.check)

    def unread(self) -> list[str]:
        """Names of entries that nothing has asked for, sorted."""
        return sorted(set(self.arrays) - self.read)

    def __call__(self, key: str, value: Any) -> Any:
        name = self.path + key.lstrip("/")
        self.read |= {name, _NONE + name}
        if _NONE + name in self.arrays:
            return None
        is_array = isinstance(value, chainer.get_array_types())
        if is_array or isinstance(value, bool | int | float | str | np.generic):
            there, here = declared_in(self.arrays, name), value.shape if is_array else ()
            if there.shape != here:
                raise ValueError(f"{name} is {there.shape} in the file and {here} here")
            fits = np.can_cast(there.dtype, value.dtype, "same_kind") if is_array else there.dtype.kind in "biufU"
            if not fits:
                raise ValueError(f"{name} is {there.dtype} in the file")
        stored = self.arrays[name]
        self.check({name: stored})
        if value is None:
            return stored
        if is_array:
            if isinstance(value, np.ndarray):
                np.copyto(value, stored)
            else:
                value.set(np.asarray(stored, dtype=value.dtype))
            return value
        return type(value)(stored[()])


def serialize_json(serializer: chainer.AbstractSerializer, key: str, value: Any) -> Any:
    """Store or read back ``value``, anything JSON can hold: one more entry of a Chainer (de)serializer."""
    if isinstance(serializer, chainer.serializer.Serializer):
        serializer(key, np.frombuffer(json.dumps(value).encode("utf-8"), np.uint8))
        return value
    return parse_json(np.asarray(serializer(key, None), np.uint8).tobytes(), constant=float)


def write_npz(path: str | Path, arrays: dict[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]) -> None:
    """Write ``arrays``, a dict or pairs (name, array) one after the other, as an npz: a temporary file, fsync, rename.

    A kill leaves the old file or the new.
    """
    with (
        whole_file(Path(path), force=True, lasting=True) as temporary,
        open(temporary, "wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, array in arrays.items() if isinstance(arrays, dict) else arrays:
            with archive.open(name + ".npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read_npz(path: str | Path, weights: int = 0) -> StoredArrays:
    """The arrays of an npz file, every checksum verified; each is unpacked when it is asked for, nothing unpickled.

    weights: bytes of the weights whose state it is. Raises BrokenFile, OSError, or Unreadable where the arrays take
    more than ``_COPIES`` times that and what any file may unpack to (history pools, logs).
    """
    arrays = StoredArrays(path)
    check_bytes(
        path, sum(declared.nbytes for declared in arrays.declared.values()), limit=_COPIES * weights + max_bytes()
    )
    arrays.verify()
    return arrays


def weights_of(optimizers: Iterable[chainer.Optimizer]) -> int:
    """Bytes of the weights that these optimizers train."""
    return sum(
        parameter.array.nbytes
        for optimizer in optimizers
        for parameter in optimizer.target.params()
        if parameter.array is not None
    )


def state_of(trainer: chainer.training.Trainer) -> dict[str, np.ndarray]:
    """The state of a trainer as a dict of arrays: its updater, extensions and triggers."""
    arrays: dict[str, np.ndarray] = {}
    trainer.serialize(Writer(arrays))
    return {_FORMAT_NAME: np.asarray(FORMAT), **arrays}


def restore(
    trainer: chainer.training.Trainer, arrays: Mapping[str, np.ndarray], source: str | Path, partial: bool = False
) -> None:
    """Put the state ``arrays`` back into a trainer assembled the same way. ``source`` is named in a UserError.

    partial: the trainer has fewer extensions than the one that was saved.
    """

    if _number(arrays, _FORMAT_NAME, -1) != FORMAT:
        raise UserError(f"{source}: a snapshot of another version of medi2i; resume with the version that wrote it")
    check = functools.partial(refuse_not_finite, source=source, right=f"without this file, {_BEFORE}")
    of_ranks = {name for name in arrays if _OWN.match(name)}
    reader = Reader(arrays, read={_FORMAT_NAME, _COUNT, *of_ranks}, check=check)
    try:
        trainer.serialize(reader)
        if reader.unread() and not partial:
            raise ValueError(f"it has {reader.unread()[0]}, which has no place here")
    except UserError:
        raise
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"{source}: does not fit this training ({error}); was the args file or the data changed?"
        ) from None


def _number(arrays: Arrays, name: str, default: int) -> int:
    """The whole number called ``name``; ``default`` where there is none."""
    if name not in arrays or declared_in(arrays, name).shape != () or declared_in(arrays, name).dtype.kind not in "iu":
        return default
    return int(arrays[name])


@dataclasses.dataclass(eq=False)
class SnapshotStore:
    """The snapshots of one run: ``snapshot_<iteration>.npz`` in ``folder``, the ``keep`` newest of them."""

    folder: Path
    keep: int = 2

    def files(self) -> list[Path]:
        """Paths of all snapshots, oldest first."""
        return sorted(self.folder.glob(f"snapshot_{DIGITS * '[0-9]'}.npz"))

    def write(self, trainer: chainer.training.Trainer, more: Iterable[tuple[str, np.ndarray]] = ()) -> Path:
        """Write a snapshot of ``trainer``, drop the oldest beyond ``keep``, and return the path.

        more: further pairs (name, array), each asked for when the one before it is written.
        """
        path = self.folder / f"snapshot_{trainer.updater.iteration:0{DIGITS}d}.npz"
        write_npz(path, itertools.chain(state_of(trainer).items(), more))
        for old in self.files()[: -self.keep]:
            old.unlink()
        return path

    def newest(self, weights: int = 0) -> tuple[Path, StoredArrays] | None:
        """(path, arrays) of the newest snapshot that can be read, or None. weights: as for ``read_npz``.

        One that cannot is renamed to ``….broken`` with a warning, and the one before it is taken.
        """
        for path in reversed(self.files()):
            try:
                return path, read_npz(path, weights)
            except BrokenFile as error:
                path.replace(path.with_name(path.name + ".broken"))
                print(f"warning: {error}; taking the snapshot before it", file=sys.stderr, flush=True)
        return None


def collected(ranks: Ranks, updater: chainer.training.Updater) -> Iterable[tuple[str, np.ndarray]]:
    """Pairs (name, array) of all ranks for the snapshot that the first one writes.

    The others hand theirs over meanwhile, array by array, so that the first never has to hold them all; they get ().
    """
    if ranks.count == 1:
        return ()
    if ranks.first:
        return itertools.chain([(_COUNT, np.asarray(ranks.count))], ranks.incoming())
    arrays: dict[str, np.ndarray] = {}
    updater.serialize_own(Writer(arrays, f"rank:{ranks.rank}/"))
    ranks.send(arrays)
    return ()


def deal(ranks: Ranks, found: tuple[Path, StoredArrays] | None) -> tuple[Path, StoredArrays, int]:
    """(path, arrays, number of ranks that wrote them) of a snapshot, on every rank.

    found: on the first rank (path, arrays), None elsewhere. Every rank reads the file, and of it only what it asks for.
    Raises UserError, naming the file, where the ranks are not those that it says.
    """
    path = ranks.agreed(None if found is None else found[0])
    arrays = StoredArrays(path) if found is None else found[1]
    count, own = _number(arrays, _COUNT, 1), {int(match[1]) for name in arrays if (match := _OWN.match(name))}
    if own != set(range(1, count)):
        raise UserError(
            f"{path}: it says {count} ranks and has what is their own of {1 + len(own)}; without this file, {_BEFORE}"
        )
    return path, arrays, count


def take_up(ranks: Ranks, updater: chainer.training.Updater, arrays: Arrays, count: int, seed: int) -> None:
    """Give ``updater``, which has just been restored as the first rank's, what is this rank's own.

    count: of the ranks that wrote ``arrays``. Where it was not among them its random state begins anew, with empty
    pools.
    """
    if ranks.first:
        return
    if ranks.rank < count:
        updater.serialize_own(Reader(arrays, f"rank:{ranks.rank}/"))
        return
    updater.random.restart(seed, ranks.rank, updater.iteration)
    for pool in updater.pools.values():
        pool.images = []
