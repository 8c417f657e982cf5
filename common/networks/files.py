"""One network (or encoder and decoder, ``gen_…npz``), one npz file: written whole or not at all, read whole or not at
all, and nothing is ever unpickled."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.npz_files import BrokenFile, declared_arrays, read_arrays_of, refuse_not_finite
from medi2i.datasets.outputs import whole_file

_SHOWN = 3  # of a misfit's many parameters
_BASE = "base/"  # before the names of pretrained layers


def arrays_of(link) -> dict[str, np.ndarray]:
    """Every parameter and persistent value of ``link`` by its name in files (``c0/c1/c/W``), on the CPU.

    What has no shape yet (a layer that waits for its first input) is None.
    """
    serializer = chainer.serializers.DictionarySerializer()
    serializer.save(link)
    # Chainer keeps names in sets: sorted, equal networks give equal files and messages.
    return {name: None if array.dtype == object else array for name, array in sorted(serializer.target.items())}


def write_arrays(path, arrays: dict[str, np.ndarray]):
    """Write an npz file; ``path`` is either as it was before, or complete."""
    with whole_file(Path(path), force=True, lasting=True) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def save_link(path, link):
    """Write one network to ``path``. Raises ValueError if some layer of it has no weights yet."""
    arrays = arrays_of(link)
    waiting = [name for name, array in arrays.items() if array is None]
    if waiting:
        raise ValueError(f"{path}: {waiting[0]} has no values before the network saw its first image")
    write_arrays(path, arrays)


def save_networks(folder, networks: dict, epoch: int) -> list[Path]:
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


def frozen_file(folder, name: str) -> Path:
    """Where the pretrained layers of the network ``name`` are that its own files do not hold."""
    return Path(folder) / ("dis_base.npz" if name.startswith("dis") else "base.npz")


@dataclass(frozen=True)
class Stored:
    """An array of an npz file that is not read yet: where it is, its shape and type."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype


def stored_arrays(path) -> dict[str, Stored]:
    """What an npz file declares, by name; no array is unpacked.

    Raises UserError if there is no file, it is damaged, or it holds pickled objects.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; it should be the npz file of a network")
    return _readable(
        path,
        lambda: {
            name: Stored(path, name, declared.shape, declared.dtype) for name, declared in declared_arrays(path).items()
        },
    )


def _readable(path, read):
    try:
        return read()
    except BrokenFile as error:
        raise UserError(f"{path}: not a readable npz file of a network ({error.reason})") from None


def load_link(path, link):
    """Fill ``link`` from the npz file ``path``: all of it or, with UserError naming parameters and shapes, nothing."""
    load_arrays(stored_arrays(path), link, str(path))


def load_arrays(arrays: dict[str, Stored], link, source: str):
    """Fill ``link`` from ``arrays`` of one file, unpacked once they are known to fit, and no others.

    ``source`` names them in the UserError when they do not fit.
    Released files hold all layers of a pretrained network that is trained on, or none; what is not used is passed over.
    """
    expected = arrays_of(link)
    frozen, base = getattr(link, "frozen", None), getattr(link, "base", None)
    if frozen is not None and any(name.startswith(_BASE) for name in arrays):
        expected |= {_BASE + name: array for name, array in arrays_of(frozen).items()}
    arrays = {
        name: array
        for name, array in sorted(arrays.items())
        if name in expected or base is None or not base.unused.fullmatch(name.removeprefix(_BASE))
    }
    problems = [
        f"{name} is not in the file; the network has it {_shape(expected[name])}"
        for name in expected
        if name not in arrays
    ]
    problems += [
        f"{name} {_shape(arrays[name])} is in the file; the network has no such parameter"
        for name in arrays
        if name not in expected
    ]
    problems += [
        f"{name} is {_shape(arrays[name])} in the file, {_shape(expected[name])} in the network"
        for name in expected
        if name in arrays and not _fits(arrays[name], expected[name])
    ]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(
            f"{source}: does not fit {type(link).__name__} as args describes it: "
            f"{'; '.join(problems[:_SHOWN])}{more}. Use the args file saved beside these weights"
        )
    found = _unpacked(arrays, expected)
    refuse_not_finite(found, source, {name: array.dtype for name, array in expected.items() if array is not None})
    reader = chainer.serializers.NpzDeserializer(found)
    reader.load(link)
    if frozen is not None and any(name.startswith(_BASE) for name in found):
        reader["base"].load(frozen)


def _unpacked(arrays, names):
    members = {arrays[name].member: name for name in names}
    if not members:
        return {}
    path = next(iter(arrays.values())).path
    found = _readable(path, lambda: read_arrays_of(path, members))
    return {members[member]: array for member, array in found.items()}


def _fits(array, expected):
    if expected is None:
        return array.dtype.kind == "f"
    return array.shape == expected.shape and np.can_cast(array.dtype, expected.dtype, "same_kind")


def _shape(array):
    if array is None:
        return "of any shape"
    kind = "" if array.dtype.kind == "f" else f" {array.dtype}"
    return ("x".join(str(n) for n in array.shape) or "a number") + kind


PREFIXES = (("encoder/", "decoder/"), ("enc/", "dec/"), ("enc_x/", "dec_y/"), ("enc_y/", "dec_x/"))
_RES_BLOCK = re.compile(r"r(\d+)/(.+)")


def join_generator(encoder_arrays: dict, decoder_arrays: dict) -> dict:
    """The arrays of both under ``encoder/`` and ``decoder/``, for one file."""
    first, second = PREFIXES[0]
    return {
        **{first + name: array for name, array in encoder_arrays.items()},
        **{second + name: array for name, array in decoder_arrays.items()},
    }


def split_generator(arrays: dict, encoder_names, decoder_names, source: str) -> tuple[dict, dict]:
    """(encoder's arrays, decoder's arrays) of one file.

    Either every name starts with a prefix that tells the two apart, or the file is one flat network, whose residual
    blocks are numbered through: the first go to the encoder, the rest, renumbered from 0, to the decoder.
    encoder_names, decoder_names: the names that each should have. Raises UserError for anything else.
    """
    for first, second in PREFIXES:
        if all(name.startswith((first, second)) for name in arrays):
            return (_without(arrays, first), _without(arrays, second))
    in_encoder = len({m[1] for name in encoder_names if (m := _RES_BLOCK.fullmatch(name))})
    encoder, decoder = {}, {}
    for name, array in arrays.items():
        match = _RES_BLOCK.fullmatch(name)
        if match and int(match[1]) >= in_encoder:
            decoder[f"r{int(match[1]) - in_encoder}/{match[2]}"] = array
        elif match or name in encoder_names:
            encoder[name] = array
        elif name in decoder_names:
            decoder[name] = array
        else:
            raise UserError(f"{source}: {name} belongs neither to the encoder nor to the decoder that args describes")
    return encoder, decoder


def _without(arrays, prefix):
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
