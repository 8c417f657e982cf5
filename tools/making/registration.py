"""Translations and deformations that bring volumes over each other. Volumes are (slices, H, W); shifts are in mm."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.registration import phase_cross_correlation

from medi2i.common.errors import UserError
from medi2i.datasets.grid import Grid, sample
from medi2i.datasets.preparing import SKIN_HU, body_mask

COARSE = 3.0  # mm: the first, three-dimensional search
FINEST = 1 / 20  # of a pixel: the second search, in the plane
FINE_SEARCHES = 3  # each starts where the one before ended: what fades out at the border then is the same
AGREE = 2  # coarse pixels by which both may differ
Spacing = tuple[float, float, float]
"""mm between slices, down and right."""
BINS = 32  # of the histogram of both, for mutual information
SAMPLES, MOST_SAMPLES = 0.2, 500_000  # of all voxels that it is made of; how many of them
RIGID_LEVELS = (4, 2, 1)  # voxels that are one, and over which is smoothed
MESHES = ((80.0, 4), (60.0, 4), (40.0, 4), (30.0, 2))  # mm between control points, voxels that are one
STEPS = 15  # of the search for their places, in each mesh
REACH = 0.4  # how far a control point moves, of their distance: nothing folds (Choi and Lee, Signal Process. 2000)
ROUND = 40.0  # mm around the image that the meshes cover, too: beyond a mesh nothing moves, which would tear
DENSE = (-300.0, 300.0)  # HU: what mutual information looks at
SOFT = (-200.0, 300.0)  # HU: what the search looks at; metal and bone would outweigh the rest


def body_centre(
    volume: np.ndarray, spacing: tuple[float, float], modality: str, threshold: float | None = None
) -> tuple[float, float]:
    """Centre of gravity (v, u) in mm from the image's centre, of the body in all slices of (slices, H, W).

    What is above ``threshold``; by default in CT what is denser than -500 HU, without the table; else what is brighter
    than Otsu's threshold. Raises UserError where there is none.
    """
    if threshold is None:
        threshold = SKIN_HU if modality == "CT" else float(threshold_otsu(volume))
    amount, moment = 0, np.zeros(2)
    for image in volume:
        found = np.argwhere(body_mask(image, threshold))
        amount += len(found)
        moment += found.sum(axis=0)
    if amount == 0:
        raise UserError(
            "--to body: there is no body in the image (nothing above "
            f"{threshold:g}); --to none or --to template would work"
        )
    v, u = (moment / amount - (np.array(volume.shape[1:]) - 1) / 2) * spacing
    return float(v), float(u)


def translation(
    template: np.ndarray, template_spacing: Spacing, moving: np.ndarray, moving_spacing: Spacing, modality: str
) -> tuple[tuple[float, float, float], float, float]:
    """(shift, correlation before, after): the content of the moving volume at (z, v, u) + shift is that of the template
    at (z, v, u), in mm; the correlation is that of the mean slices on the template's grid without and with the shift.

    Found by phase correlation (Kuglin & Hines 1975), refined by an upsampled Fourier transform (Guizar-Sicairos et al.
    2008).
    """
    fixed, moved = (_shown(volume, modality) for volume in (template, moving))
    along, *coarse = _coarse_shift(fixed, template_spacing, moved, moving_spacing)
    first, second = _overlap(fixed, template_spacing[0], moved, moving_spacing[0], along)
    grid = Grid.of(template.shape[1:], template_spacing[1:])
    source = Grid.of(moving.shape[1:], moving_spacing[1:])

    def at(shift: np.ndarray) -> np.ndarray:
        return sample(second, source, Grid((float(shift[0]), float(shift[1])), grid.spacing, grid.size))[0]

    found = np.asarray(coarse)
    for _ in range(FINE_SEARCHES):
        fine, _, _ = phase_cross_correlation(
            _windowed(first), _windowed(at(found)), upsample_factor=round(1 / FINEST), normalization=None
        )
        step = -np.asarray(fine) * grid.spacing
        if np.any(np.abs(step) > AGREE * COARSE):
            break  # slipped to another structure
        found = found + step
    before, after = (_correlation(first, at(shift)) for shift in (np.zeros(2), found))
    return (along, float(found[0]), float(found[1])), before, after


def _shown(volume: np.ndarray, modality: str) -> np.ndarray:
    """From 0 for air to 1 for dense tissue."""
    low, high = SOFT if modality == "CT" else np.percentile(volume, (50, 99))
    return np.clip((volume - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def _coarse_shift(fixed: np.ndarray, fixed_spacing: Spacing, moved: np.ndarray, moved_spacing: Spacing) -> list[float]:
    """(z, v, u) in mm between the centres, to a coarse pixel."""
    volumes = [
        ndimage.zoom(volume, [mm / COARSE for mm in spacing], order=1, grid_mode=True, mode="nearest")
        for volume, spacing in ((fixed, fixed_spacing), (moved, moved_spacing))
    ]
    shape = np.max([volume.shape for volume in volumes], axis=0)
    padded = [
        np.pad(volume, [(int(room // 2), int(room - room // 2)) for room in shape - volume.shape]) for volume in volumes
    ]
    shift, _, _ = phase_cross_correlation(*padded, normalization=None)
    # An odd pixel of room lies behind, so that centres are half a pixel apart.
    odd = [(((shape - volume.shape) % 2) / 2) for volume in volumes]
    return [float(value) for value in (-shift + odd[0] - odd[1]) * COARSE]


def _overlap(
    fixed: np.ndarray, fixed_distance: float, moved: np.ndarray, moved_distance: float, shift: float
) -> list[np.ndarray]:
    """Mean slices of both over the heights that both have."""
    heights = [
        (np.arange(len(volume)) - (len(volume) - 1) / 2) * distance
        for volume, distance in ((fixed, fixed_distance), (moved, moved_distance))
    ]
    heights[1] = heights[1] - shift
    low, high = max(one[0] for one in heights), min(one[-1] for one in heights)
    means = []
    for volume, places in zip((fixed, moved), heights, strict=True):
        chosen = (places >= low - 1e-6) & (places <= high + 1e-6)
        means.append(volume[chosen].mean(axis=0) if chosen.any() else volume.mean(axis=0))
    return means


def _windowed(image: np.ndarray) -> np.ndarray:
    """Fades out at the border, which would be the strongest edge of all."""
    image = image - image.mean()
    return image * np.outer(*(np.hanning(length + 2)[1:-1] for length in image.shape))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = (image - image.mean() for image in (first, second))
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / scale) if scale > 0 else 0.0


@dataclass
class Volume:
    """``values`` (slices, H, W) float32, whose first voxel lies at ``origin`` (z, v, u) mm."""

    values: np.ndarray
    origin: Spacing
    spacing: Spacing


@dataclass
class Deformed:
    """A volume on another's grid, with True where nothing was.

    before, after: mutual information of both without and with it, nats. mean, most: how far voxels were moved, mm.
    folded: share of the voxels where the map is not one to one, which none should be.
    """

    values: np.ndarray
    beside: np.ndarray
    before: float
    after: float
    mean: float
    most: float
    folded: float


def deformation(fixed: Volume, moving: Volume, shown: Volume, modalities: tuple[str, str], order: int) -> Deformed:
    """``shown``, which lies where ``moving`` does, on the grid of ``fixed``, bent so that moving looks like fixed.

    Rigid first (three angles and shifts), then by cubic B-splines of finer and finer MESHES, one upon the other, none
    of which folds (Rueckert et al., IEEE Trans. Med. Imaging 18, 1999; MICCAI 2006), by the mutual information of
    Mattes et al. (IEEE Trans. Med. Imaging 22, 2003), which needs no common contrast. SimpleITK does it, on one thread,
    so that it is the same each time. modalities: of fixed and moving. order: 1 linear, 3 cubic. Raises UserError where
    SimpleITK is missing or finds nothing in common.
    """
    try:
        import SimpleITK as sitk
    except ImportError:
        raise UserError("--deform: needs SimpleITK: pip install 'medi2i[register]'") from None
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    place, whole = _itk(sitk, fixed), _itk(sitk, replace(moving, values=np.ones_like(moving.values)))
    still, moved = (
        _itk(sitk, replace(one, values=_clipped(one.values, modality)))
        for one, modality in zip((fixed, moving), modalities, strict=True)
    )
    try:
        way = _way(sitk, still, moved)
        before, after = (_information(sitk, still, moved, one) for one in (sitk.Transform(3, sitk.sitkIdentity), way))
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"--deform: found nothing in common with the template ({why})") from None
    kind = sitk.sitkLinear if order == 1 else sitk.sitkBSpline
    values = sitk.GetArrayFromImage(sitk.Resample(_itk(sitk, shown), place, way, kind, 0.0, sitk.sitkFloat32, True))
    within = sitk.GetArrayFromImage(sitk.Resample(whole, place, way, sitk.sitkNearestNeighbor, 0.0)) > 0
    if not within.any():
        raise UserError("--deform: nothing of the series comes to lie on the template")
    grid = place.GetSize(), place.GetOrigin(), place.GetSpacing(), place.GetDirection()
    field = sitk.TransformToDisplacementField(way, sitk.sitkVectorFloat64, *grid)
    far = np.sqrt((sitk.GetArrayViewFromImage(field) ** 2).sum(axis=-1))[within]
    turned = sitk.GetArrayViewFromImage(sitk.DisplacementFieldJacobianDeterminant(field))[within] <= 0
    return Deformed(values, ~within, before, after, float(far.mean()), float(far.max()), float(turned.mean()))


def _way(sitk: Any, still: Any, moved: Any) -> Any:
    """Where each point of ``still`` lies in ``moved``, as SimpleITK's transform."""
    size, spacing = np.array(still.GetSize()), np.array(still.GetSpacing())
    turn = sitk.Euler3DTransform()
    turn.SetCenter([float(v) for v in still.TransformContinuousIndexToPhysicalPoint((size / 2).tolist())])
    search = _search(sitk, still, RIGID_LEVELS)
    search.SetInitialTransform(turn, inPlace=False)
    search.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 200)
    search.SetOptimizerScalesFromPhysicalShift()
    way = [search.Execute(still, moved)]
    room = [round(ROUND / mm) for mm in spacing.tolist()]
    wide, lowest = sitk.ConstantPad(still, room, room), float(sitk.GetArrayViewFromImage(moved).min())
    for mesh, level in MESHES:
        reach = wide.GetSize() * spacing
        cells = np.maximum(1, np.rint(reach / mesh)).astype(int)
        splines = sitk.BSplineTransformInitializer(wide, cells.tolist(), 3)
        most = REACH * float((reach / cells).min())
        search = _search(sitk, still, (level,))
        search.SetInitialTransform(splines, inPlace=True)
        search.SetOptimizerAsLBFGSB(1e-5, STEPS, 5, 60, 1e9, -most, most)
        search.Execute(still, sitk.Resample(moved, still, sitk.CompositeTransform(way), sitk.sitkLinear, lowest))
        way.append(splines)
    return sitk.CompositeTransform(way)


def _clipped(volume: np.ndarray, modality: str) -> np.ndarray:
    low, high = DENSE if modality == "CT" else (float(volume.min()), float(np.percentile(volume, 99.5)))
    return np.clip(volume, low, high)


def _itk(sitk: Any, volume: Volume) -> Any:
    """The same as an image of SimpleITK, whose axes come in reverse."""
    image = sitk.GetImageFromArray(np.asarray(volume.values, np.float32))
    image.SetOrigin([float(v) for v in reversed(volume.origin)])
    image.SetSpacing([float(v) for v in reversed(volume.spacing)])
    return image


def _search(sitk: Any, still: Any, levels: tuple[int, ...]) -> Any:
    """A search by mutual information with ``still``, from coarse to fine."""
    voxels = [still.GetNumberOfPixels() / level**3 for level in levels]
    search = sitk.ImageRegistrationMethod()
    search.SetMetricAsMattesMutualInformation(BINS)
    search.SetMetricSamplingStrategy(search.RANDOM)
    search.SetMetricSamplingPercentagePerLevel([min(SAMPLES, MOST_SAMPLES / count) for count in voxels], 1)
    search.SetInterpolator(sitk.sitkLinear)
    search.SetShrinkFactorsPerLevel(list(levels))
    search.SetSmoothingSigmasPerLevel(list(levels))
    return search


def _information(sitk: Any, still: Any, moved: Any, way: Any) -> float:
    """Mutual information in nats."""
    search = _search(sitk, still, (1,))
    search.SetSmoothingSigmasPerLevel([0])
    search.SetInitialTransform(way)
    return -float(search.MetricEvaluate(still, moved))
