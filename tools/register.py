#!/usr/bin/env python
"""Bring series to a common place, size and pixel spacing, as derived series with the geometry that this makes.

  python tools/register.py -i ct -o registered --to body --size 256 --spacing 1.5
  python tools/register.py -i mr -o registered --to template --template ct
  python tools/register.py -i ct -o data/trainB --to position --template mr --deform
  python tools/register.py -i ct -o public --to none --mask body --deidentify

Images are shifted in their plane, the same for all slices of a series, so that the centre of the body, or the place
where the series looks like the template, comes to the middle. Every slice stays at its place in the patient: positions
are those of the new pixels in the series' own frame of reference, never the template's. With --to position nothing is
shifted: of two series of one frame of reference, what lies where the template does is cut out, under its names; with
--deform it is turned and bent onto the template, too, which is of another day, table or modality.
"""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np
import pydicom

from medi2i.common.errors import UserError, as_main
from medi2i.common.locks import locked
from medi2i.common.options import Checked, option, parse
from medi2i.common.outputs import check_target, whole_file
from medi2i.datasets import dicom
from medi2i.datasets.catalogue import name_below
from medi2i.datasets.dicom.new_series import DerivedSeries
from medi2i.datasets.grid import ORDERS, Grid, new_position, sample
from medi2i.datasets.preparing import AIR_HU, SKIN_HU, TISSUE_SHARE, body_mask, top_of
from medi2i.datasets.reading import read_image
from medi2i.datasets.unpacking import unpacked
from medi2i.tools.making import registration
from medi2i.tools.making.deidentify import Deidentifier
from medi2i.tools.making.training_pairs import first_header, name_of

BODY, TEMPLATE, POSITION, NONE = "body", "template", "position", "none"
PARALLEL = 0.99  # cosine: axes that point the same way
FEWEST, EVEN = 4, 0.1  # slices to bend; how much their distances may differ, of one
FOLDED = 0.001  # of what was bent: beyond it, to warn
POOR = 0.5  # correlation after registration below which to warn


@dataclass
class RegisterOptions(Checked):
    """What to do with a series"""

    root: str = option(
        "data", "-i", "-R", metavar="FOLDER", help="DICOM series, found by their content", bare=True, first=True
    )
    out: str = option(
        "registered", "-o", "--outdir", metavar="FOLDER", help="folder for the new series, as the root's", first=True
    )
    to: str = option(
        BODY,
        choices=[BODY, TEMPLATE, POSITION, NONE],
        help="what comes to the middle: the body's centre, what is there in the template by its looks, or by its "
        "positions in mm, or what is there already",
        first=True,
    )
    template: str | None = option(
        None, metavar="FOLDER", help="series for --to template and --to position; its grid is the default", first=True
    )
    size: list[int] | None = option(
        None,
        "-s",
        nargs="+",
        type=int,
        low=8,
        high=16384,
        metavar="PX",
        help="width, or height and width, of the new images [the same field in the new spacing]",
        first=True,
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
        first=True,
    )
    scale: float | None = option(
        None,
        type=float,
        low=0.01,
        high=100,
        metavar="X",
        help="so many times as many pixels a mm, in place of --spacing",
    )
    deform: bool = option(
        False,
        type=bool,
        help="with --to position: turn and bend the series onto the template by their mutual information, in three "
        "dimensions; the result lies at the template's place",
        first=True,
    )
    translate: list[float] | None = option(
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
    slice_range: list[float] | None = option(
        None, "-sr", "-z", nargs=2, type=float, metavar="MM", help="only slices between these positions", first=True
    )
    mask: str = option(
        NONE,
        choices=[NONE, BODY, TEMPLATE],
        help="set to air what lies outside the body; template: outside that of the template, too, with --to position",
        first=True,
    )
    mask_img: list[str] | None = option(
        None,
        nargs="*",
        metavar="FILE",
        help="a picture or npy that is 0 on what is to be set to air; without one, --mask body",
    )
    threshold: float | None = option(
        None,
        type=float,
        metavar="HU",
        help="what is above it is body [CT: -500, else a tenth of the 99.5th percentile]",
    )
    padding: float | None = option(
        None,
        type=float,
        metavar="HU",
        help="value beside the image and outside the mask [CT: -1000, else marked as padding, and 0 outside the mask]",
    )
    interpolation: str = option("linear", choices=list(ORDERS), help="between pixels")
    deidentify: bool = option(
        False,
        "--anonimise",
        "--anonymise",
        type=bool,
        help="remove what tells of the patient (PS3.15 Annex E, basic profile)",
        first=True,
    )
    modality: list[str] = option(["CT", "MR"], nargs="+", metavar="NAME", help="modalities to take")
    force: bool = option(False, type=bool, help="overwrite files that are there (inputs never are)", first=True)


def command(argv: list[str]) -> None:
    options = parse(RegisterOptions, argv, __doc__)
    options = replace(options, root=str(unpacked(options.root)))
    if options.size is not None and len(options.size) > 2:
        raise UserError(f"--size: {len(options.size)} values; give the width, or height and width")
    if options.scale is not None and options.spacing is not None:
        raise UserError("--scale: given together with --spacing; one of them says how large pixels are")
    for name, counts in (("translate", (0, 2)), ("mask_img", (0, 1))):
        if len(getattr(options, name) or []) not in counts:
            raise UserError(f"--{name}: {len(getattr(options, name))} values; it takes none or {counts[1]}")
    if (options.template is not None) != (options.to in (TEMPLATE, POSITION)):
        raise UserError("--template: goes with --to template and --to position, and these with it")
    if options.mask == TEMPLATE and options.to != POSITION:
        raise UserError("--mask template: goes with --to position, which alone says where the template's body is")
    if options.deform and options.to != POSITION:
        raise UserError("--deform: goes with --to position, which says what the series is bent onto")
    for name in ("size", "spacing", "scale", "translate", "random_translate"):
        if options.deform and getattr(options, name):
            raise UserError(f"--{name}: with --deform the result has the template's grid")
    deidentifier = Deidentifier() if options.deidentify else None
    template = read_template(options)
    found = dicom.scan(options.root, modalities=tuple(options.modality))
    for skipped in found.skipped:
        print(f"warning: skipped {skipped.path}: {skipped.reason}", file=sys.stderr)
    with locked(Path(options.out), "writing"):
        taken: set[str] = set()
        for series in found.require_series():
            register(series, template, options, deidentifier, taken)


def register(
    series: dicom.Series,
    template: dicom.Series | None,
    options: RegisterOptions,
    deidentifier: Deidentifier | None,
    taken: set[str],
) -> None:
    """Write one series. Raises UserError."""
    slices = chosen_slices(series, options.slice_range)
    partners: dict[int, dicom.SliceRef] = {}
    if options.to == POSITION and template is not None:
        partners = at_heights(slices, template)
        slices = [item for item in slices if id(item) in partners]
    place, told = Place.of(series, slices, template, options)
    derived = derived_of(series, template, place.target, options, deidentifier)
    clipped = padded = 0
    with tempfile.TemporaryDirectory() as private:  # nothing that names the patient ever has a name in --out
        for item in slices:
            partner = partners.get(id(item), item)
            image = dicom.read(item.path, item.frame, modalities=(series.modality,))
            values, padding, position = place.filled(image, item, partner)
            below = name_below(item.path, Path(options.root)) if partner.path == item.path else partner.path.name
            out = Path(options.out) / name_of(below, "dcm", item, taken)
            report = derived.write(
                out if deidentifier is None else Path(private) / "image.dcm",
                image,
                values,
                mask=padding,
                spacing=place.target.spacing if place.elsewhere else None,
                position=position if place.elsewhere else None,
                force=options.force or deidentifier is not None,
            )
            if deidentifier is not None:
                write_deidentified(report.path, out, image, deidentifier, derived.description, options.force)
            clipped, padded = clipped + report.clipped, padded + report.padded
    name = series.description if deidentifier is None else "series"
    target = place.target
    print(
        f"{name or 'series'}: {len(slices)} slices, {target.size[1]}×{target.size[0]} pixels of "
        f"{target.spacing[1]:g}×{target.spacing[0]:g} mm; {told}"
        + (f"; {clipped} values clipped" if clipped else "")
        + (f"; {padded} pixels are padding" if padded else "")
    )


@dataclass
class Place:
    """Where the pixels of a series come to, and what is air there: grids in mm from the centres of the old images and,
    ``by_template``, of the template's; thresholds of the body; of a bent series, what lies in each slice of the
    template, and where nothing does."""

    options: RegisterOptions
    source: Grid
    target: Grid
    air: np.float32
    threshold: float | None
    template: dicom.Series | None
    by_template: Grid
    template_threshold: float | None
    bent: dict[int, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(
        cls,
        series: dicom.Series,
        slices: list[dicom.SliceRef],
        template: dicom.Series | None,
        options: RegisterOptions,
    ) -> tuple["Place", str]:
        """That of the ``slices`` of a series, and how it was found, in words. Raises UserError."""
        by_body = not options.mask_img and (options.mask != NONE or options.mask_img is not None)
        threshold = body_threshold(series, options) if by_body else None
        template_threshold = None
        if options.mask == TEMPLATE and template is not None:
            template_threshold = body_threshold(template, options)
        source = Grid.of(series.shape, spacing_of(series)[1:])
        centre, told = where(series, slices, template, options)
        target, moved = shifted(target_grid(source, centre, template, options), series, options)
        by_template = replace(target, centre=(target.centre[0] - centre[0], target.centre[1] - centre[1]))
        air = np.float32((AIR_HU if series.modality == "CT" else 0.0) if options.padding is None else options.padding)
        bent: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        if options.deform and template is not None:
            bent, told = bend(series, template, options, threshold, air)
        place = cls(options, source, target, air, threshold, template, by_template, template_threshold, bent)
        return place, told + moved

    @property
    def elsewhere(self) -> bool:
        """Whether images come to lie on other pixels than before."""
        return bool(self.bent) or self.target != self.source

    def filled(
        self, image: dicom.DicomImage, item: dicom.SliceRef, partner: dicom.SliceRef
    ) -> tuple[np.ndarray, np.ndarray | None, tuple[float, float, float] | None]:
        """What is there of the image of a slice, or, bent, in the template's slice ``partner``; True on what is
        padding, or None; the position in mm."""
        if self.bent:
            values, beside = self.bent[id(partner)]
            position = new_position(partner.position, partner.orientation, self.by_template, self.by_template)
        else:
            shown = masked(image, self.options, self.threshold, self.air)
            order = ORDERS[self.options.interpolation]
            values, beside = sample(shown, self.source, self.target, image.mask, order)
            position = new_position(item.position, item.orientation, self.source, self.target)
        if self.template is not None and self.template_threshold is not None:
            body = body_of(partner, self.template, self.by_template, self.template_threshold)
            values = np.where(body, values, self.air)
        if (image.modality == "CT" or self.options.padding is not None) and not np.any(image.mask):
            return np.where(beside, self.air, values), None, position  # beside the image there is air
        return values, beside, position


def derived_of(
    series: dicom.Series,
    template: dicom.Series | None,
    target: Grid,
    options: RegisterOptions,
    deidentifier: Deidentifier | None,
) -> DerivedSeries:
    """The new series, whose header says what was done."""
    given = {"deform": template.uid if options.deform and template is not None else None}
    given |= {name: getattr(options, name) for name in ("mask_img", "threshold", "padding")}
    return DerivedSeries(
        first_header(series),
        model_name="medi2i register",
        description=f"{series.description} registered".strip() if deidentifier is None else "registered",
        options={
            "centre": target.centre,
            "spacing": target.spacing,
            "size": target.size,
            "mask": options.mask,
            "interpolation": options.interpolation,
            **{name: value for name, value in given.items() if value is not None},
        },
    )


def bend(
    series: dicom.Series, template: dicom.Series, options: RegisterOptions, threshold: float | None, air: np.float32
) -> tuple[dict[int, tuple[np.ndarray, np.ndarray]], str]:
    """id of each slice of the template → what lies there, and where nothing does; and how it was moved, in words."""
    images = [dicom.read(item.path, item.frame, modalities=(series.modality,)) for item in series.slices]
    looks = volume_of(series, np.stack([image.hu for image in images]))
    template_looks = volume_of(template, dicom.read_volume(template))
    down, along = between(series.slices[0], template)
    looks.origin = looks.origin[0], looks.origin[1] - down, looks.origin[2] - along
    shown = np.stack([masked(image, options, threshold, air) for image in images]) - air
    found = registration.deformation(
        template_looks,
        looks,
        replace(looks, values=shown),
        (template.modality, series.modality),
        ORDERS[options.interpolation],
    )
    words = f"by {found.mean:.1f} mm on average, {found.most:.1f} at most"
    if found.after <= found.before or found.folded > FOLDED:
        print(
            f"warning: {series.slices[0].path}: bent {words}, mutual information {found.before:.2f} → "
            f"{found.after:.2f}, {100 * found.folded:.1f} % of it folded; look at the result",
            file=sys.stderr,
        )
    slices = zip(template.slices, found.values + air, found.beside, strict=True)
    told = f"bent onto the template {words}: mutual information {found.before:.2f} → {found.after:.2f}"
    return {id(item): (values, beside) for item, values, beside in slices}, told


def volume_of(series: dicom.Series, values: np.ndarray) -> registration.Volume:
    """``values`` (slices, H, W), with (z, v, u) by heights and from the slices' centre.

    Raises UserError where the slices make no volume.
    """
    heights, spacing = series.heights(), spacing_of(series)
    where = series.slices[0].path.parent
    if heights is None or len(heights) < FEWEST:
        raise UserError(f"--deform: {where} has {len(series.slices)} slices with a position; {FEWEST} would do")
    if np.ptp(np.diff(heights)) > EVEN * spacing[0]:
        raise UserError(f"--deform: the slices of {where} are not evenly spaced")
    top, left = (-(n - 1) / 2 * mm for n, mm in zip(series.shape, spacing[1:], strict=True))
    distance = float(np.diff(heights).mean())
    return registration.Volume(values, (float(heights[0]), top, left), (distance, *spacing[1:]))


def chosen_slices(series: dicom.Series, limits: list[float] | None) -> list[dicom.SliceRef]:
    """The slices between the positions (mm) of --slice_range. Raises UserError where there is none."""
    if limits is None:
        return series.slices
    placed = [(item.height, item) for item in series.slices if item.height is not None]
    chosen = [item for height, item in placed if limits[0] <= height <= limits[1]]
    if not chosen:
        heights = [height for height, _ in placed]
        there = f"they lie between {min(heights):g} and {max(heights):g}" if heights else "none has a position"
        raise UserError(
            f"--slice_range: no slice of {series.slices[0].path.parent} between {limits[0]:g} and "
            f"{limits[1]:g} mm; {there}"
        )
    return chosen


def where(
    series: dicom.Series, slices: list[dicom.SliceRef], template: dicom.Series | None, options: RegisterOptions
) -> tuple[tuple[float, float], str]:
    """The centre (v, u) of the new images in mm from that of the old ones, and how it was found, in words."""
    if options.to == NONE:
        return (0.0, 0.0), "not moved"
    if template is not None:
        require_parallel(series, template)
        if options.to == POSITION:
            return between(slices[0], template), "cut out where the template lies"
    volume = np.stack([dicom.read(item.path, item.frame, modalities=(series.modality,)).hu for item in slices])
    if template is None:
        v, u = registration.body_centre(volume, spacing_of(series)[1:], series.modality, options.threshold)
        return (v, u), f"the body's centre was {u:+.2f} mm to the right and {v:+.2f} mm below the middle"
    (z, v, u), before, after = registration.translation(
        dicom.read_volume(template), spacing_of(template), volume, spacing_of(series), series.modality
    )
    if after < max(POOR, before):
        print(
            f"warning: {slices[0].path}: looks little like the template (correlation {after:.2f}, "
            f"{before:.2f} before); look at the result",
            file=sys.stderr,
        )
    return (v, u), (
        f"was {u:+.2f} mm to the right of the template, {v:+.2f} mm below and {z:+.1f} mm along the slices "
        f"(which stay): correlation {before:.3f} → {after:.3f}"
    )


def at_heights(slices: list[dicom.SliceRef], template: dicom.Series) -> dict[int, dicom.SliceRef]:
    """id of each slice that lies within half a slice of one of the template → that one.

    Raises UserError where both have no frame of reference in common, or nothing in common.
    """
    frames = {item.frame_of_reference for item in (*slices, *template.slices)}
    if len(frames) > 1 or not all(frames) or any(item.height is None for item in (*slices, *template.slices)):
        raise UserError(
            f"--to position: {slices[0].path.parent} and the template have no FrameOfReferenceUID in common, so their "
            "positions cannot be compared; --to template goes by their looks"
        )
    reach = (template.slice_distance or template.slices[0].thickness or 1.0) / 2
    partners: dict[int, dicom.SliceRef] = {}
    for one in template.slices:
        nearest = min(slices, key=lambda item: abs(float(item.height or 0) - float(one.height or 0)))
        if abs(float(nearest.height or 0) - float(one.height or 0)) <= reach:
            partners.setdefault(id(nearest), one)
    if not partners:
        raise UserError(f"--to position: no slice of {slices[0].path.parent} lies at the height of one of the template")
    return partners


def between(item: dicom.SliceRef, template: dicom.Series) -> tuple[float, float]:
    """(v, u): the template's centre in mm from that of the slice ``item``, down and right, by their positions."""
    if item.orientation is None or item.position is None or template.slices[0].position is None:
        raise UserError(f"--to position: {item.path} or the template has no ImagePositionPatient")
    axes = np.array(item.orientation, dtype=float).reshape(2, 3)[::-1]  # down, right
    middles = [
        np.array(one.position, dtype=float) + (np.subtract(one.shape, 1) / 2 * (one.spacing or (1.0, 1.0))) @ axes
        for one in (item, template.slices[0])
    ]
    v, u = axes @ (middles[1] - middles[0])
    return float(v), float(u)


def target_grid(
    source: Grid, centre: tuple[float, float], template: dicom.Series | None, options: RegisterOptions
) -> Grid:
    """The grid of the new images: as asked for, else the template's, else the source's field."""
    like = source if template is None else Grid.of(template.shape, spacing_of(template)[1:])
    row, column = like.spacing if options.spacing is None else (options.spacing, options.spacing)
    if options.scale is not None:
        row, column = row / options.scale, column / options.scale
    height, width = (
        max(1, round(n * old / new)) for n, old, new in zip(like.size, like.spacing, (row, column), strict=True)
    )
    if options.size is not None:
        height, width = options.size[0], options.size[-1]
    return Grid(centre, (row, column), (height, width))


def shifted(grid: Grid, series: dicom.Series, options: RegisterOptions) -> tuple[Grid, str]:
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


def masked(image: dicom.DicomImage, options: RegisterOptions, threshold: float | None, air: np.float32) -> np.ndarray:
    """The pixels (H, W), with air where the mask is 0, or outside the body, which is above a ``threshold``."""
    if options.mask_img:
        inside = read_image(options.mask_img[0]).array.any(axis=0)
        if inside.shape != image.hu.shape:
            sizes = ["x".join(map(str, array.shape)) for array in (inside, image.hu)]
            raise UserError(
                f"--mask_img: {options.mask_img[0]} is {sizes[0]} (height x width), {image.path} is "
                f"{sizes[1]}; both must be equal"
            )
        return np.where(inside, image.hu, air)
    return image.hu if threshold is None else np.where(body_mask(image.hu, threshold), image.hu, air)


def body_threshold(series: dicom.Series, options: RegisterOptions) -> float:
    """The value above which the body is. Raises Unreadable where a series that is no CT has no signal."""
    if options.threshold is not None or series.modality == "CT":
        return SKIN_HU if options.threshold is None else options.threshold
    return TISSUE_SHARE * top_of(dicom.read_volume(series), series.slices[0].path)


def body_of(item: dicom.SliceRef, series: dicom.Series, target: Grid, threshold: float) -> np.ndarray:
    """The body in a slice of a series: (H, W) bool on the grid ``target``, in mm from the centre of that slice."""
    image = dicom.read(item.path, item.frame, modalities=(series.modality,))
    inside = body_mask(image.hu, threshold).astype(np.float32)
    grid = Grid.of(series.shape, spacing_of(series)[1:])
    found, beside = sample(inside, grid, target, None, ORDERS["linear"])
    return (found > 0.5) & ~beside


def read_template(options: RegisterOptions) -> dicom.Series | None:
    """The one series in the template's folder, if there is one. Raises UserError."""
    if options.template is None:
        return None
    series = dicom.scan(options.template, modalities=tuple(options.modality)).require_series()
    if len(series) > 1:
        raise UserError(f"--template: {options.template} holds {len(series)} series; give the folder of one")
    if series[0].spacing is None:
        raise UserError(f"--template: {options.template} has no PixelSpacing")
    return series[0]


def require_parallel(series: dicom.Series, template: dicom.Series) -> None:
    """Raises UserError where the planes of both differ: a shift could not bring one onto the other."""
    if series.orientation is None or template.orientation is None:
        return
    first, second = (np.array(one.orientation).reshape(2, 3) for one in (series, template))
    if np.any((first * second).sum(axis=1) < PARALLEL):
        raise UserError(
            f"{series.slices[0].path.parent}: lies in another plane than the template "
            f"({series.orientation} against {template.orientation})"
        )


def spacing_of(series: dicom.Series) -> registration.Spacing:
    """mm between slices, down and right; of a single slice, or where it is not known, the thickness or 1.

    Raises UserError where pixels have no size.
    """
    if series.spacing is None:
        raise UserError(f"{series.slices[0].path}: has no PixelSpacing; nothing can be placed in mm")
    return (series.slice_distance or series.slices[0].thickness or 1.0, *series.spacing)


def write_deidentified(
    made: Path, out: Path, image: dicom.DicomImage, deidentifier: Deidentifier, description: str, force: bool
) -> None:
    """The derived image in the file `made` as `out`, with nothing in it that names the patient."""
    dataset = pydicom.dcmread(made)
    statement = str(dataset.DerivationDescription)
    try:
        deidentifier(dataset, DerivationDescription=statement, SeriesDescription=description)
    except UserError as error:
        raise UserError(f"{image.path}: {error}") from None
    check_target(out, [image.path], force)
    with whole_file(out, force) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
