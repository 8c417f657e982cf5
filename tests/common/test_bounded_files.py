"""JSON, npz and options that may come from anybody: bounded, and refused in one line."""

import dataclasses
import io
import json
import struct
import zipfile

import numpy as np
import pytest

from medi2i.common import bounded_files
from medi2i.common.bounded_files import MOST_BYTES, BrokenFile, StoredArrays, array_header, parse_json, read_json
from medi2i.common.errors import UserError
from medi2i.common.inference.report import read_report
from medi2i.common.networks.checkpoint import build_generator, find_run
from medi2i.common.options import PairedOptions, UnpairedOptions, load_args
from medi2i.common.options.conversion import PairedConversionOptions, UnpairedConversionOptions
from medi2i.common.options.machinery import BOUNDS
from medi2i.cyclegan import net as unpaired
from medi2i.datasets.reading import read_image
from medi2i.pix2pix import net as paired
from medi2i.tools import demo, evaluate, make_phantom, make_shapes, make_sinograms, nifti, register, split_pairs
from medi2i.tools.make_lowres import LowresOptions
from medi2i.tools.make_noisy import NoiseOptions

GROUPS = [
    PairedOptions,
    UnpairedOptions,
    PairedConversionOptions,
    UnpairedConversionOptions,
    demo.DemoOptions,
    evaluate.EvaluateOptions,
    make_phantom.PhantomOptions,
    make_shapes.ShapesOptions,
    make_sinograms.SinogramOptions,
    nifti.NiftiOptions,
    register.RegisterOptions,
    split_pairs.SplitOptions,
    LowresOptions,
    NoiseOptions,
]
BAD_JSON = {
    "deep": ("[" * 100000, "in each other"),
    "deep and whole": ("[" * 100000 + "]" * 100000, "in each other"),
    "digits": ('{"epoch": 1' + "0" * 100000 + "}", "a number of 100001 digits"),
    "digits below Python's limit": ('{"epoch": 1' + "0" * 4000 + "}", "a number of 4001 digits"),
    "too large": ('{"epoch": 1e400}', "1e400 is too large"),
    "and negative": ('{"epoch": -1e999}', "too large"),
    "nan": ('{"epoch": NaN}', "NaN is no number"),
    "infinity": ('{"epoch": -Infinity}', "-Infinity is no number"),
    "twice": ('{"epoch": 1, "epoch": 2}', "'epoch' is given twice"),
    "latin1": (b'{"a": "\xe9"}', "decode"),
    "text": ("epoch", "Expecting value"),
    "nothing": ("", "Expecting value"),
    "cut": ('{"epoch": ', "Expecting value"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_that_is_none_or_has_no_bounds(tmp_path, name):
    content, words = BAD_JSON[name]
    path = tmp_path / "args"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words) as refused:
        read_json(path, "the args file would be right")
    assert str(refused.value).startswith(f"{path}: not JSON (") and "would be right" in str(refused.value)
    with pytest.raises(UserError, match="args: not JSON"):
        load_args(path)
    (tmp_path / "best.json").write_bytes(path.read_bytes())
    (tmp_path / "enc_x1.npz").touch()
    (tmp_path / "dec_y1.npz").touch()
    with pytest.raises(UserError, match="best.json: not readable"):
        find_run(tmp_path)
    with pytest.raises(UserError, match="conversion.json: not a readable report"):
        read_report(path.rename(tmp_path / "conversion.json"), ("files",))


def test_what_is_read_as_it_stands(tmp_path):
    (tmp_path / "a").write_bytes(b'\xef\xbb\xbf{"a": [1, -2.5e3, null, true, "\xc3\xa9"], "b": {"a": 1}}')
    assert read_json(tmp_path / "a", "") == {"a": [1, -2500.0, None, True, "é"], "b": {"a": 1}}
    assert parse_json("[NaN, -Infinity]", constant=str) == ["NaN", "-Infinity"]
    (tmp_path / "a").write_text(" " * MOST_BYTES + "1")
    with pytest.raises(UserError, match="a: has 1 MiB, more than 1 MiB"):
        read_json(tmp_path / "a", "")


@pytest.mark.parametrize("content", ['{"epoch": {}}', '{"epoch": []}', '{"epoch": null}', "[]", "5", '"epoch"', "{}"])
def test_a_best_epoch_of_another_type(tmp_path, content):
    for name in ("args", "enc_x1.npz", "dec_y1.npz"):
        (tmp_path / name).touch()
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(UserError, match="best.json: names no epoch"):
        find_run(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"files": []},
        {"files": {"a": 1}},
        {"files": {"a": {}}},
        {"files": {"a": {"status": "skipped"}}},
        {"files": {"a": {"status": 3}}},
        {"files": {"a": {"status": "written", "structure": 1}}},
        {"model": None},
    ],
)
def test_a_report_of_another_shape(tmp_path, change):
    whole = {"model": {}, "settings": {}, "inputs": {}, "files": {"a": {"status": "written"}}}
    path = tmp_path / "conversion.json"
    path.write_text(json.dumps(whole))
    assert read_report(path, ("model", "files")) == whole
    path.write_text(json.dumps(whole | change))
    with pytest.raises(UserError, match="conversion.json: not a readable report"):
        read_report(path, ("model", "files"))


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_number_has_bounds(group):
    for field in dataclasses.fields(group):
        rule = field.metadata
        if rule["type"] not in BOUNDS:
            continue
        for value in (rule["high"] * 2 + 1, rule["low"] - 1, 1e400, -1e400, float("nan"), "1e400"):
            given = [value] * (rule["nargs"] if isinstance(rule["nargs"], int) else 1) if rule["nargs"] else value
            with pytest.raises(UserError, match=field.name):
                group(**{field.name: given})
        if rule["nargs"] == "+":
            with pytest.raises(UserError, match="values; it takes .* at most"):
                group(**{field.name: [max(rule["low"], 1)] * 5000})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gen_nblock", 10**9),
        ("gen_ndown", 10**6),
        ("scale", 10**6),
        ("gen_chs", [1] * 13),
        ("gen_nblock", [9]),
        ("gen_nblock", {}),
        ("gen_norm", ["batch"]),
        ("gen_norm", {}),
        ("ch", "one"),
        ("ch", 10**6),
        ("ch", [1]),
        ("released", []),
        ("mean_change", "x"),
        ("root", ["a"]),
        ("gen_chs", 64),
        ("gen_chs", [[1]]),
        ("eqconv", 1),
        ("application", []),
        ("application", {}),
    ],
)
def test_args_from_a_stranger(tmp_path, name, value):
    (tmp_path / "args").write_text(json.dumps({"gen_norm": "batch", name: value}))
    with pytest.raises(UserError, match=f"args: .*{name}") as refused:
        load_args(tmp_path / "args")
    assert len(str(refused.value)) < 400


BIG = (
    {"gen_basech": 60000, "gen_ndown": 2},
    {"gen_chs": [64, 65536]},
    {"gen_nblock": 1000, "gen_basech": 512},
    {"gen_fc": 3, "crop_height": 512, "crop_width": 512},
    {"dis_ksize": 255, "dis_basech": 1024},
    {"latent_dim": 10**7, "crop_height": 64, "crop_width": 64},
    {"dis_basech": 65536},
    {"ch": 4096, "gen_chs": [65536]},
)


@pytest.mark.parametrize("values", BIG, ids=str)
def test_a_network_that_no_machine_holds(values):
    for options, build in ((PairedOptions, paired.build), (UnpairedOptions, unpaired.build)):
        with pytest.raises(UserError, match="a network of over 1073741824 parameters"):
            build(options(**{"ch": 1, "out_ch": 1, "gen_nblock": 2, **values}))


def test_networks_of_the_released_codes_with_large_values():
    for values in (
        {},
        {"gen_nblock": 30, "gen_basech": 16},
        {"gen_chs": [32] * 7},
        {"gen_ksize": 5, "gen_basech": 8, "unet": "none"},
        {"gen_fc": 1, "crop_height": 32, "crop_width": 32, "gen_basech": 8},
    ):
        encoder, decoder = build_generator(PairedOptions(**{"ch": 1, "out_ch": 1, **values}))
        for parameter in (*encoder.params(), *decoder.params()):
            assert parameter.array.size > 0 and np.isfinite(parameter.array).all()


def npz(path, arrays, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in arrays.items():
            archive.writestr(name + ".npy", content)
    return path


def declared_arrays(path):
    return StoredArrays(path).declared


def read_arrays_of(path):
    return dict(StoredArrays(path))


def npy(array):
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


def header(text):
    text = text.encode("latin1")
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_arrays_come_back(tmp_path, compression):
    arrays = {
        "a/W": np.arange(6.0, dtype=np.float32).reshape(2, 3),
        "f": np.asfortranarray(np.eye(3)[:, :2]),
        "N": np.array(7),
        "none": np.zeros((0, 3), np.float16),
    }
    path = npz(tmp_path / "a.npz", {name: npy(array) for name, array in arrays.items()}, compression)
    found = dict(StoredArrays(path))
    assert {name: one.shape for name, one in StoredArrays(path).declared.items()} == {
        name: array.shape for name, array in arrays.items()
    }
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype and found[name].flags.writeable


def encrypted(content):
    """The bits that say so, in the member's own header and in the table at the end."""
    content = bytearray(content)
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + at] |= 1
    return bytes(content)


def other_method(content):
    content = bytearray(content)
    for mark, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        content[content.index(mark) + at] = 99
    return bytes(content)


def flipped(content):
    content = bytearray(content)
    content[content.index(b"\x93NUMPY") + 140] ^= 1
    return bytes(content)


DAMAGED = {
    "encrypted": encrypted,
    "method": other_method,
    "flipped": flipped,
    "cut": lambda content: content[:-30],
    "half": lambda content: content[: len(content) // 2],
    "nothing": lambda content: b"",
    "no zip": lambda content: b"PK\3\4" + bytes(100),
}
EVIL = {
    "declares too much": header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"),
    "overflows": header("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9), }"),
    "negative": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"),
    "pickle": npy(np.array([{}], object)),
    "no array": b"text",
    "empty": b"",
    "code": header("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (1,), }"),
    "deep": header("(" * 9000),
    "long": b"\x93NUMPY\2\0" + struct.pack("<I", 2**31) + bytes(100),
    "another format": b"\x93NUMPY\3\0" + bytes(10),
    "more than declared": npy(np.zeros(3)) + b"xx",
}


@pytest.mark.parametrize("name", [*DAMAGED, *EVIL])
def test_damaged_and_evil_npz_files(tmp_path, name):
    path = npz(tmp_path / "a.npz", {"W": EVIL.get(name, npy(np.arange(30.0)))})
    if name in DAMAGED:
        path.write_bytes(DAMAGED[name](path.read_bytes()))
    with pytest.raises(BrokenFile, match=r"a\.npz: not a whole npz file \("):
        dict(StoredArrays(path))


def test_a_bomb_is_refused_by_its_header(tmp_path):
    """64 MB of zeros in 64 kB, behind the header of a small array."""
    path = npz(tmp_path / "a.npz", {"W": npy(np.zeros(4)) + bytes(1 << 26)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(BrokenFile, match="bytes for an array of"):
        dict(StoredArrays(path))
    with pytest.raises(BrokenFile, match="two members of one name"), pytest.warns(UserWarning):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("W.npy", npy(np.zeros(4)))
        dict(StoredArrays(path))


@pytest.mark.parametrize(("version", "field"), [(1, "<H"), (2, "<I"), (3, "<I")])
@pytest.mark.parametrize("length", [10001, 65535, 2**31, 2**32 - 1])
def test_the_length_of_an_npy_header_is_bounded_before_it_is_read(tmp_path, version, field, length):
    if length >= 256 ** struct.calcsize(field):
        return
    start = b"\x93NUMPY" + bytes([version, 0]) + struct.pack(field, length)
    path = tmp_path / "a.npy"
    path.write_bytes(start)
    with open(path, "r+b") as file:
        file.truncate(12 << 30)  # holes
    with open(path, "rb") as file:
        with pytest.raises(ValueError, match=f"an npy header of {length} bytes, where 10000 are the most"):
            array_header(file)
        assert file.tell() == len(start)
    with pytest.raises(UserError, match=f"an npy header of {length} bytes"):
        read_image(path)
    with pytest.raises(BrokenFile, match=f"an npy header of {length} bytes"):
        StoredArrays(npz(tmp_path / "a.npz", {"W": start + bytes(100)}))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_headers_of_every_version_are_read(tmp_path, version):
    content = io.BytesIO()
    np.lib.format.write_array(content, np.arange(6, dtype="<i2").reshape(2, 3), version)
    path = npz(tmp_path / "a.npz", {"W": content.getvalue()})
    assert dict(StoredArrays(path))["W"].tolist() == [[0, 1, 2], [3, 4, 5]]
    (tmp_path / "a.npy").write_bytes(content.getvalue())
    assert read_image(tmp_path / "a.npy").array.tolist() == [[[0, 1, 2], [3, 4, 5]]]


@pytest.mark.parametrize("place", ["before", "behind", "between"])
def test_holes_in_an_npz_are_refused_by_its_length(tmp_path, place):
    path = tmp_path / "a.npz"
    with open(path, "wb") as file:
        file.seek((3 << 30) if place == "before" else 0)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("V.npy", npy(np.zeros(3)))
            if place == "between":
                archive.start_dir += 3 << 30
                file.seek(archive.start_dir)
            archive.writestr("W.npy", npy(np.zeros(3)))
            archive.comment = b"c" * 60000 if place == "behind" else b""
    size = path.stat().st_size
    if place == "behind":  # a comment is no hole
        assert list(StoredArrays(path)) == ["V", "W"]
        return
    with pytest.raises(BrokenFile, match=f"its members account for 304 of its {size} bytes"):
        StoredArrays(path)


def test_members_that_share_bytes_are_refused(tmp_path):
    path = npz(tmp_path / "a.npz", {"V": npy(np.zeros(999)), "W": npy(np.zeros(999))})
    content = path.read_bytes()
    second = content.index(b"PK\3\4", 1)
    table = content.index(b"PK\1\2")
    assert len(StoredArrays(path)) == 2
    # The second's bytes are cut out: its entry points at the first one's.
    ending = bytearray(content[table:])
    struct.pack_into("<I", ending, ending.index(b"PK\1\2", 1) + 42, 0)
    struct.pack_into("<I", ending, ending.index(b"PK\5\6") + 16, second)
    path.write_bytes(content[:second] + ending)
    with pytest.raises(BrokenFile, match="its members have 16240 bytes together, and the file has"):
        StoredArrays(path)


def test_stored_arrays_unpack_what_is_asked_for(tmp_path, monkeypatch):
    arrays = {"V": np.arange(6.0).reshape(2, 3), "none": np.zeros((0, 3))}
    path = npz(tmp_path / "a.npz", {name: npy(array) for name, array in arrays.items()}, zipfile.ZIP_DEFLATED)
    read = []
    monkeypatch.setattr(
        bounded_files,
        "_read",
        lambda archive, info, read_it=bounded_files._read: (read.append(info.filename), read_it(archive, info))[1],
    )
    found = StoredArrays(path)
    found.verify()
    assert list(found) == ["V", "none"] and "V" in found and "W" not in found and read == []
    assert found.declared["V"].shape == (2, 3) and found.declared["V"].nbytes == 48
    np.testing.assert_array_equal(found["V"], arrays["V"])
    assert read == ["V.npy"]
    with pytest.raises(KeyError):
        found["W"]
