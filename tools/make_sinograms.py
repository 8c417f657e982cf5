#!/usr/bin/env python
"""Make sinograms: pairs to learn reconstruction from (AUTOMAP), or scans of a CT or a phantom to reconstruct.

  python tools/make_sinograms.py -o data/sinograms --size 128 --num 1000
  python tools/make_sinograms.py -o scan --of ct --ct data/ct --views 60 --photons 1e5
  python tools/make_sinograms.py -o scan --of ellipses --num 32 --size 128 --views 30 --noise 0.025

Scans (--of ct, ellipses, shepp-logan) are what reconstruction/reconstruct.py takes: an npy file (views, bins) of line
integrals for each image, geometry.json, and sources.json, which names the CT's slices, as pairs.txt does for
evaluate.py; of phantoms the folder truth holds the images, in HU (-1000 is 0 and 0 is 1). They are measured on a grid
three times as fine.

Pairs (--of shapes): trainA and testA hold sinograms, trainB and testB the images they are of; train.txt and test.txt
list the pairs. The Radon transform is scikit-image's: `size` angles from 0 to 180 degrees, each with `size` rays, one
pixel apart, so that a sinogram has the size of its image. Rows are rays, columns angles.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np
from skimage.transform import radon

from medi2i.common.errors import UserError, as_main
from medi2i.common.options import Checked, option, parse
from medi2i.common.outputs import write_text
from medi2i.datasets import dicom
from medi2i.datasets.writing import write_image, write_npy
from medi2i.reconstruction import geometry as geometries
from medi2i.reconstruction.scans import GEOMETRY, SOURCES, TRUTH
from medi2i.reconstruction.simulate import Scanner, ellipses, shepp_logan
from medi2i.tools import make_shapes

PNG_TOP = 65535
SHAPES, CT, ELLIPSES, SHEPP_LOGAN = "shapes", "ct", "ellipses", "shepp-logan"
FINENESS = 3
PHANTOM_MM = 200.0  # the width of a phantom


@dataclass
class SinogramOptions(Checked):
    """What to make"""

    out: str = option(
        "data/sinograms", "-o", "--outdir", metavar="FOLDER", help="new folder for the images and lists", first=True
    )
    size: int = option(
        128,
        "-s",
        "-z",
        type=int,
        low=16,
        high=4096,
        metavar="PX",
        help="width and height of image and sinogram",
        first=True,
    )
    num: int = option(1000, "-n", type=int, low=1, help="training images; of ellipses, all images", first=True)
    num_test: int = option(100, type=int, low=0, help="test images")
    shapes: int = option(4, type=int, low=1, high=1000, help="most shapes in an image")
    imgtype: str = option(
        "png",
        "-it",
        choices=["png", "npy"],
        help="png: 16 bit, image 0…1 and sinogram 0…size pixels as 0…65535; npy: float32, unscaled",
    )
    seed: int = option(0, type=int, low=0, high=2**32 - 1, help="the same seed makes the same images", first=True)
    of: str = option(
        SHAPES,
        choices=[SHAPES, CT, ELLIPSES, SHEPP_LOGAN],
        help="shapes: pairs for AUTOMAP; else scans for reconstruct.py: of a CT (--ct), of random ellipses, of the "
        "Shepp-Logan phantom",
        first=True,
    )
    ct: str | None = option(None, metavar="FOLDER", help="DICOM series to scan, found by their content", first=True)
    views: int = option(60, type=int, low=1, high=16384, help="of a scan", first=True)
    turn: float | None = option(
        None, type=float, low=0.1, high=3600, metavar="DEG", help="that the views cover [parallel 180, fans 360]"
    )
    beam: str = option(
        geometries.PARALLEL, choices=geometries.BEAMS, help="parallel, or a fan onto an arc or a flat detector"
    )
    source_distance: float = option(
        570.0, type=float, low=1, high=1e5, metavar="MM", help="of a fan's source from the axis"
    )
    photons: float | None = option(
        None, type=float, low=1, high=1e12, metavar="N", help="a ray in air; counts are then random", first=True
    )
    electronic: float = option(
        0.0, type=float, low=0, high=1e6, metavar="N", help="standard deviation of the readout, in photons"
    )
    noise: float = option(
        0.0, type=float, low=0, high=10, metavar="X", help="of the line integrals, as a part of their mean"
    )


def command(argv: list[str]) -> None:
    options = parse(SinogramOptions, argv, __doc__)
    if (options.ct is not None) != (options.of == CT):
        raise UserError("--ct: goes with --of ct, and --of ct with it")
    if options.of != SHAPES:
        with make_shapes.new_folder(options.out) as out:
            return scan(options, out)
    make_shapes.write_pairs(
        options,
        lambda generator: sinogram_and_image(generator, options.size, options.shapes),
        lambda path, image, domain: save(path, image, float(options.size) if domain == "A" else 1.0),
    )
    print(
        f"{options.out}: {options.num} training and {options.num_test} test pairs of {options.size}×{options.size} "
        "pixels (trainA trainB testA testB; train.txt test.txt)"
    )


def scan(options: SinogramOptions, out: Path) -> None:
    """Sinograms, their geometry, and what they are of, into ``out``. Raises UserError."""
    scanner, sources = None, {}
    for number, (hu, spacing, source) in enumerate(images(options), 1):
        name = f"{number:05d}"
        if scanner is None:
            size = hu.shape if source else (options.size, options.size)
            geometry = geometries.regular(
                size,
                spacing,
                options.views,
                beam=options.beam,
                source_distance=0.0 if options.beam == geometries.PARALLEL else options.source_distance,
                turn=options.turn,
            )
            scanner = Scanner(geometry, FINENESS, options.photons, options.electronic, options.noise)
        generator = np.random.default_rng([options.seed, number])
        save(out / f"{name}.npy", scanner.measure(geometry.to_attenuation(hu), generator), 1.0)
        if source:
            sources[name] = source
        else:
            parts = hu.reshape(options.size, FINENESS, options.size, FINENESS).mean((1, 3))
            (out / TRUTH).mkdir(exist_ok=True)
            save(out / TRUTH / f"{name}.npy", parts, 1.0)
    geometries.save(out / GEOMETRY, geometry)
    if sources:
        write_text(out / SOURCES, json.dumps(sources, indent=1) + "\n")
        write_text(out / "pairs.txt", "".join(f"{name}.dcm\t{file}\n" for name, (file, _) in sources.items()))
    views, bins = geometry.sinogram_shape
    print(f"{out}: {number} sinograms of {views} views and {bins} bins; {GEOMETRY} says where the rays ran")


def images(options: SinogramOptions) -> Iterator[tuple[np.ndarray, tuple[float, float], tuple[str, int] | None]]:
    """Images in HU, mm between their pixels, and where a CT's lies (file, frame). Phantoms are FINENESS times as fine.

    Raises UserError for a CT whose slices are not of one size and spacing.
    """
    if options.ct is None:
        pixel = PHANTOM_MM / options.size
        fine = options.size * FINENESS
        for number in range(1 if options.of == SHEPP_LOGAN else options.num):
            generator = np.random.default_rng([options.seed, number, 1])
            image = shepp_logan(fine) if options.of == SHEPP_LOGAN else ellipses(generator, fine)
            yield 1000 * image - 1000, (pixel, pixel), None
        return
    found = dicom.scan(options.ct, modalities=("CT",)).require_series()
    spacing = found[0].spacing
    if spacing is None or any((series.shape, series.spacing) != (found[0].shape, spacing) for series in found):
        raise UserError(f"--ct: {options.ct}: one size and pixel spacing for all slices would be right; series differ")
    for item in (item for series in found for item in series.slices):
        hu = dicom.read(item.path, item.frame).hu
        yield np.maximum(hu, -1000), spacing, (str(item.path.resolve()), item.frame)


def sinogram_and_image(generator: np.random.Generator, size: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The sinogram of at most `most` shapes (float (H, W), 0…1) on a black disc, and these: the Radon transform sees
    nothing outside the inscribed circle."""
    drawn = make_shapes.random_shapes(generator, (size, size), most)
    image = make_shapes.paint((size, size), drawn, make_shapes.random_kinds(generator, len(drawn)))[0]
    rows, columns = np.indices((size, size)) - size // 2
    image = np.where(rows**2 + columns**2 <= (size // 2 - 1) ** 2, image, 0.0)
    return sinogram(image), image


def sinogram(image: np.ndarray) -> np.ndarray:
    """Line integrals (rays, angles) in pixels of a square image (H, H), as many angles as rows."""
    angles = np.arange(len(image)) * (180.0 / len(image))
    return radon(image, theta=angles, circle=True)


def save(path: Path, array: np.ndarray, top: float) -> None:
    """npy: float32 as it is; png: 16 bit, `top` becomes 65535."""
    if path.suffix == ".npy":
        write_npy(path, array.astype(np.float32))
    else:
        write_image(path, array / top * PNG_TOP, bits=16)


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
