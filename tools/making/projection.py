"""Parallel-beam projection and filtered back-projection, on NumPy or CuPy arrays alike.

Images are (H, W), lengths in mm; sinograms are (angles, bins), ray sums, with bins as wide as a pixel. Sources: Kak and
Slaney, Principles of Computerized Tomographic Imaging, chapter 3 (equations 3.61 for the ramp filter, 3.31 for the
sum).
"""

from types import ModuleType

import numpy as np


def angles(count: int) -> np.ndarray:
    """``count`` directions over half a turn, in radians."""
    return np.arange(count) * (np.pi / count)


def bin_count(shape: tuple[int, int]) -> int:
    """Bins that see the whole image from every side."""
    return int(np.ceil(np.hypot(*shape))) + 3


def project(image: np.ndarray, theta: np.ndarray, spacing: float, xp: ModuleType = np) -> np.ndarray:
    """Line integrals (len(theta), bins) float32 of an image (H, W) of density 1/mm with square pixels of ``spacing``
    mm.

    The image is sampled (bilinear) on a grid turned by each angle and summed along the rays. Outside is 0.
    """
    ndimage = _ndimage(xp)
    image = xp.asarray(image, dtype=xp.float32)
    bins = bin_count(image.shape)
    centre = (np.array(image.shape) - 1) / 2
    middle = (bins - 1) / 2
    sums = xp.empty((len(theta), bins), xp.float32)
    for index, angle in enumerate(theta):
        cos, sin = np.cos(angle), np.sin(angle)
        # output index (along the ray s, bin t) -> image index (row, column): row = s·cos + t·sin, column = -s·sin +
        # t·cos
        matrix = np.array([[cos, sin], [-sin, cos]])
        offset = centre - matrix @ np.array([middle, middle])
        turned = ndimage.affine_transform(
            image,
            xp.asarray(matrix),
            offset=tuple(offset),
            output_shape=(bins, bins),
            order=1,
            mode="constant",
            cval=0.0,
            prefilter=False,
        )
        sums[index] = turned.sum(axis=0)
    return sums * np.float32(spacing)


def _ndimage(xp: ModuleType) -> ModuleType:
    if xp is np:
        from scipy import ndimage
    else:
        from cupyx.scipy import ndimage
    return ndimage


def ramp_filter(sinogram: np.ndarray, spacing: float, window: str, xp: ModuleType = np) -> np.ndarray:
    """Each row convolved with the ramp filter (1/mm per unit); ``window`` "ramp" (sharp) or "hann" (soft)."""
    bins = sinogram.shape[1]
    size = 1 << int(np.ceil(np.log2(2 * bins)))
    offsets = np.concatenate([np.arange(size // 2), np.arange(-size // 2, 0)])
    kernel = np.zeros(size)
    odd = offsets % 2 == 1
    kernel[odd] = -1 / (np.pi * offsets[odd] * spacing) ** 2
    kernel[0] = 1 / (4 * spacing**2)
    response = np.fft.rfft(kernel).real * spacing
    if window == "hann":
        response *= 0.5 * (1 + np.cos(np.pi * np.arange(len(response)) / (len(response) - 1)))
    elif window != "ramp":
        raise ValueError(f"window {window!r}; 'ramp' or 'hann'")
    spectrum = xp.fft.rfft(sinogram, size, axis=1) * xp.asarray(response)
    return xp.fft.irfft(spectrum, size, axis=1)[:, :bins].astype(xp.float32)


def back_project(filtered: np.ndarray, theta: np.ndarray, shape: tuple[int, int], xp: ModuleType = np) -> np.ndarray:
    """Sum of filtered projections over half a turn, linearly interpolated: (H, W) float32."""
    bins = filtered.shape[1]
    rows = xp.arange(shape[0], dtype=xp.float32) - np.float32((shape[0] - 1) / 2)
    columns = xp.arange(shape[1], dtype=xp.float32) - np.float32((shape[1] - 1) / 2)
    image = xp.zeros(shape, xp.float32)
    steps = xp.diff(filtered, axis=1)
    for index, angle in enumerate(theta):
        place = (rows * np.float32(np.sin(angle)) + np.float32((bins - 1) / 2))[:, None] + (
            columns * np.float32(np.cos(angle))
        )[None, :]
        below = place.astype(xp.int32)
        place -= below
        image += filtered[index].take(below) + place * steps[index].take(below)
    return image * np.float32(np.pi / len(theta))


def resample(sinogram: np.ndarray, shape: tuple[int, int], bins_per_bin: float) -> np.ndarray:
    """A sinogram over half a turn at other angles and bins, linearly. bins_per_bin: old bins in a new one.

    After half a turn a projection comes back mirrored.
    """
    views, bins = sinogram.shape
    views_at = np.arange(shape[0])[:, None] * (views / shape[0])
    bins_at = (np.arange(shape[1]) - (shape[1] - 1) / 2)[None, :] * bins_per_bin + (bins - 1) / 2
    return _interpolate(np.vstack([sinogram, sinogram[:1, ::-1]]), views_at, bins_at)


def _interpolate(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    places = np.stack(np.broadcast_arrays(rows, columns))
    return _ndimage(np).map_coordinates(table, places, order=1, mode="constant", cval=0.0)


def _fan_size(bins: int, distance: float, spacing: float) -> int:
    """Bins of an equiangular detector, ``spacing`` mm wide at the axis, that sees what ``bins`` parallel rays see."""
    reach = (bins - 1) / 2 * spacing
    if reach >= distance:
        raise ValueError(f"a source {distance:g} mm from the axis lies inside the image's circle of {reach:g} mm")
    return 2 * int(np.ceil(np.arcsin(reach / distance) * distance / spacing)) + 3


def parallel_to_fan(sinogram: np.ndarray, distance: float, spacing: float) -> np.ndarray:
    """Rays of a fan beam over a full turn (2·views, fan bins) from those of parallel beams over half a turn.

    A ray at source angle β and fan angle γ is the parallel ray of angle β+γ and offset D·sin γ (Kak and Slaney, 3.4).
    ValueError where the source would lie inside the image.
    """
    views, bins = sinogram.shape
    size = _fan_size(bins, distance, spacing)
    gamma = ((np.arange(size) - (size - 1) / 2) * spacing / distance)[None, :]
    beta = (np.arange(2 * views) * (np.pi / views))[:, None]
    theta, offset = beta + gamma, distance * np.sin(gamma)
    turns = np.floor(theta / np.pi)
    sign = np.where(np.mod(turns, 2) == 0, 1.0, -1.0)  # after half a turn the rays run the other way
    rows = (theta - turns * np.pi) * (views / np.pi)
    columns = np.clip(sign * offset / spacing + (bins - 1) / 2, 0, bins - 1)
    return _interpolate(np.vstack([sinogram, sinogram[:1, ::-1]]), rows, columns)


def fan_to_parallel(fan: np.ndarray, shape: tuple[int, int], distance: float, spacing: float) -> np.ndarray:
    """Parallel rays over half a turn (views, bins) from a fan beam over a full turn; each is seen twice and
    averaged."""
    views, bins = shape
    offset = ((np.arange(bins) - (bins - 1) / 2) * spacing)[None, :]
    theta = (np.arange(views) * (np.pi / views))[:, None]
    full = np.vstack([fan, fan[:1]])
    middle = (fan.shape[1] - 1) / 2
    both = np.zeros(shape)
    for angle, side in ((theta, 1.0), (theta + np.pi, -1.0)):
        gamma = np.arcsin(side * offset / distance)
        beta = np.mod(angle - gamma, 2 * np.pi) * (len(fan) / (2 * np.pi))
        both += _interpolate(full, beta, gamma * distance / spacing + middle)
    return (both / 2).astype(np.float32)
