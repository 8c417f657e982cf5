"""The images of make_lowres: its options, and one image made coarse and written with its clean twin."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medi2i.common.options import Checked, option
from medi2i.datasets import dicom, grid, kinds, reading, writing
from medi2i.datasets.dicom.derived_series import DerivedSeries
from medi2i.datasets.dicom.header_checks import text
from medi2i.datasets.grid import Grid, new_position
from medi2i.tools.making import noise
from medi2i.tools.making.pair_folders import Done, Task, copy_file, refuse_existing

LARGEST_HU = (-3000.0, 8000.0)
"""What HU must be able to hold where interpolation and truncation overshoot at edges."""


@dataclass
class LowresOptions(Checked):
    """What to make"""

    root: str = option("data", "-i", "-R", metavar="FOLDER", help="images; searched recursively")
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
    modality: list = option(["CT", "MR"], nargs="+", metavar="NAME", help="DICOM modalities to take")
    imgtype: str = option("auto", "-it", choices=["auto", *kinds.SUFFIXES], help="kind of the images")
    workers: int = option(None, "-j", type=int, low=1, high=1024, help="processes; default: one per core")
    force: bool = option(False, type=bool, help="overwrite existing files")


def series_for(options: LowresOptions, header: Dataset, repeat: int) -> DerivedSeries:
    """The coarse series: its description says what was done; all that decides the pixels enters the UIDs."""
    grid = "" if options.keep_small else ", on the fine grid"
    added = f", noise sd={options.noise:g}" if options.noise else ""
    return DerivedSeries(
        header,
        model_name=f"medi2i make_lowres {options.method}",
        description=f"Resolution 1/{options.scale}{grid}{added}",
        options={name: getattr(options, name) for name in ("scale", "method", "noise", "keep_small", "seed")},
        value_range=LARGEST_HU if text(header, "Modality") == "CT" else None,
    )


def make_coarse(task: Task, out: Path, options: LowresOptions) -> Done:
    """Write the coarse and the clean image of a task. An input that cannot be used is a problem of that image only."""
    try:
        return image_pair(task, out, options) if task.series is None else dicom_pair(task, out, options)
    except dicom.Unreadable as error:
        return Done(task.name, problem=error.reason)


def coarse(array: np.ndarray, options: LowresOptions, rng: np.random.Generator) -> np.ndarray:
    """(C, H, W) -> the coarse image: (C, H/scale, W/scale), or (C, H, W) where it goes back to the fine grid.

    Sizes that are no multiples of the scale: on its own grid the coarse image lacks the last, incomplete pixels; for
    the fine grid the image is continued by its last row and column first.
    """
    fit = grid.cut if options.keep_small else grid.continued
    low = grid.reduce(fit(array, options.scale), options.scale, options.method)
    if options.noise:
        low = noise.gaussian(low, options.noise, rng)
    if options.keep_small:
        return low
    return grid.enlarge(low, options.scale)[:, : array.shape[1], : array.shape[2]]


def dicom_pair(task: Task, out: Path, options: LowresOptions) -> Done:
    """Raises Unreadable, and UserError where a file is in the way."""
    image = dicom.read(task.source.path, task.source.frame, modalities=tuple(options.modality))
    check_size(task.source.path, image.hu.shape, options.scale)
    rng = noise.generator_for(
        options.seed,
        0,
        text(image.header, "SOPInstanceUID"),
        str(task.source.frame),
        np.ascontiguousarray(image.stored).tobytes(),
    )
    values = coarse(image.hu[np.newaxis], options, rng)[0]
    clean = out / "trainB" / task.name
    whole = not options.keep_small or grid.cut(image.hu, options.scale).shape == image.hu.shape
    if not options.keep_small:
        report = task.series.write(out / "trainA" / task.name, image, values, mask=image.mask, force=options.force)
    else:
        mask = None if image.mask is None else grid.reduce_mask(grid.cut(image.mask, options.scale), options.scale)
        report = task.series.write(
            out / "trainA" / task.name,
            image,
            values,
            mask=mask,
            force=options.force,
            **geometry(image, values.shape, options.scale),
        )
    if task.source.frames == 1 and whole:
        copy_file(task.source.path, clean, options.force)
    else:
        hu = grid.cut(image.hu, options.scale) if options.keep_small else image.hu
        mask = None if image.mask is None else image.mask[: hu.shape[0], : hu.shape[1]]
        # What is cut off lies at the end of rows and columns: spacing and position stay.
        task.clean_series.write(
            clean, image, hu, mask=mask, spacing=None if whole else image.spacing, force=options.force
        )
    return Done(task.name, report.clipped, values.size)


def geometry(image: dicom.DicomImage, size: tuple[int, int], scale: int) -> dict:
    """Spacing in mm and position of a coarse image of ``size`` (H, W), for DerivedSeries.write. Raises Unreadable."""
    if image.spacing is None:
        raise dicom.Unreadable(image.path, "has no PixelSpacing, which --keep_small multiplies")
    row, column = image.spacing
    source = Grid.of(image.hu.shape, image.spacing)
    # The middle of what is kept, from the middle of the image: incomplete pixels are cut off at one side only.
    centre = tuple(
        (scale * n - whole) / 2 * mm for n, whole, mm in zip(size, image.hu.shape, image.spacing, strict=True)
    )
    target = Grid(centre, (scale * row, scale * column), size)
    where = image.where
    position = (
        None
        if where.position is None or where.orientation is None
        else new_position(where.position, where.orientation, source, target)
    )
    return {"spacing": target.spacing, "position": position}


def image_pair(task: Task, out: Path, options: LowresOptions) -> Done:
    """The same for images that are not DICOM."""
    image = reading.read_image(task.source.path)
    array, kind = image.array, kinds.kind_of(task.name)
    check_size(task.source.path, array.shape[1:], options.scale)
    rng = noise.generator_for(options.seed, 0, np.ascontiguousarray(array).tobytes())
    values = coarse(array, options, rng)
    refuse_existing(out, task.name, options.force)
    saturated = writing.write_image(out / "trainA" / task.name, values, kind, bits=image.bits)
    clean = grid.cut(array, options.scale) if options.keep_small else array
    if kinds.kind_of(task.source.path) == kind and clean.shape == array.shape:
        copy_file(task.source.path, out / "trainB" / task.name, options.force)
    else:
        writing.write_image(out / "trainB" / task.name, clean, kind, bits=image.bits)
    return Done(task.name, saturated, values.size)


def check_size(path: Path, size: tuple[int, int], scale: int) -> None:
    """Unreadable for an image that has fewer rows or columns than one coarse pixel."""
    if min(size) < scale:
        raise dicom.Unreadable(path, f"{size[1]}x{size[0]} pixels (width x height) are fewer than --scale {scale}")
