#!/usr/bin/env python
"""Make low-resolution partners of images and list the pairs (low, high resolution) for training.

  python tools/make_lowres.py -i data/ct -o data/lowres --scale 2
  python tools/make_lowres.py -i data/mr -o data/lowres --scale 2 --method kspace --keep_small

Low-resolution images go to OUT/trainA, brought back to the grid of the originals (--keep_small: on their own grid, for
training with --scale), the originals to OUT/trainB under equal names, and OUT/pairs.txt lists them.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np
from pydicom.dataset import Dataset

from medi2i.common.errors import as_main, counted
from medi2i.common.options import Checked, option, parse
from medi2i.datasets import dicom, file_names, grid
from medi2i.datasets.dicom.header_checks import text
from medi2i.datasets.dicom.new_series import DerivedSeries
from medi2i.datasets.reading import Image
from medi2i.tools.making import noise
from medi2i.tools.making.training_pairs import LARGEST_HU, Pair, PairMaker, make_pairs


@dataclass
class LowresOptions(Checked):
    """What to make"""

    root: str = option("data", "-i", "-R", metavar="FOLDER", help="images; searched recursively", bare=True)
    out: str = option("data/lowres", "-o", metavar="FOLDER", help="folder for trainA, trainB and pairs.txt")
    scale: int = option(
        2, "-s", type=int, low=2, high=64, help="pixels become so many times as large, in both directions"
    )
    method: str = option(
        "bicubic",
        "-m",
        choices=list(grid.METHODS),
        help="how: anti-aliased bicubic, or the outer part of k-space cut off, as an MR scan with a smaller matrix",
    )
    noise: float = option(0, type=float, low=0, metavar="SD", help="Gaussian noise added to the coarse image, HU in CT")
    keep_small: bool = option(
        False,
        type=bool,
        help="leave the coarse images on their own grid (train with --scale); "
        "else they are brought back to the fine grid by bicubic interpolation",
    )
    seed: int = option(
        0, type=int, low=0, high=2**32 - 1, help="of the noise: same seed and image, same noise, in any order"
    )
    modality: list[str] = option(["CT", "MR"], nargs="+", metavar="NAME", help="DICOM modalities to take")
    imgtype: str = option("auto", "-it", choices=["auto", *file_names.SUFFIXES], help="kind of the images")
    workers: int | None = option(None, "-j", type=int, low=1, high=1024, help="processes; default: one per core")
    force: bool = option(False, type=bool, help="overwrite existing files")


class LowresPairs(PairMaker):
    """Coarse images, on their own grid or brought back to the fine one."""

    options: LowresOptions

    def __init__(self, options: LowresOptions) -> None:
        super().__init__(options)
        self.name = f"medi2i make_lowres 1/{options.scale}"
        self.clean = "originals, cut to whole pixels of the low resolution" if options.keep_small else "single frames"

    def series(self, header: Dataset, repeat: int) -> DerivedSeries:
        """Its description says what was done; all that decides the pixels enters the UIDs."""
        options = self.options
        where = "" if options.keep_small else ", on the fine grid"
        added = f", noise sd={options.noise:g}" if options.noise else ""
        return DerivedSeries(
            header,
            model_name=f"medi2i make_lowres {options.method}",
            description=f"Resolution 1/{options.scale}{where}{added}",
            options={name: getattr(options, name) for name in ("scale", "method", "noise", "keep_small", "seed")},
            value_range=LARGEST_HU if text(header, "Modality") == "CT" else None,  # it overshoots at edges
        )

    def of_dicom(self, image: dicom.DicomImage, rng: np.random.Generator) -> Pair:
        scale = self.options.scale
        made = self.coarse(image.hu[np.newaxis], image.path, rng)[0]
        if not self.options.keep_small:
            return Pair(made, mask=image.mask)
        mask = None if image.mask is None else grid.reduce_mask(grid.cut(image.mask, scale), scale)
        spacing, position = geometry(image, made.shape, scale)
        return Pair(made, clean=self.cut(image.hu), mask=mask, spacing=spacing, position=position)

    def of_plain(self, image: Image, path: Path, rng: np.random.Generator) -> Pair:
        made = self.coarse(image.array, path, rng)
        return Pair(made, clean=self.cut(image.array) if self.options.keep_small else None)

    def cut(self, array: np.ndarray) -> np.ndarray | None:
        """Without incomplete coarse pixels; None where there are none."""
        cut = grid.cut(array, self.options.scale)
        return None if cut.shape == array.shape else cut

    def coarse(self, array: np.ndarray, path: Path, rng: np.random.Generator) -> np.ndarray:
        """(C, H, W) -> the coarse image: (C, H/scale, W/scale), or (C, H, W) where it goes back to the fine grid.

        Sizes that are no multiples of the scale: on its own grid the coarse image lacks the last, incomplete pixels;
        for the fine grid the image is continued by its last row and column first. Unreadable for an image that has
        fewer rows or columns than one coarse pixel.
        """
        scale, (height, width) = self.options.scale, array.shape[1:]
        if min(height, width) < scale:
            raise dicom.Unreadable(path, f"{width}x{height} pixels (width x height) are fewer than --scale {scale}")
        fit = grid.cut if self.options.keep_small else grid.continued
        low = grid.reduce(fit(array, scale), scale, self.options.method)
        if self.options.noise:
            low = noise.gaussian(low, self.options.noise, rng)
        return low if self.options.keep_small else grid.enlarge(low, scale)[:, :height, :width]


def geometry(
    image: dicom.DicomImage, size: tuple[int, int], scale: int
) -> tuple[tuple[float, float], tuple[float, float, float] | None]:
    """Spacing in mm and position of a coarse image of ``size`` (H, W). Raises Unreadable."""
    if image.spacing is None:
        raise dicom.Unreadable(image.path, "has no PixelSpacing, which --keep_small multiplies")
    row, column = image.spacing
    source = grid.Grid.of(image.hu.shape, image.spacing)
    # The middle of what is kept, from the middle of the image: incomplete pixels are cut off at one side only.
    centre = tuple(
        (scale * n - whole) / 2 * mm for n, whole, mm in zip(size, image.hu.shape, image.spacing, strict=True)
    )
    target = grid.Grid(centre, (scale * row, scale * column), size)
    position = grid.new_position(image.where.position, image.where.orientation, source, target)
    return target.spacing, position


def command(argv: list[str]) -> None:
    options = parse(LowresOptions, argv, __doc__)
    count, told = make_pairs(LowresPairs(options), progress="lowering the resolution")
    print(
        f"{Path(options.out)}: {counted(count, 'pair')} in trainA (1/{options.scale} of the resolution) and trainB "
        "(originals), listed in pairs.txt"
    )
    own_grid = f"on their own grid: train with --scale {options.scale}"
    print(f"low-resolution images are {own_grid if options.keep_small else 'on the grid of the originals'}")
    for line in told:
        print(line)


main = as_main(command)


if __name__ == "__main__":
    from medi2i.tools import make_lowres  # under its own name: workers import what they are to do

    sys.exit(make_lowres.main())
