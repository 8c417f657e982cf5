#!/usr/bin/env python
"""Make images of random shapes to try the programs on.

  python tools/make_shapes.py -o data/shapes --size 64 --num 200

`pairs`: trainA holds rectangles, trainB the ellipses in their places, under equal names (testA, testB likewise).
`labels`: trainA holds noisy pictures of rectangles, ellipses and triangles, trainB their class numbers 0…3
(0 is the background), for training with `-cn 4`.
`textures`: trainA holds brown shapes, trainB striped ones; nothing in A belongs to anything in B.
train.txt and test.txt list the pairs.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np

from medi2i.common.errors import UserError, as_main
from medi2i.common.locks import is_lock, locked
from medi2i.common.options import Checked, option, parse
from medi2i.common.outputs import write_text
from medi2i.datasets.file_names import kind_named
from medi2i.datasets.reading import to_grey
from medi2i.datasets.writing import write_image

SUPERSAMPLING = 4  # sub-pixels per pixel and direction, so that edges are smooth
RECTANGLE, ELLIPSE, TRIANGLE = "rectangle", "ellipse", "triangle"
CLASSES = (RECTANGLE, ELLIPSE, TRIANGLE)
"""Label of a shape in a label image: its place here + 1; 0 is the background."""


@dataclass(frozen=True)
class Shape:
    """Centre and half axes in pixels (row, column), rotation in radians, colour (R, G, B) 0…1."""

    centre: tuple[float, float]
    half: tuple[float, float]
    angle: float
    colour: tuple[float, float, float]

    def coverage(self, size: tuple[int, int], kind: str) -> np.ndarray:
        """How much of every pixel the shape covers: float (H, W), multiples of 1/SUPERSAMPLING²."""
        height, width = size
        rows, columns = (
            np.arange(length * SUPERSAMPLING) / SUPERSAMPLING + 0.5 / SUPERSAMPLING - 0.5 for length in (height, width)
        )
        down, right = np.meshgrid(rows - self.centre[0], columns - self.centre[1], indexing="ij")
        along = (np.cos(self.angle) * down + np.sin(self.angle) * right) / self.half[0]
        across = (np.cos(self.angle) * right - np.sin(self.angle) * down) / self.half[1]
        fine = _INSIDE[kind](along, across)
        return fine.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING).mean(axis=(1, 3))


_INSIDE = {
    RECTANGLE: lambda v, u: (np.abs(v) <= 1) & (np.abs(u) <= 1),
    ELLIPSE: lambda v, u: v * v + u * u <= 1,
    TRIANGLE: lambda v, u: (np.abs(v) <= 1) & (np.abs(u) <= (v + 1) / 2),
}


def random_shape(generator: np.random.Generator, size: tuple[int, int], rotate: bool) -> Shape:
    """A shape that lies within the image; half axes from 0.1 to 0.28 of the shorter side."""
    half = generator.uniform(0.1, 0.28, 2) * min(size)
    margins = [np.hypot(*half)] * 2 if rotate else half
    row, column = (generator.uniform(margin, n - 1 - margin) for n, margin in zip(size, margins, strict=True))
    angle = generator.uniform(0, 2 * np.pi) if rotate else 0.0
    red, green, blue = generator.uniform(0.25, 1.0, 3)
    return Shape((row, column), (half[0], half[1]), angle, (red, green, blue))


def random_shapes(generator: np.random.Generator, size: tuple[int, int], most: int, rotate: bool = True) -> list[Shape]:
    """One shape, or up to `most`."""
    return [random_shape(generator, size, rotate) for _ in range(generator.integers(1, most + 1))]


def random_kinds(generator: np.random.Generator, count: int) -> list[str]:
    """So many of CLASSES."""
    return [CLASSES[index] for index in generator.integers(len(CLASSES), size=count)]


def paint(
    size: tuple[int, int],
    shapes: Sequence[Shape],
    kinds: Sequence[str],
    ground: Sequence[float] = (0.0, 0.0, 0.0),
    texture: np.ndarray | None = None,
) -> np.ndarray:
    """A picture float (3, H, W) in 0…1: the shapes over each other on a ``ground``, the last on top, in their own
    colours or all in a ``texture`` (3, H, W) or (3, 1, 1).
    """
    picture = np.broadcast_to(np.reshape(ground, (3, 1, 1)), (3, *size))
    for shape, kind in zip(shapes, kinds, strict=True):
        cover = shape.coverage(size, kind)
        colours = np.reshape(shape.colour, (3, 1, 1)) if texture is None else texture
        picture = picture * (1 - cover) + colours * cover
    return picture


def label(size: tuple[int, int], shapes: Sequence[Shape], kinds: Sequence[str]) -> np.ndarray:
    """The label image uint8 (H, W) of the same: the class of the shape that covers at least half of the pixel."""
    labels = np.zeros(size, dtype=np.uint8)
    for shape, kind in zip(shapes, kinds, strict=True):
        labels[shape.coverage(size, kind) >= 0.5] = CLASSES.index(kind) + 1
    return labels


def stripes(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Black and white stripes (3, H, W) of random direction and place, 6 pixels wide each."""
    direction, phase = generator.uniform(0, 2 * np.pi, 2)
    rows, columns = np.indices(size)
    wave = np.sin((rows * np.cos(direction) + columns * np.sin(direction)) * np.pi / 6 + phase)
    return np.broadcast_to(np.clip(0.5 + 2 * wave, 0, 1), (3, *size))


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[Path]:
    """The folder, made and held. UserError where it is there and not empty: images of two sets would mix."""
    out = Path(path)
    with locked(out, "writing"):
        if any(not is_lock(one) for one in out.iterdir()):
            raise UserError(f"--out: {out} is not empty; give a new folder")
        yield out


def write_pairs(
    options: Any,
    make: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]],
    save: Callable[[Path, np.ndarray, str], None],
) -> None:
    """Fill a new folder: trainA and testA with the first images that `make` gives, trainB and testB with the second
    under equal names, lists of them in train.txt and test.txt. `save(path, image, A or B)` writes one. `options`: with
    out, num, num_test, imgtype and seed.
    """
    with new_folder(options.out) as out:
        for phase, count in (("train", options.num), ("test", options.num_test)):
            for domain in "AB":
                (out / f"{phase}{domain}").mkdir()
            names = []
            for number in range(count):
                # one generator for each image: the first images do not depend on how many there are
                generator = np.random.default_rng([options.seed, phase == "test", number])
                name = f"{number + 1:05d}.{options.imgtype}"
                for domain, image in zip("AB", make(generator), strict=True):
                    save(out / f"{phase}{domain}" / name, image, domain)
                names.append(f"{phase}A/{name}\t{phase}B/{name}\n")
            write_text(out / f"{phase}.txt", "".join(names))


BROWN = (0.55, 0.33, 0.16)
MEADOW = (0.35, 0.6, 0.25)


@dataclass
class ShapesOptions(Checked):
    """What to make"""

    out: str = option("data/shapes", "-o", "--outdir", metavar="FOLDER", help="new folder for the images and lists")
    make: str = option(
        "pairs", choices=["pairs", "labels", "textures"], help="what trainA and trainB hold; labels: classes 0 to 3"
    )
    size: list[int] = option(
        [64],
        "-s",
        "-z",
        nargs="+",
        type=int,
        low=16,
        high=16384,
        metavar="PX",
        help="width, or height and width, in pixels",
    )
    num: int = option(200, "-n", type=int, low=1, help="training images")
    num_test: int = option(40, type=int, low=0, help="test images")
    shapes: int = option(3, type=int, low=1, high=1000, help="most shapes in an image")
    noise: float = option(0.05, type=float, low=0, high=1, help="standard deviation of the noise in `labels`, of 0…1")
    grey: bool = option(False, type=bool, help="one channel instead of three")
    imgtype: str = option(
        "png", "-it", choices=["png", "jpg"], spelled=kind_named, help="kind of the images (class numbers are PNG)"
    )
    seed: int = option(0, type=int, low=0, high=2**32 - 1, help="the same seed makes the same images")


def command(argv: list[str]) -> None:
    options = parse(ShapesOptions, argv, __doc__)
    if len(options.size) > 2:
        raise UserError(f"--size: {len(options.size)} values; give the width, or height and width")
    if options.make == "labels" and options.imgtype == "jpg":
        raise UserError("--imgtype: jpg would blur class numbers; --make labels needs png")
    size = (options.size[0], options.size[-1])
    make = {"pairs": pair, "labels": picture_and_labels, "textures": textures}[options.make]
    write_pairs(
        options,
        lambda generator: make(generator, size, options),
        lambda path, image, domain: save(path, image, options.grey),
    )
    print(
        f"{options.out}: {options.num} training and {options.num_test} test images of {size[1]}×{size[0]} pixels "
        "(trainA trainB testA testB; train.txt test.txt)"
    )


Pair = tuple[np.ndarray, np.ndarray]


def pair(generator: np.random.Generator, size: tuple[int, int], options: ShapesOptions) -> Pair:
    """Rectangles, and the ellipses that fit into them: two pictures (3, H, W)."""
    drawn = random_shapes(generator, size, options.shapes, rotate=False)
    rectangles, ellipses = (paint(size, drawn, [kind] * len(drawn)) for kind in (RECTANGLE, ELLIPSE))
    return rectangles, ellipses


def picture_and_labels(generator: np.random.Generator, size: tuple[int, int], options: ShapesOptions) -> Pair:
    """A noisy picture (3, H, W) and its class numbers, uint8 (H, W)."""
    drawn = random_shapes(generator, size, options.shapes)
    kinds = random_kinds(generator, len(drawn))
    noise = generator.normal(0, options.noise, (1, *size))
    return paint(size, drawn, kinds) + noise, label(size, drawn, kinds)


def textures(generator: np.random.Generator, size: tuple[int, int], options: ShapesOptions) -> Pair:
    """A meadow with brown shapes and another with striped ones: two pictures (3, H, W)."""
    pictures = []
    for domain in "AB":
        drawn = random_shapes(generator, size, options.shapes)
        texture = np.reshape(BROWN, (3, 1, 1)) if domain == "A" else stripes(size, generator)
        pictures.append(paint(size, drawn, [ELLIPSE] * len(drawn), MEADOW, texture))
    return pictures[0], pictures[1]


def save(path: Path, image: np.ndarray, grey: bool = False) -> None:
    """Write class numbers (uint8) as they are, a picture (3, H, W) in 0…1 as 8 bit."""
    if image.dtype != np.uint8:
        image = np.rint(np.clip(image, 0, 1) * 255)
        image = to_grey(image, whole=True) if grey and len(image) == 3 else image
    write_image(path, image)


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
