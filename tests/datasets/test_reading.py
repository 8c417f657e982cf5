import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from medi2i.common.errors import UserError
from medi2i.datasets.dicom.header_checks import Unreadable
from medi2i.datasets.file_names import kind_of, name_without_suffix
from medi2i.datasets.reading import read_image, to_grey
from medi2i.datasets.scaling import Clip, default_clip
from medi2i.datasets.writing import write_image

GREY8 = np.array([[0, 1, 2, 250, 255], [7, 6, 5, 4, 3], [9, 99, 199, 29, 39]], dtype=np.uint8)
GREY16 = GREY8.astype(np.uint16) * 257
COLOUR8 = np.stack([GREY8, GREY8[::-1], 255 - GREY8])


@pytest.mark.parametrize("kind", ["png", "bmp", "tif"])
@pytest.mark.parametrize("array", [GREY8[np.newaxis], COLOUR8], ids=["grey", "colour"])
def test_8_bit_round_trip(tmp_path, kind, array):
    path = tmp_path / "new folder" / f"a.{kind}"
    assert write_image(path, array) == 0
    image = read_image(path)
    assert image.array.dtype == np.float32 and image.bits == 8 and image.mask is None
    np.testing.assert_array_equal(image.array, array)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bit_grey_stays_16_bit(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    write_image(path, GREY16, bits=16)
    image = read_image(path)
    assert image.bits == 16
    np.testing.assert_array_equal(image.array[0], GREY16)


def test_16_bit_colour_and_float_tiff(tmp_path):
    write_image(tmp_path / "a.tif", COLOUR8 * 257.0, bits=16)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, COLOUR8 * 257.0)
    values = np.array([[-1024.25, 0.5, 3e6]], dtype=np.float32)
    write_image(tmp_path / "b.tif", values, bits=None)
    image = read_image(tmp_path / "b.tif")
    assert image.bits is None
    np.testing.assert_array_equal(image.array[0], values)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_compressed_tiff(tmp_path, compression):
    Pillow.fromarray(GREY16).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], GREY16)


def test_tiff_layouts(tmp_path):
    tifffile.imwrite(tmp_path / "planar.tif", COLOUR8, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "planar.tif").array, COLOUR8)
    tifffile.imwrite(tmp_path / "inverted.tif", GREY8, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "inverted.tif").array[0], 255 - GREY8)


def test_jpeg_of_a_constant(tmp_path):
    write_image(tmp_path / "a.jpg", np.full((1, 9, 11), 77.3))
    image = read_image(tmp_path / "a.jpg")
    assert image.array.shape == (1, 9, 11) and image.bits == 8
    np.testing.assert_array_equal(image.array, 77)


@pytest.mark.parametrize("kind", ["npy", "csv", "txt"])
def test_plain_numbers(tmp_path, kind):
    values = np.array([[1.5, -2.25e-7, 3], [1e9, 0, -1024]], dtype=np.float32)
    write_image(tmp_path / f"a.{kind}", values)
    image = read_image(tmp_path / f"a.{kind}")
    assert image.bits is None
    np.testing.assert_array_equal(image.array, values[np.newaxis])


@pytest.mark.parametrize(
    "text", ["1,2,3\n4,5,6\n", "1 2 3\n4 5 6", "\ufeff1;2;3\r\n4;5;6\r\n", "# w h\n1\t2\t3\n\n4\t5\t6\n"]
)
def test_separators(tmp_path, text):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(read_image(tmp_path / "a.txt").array, [[[1, 2, 3], [4, 5, 6]]])


def test_one_row_of_numbers_is_an_image_of_one_row(tmp_path):
    (tmp_path / "a.csv").write_text("1,2,3\n")
    assert read_image(tmp_path / "a.csv").array.shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("shape", "read"),
    [
        ((5, 7), (1, 5, 7)),
        ((4, 5, 7), (4, 5, 7)),
        ((5, 7, 3), (3, 5, 7)),
        ((5, 7, 4), (3, 5, 7)),
        ((5, 7, 1), (1, 5, 7)),
        ((3, 5, 7), (3, 5, 7)),
    ],
)
def test_npy_axes(tmp_path, shape, read):
    np.save(tmp_path / "a.npy", np.arange(np.prod(shape)).reshape(shape))
    assert read_image(tmp_path / "a.npy").array.shape == read


def test_grey_is_the_luminance():
    colour = np.array([[[255, 0]], [[0, 100]], [[0, 10]]], dtype=np.float32)
    np.testing.assert_allclose(to_grey(colour), [[[76.245, 58.7 + 1.14]]], rtol=1e-6)


def test_transparency_is_dropped(tmp_path):
    Pillow.fromarray(np.dstack([*COLOUR8, GREY8])).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png").array, COLOUR8)
    Pillow.fromarray(np.dstack([GREY8, 255 - GREY8]), "LA").save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "la.png").array[0], GREY8)


def test_palette_gives_colours_or_class_numbers(tmp_path):
    picture = Pillow.fromarray(np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8), "P")
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 90])
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_image(tmp_path / "p.png").array[:, 0], [[0, 200, 0], [0, 0, 0], [0, 0, 90]])
    np.testing.assert_array_equal(read_image(tmp_path / "p.png", labels=True).array, [[[0, 1, 2], [2, 1, 0]]])


def test_one_bit_picture_is_black_and_white(tmp_path):
    Pillow.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.array, [[[255, 0]]])
    assert image.bits == 8
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", labels=True).array, [[[1, 0]]])


def test_writing_rounds_saturates_and_counts(tmp_path):
    assert write_image(tmp_path / "a.png", np.array([[-3.0, 0.4, 0.6, 254.6, 255.4, 300]])) == 2
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").array, [[[0, 0, 1, 255, 255, 255]]])


@pytest.mark.parametrize(
    ("name", "array", "bits"),
    [
        ("a.png", np.zeros((2, 3, 3)), 8),
        ("a.png", np.zeros((3, 3, 3)), 16),
        ("a.jpg", np.zeros((3, 3)), 16),
        ("a.tif", np.zeros((2, 3, 3)), 8),
        ("a.csv", np.zeros((2, 3, 3)), 8),
        ("a.dcm", np.zeros((3, 3)), 16),
        ("a.png", np.full((2, 2), np.nan), 8),
        ("a.npy", np.full((2, 2), np.inf), None),
    ],
)
def test_what_a_kind_cannot_hold_is_refused_and_nothing_is_left(tmp_path, name, array, bits):
    with pytest.raises(UserError, match=name):
        write_image(tmp_path / name, array, bits=bits)
    assert list(tmp_path.iterdir()) == []


def _png_cut(path):
    write_image(path, np.random.default_rng(0).integers(0, 256, (41, 57)))
    path.write_bytes(path.read_bytes()[:1200])


def _png_colour16(path):
    write_image(path, COLOUR8)
    data = bytearray(path.read_bytes())
    data[24] = 16
    chunk = bytes(data[12:29])
    data[29:33] = struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("empty.png", lambda path: path.write_bytes(b"")),
        ("text.png", lambda path: path.write_text("hello")),
        ("cut.png", _png_cut),
        ("cut16.png", _png_colour16),
        ("text.tif", lambda path: path.write_text("hello")),
        ("empty.npy", lambda path: path.write_bytes(b"")),
        ("pickle.npy", lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True)),
        ("nan.npy", lambda path: np.save(path, np.array([[np.nan]]))),
        ("complex.npy", lambda path: np.save(path, np.array([[1j]]))),
        ("one.npy", lambda path: np.save(path, np.arange(3))),
        ("words.csv", lambda path: path.write_text("a,b\n1,2\n")),
        ("ragged.csv", lambda path: path.write_text("1,2\n1,2,3\n")),
        ("none.txt", lambda path: path.write_text("# only a comment\n")),
        ("binary.csv", lambda path: path.write_bytes(b"\xff\xfe\x00\x01")),
        ("text.dcm", lambda path: path.write_text("hello")),
    ],
)
def test_damaged_files_are_named_with_a_reason(tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(Unreadable, match=name) as caught:
        read_image(tmp_path / name)
    assert len(caught.value.reason) > 5 and "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png")


def test_names_and_clips():
    assert [kind_of(name) for name in ("a.JPEG", "a.tiff", "1.2.840.55", "IM0001")] == ["jpg", "tif", None, None]
    assert name_without_suffix("p1/1.2.840.55", "dcm") == "p1/1.2.840.55"
    assert name_without_suffix("p1/a.b.JPG", "jpg") == "p1/a.b"
    assert default_clip("dcm", None) == Clip(-1024, 2000)
    assert default_clip("png", 8) == Clip(0, 255)
    assert default_clip("tif", 16) == Clip(0, 65535)
    assert not default_clip("tif", None).scales and not default_clip("npy", None).scales
