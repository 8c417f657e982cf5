"""Pictures: each kind opens its own format only, one picture a file, nothing beyond the limits."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow

from medi2i.common.errors import Unreadable
from medi2i.datasets.file_names import KINDS
from medi2i.datasets.reading import read_header, read_image

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
PICTURES = ("png", "jpg", "bmp", "gif", "tif")


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(path, width, height, *chunks):
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + b"".join(chunks)
        + chunk(b"IDAT", zlib.compress(bytes(height * (width + 1))))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("mark", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xc5\xd0\xd3\xc6" + bytes(26)])
def test_postscript_is_never_started(tmp_path, refusal, kind, mark, monkeypatch):
    ran = tmp_path / "ran"
    for name in ("gs", "gswin32c", "gswin64c"):  # were it asked for, it would be found first
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(mark + b"%%BoundingBox: 0 0 9 9\nshowpage\n")
    assert "is PostScript by its content" in refusal(path)
    assert not ran.exists()


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize(
    "form", ["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "TGA", "PCX", "ICO", "PDF", "MPO"]
)
def test_a_kind_opens_its_own_format_only(tmp_path, refusal, kind, form):
    path = tmp_path / f"a.{kind}"
    Pillow.fromarray(np.full((16, 16), 100, np.uint8)).convert("RGB").save(path, form)
    if form in ({"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper()), "MPO" if kind == "jpg" else None):
        np.testing.assert_array_equal(read_image(path).array, 100)
    else:
        assert "by its content" in refusal(path)


def test_the_suffix_that_would_be_right_is_named(tmp_path, refusal):
    Pillow.fromarray(GREY).save(tmp_path / "a.png", "JPEG")
    assert refusal(tmp_path / "a.png") == "is JPEG by its content, not PNG; its name should end in .jpg"


@pytest.mark.parametrize(("form", "kind"), [("PNG", "png"), ("GIF", "gif"), ("MPO", "jpg"), ("TIFF", "tif")])
def test_several_pictures_in_one_file_are_refused(tmp_path, refusal, form, kind):
    pictures = [Pillow.fromarray(np.full((16, 16), 40 * number, np.uint8)) for number in range(3)]
    pictures[0].save(tmp_path / f"a.{kind}", form, save_all=True, append_images=pictures[1:])
    assert refusal(tmp_path / f"a.{kind}").startswith("holds 3 ")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_not_opened(tmp_path, kind):
    os.mkfifo(tmp_path / f"a.{kind}")
    with pytest.raises(Unreadable, match="not a regular file"):
        read_image(tmp_path / f"a.{kind}")
    if kind != "dcm":
        with pytest.raises(Unreadable, match="not a regular file"):
            read_header(tmp_path / f"a.{kind}", kind)


def test_pictures_beyond_the_limit_are_refused_by_their_header(tmp_path, refusal, monkeypatch):
    assert "declares 20000×30000 pixels" in refusal(png_of(tmp_path / "a.png", 30000, 20000))
    buffer = io.BytesIO()
    Pillow.fromarray(GREY).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 65000, 65000)
    (tmp_path / "a.jpg").write_bytes(data)
    assert "declares 65000×65000 pixels" in refusal(tmp_path / "a.jpg")
    Pillow.fromarray(GREY).save(tmp_path / "a.bmp")
    monkeypatch.setenv("MEDI2I_MAX_PIXELS", "11")
    assert refusal(tmp_path / "a.bmp") == "declares 3×4 pixels, more than 11; --max-pixels 12 would allow it"
    monkeypatch.setenv("MEDI2I_MAX_PIXELS", "12")
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp").array[0], GREY)


def png_of(path, width, height):
    png(path, 4, 3)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    return path


def test_a_picture_larger_than_pillow_warns_of_is_read_where_it_is_allowed(tmp_path, monkeypatch, recwarn):
    path = png(tmp_path / "a.png", 20000, 4500)  # 90 million; Pillow's own limit is 89
    monkeypatch.setenv("MEDI2I_MAX_PIXELS", "90000000")
    assert read_header(path, "png").shape == (1, 4500, 20000)
    assert not recwarn


def test_profiles_and_texts_that_unpack_without_end_are_refused(tmp_path, refusal):
    bomb = zlib.compress(bytes(80 << 20), 9)
    for name, data in ((b"iCCP", b"x\0\0" + bomb), (b"zTXt", b"x\0\0" + bomb)):
        path = png(tmp_path / "a.png", 4, 3, chunk(name, data))
        assert len(refusal(path)) > 10
    with open(png(tmp_path / "b.png", 4, 3), "r+b") as file:
        file.truncate(3 << 30)
    assert refusal(tmp_path / "b.png") == "has 3 GiB for 3×4 pixels, which never take more than 64 MiB"


def test_a_progressive_jpeg_of_thousands_of_scans_is_refused(tmp_path, refusal):
    path = tmp_path / "a.jpg"
    Pillow.fromarray(np.full((64, 64), 9, np.uint8)).save(path, progressive=True)
    assert read_image(path).array.shape == (1, 64, 64)
    data = path.read_bytes()
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:-2] + data[last:-2] * 200 + data[-2:])
    assert "scans" in refusal(path)
