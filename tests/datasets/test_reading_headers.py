import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from medi2i.datasets.dicom.header_checks import Unreadable
from medi2i.datasets.reading import Header, declared_values, read_header, read_image
from medi2i.datasets.writing import write_image

NOISE = np.random.default_rng(0).integers(0, 256, (41, 57)).astype(np.uint8)
COLOUR = np.stack([NOISE, 255 - NOISE, NOISE[::-1]])


def made(path, name):
    file = path / name
    kind = name.split(".")[-1]
    if name.startswith("palette"):
        Pillow.fromarray(NOISE, "P").save(file)
    elif name.startswith("one_bit"):
        Pillow.fromarray(NOISE > 100).save(file)
    elif name.startswith("transparent"):
        Pillow.fromarray(np.dstack([NOISE, NOISE]), "LA").save(file)
    elif name.startswith("planar"):
        tifffile.imwrite(file, COLOUR, photometric="rgb", planarconfig="separate")
    elif name.startswith("lzw"):
        Pillow.fromarray(NOISE).save(file, compression="tiff_lzw")
    elif name.startswith("white"):
        tifffile.imwrite(file, NOISE, photometric="miniswhite")
    elif name.startswith("deep"):
        write_image(file, NOISE * 200.0, bits=16)
    elif name.startswith("float"):
        write_image(file, NOISE / 7.0, bits=None)
    else:
        write_image(file, COLOUR if name.startswith("colour") else NOISE, kind)
    return file, kind


@pytest.mark.parametrize(
    "name",
    [
        "grey.png",
        "colour.png",
        "deep.png",
        "palette.png",
        "one_bit.png",
        "transparent.png",
        "grey.jpg",
        "colour.jpg",
        "grey.bmp",
        "colour.bmp",
        "grey.tif",
        "colour.tif",
        "deep.tif",
        "float.tif",
        "planar.tif",
        "lzw.tif",
        "white.tif",
        "grey.npy",
        "colour.npy",
        "grey.csv",
        "grey.txt",
    ],
)
@pytest.mark.parametrize("labels", [False, True])
def test_header_says_what_reading_gives(tmp_path, name, labels):
    file, kind = made(tmp_path, name)
    image = read_image(file, kind, labels=labels)
    extent = None if image.bits else (image.array.min(), image.array.max())
    assert read_header(file, kind, labels) == Header(image.array.shape, image.bits, extent)
    if not labels:
        assert (
            image.array.size <= declared_values(file, kind) <= (10 if kind in ("csv", "txt") else 1) * image.array.size
        )


@pytest.mark.parametrize("name", ["grey.png", "grey.jpg", "colour.tif", "lzw.tif", "grey.bmp", "grey.npy", "deep.png"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_cut_files_are_found_before_they_are_needed(tmp_path, name, share):
    file, kind = made(tmp_path, name)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(Unreadable, match=name):
        read_header(file, kind)
    declared_values(file, kind)  # raises nothing


def test_numbers_behind_the_end_do_not_matter(tmp_path):
    file, kind = made(tmp_path, "grey.jpg")
    file.write_bytes(file.read_bytes() + bytes(1000))
    assert read_header(file, kind).shape == (1, 41, 57)


def test_nan_in_plain_numbers_is_found(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1.0, np.nan]]))
    with pytest.raises(Unreadable, match="NaN"):
        read_header(tmp_path / "a.npy", "npy")
