"""TIFF: one image a file in whatever layout, previews aside, and nothing that unpacks to more than it declares."""

import lzma
import struct
import zlib

import numpy as np
import pytest
import tifffile

from medi2i.datasets.reading import read_header, read_image

STACK = np.arange(6 * 5 * 7, dtype=np.uint16).reshape(6, 5, 7)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pages", dict(photometric="minisblack")),
        ("one directory for all", dict(photometric="minisblack", metadata={"axes": "ZYX"}, truncate=True)),
        ("imagej", dict(imagej=True, metadata={"axes": "ZYX"})),
        ("ome", dict(ome=True, photometric="minisblack")),
        ("bigtiff", dict(bigtiff=True, photometric="minisblack")),
        ("big-endian", dict(byteorder=">", photometric="minisblack")),
        ("compressed", dict(compression="zlib", photometric="minisblack")),
    ],
)
def test_every_kind_of_stack_is_refused_and_counted(tmp_path, refusal, name, options):
    tifffile.imwrite(tmp_path / "a.tif", STACK, **options)
    assert refusal(tmp_path / "a.tif").startswith("holds 6 images")


def test_a_volume_in_one_directory_is_refused(tmp_path, refusal):
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.zeros((6, 16, 32), np.uint8),
        volumetric=True,
        tile=(16, 16, 16),
        photometric="minisblack",
    )
    assert refusal(tmp_path / "a.tif").startswith("holds 6 slices")


def test_hyperstacks_and_pages_of_several_sizes_are_refused(tmp_path, refusal):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 3, 2, 5, 7), np.uint8), imagej=True, metadata={"axes": "TZCYX"})
    assert refusal(tmp_path / "a.tif").startswith("holds 12 images")
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(STACK[0], photometric="minisblack")
        file.write(STACK[1, :3], photometric="minisblack")
    assert refusal(tmp_path / "b.tif").startswith("holds 2 images")


@pytest.mark.parametrize("preview_first", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_previews_and_masks_beside_the_image_do_not_count(tmp_path, preview_first, compression):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        pages = [(STACK[1], 0), (STACK[0, :2, :3], 1), (STACK[0] > 3, 4)]
        for values, kind in pages[::-1] if preview_first else pages:
            file.write(values, photometric="minisblack", subfiletype=kind, metadata=None, compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], STACK[1])
    assert read_header(tmp_path / "a.tif", "tif").shape == (1, 5, 7)


def test_a_pyramid_below_the_image_does_not_count(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(STACK[0], photometric="minisblack", subifds=1, metadata=None)
        file.write(STACK[0, ::2, ::2], photometric="minisblack", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], STACK[0])


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(
    ("channels", "extra", "kept"),
    [(3, None, 3), (4, ["unassalpha"], 3), (4, ["unspecified"], 3), (5, ["unspecified"] * 2, 5)],
)
def test_channels_of_colour_and_transparency(tmp_path, planar, channels, extra, kept):
    values = STACK[:channels]
    tifffile.imwrite(
        tmp_path / "a.tif",
        values.transpose(1, 2, 0) if planar == "contig" else values,
        photometric="rgb",
        planarconfig=planar,
        extrasamples=extra,
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, values[:kept])
    assert read_header(tmp_path / "a.tif", "tif").shape == (kept, 5, 7)


@pytest.mark.parametrize(
    ("channels", "extra", "kept"), [(2, ["unassalpha"], 1), (2, ["unspecified"], 2), (5, ["unspecified"] * 4, 5)]
)
def test_grey_channels_are_all_kept(tmp_path, channels, extra, kept):
    values = STACK[:channels]
    tifffile.imwrite(
        tmp_path / "a.tif",
        values.transpose(1, 2, 0),
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=extra,
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, values[:kept])
    assert read_header(tmp_path / "a.tif", "tif").shape == (kept, 5, 7)


def test_colours_for_printing_are_refused(tmp_path, refusal):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 7, 4), np.uint8), photometric="separated")
    assert refusal(tmp_path / "a.tif") == "its colours are SEPARATED; grey, RGB or a palette can be read"


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_one_bit_is_black_and_white(tmp_path, photometric):
    values = np.array([[True, False, False]])
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric)
    white = values if photometric == "minisblack" else ~values
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array[0], white * 255)
    assert image.bits == 8
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", labels=True).array[0], white)


def handmade(path, data=b"", size=None, **changes):
    """A grey TIFF of 100×100 bytes with some tags changed: name -> (type, count, value)."""
    tags = {
        "width": (256, 4, 1, 100),
        "height": (257, 4, 1, 100),
        "bits": (258, 3, 1, 8),
        "packed": (259, 3, 1, 1),
        "grey": (262, 3, 1, 1),
        "start": (273, 4, 1, 512),
        "rows": (278, 4, 1, 100),
        "length": (279, 4, 1, len(data)),
    }
    tags |= {
        name: (tags[name][0] if name in tags else changes[name][0], *values[-3:]) for name, values in changes.items()
    }
    entries = b"".join(struct.pack("<HHII", *entry) for entry in sorted(tags.values()))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    path.write_bytes(head.ljust(512, b"\0") + data)
    if size is not None:
        with open(path, "r+b") as file:
            file.truncate(size)
    return path


@pytest.mark.parametrize(
    ("code", "pack"),
    [
        (8, lambda data: zlib.compress(data, 1)),
        (32946, lambda data: zlib.compress(data, 1)),
        (34925, lambda data: lzma.compress(data, preset=0)),
    ],
)
def test_a_strip_that_unpacks_to_more_than_the_image_is_refused(tmp_path, refusal, code, pack):
    path = handmade(tmp_path / "a.tif", pack(bytes(66 << 20)), packed=(3, 1, code))
    assert refusal(path) == "a strip or tile unpacks to more than 64.01 MiB, the image has 9.766 KiB"
    assert read_image(handmade(path, pack(bytes(10000)), packed=(3, 1, code))).array.shape == (1, 100, 100)


@pytest.mark.parametrize(
    ("code", "name"), [(34712, "JPEG2000"), (50000, "ZSTD"), (34892, "JPEG_LOSSY"), (2, "CCITTRLE")]
)
def test_compressions_that_nothing_bounds_are_refused(tmp_path, refusal, code, name):
    path = handmade(tmp_path / "a.tif", bytes(10000), packed=(3, 1, code))
    assert refusal(path) == f"its compression is {name}; none, deflate, LZMA, LZW, PackBits and JPEG can be read"


def test_a_last_strip_as_long_as_the_others(tmp_path):
    image = np.arange(12800, dtype=np.uint32).astype(np.uint8).reshape(128, 100)
    strips = [zlib.compress(image[:64].tobytes()), zlib.compress(image[64:].tobytes())]
    table = struct.pack("<IIII", 512, 512 + len(strips[0]), *map(len, strips))
    path = handmade(
        tmp_path / "a.tif",
        b"".join(strips) + table,
        packed=(3, 1, 8),
        rows=(4, 1, 64),
        start=(4, 2, 512 + sum(map(len, strips))),
        length=(4, 2, 520 + sum(map(len, strips))),
    )
    np.testing.assert_array_equal(read_image(path).array[0], image[:100])


@pytest.mark.parametrize(
    ("changes", "size", "reason"),
    [
        (dict(width=(4, 1, 50000), height=(4, 1, 50000)), None, "declares 50000×50000 pixels"),
        (dict(samples=(277, 3, 1, 60000), width=(4, 1, 9000), height=(4, 1, 7000)), None, "which take"),
        (dict(start=(4, 1 << 28, 512)), 600, "tag 273 has 268435456 values, more than 64 MiB hold"),
        (dict(text=(270, 2, 2**31, 512)), 600, "tag 270 has 2147483648 values"),
        (
            dict(across=(322, 4, 1, 60000), down=(323, 4, 1, 60000), places=(324, 4, 1, 512), lengths=(325, 4, 1, 9)),
            None,
            "has tiles of 3.353 GiB for an image of 9.766 KiB",
        ),
        (dict(length=(4, 1, 2**31)), None, "its strips or tiles have 2 GiB"),
        (dict(), 3 << 30, "has 3 GiB, more than 2 GiB; --max-pixels 100663296 would allow it"),
    ],
)
def test_what_directories_declare_is_checked_first(tmp_path, refusal, changes, size, reason):
    path = handmade(tmp_path / "a.tif", bytes(10000), size, **changes)
    assert reason in refusal(path)


def test_directories_without_end(tmp_path, refusal):
    path = handmade(tmp_path / "a.tif", bytes(10000))
    data = bytearray(path.read_bytes())
    end = 10 + 12 * struct.unpack("<H", data[8:10])[0]
    data[end : end + 4] = struct.pack("<I", 8)  # the next directory is this one
    path.write_bytes(data)
    assert read_image(path).array.shape == (1, 100, 100)
    with open(path, "wb") as file:
        file.write(b"II*\0" + struct.pack("<I", 8))
        for number in range(2000):
            file.write(struct.pack("<HHHIII", 1, 256, 4, 1, 10, 8 + 18 * (number + 1)))
    assert refusal(path) == "holds more than 1000 images; a file holds one image here"


def test_a_planar_configuration_that_is_none_is_taken_for_planes_by_all(tmp_path):
    planes = np.arange(3 * 5 * 7, dtype=np.uint8).reshape(3, 5, 7)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", metadata=None)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    at = data.index(struct.pack("<HHIH", 284, 3, 1, 2)) + 8
    data[at : at + 2] = struct.pack("<H", 9)
    (tmp_path / "a.tif").write_bytes(data)
    assert read_header(tmp_path / "a.tif", "tif").shape == (3, 5, 7)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, planes)


def test_a_picture_of_nothing_but_transparency_has_a_channel(tmp_path):
    path = handmade(tmp_path / "a.tif", bytes(10000), extra=(338, 3, 1, 2))
    assert read_header(path, "tif").shape == read_image(path).array.shape == (1, 100, 100)
