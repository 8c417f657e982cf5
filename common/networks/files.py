"""One network (or encoder and decoder, ``gen_…npz``), one npz file: written whole or not at all, read whole or not at
all, and nothing is ever unpickled."""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medi2i.common.bounded_files import BrokenFile, StoredArrays, refuse_not_finite
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.outputs import whole_file

_SHOWN = 3  # of a misfit's many parameters
_BASE = "base/"  # before the names of pretrained layers
_PREFIXES = (("encoder/", "decoder/"), ("enc/", "dec/"), ("enc_x/", "dec_y/"), ("enc_y/", "dec_x/"))
_RES_BLOCK = re.compile(r"r(\d+)/(.+)")
_T = TypeVar("_T")


def arrays_of(link: chainer.Link) -> dict[str, np.ndarray | None]:
    """Every parameter and persistent value of ``link`` by its name in files (``c0/c1/c/W``), on the CPU.

    What has no shape yet (a layer that waits for its first input) is None.
    """
    serializer = chainer.serializers.DictionarySerializer()
    serializer.save(link)
    # Chainer keeps names in sets: sorted, equal networks give equal files and messages.
    return {name: None if array.dtype == object else array for name, array in sorted(serializer.target.items())}


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray | None]) -> None:
    """Write an npz file; ``path`` is either as it was before, or complete. Raises ValueError for an array of None."""
    waiting = [name for name, array in arrays.items() if array is None]
    if waiting:
        raise ValueError(f"{path}: {waiting[0]} has no values before the network saw its first image")
    with whole_file(Path(path), force=True, lasting=True) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy declares no keywords but its own


def save_link(path: str | Path, link: chainer.Link) -> None:
    """Write one network to ``path``. Raises ValueError if some layer of it has no weights yet."""
    write_arrays(path, arrays_of(link))


def save_networks(folder: str | Path, networks: Mapping[str, chainer.Link], epoch: int) -> list[Path]:
    """Write ``{name}{epoch}.npz`` for each network, as the released codes do; returns the files.

    Pretrained layers that are not trained are in none of these; ``frozen_file`` gets them, once.
    """
    files = []
    for name, link in networks.items():
        files.append(Path(folder) / f"{name}{epoch}.npz")
        save_link(files[-1], link)
        frozen = getattr(link, "frozen", None)
        if frozen is not None and not frozen_file(folder, name).is_file():
            save_link(frozen_file(folder, name), frozen)
    return files


def frozen_file(folder: str | Path, name: str) -> Path:
    """Where the pretrained layers of the network ``name`` are that its own files do not hold."""
    return Path(folder) / ("dis_base.npz" if name.startswith("dis") else "base.npz")


def stored_arrays(path: str | Path) -> StoredArrays:
    """The arrays of an npz file by name, none of them unpacked yet.

    Raises UserError if there is no file, it is damaged, or it holds pickled objects.
    """
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; it should be the npz file of a network")
    return _readable(path, lambda: StoredArrays(path))


def _readable(path: str | Path, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except BrokenFile as error:
        raise UserError(f"{path}: not a readable npz file of a network ({error.reason})") from None


def load_link(path: str | Path, link: chainer.Link) -> None:
    """Fill ``link`` from the npz file ``path``: all of it or, with UserError naming parameters and shapes, nothing."""
    load_arrays(stored_arrays(path), link, path)


def load_arrays(
    arrays: StoredArrays, link: chainer.Link, path: str | Path, names: Mapping[str, str] | None = None
) -> None:
    """Fill ``link`` from ``arrays`` of the file ``path``, unpacked once they are known to fit, and no others.

    names: name of an array of the network → its name in the file; None: all that are there, as they are called.
    Released files hold all layers of a pretrained network that is trained on, or none; what is not used is passed over.
    Raises UserError when they do not fit.
    """
    names = dict(zip(arrays, arrays, strict=True)) if names is None else names
    expected = arrays_of(link)
    frozen, base = getattr(link, "frozen", None), getattr(link, "base", None)
    with_frozen = frozen is not None and any(name.startswith(_BASE) for name in names)
    if with_frozen:
        expected |= {_BASE + name: array for name, array in arrays_of(frozen).items()}
    there = {
        name: arrays.declared[names[name]]
        for name in sorted(names)
        if name in expected or base is None or not base.published.unused.fullmatch(name.removeprefix(_BASE))
    }
    if problems := misfits(expected, there):
        raise UserError(
            f"{path}: does not fit {type(link).__name__} as args describes it: {problems}. "
            "Use the args file saved beside these weights"
        )
    found = _readable(path, lambda: {name: arrays[names[name]] for name in expected})
    fill(link, found, expected, path)
    if with_frozen:
        chainer.serializers.NpzDeserializer(found, _BASE).load(frozen)


def misfits(expected: Mapping[str, np.ndarray | None], there: Mapping[str, Any]) -> str:
    """How arrays of a file, or what it declares of them, differ from those of a network; "" if they fit."""
    problems = [
        *(
            f"{name} is not in the file; the network has it {_shape(array)}"
            for name, array in expected.items()
            if name not in there
        ),
        *(
            f"{name} {_shape(array)} is in the file; the network has no such parameter"
            for name, array in there.items()
            if name not in expected
        ),
        *(
            f"{name} is {_shape(there[name])} in the file, {_shape(array)} in the network"
            for name, array in expected.items()
            if name in there and not _fits(there[name], array)
        ),
    ]
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more


def fill(
    link: chainer.Link, arrays: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray | None], file: str | Path
) -> None:
    """Give ``link`` its values from ``arrays``, which fit. Raises UserError, naming ``file``, where one is not finite
    in the type that it has in ``expected``."""
    refuse_not_finite(arrays, file, {name: array.dtype for name, array in expected.items() if array is not None})
    chainer.serializers.NpzDeserializer(arrays).load(link)


def _fits(array: np.ndarray, expected: np.ndarray | None) -> bool:
    if expected is None:
        return array.dtype.kind == "f"
    return array.shape == expected.shape and np.can_cast(array.dtype, expected.dtype, "same_kind")


def _shape(array: np.ndarray | None) -> str:
    if array is None:
        return "of any shape"
    kind = "" if array.dtype.kind == "f" else f" {array.dtype}"
    return ("x".join(str(n) for n in array.shape) or "a number") + kind


def split_generator(
    arrays: StoredArrays, encoder_names: Collection[str], decoder_names: Collection[str], path: str | Path
) -> tuple[dict[str, str], dict[str, str]]:
    """(encoder's arrays, decoder's arrays) of the file ``path``: name in the network → name in the file.

    Either every name starts with a prefix that tells the two apart, or the file is one flat network, whose residual
    blocks are numbered through: the first go to the encoder, the rest, renumbered from 0, to the decoder.
    encoder_names, decoder_names: the names that each should have. Raises UserError for anything else.
    """
    for pair in _PREFIXES:
        if all(name.startswith(pair) for name in arrays):
            first, second = ({n.removeprefix(prefix): n for n in arrays if n.startswith(prefix)} for prefix in pair)
            return first, second
    in_encoder = len({m[1] for name in encoder_names if (m := _RES_BLOCK.fullmatch(name))})
    encoder: dict[str, str] = {}
    decoder: dict[str, str] = {}
    for name in arrays:
        match = _RES_BLOCK.fullmatch(name)
        if match and int(match[1]) >= in_encoder:
            decoder[f"r{int(match[1]) - in_encoder}/{match[2]}"] = name
        elif match or name in encoder_names:
            encoder[name] = name
        elif name in decoder_names:
            decoder[name] = name
        else:
            raise UserError(f"{path}: {name} belongs neither to the encoder nor to the decoder that args describes")
    return encoder, decoder
