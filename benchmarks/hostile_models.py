"""Hostile models: numbers without bounds in args, weights that are bombs, damaged, or not finite."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_cases import CASES, DONE, REFUSED, SMALL, Command, Ground, case, good, holes
from hostile_pictures import zeros
from hostile_volumes import npy
from hostile_watch import Seen
from numpy.typing import DTypeLike

ARGS, WEIGHTS, FINITE = "Numbers in args", "Weights", "Weights that are not finite"

LIMIT = 90
"""Real seconds: what a number makes large grows until it is ended."""


def use(ground: Ground, run: Path, *more: object, **command: Any) -> Command:
    """Convert one good picture with a run."""
    good(ground / "in/a.png")
    return Command(
        "medi2i.pix2pix.convert",
        (run, "-R", ground.folder / "in", "-o", ground.folder / "out", "-g", "-1", *more),
        limit=LIMIT,
        **command,
    )


Change = Callable[[dict[str, Any]], object]
"""Alters the options of a run, or returns the text of the file."""
Patch = Callable[[bytearray, int], None]
"""Changes an archive in place; the second is where its first directory entry is."""


def _args(name: str, about: str, change: Change, *expected: str, **limits: Any) -> None:
    """change(values) alters the options, or returns the text of the file."""

    def build(ground: Ground) -> Command:
        run = ground.run()
        values = json.loads((run / "args").read_text())
        text = change(values)
        (run / "args").write_text(text if isinstance(text, str) else json.dumps(values))
        return use(ground, run)

    build.__doc__ = f"args: {about}"
    case(f"args-{name}", ARGS, *(expected or (REFUSED,)), **limits)(build)


for _key, _value in (
    ("gen_nblock", 10**9),
    ("gen_ndown", 10**6),
    ("scale", 10**6),
    ("gen_ksize", 10**6),
    ("gen_chs", [10**9, 10**9]),
    ("gen_chs", [2] * 10**5),
    ("gen_chs", [4, 10**9]),
    ("gen_fc", 10**9),
    ("latent_dim", 10**9),
    ("ch", 10**9),
    ("out_ch", 10**9),
    ("gen_nblock", -1),
    ("gen_skip", 10**9),
    ("crop_height", 10**12),
    ("gen_nblock", 1e300),
    ("gen_nblock", "1" * 9),
    ("gen_chs", "4" * 9),
    ("gen_chs", []),
    ("gen_chs", [0, 0]),
    ("gen_ksize", 0),
    ("gen_chs", {"a": 1}),
    ("gen_norm", ["batch"] * 9),
    ("stack", 10**9),
    ("class_num", 10**9),
    ("gen_dropout", 1e400),
    ("clipA", [0, 1e400]),
    ("clipA", [float("nan"), 1]),
    ("clipA", [5, 5]),
    ("gen_nblock", True),
    ("gen_nblock", None),
):
    _what = f"a list of {len(_value)}" if isinstance(_value, list) and len(_value) > 9 else json.dumps(_value)

    def _change(values: dict[str, Any], key: str = _key, value: Any = _value) -> None:
        values[key] = value

    _index = sum(name.startswith(f"args-{_key}") for name in CASES)
    # What no option of this name makes is passed over, and some values are allowed where nothing uses them.
    _args(
        f"{_key}-{_index}" if _index else _key,
        f"{_key} {_what}",
        _change,
        *(
            (REFUSED, DONE)
            if _key in ("gen_skip", "latent_dim", "stack", "class_num", "crop_height", "gen_fc", "gen_dropout")
            or _value in ("1" * 9,)
            or _value is None
            else (REFUSED,)
        ),
    )


def _more(text: str) -> Change:
    """The options of a run with ``text`` behind them."""
    return lambda values: json.dumps(values)[:-1] + f", {text}}}"


_args("digits", "an integer of 100,000 digits", _more('"gen_nblock": 1' + "0" * 10**5))
_args("digits-unknown", "the same under a name that is not known", _more('"other": 1' + "0" * 10**5), REFUSED, DONE)
_args("deep", "lists 100,000 deep", _more('"other": ' + "[" * 10**5 + "]" * 10**5), REFUSED, DONE)
_args("deep-object", "objects 100,000 deep", lambda values: '{"a":' * 10**5 + "1" + "}" * 10**5)
_args("infinity", "Infinity", _more('"gen_nblock": Infinity'))
_args("nan", "NaN", _more('"gen_ksize": NaN'))
_args("list", "a list", lambda values: "[1, 2]")
_args("empty", "nothing", lambda values: "")
_args("twice", "a name twice", _more('"gen_nblock": 1000000000'))
_args("surrogate", "half a letter", _more('"gen_norm": "\\ud800"'))
_args(
    "names",
    "a million names",
    lambda values: json.dumps({**values, **{f"x{n}": 1 for n in range(10**6)}}),
    REFUSED,
    DONE,
)


@case("args-sparse", ARGS, REFUSED, large=True)
def sparse_args(ground: Ground) -> Command:
    """args of 12 GB, nearly all holes"""
    run = ground.run()
    holes(run / "args")
    return use(ground, run)


@case("args-latin", ARGS, REFUSED)
def latin_args(ground: Ground) -> Command:
    """args that is no text"""
    run = ground.run()
    (run / "args").write_bytes(b"\xff\xfe\x00" * 999)
    return use(ground, run)


@case("args-train", ARGS, REFUSED)
def args_in_resume(ground: Ground) -> Command:
    """args: gen_nblock 10⁹, resumed"""
    run = ground.run()
    values = json.loads((run / "args").read_text())
    values["gen_nblock"] = 10**9
    (run / "args").write_text(json.dumps(values))
    return Command("medi2i.pix2pix.train", ("--resume", run, "-e", "2"))


@case("args-export", ARGS, REFUSED)
def args_in_export(ground: Ground) -> Command:
    """args: gen_nblock 10⁹, exported to ONNX"""
    run = ground.run()
    values = json.loads((run / "args").read_text())
    values["gen_nblock"] = 10**9
    (run / "args").write_text(json.dumps(values))
    return Command("medi2i.tools.export_onnx", (run, "-o", ground.folder / "a.onnx"))


for _name, _text in (
    ("1e400", '{"epoch": 1e400, "value": 1}'),
    ("digits", '{"epoch": 1' + "0" * 10**5 + "}"),
    ("deep", "[" * 10**5 + "]" * 10**5),
    ("nan", '{"epoch": NaN}'),
    ("list", "[]"),
    ("text", '{"epoch": "../../x"}'),
    ("negative", '{"epoch": -5}'),
    ("latin", None),
):

    def _best(ground: Ground, text: str | None = _text) -> Command:
        run = ground.run()
        (run / "best.json").write_bytes(b"\xff\xfe" if text is None else text.encode())
        return use(ground, run)

    _best.__doc__ = f"best.json: {_name}"
    case(f"best-{_name}", ARGS, REFUSED)(_best)


# --- weights ------------------------------------------------------------------------------------------------------


def _weights(name: str, about: str, change: Callable[[Path], object], *expected: str, **limits: Any) -> None:
    """change(path) damages ``enc_x1.npz`` of a run."""

    def build(ground: Ground) -> Command:
        run = ground.run()
        (path,) = run.glob("enc_x*.npz")
        data = change(path)
        if isinstance(data, bytes):
            path.write_bytes(data)
        return use(ground, run, check=_nothing_outside)

    build.__doc__ = about
    case(f"npz-{name}", WEIGHTS, *(expected or (REFUSED,)), **limits)(build)


def _nothing_outside(seen: Seen, folder: Path) -> str | None:
    return "a member was written outside of the archive" if list(folder.rglob("traversal*")) else None


def add(path: Path, name: str, data: bytes, zeros_behind: int = 0) -> None:
    """Add a member to an archive: ``data``, then so many MB of zeros, which cost nothing to pack."""
    with zipfile.ZipFile(path, "a") as archive:
        if not zeros_behind:
            archive.writestr(name, data)
            return
        member = zipfile.ZipInfo(name)
        member.compress_type = zipfile.ZIP_DEFLATED
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH) + zeros(zeros_behind << 20, raw=True)
        member.CRC = zlib.crc32(data)
        for _ in range(zeros_behind):
            member.CRC = zlib.crc32(bytes(1 << 20), member.CRC)
        member.compress_size, member.file_size = len(body), len(data) + (zeros_behind << 20)
        file: Any = archive.fp
        file.seek(archive.start_dir)
        member.header_offset = file.tell()
        file.write(member.FileHeader(zip64=True) + body)
        archive.filelist.append(member)
        archive.NameToInfo[name] = member
        archive.start_dir = file.tell()
        archive._didModify = True  # type: ignore[attr-defined]  # so that the directory is written anew


def _huge(path: Path, name: str = "extra", megabytes: int = 3072) -> None:
    add(path, f"{name}.npy", npy((megabytes << 20,), "'|u1'"), zeros_behind=megabytes)


SMALL_ARRAY = npy((1,), data=bytes(4))


def _replaced(path: Path, make: Callable[[bytes], bytes]) -> None:
    """Every member of the archive again, the first one's bytes changed by ``make(bytes)``."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    first = next(name for name in members if name.endswith("W.npy"))
    members[first] = make(members[first])
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _patched(path: Path, edit: Patch) -> bytes:
    data = bytearray(path.read_bytes())
    edit(data, data.rindex(b"PK\1\2"))
    return bytes(data)


def _set(offset: int, value: bytes) -> Patch:
    def edit(data: bytearray, at: int) -> None:
        data[at + offset : at + offset + len(value)] = value
        local = struct.unpack("<I", data[at + 42 : at + 46])[0]
        if offset in (8, 10):  # flags, method: in the local header, too
            data[local + offset - 2 : local + offset - 2 + len(value)] = value

    return edit


def _nested(path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", zeros(1 << 30))
    add(path, "nested.npz", inner.getvalue())


def _many(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        for index in range(60_000):
            archive.writestr(f"x{index}.npy", b"")


def _corrupted(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    return bytes(data)


def _before_it(path: Path) -> None:
    data = path.read_bytes()
    holes(path, 12 * 10**9)
    with path.open("r+b") as file:
        file.seek(12 * 10**9)
        file.write(data)


def _with_zeros(path: Path, make: Callable[[bytes], bytes] = lambda data: data) -> None:
    """The first weight changed by ``make(bytes)``, and 3 GB of zeros behind it in its member."""
    _replaced(path, make)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    first = next(name for name in members if name.endswith("W.npy"))
    path.unlink()
    for name, data in members.items():
        add(path, name, data, zeros_behind=3072 if name == first else 0)


def _as(data: bytes, kind: DTypeLike) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.load(io.BytesIO(data)).astype(kind))
    return stream.getvalue()


def _pickled(path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple:
            import os

            return os.system, ("touch traversal-pickled",)

    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **arrays, code=np.array([Code()], object))


_weights("unneeded", "3 GB of zeros that no network needs, in 3 MB", _huge, REFUSED, DONE, seconds=30, large=True)
_weights(
    "unneeded-declared",
    "a member that says 6 GB and holds nothing",
    lambda path: add(path, "extra.npy", npy((6 * 2**30,), "'|u1'")),
    REFUSED,
    DONE,
)
_weights(
    "needed-huge",
    "a weight that says 6 GB",
    lambda path: _replaced(path, lambda data: npy((6 * 2**30,), "'|u1'", data=bytes(99))),
)
_weights(
    "needed-object", "a weight of objects", lambda path: _replaced(path, lambda data: npy((4,), "'|O'", data=bytes(99)))
)
_weights(
    "needed-bomb",
    "a weight that unpacks to 3 GB",
    lambda path: _with_zeros(path, lambda data: npy((3 * 2**28,))),
    large=True,
)
_weights("needed-tail", "a good weight with 3 GB behind it", _with_zeros, REFUSED, DONE, large=True)
_weights("nested", "a zip in the zip", _nested, REFUSED, DONE)
_weights("encrypted", "an encrypted member", lambda path: _patched(path, _set(8, b"\1\0")))
_weights("crc", "a member with a wrong CRC", lambda path: _patched(path, _set(16, b"\1\2\3\4")))
_weights("byte", "one byte changed", _corrupted, REFUSED, DONE)
_weights("method", "a member packed in no way", lambda path: _patched(path, _set(10, b"\x63\0")))
_weights("method-lzma", "a member said to be LZMA", lambda path: _patched(path, _set(10, b"\x0e\0")))
_weights("offset", "a member that starts behind the file", lambda path: _patched(path, _set(42, b"\xff\xff\xff\x7f")))
_weights("size", "a member that says 4 GB", lambda path: _patched(path, _set(24, b"\xfe\xff\xff\xff")), REFUSED, DONE)
_weights("cut", "an npz that is cut off", lambda path: path.read_bytes()[:-100])
_weights("pickle", "a pickle called npz", lambda path: b"cos\nsystem\n(S'touch traversal-pickle'\ntR.")
_weights("object", "a pickled command beside the weights", _pickled, REFUSED, DONE)
_weights(
    "traversal",
    "a member called ../../traversal.npy",
    lambda path: add(path, "../../traversal.npy", SMALL_ARRAY),
    REFUSED,
    DONE,
)
_weights(
    "escape-name",
    "a member whose name is escape characters",
    lambda path: add(path, "\x1b[2J\x1b]0;x\7.npy", SMALL_ARRAY),
    REFUSED,
    DONE,
)
_weights("many", "60,000 members", _many, REFUSED, DONE)
_weights("sparse", "an npz of 12 GB, nearly all holes", lambda path: holes(path) and None, REFUSED, DONE, large=True)
_weights("sparse-before", "12 GB of holes before an npz", _before_it, REFUSED, DONE, large=True)
_weights(
    "header-deep",
    "a weight whose shape is 9000 brackets deep",
    lambda path: _replaced(path, lambda data: npy("(" * 9000 + ")" * 9000)),
)
_weights("complex", "complex weights", lambda path: _replaced(path, lambda data: _as(data, np.complex64)))
_weights("text-array", "weights that are texts", lambda path: _replaced(path, lambda data: _as(data, "U9")))


@case("npz-partner", WEIGHTS, REFUSED, DONE, seconds=30, large=True)
def huge_partner(ground: Ground) -> Command:
    """3 GB that no network needs in the decoder's file, as start of a training"""
    run = ground.run()
    (path,) = run.glob("dec_y*.npz")
    _huge(path)
    return _train_from(ground, run)


def _train_from(ground: Ground, run: Path, *more: object, **command: Any) -> Command:
    for side in ("trainA", "trainB"):
        for index in range(2):
            good(ground / f"data/{side}/{index}.png", index)
    (weights,) = run.glob("enc_x*.npz")
    return Command(
        "medi2i.pix2pix.train",
        ("-R", ground.folder / "data", "-o", ground.folder / "result", *SMALL, "-m", weights, *more),
        **command,
    )


@case("snapshot-bomb", WEIGHTS, REFUSED, DONE, seconds=30, large=True)
def huge_snapshot(ground: Ground) -> Command:
    """3 GB that nobody needs in a snapshot, resumed"""
    run = ground.run()
    (path,) = (run / "snapshots").glob("*.npz")
    _huge(path)
    return Command("medi2i.pix2pix.train", ("--resume", run, "-e", "2"))


@case("snapshot-unneeded", WEIGHTS, REFUSED, seconds=30, large=True)
def unneeded_in_snapshot(ground: Ground) -> Command:
    """1.9 GB, below the bound, that nobody needs in a snapshot, resumed"""
    run = ground.run()
    (path,) = (run / "snapshots").glob("*.npz")
    _huge(path, megabytes=1900)
    return Command("medi2i.pix2pix.train", ("--resume", run, "-e", "2"))


@case("optimizer-unneeded", WEIGHTS, REFUSED, seconds=30, large=True)
def unneeded_in_optimizer(ground: Ground) -> Command:
    """1.9 GB that nobody needs in the state of an optimizer, as start of a training"""
    run = ground.run()
    (path,) = run.glob("opt_dec_y*.npz")
    _huge(path, megabytes=1900)
    return _train_from(ground, run, "-mo")


@case("snapshot-pickle", WEIGHTS, REFUSED, DONE, seconds=30)
def pickled_snapshot(ground: Ground) -> Command:
    """a pickled command in a snapshot, resumed"""
    run = ground.run()
    (path,) = (run / "snapshots").glob("*.npz")
    _pickled(path)
    return Command("medi2i.pix2pix.train", ("--resume", run, "-e", "2"), check=_nothing_outside)


@case("snapshot-text", WEIGHTS, REFUSED, DONE, seconds=30)
def no_snapshot(ground: Ground) -> Command:
    """text called a snapshot, resumed"""
    run = ground.run()
    (path,) = (run / "snapshots").glob("*.npz")
    path.write_bytes(b"no snapshot")
    return Command("medi2i.pix2pix.train", ("--resume", run, "-e", "2"))


# --- not finite ---------------------------------------------------------------------------------------------------


def _fill(path: Path, value: float, part: str = "W", all_of_it: bool = True, last: bool = False) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    names = [name for name in arrays if name.endswith(part) and arrays[name].size]
    name = names[-1 if last else 0]
    array = arrays[name] = arrays[name].copy()
    array[...] = np.where(all_of_it or np.arange(array.size).reshape(array.shape) == array.size - 1, value, array)
    np.savez(path, **arrays)


def _unwritten(seen: Seen, folder: Path) -> str | None:
    written = [path for path in (folder / "out").rglob("*") if path.suffix in (".png", ".dcm", ".npy")]
    return f"{len(written)} images were written" if written else None


for _file, _value, _whole, _about in (
    ("enc_x", np.nan, True, "a layer of the encoder all NaN"),
    ("enc_x", np.nan, False, "one weight of the encoder NaN"),
    ("dec_y", np.inf, True, "a layer of the decoder infinite"),
    ("dec_y", -np.inf, False, "one weight of the decoder -inf"),
):
    for _kind in ("png", "dcm"):

        def _finite(
            ground: Ground, file: str = _file, value: float = _value, whole: bool = _whole, kind: str = _kind
        ) -> Command:
            run = ground.run() if kind == "png" else ground.dicom_run()
            (path,) = run.glob(f"{file}*.npz")
            _fill(path, value, all_of_it=whole, last=not whole)
            good(ground / f"in/a.{kind}")
            return Command(
                "medi2i.pix2pix.convert",
                (run, "-R", ground.folder / "in", "-o", ground.folder / "out", "-g", "-1"),
                check=_unwritten,
            )

        _finite.__doc__ = f"{_about}, converting {_kind}"
        case(f"finite-{_file}-{'all' if _whole else 'one'}-{_kind}", FINITE, REFUSED)(_finite)


@case("finite-half", FINITE, REFUSED)
def half_overflow(ground: Ground) -> Command:
    """weights of 16 bits, one infinite"""
    run = ground.run()
    for path in (*run.glob("enc_x*.npz"), *run.glob("dec_y*.npz")):
        with np.load(path) as file:
            np.savez(
                path,
                **{
                    name: file[name].astype(np.float16) if file[name].dtype.kind == "f" else file[name]
                    for name in file.files
                },
            )
    _fill(next(iter(run.glob("enc_x*.npz"))), np.inf)
    return use(ground, run, check=_unwritten)


@case("finite-whole", FINITE, REFUSED)
def whole_generator(ground: Ground) -> Command:
    """a generator in one file (gen_1.npz), a layer all NaN"""
    run = ground.run()
    arrays: dict[str, np.ndarray] = {}
    for part in ("enc_x", "dec_y"):
        (path,) = run.glob(f"{part}*.npz")
        with np.load(path) as file:
            arrays |= {f"{part[:3]}/{name}": file[name] for name in file.files}
        path.unlink()
    np.savez(run / "gen_1.npz", allow_pickle=False, **arrays)
    _fill(run / "gen_1.npz", np.nan)
    return Command(
        "medi2i.pix2pix.convert",
        ("-m", run / "gen_1.npz", "-R", good(ground / "in/a.png").parent, "-o", ground.folder / "out", "-g", "-1"),
        check=_unwritten,
    )


@case("finite-statistics", FINITE, REFUSED)
def statistics(ground: Ground) -> Command:
    """running statistics of a normalisation NaN"""
    run = ground.run()
    for path in (*run.glob("enc_x*.npz"), *run.glob("dec_y*.npz")):
        with np.load(path) as file:
            if any(name.endswith("avg_var") for name in file.files):
                break
    else:
        (path,) = run.glob("enc_x*.npz")
        _fill(path, np.nan, "b")
        return use(ground, run, check=_unwritten)
    _fill(path, np.nan, "avg_var")
    return use(ground, run, check=_unwritten)


@case("finite-start", FINITE, REFUSED)
def start_of_training(ground: Ground) -> Command:
    """a layer all NaN as start of a training"""
    run = ground.run()
    _fill(next(iter(run.glob("enc_x*.npz"))), np.nan)
    return _train_from(ground, run)


@case("finite-resume", FINITE, REFUSED, seconds=30)
def resumed(ground: Ground) -> Command:
    """a snapshot whose weights are NaN, resumed"""
    run = ground.run()
    (path,) = (run / "snapshots").glob("*.npz")
    _fill(path, np.nan)
    return Command("medi2i.pix2pix.train", ("--resume", run, "-e", "2"))


@case("finite-export", FINITE, REFUSED)
def exported(ground: Ground) -> Command:
    """a layer all NaN, exported to ONNX"""
    run = ground.run()
    _fill(next(iter(run.glob("enc_x*.npz"))), np.nan)
    return Command(
        "medi2i.tools.export_onnx",
        (run, "-o", ground.folder / "a.onnx"),
        check=lambda seen, folder: "a.onnx was written" if (folder / "a.onnx").exists() else None,
    )


@case("finite-large", FINITE, REFUSED, DONE)
def large_weights(ground: Ground) -> Command:
    """finite weights so large that the image overflows"""
    run = ground.run()
    _fill(next(iter(run.glob("enc_x*.npz"))), 3e38)
    return use(ground, run, check=lambda seen, folder: _unwritten(seen, folder) if seen.status else None)
