#!/usr/bin/env python
"""Bring series to a common place, size and pixel spacing, as derived series with the geometry that this makes.

  python tools/register.py -i ct -o registered --to body --size 256 --spacing 1.5
  python tools/register.py -i mr -o registered --to template --template ct
  python tools/register.py -i ct -o public --to none --mask body --deidentify

Images are shifted in their plane, the same for all slices of a series, so that the centre of the body, or the place
where the series looks like the template, comes to the middle. Every slice stays at its place in the patient: positions
are those of the new pixels in the series' own frame of reference, never the template's.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from medi2i.common.errors import UserError, run
from medi2i.common.options import Checked, option, parse
from medi2i.datasets import dicom
from medi2i.datasets.catalogue import name_below
from medi2i.datasets.dicom.derived_series import DerivedSeries
from medi2i.datasets.grid import ORDERS, Grid, new_position, sample
from medi2i.datasets.locks import locked
from medi2i.datasets.outputs import whole_file
from medi2i.datasets.preparing import AIR_HU, SKIN_HU, body_mask
from medi2i.datasets.reading import read_image
from medi2i.tools.making import registration
from medi2i.tools.making.deidentify import Deidentifier
from medi2i.tools.making.training_pairs import first_readable, name_of

BODY, TEMPLATE, NONE = "body", "template", "none"
PARALLEL = 0.99  # cosine: axes that point the same way
POOR = 0.5  # correlation after registration below which to warn


@dataclass
class RegisterOptions(Checked):
    """What to do with a series"""

    root: str = option("data", "-i", "-R", metavar="FOLDER", help="DICOM series, found by their content")
    out: str = option("registered", "-o", "--outdir", metavar="FOLDER", help="folder for the new series, as the root's")
    to: str = option(
        BODY,
        choices=[BODY, TEMPLATE, NONE],
        help="what comes to the middle: the body's centre, what is there in the template, or what is there already",
    )
    template: str | None = option(None, metavar="FOLDER", help="series for --to template; its grid is the default")
    size: list | None = option(
        None,
        "-s",
        nargs="+",
        type=int,
        low=8,
        high=16384,
        metavar="PX",
        help="width, or height and width, of the new images [the same field in the new spacing]",
    )
    spacing: float | None = option(
        None,
        "-f",
        "-fs",
        "--forceSpacing",
        type=float,
        low=0.01,
        metavar="MM",
        help="size of the new pixels [the same]",
    )
    scale: float | None = option(
        None,
        type=float,
        low=0.01,
        high=100,
        metavar="X",
        help="so many times as many pixels a mm, in place of --spacing",
    )
    translate: list | None = option(
        None,
        "-tr",
        nargs="*",
        type=float,
        metavar="MM",
        help="then shift everything by so many mm to the right and down [0 0]",
    )
    random_translate: int = option(
        0,
        "-rt",
        type=int,
        low=0,
        high=16384,
        metavar="PX",
        help="shift each series at random by up to so many of the new pixels",
    )
    seed: int = option(
        0, type=int, low=0, high=2**32 - 1, help="of --random_translate: the same seed and series, the same shift"
    )
    slice_range: list | None = option(
        None, "-sr", "-z", nargs=2, type=float, metavar="MM", help="only slices between these positions"
    )
    mask: str = option(NONE, choices=[NONE, BODY], help="body: set what lies outside the body to air")
    mask_img: list | None = option(
        None,
        nargs="*",
        metavar="FILE",
        help="a picture or npy that is 0 on what is to be set to air; without one, --mask body",
    )
    threshold: float | None = option(None, type=float, metavar="HU", help="what is above it is body [CT: -500]")
    padding: float | None = option(
        None,
        type=float,
        metavar="HU",
        help="value beside the image and outside the mask [CT: -1000, else marked as padding]",
    )
    interpolation: str = option("linear", choices=list(ORDERS), help="between pixels")
    deidentify: bool = option(
        False,
        "--anonimise",
        "--anonymise",
        type=bool,
        help="remove what tells of the patient (PS3.15 Annex E, basic profile)",
    )
    modality: list = option(["CT", "MR"], nargs="+", metavar="NAME", help="modalities to take")
    force: bool = option(False, type=bool, help="overwrite files that are there (inputs never are)")


def command(argv):
    options = parse(RegisterOptions, argv, prog="register", description=__doc__.splitlines()[0])
    if options.size is not None and len(options.size) > 2:
        raise UserError(f"--size: {len(options.size)} values; give the width, or height and width")
    if options.scale is not None and options.spacing is not None:
        raise UserError("--scale: given together with --spacing; one of them says how large pixels are")
    for name, counts in (("translate", (0, 2)), ("mask_img", (0, 1))):
        if len(getattr(options, name) or []) not in counts:
            raise UserError(f"--{name}: {len(getattr(options, name))} values; it takes none or {counts[1]}")
    if (options.template is not None) != (options.to == TEMPLATE):
        raise UserError("--template: goes with --to template, and --to template with it")
    deidentifier = Deidentifier() if options.deidentify else None
    template = read_template(options) if options.template else None
    found = dicom.scan(options.root, modalities=tuple(options.modality))
    for skipped in found.skipped:
        print(f"warning: skipped {skipped.path}: {skipped.reason}", file=sys.stderr)
    with locked(Path(options.out), "writing"):
        taken = set()
        for series in found.require_series():
            register(series, template, options, deidentifier, taken)


def register(series, template, options, deidentifier, taken):
    """Write one series. Raises UserError."""
    slices = chosen_slices(series, options.slice_range)
    if series.spacing is None:
        raise UserError(f"{slices[0].path}: has no PixelSpacing; nothing can be placed in mm")
    source = Grid.of(series.shape, series.spacing)
    centre, told = where(series, slices, template, options)
    target, moved = shifted(target_grid(source, centre, template, options), series, options)
    header = dicom.read(first_readable(series), modalities=(series.modality,)).header
    description = f"{series.description} registered".strip() if deidentifier is None else "registered"
    derived = DerivedSeries(
        header,
        model_name="medi2i register",
        description=description,
        options={
            "centre": target.centre,
            "spacing": target.spacing,
            "size": target.size,
            "mask": options.mask,
            "interpolation": options.interpolation,
            **{
                name: value
                for name in ("mask_img", "threshold", "padding")
                if (value := getattr(options, name)) is not None
            },
        },
    )
    air = np.float32(AIR_HU if options.padding is None else options.padding)
    clipped = padded = 0
    for item in slices:
        image = dicom.read(item.path, item.frame, modalities=(series.modality,))
        values, padding = sample(masked(image, options, air), source, target, image.mask, ORDERS[options.interpolation])
        if (image.modality == "CT" or options.padding is not None) and not np.any(image.mask):
            values, padding = np.where(padding, air, values), None  # beside the image there is air
        position = new_position(item.position, item.orientation, source, target)
        out = Path(options.out) / name_of(name_below(item.path, Path(options.root)), "dcm", item, taken)
        write = dict(mask=padding, force=options.force)
        if target != source:
            write |= dict(spacing=target.spacing, position=position)
        if deidentifier is None:
            report = derived.write(out, image, values, **write)
        else:
            report = write_deidentified(derived, out, image, values, deidentifier, description, write)
        clipped, padded = clipped + report.clipped, padded + report.padded
    name = series.description if deidentifier is None else "series"
    print(
        f"{name or 'series'}: {len(slices)} slices, {target.size[1]}×{target.size[0]} pixels of "
        f"{target.spacing[1]:g}×{target.spacing[0]:g} mm; {told}{moved}"
        + (f"; {clipped} values clipped" if clipped else "")
        + (f"; {padded} pixels are padding" if padded else "")
    )


def chosen_slices(series, limits):
    """The slices between the positions (mm) of --slice_range. Raises UserError where there is none."""
    if limits is None:
        return series.slices
    chosen = [item for item in series.slices if item.height is not None and limits[0] <= item.height <= limits[1]]
    if not chosen:
        heights = [item.height for item in series.slices if item.height is not None]
        there = f"they lie between {min(heights):g} and {max(heights):g}" if heights else "none has a position"
        raise UserError(
            f"--slice_range: no slice of {series.slices[0].path.parent} between {limits[0]:g} and "
            f"{limits[1]:g} mm; {there}"
        )
    return chosen


def where(series, slices, template, options):
    """The centre (v, u) of the new images in mm from that of the old ones, and how it was found, in words."""
    if options.to == NONE:
        return (0.0, 0.0), "not moved"
    volume = np.stack([dicom.read(item.path, item.frame, modalities=(series.modality,)).hu for item in slices])
    if options.to == BODY:
        v, u = registration.body_centre(volume, np.array(series.spacing), series.modality, options.threshold)
        return (v, u), f"the body's centre was {u:+.2f} mm to the right and {v:+.2f} mm below the middle"
    require_parallel(series, template)
    found = registration.translation(
        dicom.read_volume(template),
        (distance_of(template), *template.spacing),
        volume,
        (distance_of(series), *series.spacing),
        series.modality,
    )
    z, v, u = found.shift
    if found.after < max(POOR, found.before):
        print(
            f"warning: {slices[0].path}: looks little like the template (correlation {found.after:.2f}, "
            f"{found.before:.2f} before); look at the result",
            file=sys.stderr,
        )
    return (v, u), (
        f"was {u:+.2f} mm to the right of the template, {v:+.2f} mm below and {z:+.1f} mm along the slices "
        f"(which stay): correlation {found.before:.3f} → {found.after:.3f}"
    )


def target_grid(source, centre, template, options) -> Grid:
    """The grid of the new images: as asked for, else the template's, else the source's field."""
    like = source if template is None else Grid.of(template.shape, template.spacing)
    spacing = like.spacing if options.spacing is None else (options.spacing, options.spacing)
    if options.scale is not None:
        spacing = tuple(mm / options.scale for mm in spacing)
    if options.size is not None:
        size = (options.size[0], options.size[-1])
    else:
        size = tuple(max(1, round(n * old / new)) for n, old, new in zip(like.size, like.spacing, spacing, strict=True))
    return Grid(centre, spacing, size)


def shifted(grid, series, options):
    """The grid moved so that everything in it is by --translate and --random_translate, and that in words."""
    right, down = options.translate or (0.0, 0.0)
    if options.random_translate:
        draw = np.random.default_rng([options.seed, *series.uid.encode()]).integers(
            -options.random_translate, options.random_translate, 2, endpoint=True
        )
        down, right = down + draw[0] * grid.spacing[0], right + draw[1] * grid.spacing[1]
    if not (right or down):
        return grid, ""
    centre = float(grid.centre[0] - down), float(grid.centre[1] - right)
    return Grid(centre, grid.spacing, grid.size), f"; then {right:+.2f} mm to the right and {down:+.2f} mm down"


def masked(image, options, air):
    """The pixels (H, W), with air outside the body or where the mask is 0, as asked for."""
    if options.mask_img:
        inside = read_image(options.mask_img[0]).array.any(axis=0)
        if inside.shape != image.hu.shape:
            sizes = ["x".join(map(str, array.shape)) for array in (inside, image.hu)]
            raise UserError(
                f"--mask_img: {options.mask_img[0]} is {sizes[0]} (height x width), {image.path} is "
                f"{sizes[1]}; both must be equal"
            )
        return np.where(inside, image.hu, air)
    if options.mask == NONE and options.mask_img is None:
        return image.hu
    if image.modality != "CT" and options.threshold is None:
        raise UserError(
            f"{image.path}: --mask body knows the body in CT only, not in {image.modality}; --threshold "
            "would say above which value it is"
        )
    threshold = SKIN_HU if options.threshold is None else options.threshold
    return np.where(body_mask(image.hu, threshold), image.hu, air)


def read_template(options):
    """The one series in the template's folder. Raises UserError."""
    series = dicom.scan(options.template, modalities=tuple(options.modality)).require_series()
    if len(series) > 1:
        raise UserError(f"--template: {options.template} holds {len(series)} series; give the folder of one")
    if series[0].spacing is None:
        raise UserError(f"--template: {options.template} has no PixelSpacing")
    return series[0]


def require_parallel(series, template):
    """Raises UserError where the planes of both differ: a shift could not bring one onto the other."""
    axes = [one.orientation for one in (series, template)]
    if None in axes:
        return
    first, second = (np.array(one).reshape(2, 3) for one in axes)
    if np.any((first * second).sum(axis=1) < PARALLEL):
        raise UserError(
            f"{series.slices[0].path.parent}: lies in another plane than the template "
            f"({series.orientation} against {template.orientation})"
        )


def distance_of(series) -> float:
    """mm between slices; of a single slice, or where it is not known, its thickness or 1."""
    return series.slice_distance or series.slices[0].thickness or 1.0


def write_deidentified(derived, out, image, values, deidentifier, description, write):
    """As DerivedSeries.write, but nothing that names the patient ever has the name `out`."""
    with tempfile.TemporaryDirectory() as private:
        report = derived.write(Path(private) / "image.dcm", image, values, **{**write, "force": False})
        dataset = pydicom.dcmread(report.path)
    statement = str(dataset.DerivationDescription)
    try:
        deidentifier(dataset, DerivationDescription=statement, SeriesDescription=description)
    except UserError as error:
        raise UserError(f"{image.path}: {error}") from None
    if out.exists() and out.resolve() == image.path.resolve():
        raise UserError(f"{out}: is an input; an output never takes its place")
    with whole_file(out, write["force"]) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return report


def main(argv=None):
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
