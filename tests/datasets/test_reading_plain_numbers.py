"""npy and text tables: one image each, measured before they are read."""

import codecs

import numpy as np
import pytest
from numpy.lib import format as npy_format

from medi2i.datasets.reading import read_image

TABLE = "1,2,3\n4,5,6\n"


def sparse_npy(path, shape, dtype, size=None):
    with open(path, "wb") as file:
        npy_format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        file.truncate(
            file.tell() + (int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize if size is None else size)
        )
    return path


@pytest.mark.parametrize(
    ("shape", "dtype", "size", "reason"),
    [
        ((40000, 40000), "<f8", None, "declares 40000×40000 pixels"),
        ((4, 8000, 8000, 1), "<f8", 0, "has shape (4, 8000, 8000, 1)"),
        ((60000, 200, 200), "<f4", None, "declares 60000×200×200 values of float32, which take 8.941 GiB"),
        (
            (2000, 200, 200),
            "<f4",
            0,
            "is cut off: 2000×200×200 values of float32 need 320000000 bytes, and there are 0",
        ),
        ((10, 10), "|S100000000", 0, "holds |S100000000 values; it must hold real numbers"),
        ((10, 10), "<c8", 0, "holds complex64 values"),
        ((10, 0), "<f4", 0, "has shape (10, 0)"),
    ],
)
def test_an_array_is_measured_before_it_is_read(tmp_path, refusal, shape, dtype, size, reason):
    assert reason in refusal(sparse_npy(tmp_path / "a.npy", shape, dtype, size))


@pytest.mark.parametrize(("shape", "dtype"), [((20, 40, 30), "f4"), ((5, 6, 7), "i2"), ((100, 6, 5), "u1")])
def test_a_volume_is_not_taken_for_channels(tmp_path, refusal, shape, dtype):
    np.save(tmp_path / "a.npy", np.ones(shape, dtype))
    assert refusal(tmp_path / "a.npy") == (
        f"has shape {shape}: an image has up to 4 channels, so this is a volume; "
        f"save each of its {shape[0]} slices as a file of its own"
    )


def test_an_archive_of_arrays_called_npy_is_refused(tmp_path, refusal):
    np.savez(tmp_path / "a.npz", a=np.ones((3, 3)), b=np.ones((3, 3)))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    assert refusal(tmp_path / "a.npy") == "is a zip archive by its content, not npy"


@pytest.mark.parametrize("between", ["\n", "# New slice\n", "\n\n# z = 2\n", "  \n"])
def test_several_tables_are_refused(tmp_path, refusal, between):
    (tmp_path / "a.csv").write_text(TABLE + between + TABLE)
    assert refusal(tmp_path / "a.csv").startswith("holds several tables")
    (tmp_path / "a.csv").write_text("# one\n" + between + TABLE + between)
    np.testing.assert_array_equal(read_image(tmp_path / "a.csv").array, [[[1, 2, 3], [4, 5, 6]]])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_in_the_encodings_of_windows(tmp_path, encoding, end):
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    (tmp_path / "a.csv").write_bytes(mark + TABLE.replace("\n", end).encode(encoding))
    np.testing.assert_array_equal(read_image(tmp_path / "a.csv").array, [[[1, 2, 3], [4, 5, 6]]])


def test_decimal_commas_are_refused(tmp_path, refusal):
    (tmp_path / "a.csv").write_text("1,5;2,5\n3,5;4,5\n")
    assert refusal(tmp_path / "a.csv") == ("has both , and ; in a line: decimal commas? Numbers need a decimal point")


def test_a_table_is_measured_while_it_is_read(tmp_path, refusal, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text(TABLE)
    monkeypatch.setenv("MEDI2I_MAX_PIXELS", "5")
    assert refusal(path) == "declares 2×3 pixels, more than 5; --max-pixels 6 would allow it"
    monkeypatch.delenv("MEDI2I_MAX_PIXELS")
    with open(path, "r+b") as file:
        file.truncate(1 << 30)
    assert "zero bytes" in refusal(path)
    with open(path, "r+b") as file:
        file.truncate(6 << 30)
    assert "has 6 GiB, more than 2 GiB" in refusal(path)
    path.write_bytes(b"0 " * (33 << 20))
    assert "has a line of more than 64 MiB" in refusal(path)
