#!/usr/bin/env python
"""Make images of random shapes to try the programs on.

  python tools/make_shapes.py -o data/shapes --size 64 --num 200

`pairs`: trainA holds rectangles, trainB the ellipses in their places, under equal names (testA, testB likewise).
`labels`: trainA holds noisy pictures of rectangles, ellipses and triangles, trainB their class numbers 0…3
(0 is the background), for training with `-cn 4`.
`textures`: trainA holds brown shapes, trainB striped ones; nothing in A belongs to anything in B.
train.txt and test.txt list the pairs.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np

from medi2i.common.errors import UserError, run
from medi2i.common.options import Checked, option, parse
from medi2i.datasets.kinds import kind_named
from medi2i.datasets.reading import to_grey
from medi2i.datasets.writing import write_image
from medi2i.tools.making import shapes
from medi2i.tools.making.shapes import ELLIPSE, RECTANGLE

BROWN = (0.55, 0.33, 0.16)
MEADOW = (0.35, 0.6, 0.25)


@dataclass
class ShapesOptions(Checked):
    """What to make"""

    out: str = option("data/shapes", "-o", "--outdir", metavar="FOLDER", help="new folder for the images and lists")
    make: str = option("pairs", choices=["pairs", "labels", "textures"], help="what trainA and trainB hold")
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
    shapes.write_pairs(
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
    drawn = shapes.random_shapes(generator, size, options.shapes, rotate=False)
    rectangles, ellipses = (shapes.paint(size, drawn, [kind] * len(drawn)) for kind in (RECTANGLE, ELLIPSE))
    return rectangles, ellipses


def picture_and_labels(generator: np.random.Generator, size: tuple[int, int], options: ShapesOptions) -> Pair:
    """A noisy picture (3, H, W) and its class numbers, uint8 (H, W)."""
    drawn = shapes.random_shapes(generator, size, options.shapes)
    kinds = shapes.random_kinds(generator, len(drawn))
    noise = generator.normal(0, options.noise, (1, *size))
    return shapes.paint(size, drawn, kinds) + noise, shapes.label(size, drawn, kinds)


def textures(generator: np.random.Generator, size: tuple[int, int], options: ShapesOptions) -> Pair:
    """A meadow with brown shapes and another with striped ones: two pictures (3, H, W)."""
    pictures = []
    for domain in "AB":
        drawn = shapes.random_shapes(generator, size, options.shapes)
        texture = np.reshape(BROWN, (3, 1, 1)) if domain == "A" else shapes.stripes(size, generator)
        picture = np.broadcast_to(np.reshape(MEADOW, (3, 1, 1)), (3, *size))
        for shape in drawn:
            cover = shape.coverage(size, ELLIPSE)
            picture = picture * (1 - cover) + texture * cover
        pictures.append(picture)
    return pictures[0], pictures[1]


def save(path: Path, image: np.ndarray, grey: bool = False) -> None:
    """Write class numbers (uint8) as they are, a picture (3, H, W) in 0…1 as 8 bit."""
    if image.dtype != np.uint8:
        image = np.rint(np.clip(image, 0, 1) * 255)
        image = to_grey(image, whole=True) if grey and len(image) == 3 else image
    write_image(path, image)


def main(argv: list[str] | None = None) -> int:
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
