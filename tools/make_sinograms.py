#!/usr/bin/env python
"""Make random images and their sinograms, to learn reconstruction from (AUTOMAP).

  python tools/make_sinograms.py -o data/sinograms --size 128 --num 1000

trainA and testA hold sinograms, trainB and testB the images they are of; train.txt and test.txt list the pairs.
The Radon transform is scikit-image's: `size` angles from 0 to 180 degrees, each with `size` rays, one pixel apart, so
that a sinogram has the size of its image. Rows are rays, columns angles.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.transform import radon

from medi2i.common.errors import run
from medi2i.common.options import Checked, option, parse
from medi2i.datasets.outputs import whole_file
from medi2i.tools.making import shapes

PNG_TOP = 65535


@dataclass
class SinogramOptions(Checked):
    """What to make"""

    out: str = option("data/sinograms", "-o", "--outdir", metavar="FOLDER", help="new folder for the images and lists")
    size: int = option(
        128, "-s", "-z", type=int, low=16, high=4096, metavar="PX", help="width and height of image and sinogram"
    )
    num: int = option(1000, "-n", type=int, low=1, help="training images")
    num_test: int = option(100, type=int, low=0, help="test images")
    shapes: int = option(4, type=int, low=1, high=1000, help="most shapes in an image")
    imgtype: str = option(
        "png",
        "-it",
        choices=["png", "npy"],
        help="png: 16 bit, image 0…1 and sinogram 0…size pixels as 0…65535; npy: float32, unscaled",
    )
    seed: int = option(0, type=int, low=0, high=2**32 - 1, help="the same seed makes the same images")


def command(argv: list[str]) -> None:
    options = parse(SinogramOptions, argv, prog="make_sinograms", description=__doc__.splitlines()[0])
    shapes.write_pairs(
        options,
        lambda generator: sinogram_and_image(generator, options.size, options.shapes),
        lambda path, image, domain: save(path, image, float(options.size) if domain == "A" else 1.0),
    )
    print(
        f"{options.out}: {options.num} training and {options.num_test} test pairs of {options.size}×{options.size} "
        "pixels (trainA trainB testA testB; train.txt test.txt)"
    )


def sinogram_and_image(generator: np.random.Generator, size: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The sinogram of at most `most` shapes (float (H, W), 0…1) on a black disc, and these: the Radon transform sees
    nothing outside the inscribed circle."""
    drawn = shapes.random_shapes(generator, (size, size), most)
    image = shapes.paint((size, size), drawn, shapes.random_kinds(generator, len(drawn)))[0]
    rows, columns = np.indices((size, size)) - size // 2
    image = np.where(rows**2 + columns**2 <= (size // 2 - 1) ** 2, image, 0.0)
    return sinogram(image), image


def sinogram(image: np.ndarray) -> np.ndarray:
    """Line integrals (rays, angles) in pixels of a square image (H, H), as many angles as rows."""
    angles = np.arange(len(image)) * (180.0 / len(image))
    return radon(image, theta=angles, circle=True)


def save(path: Path, array: np.ndarray, top: float) -> None:
    """npy: float32 as it is; png: 16 bit, `top` becomes 65535."""
    with whole_file(path, force=True) as temporary, open(temporary, "wb") as file:
        if path.suffix == ".npy":
            np.save(file, array.astype(np.float32), allow_pickle=False)
        else:
            values = np.rint(np.clip(array / top, 0, 1) * PNG_TOP).astype(np.uint16)
            Image.fromarray(values).save(file, "png")


def main(argv: list[str] | None = None) -> int:
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
