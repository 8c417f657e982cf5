"""Translations that bring volumes over each other. Volumes are (slices, H, W); shifts are in mm."""

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
