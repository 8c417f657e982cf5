"""In-plane resampling to another pixel size (``--forceSpacing``), and the way back to the source's grid.

Both grids share their centre: pixel i of n lies (i - (n - 1) / 2) · spacing mm from it.
"""
import numpy as np
from scipy import ndimage


def resampled_size(size, spacing, new_spacing):
    """(H, W) of the grid of ``new_spacing`` mm that covers an image of ``size`` and ``spacing`` (row, column) mm."""
    return tuple(max(1, round(n * mm / new_spacing)) for n, mm in zip(size, spacing, strict=True))


def resample(array, spacing, new_spacing, released=False):
    """(C, H, W) with ``spacing`` (row, column) mm -> (C, h, w) float32 with square pixels of ``new_spacing`` mm.

    ``released``: by scikit-image's rescale, as the released codes did. Both grids then cover the same area, whatever
    whole number of pixels that makes.
    """
    size = resampled_size(array.shape[1:], spacing, new_spacing)
    if released:
        return _resized(array, size)
    return _to_grid(array, spacing, (new_spacing, new_spacing), size)


def resample_back(array, new_spacing, spacing, size, released=False):
    """The way back: (C, h, w) with pixels of ``new_spacing`` mm -> (C, *size) float32 with ``spacing`` mm."""
    if released:
        return _resized(array, size)
    return _to_grid(array, (new_spacing, new_spacing), spacing, size)


def resample_mask(mask, spacing, new_spacing, released=False):
    """(H, W) bool -> (h, w) bool: the nearest pixel's."""
    size = resampled_size(mask.shape, spacing, new_spacing)
    if released:
        spacing = tuple(new_spacing * m / n for n, m in zip(mask.shape, size, strict=True))
    rows, columns = (np.clip(np.rint(_centres(n, old, m, new_spacing)), 0, n - 1).astype(int)
                     for n, old, m in zip(mask.shape, spacing, size, strict=True))
    return mask[np.ix_(rows, columns)]


def _resized(array, size):
    from skimage.transform import resize  # what its rescale is, once the size is known; 0.2 s to import

    planes = [resize(plane, size) for plane in np.asarray(array, dtype=np.float32)]
    return np.ascontiguousarray(planes, dtype=np.float32)


def _centres(n, spacing, new_n, new_spacing):
    """Where the pixel centres of the new grid lie, in pixels of the old one."""
    return (np.arange(new_n) - (new_n - 1) / 2) * (new_spacing / spacing) + (n - 1) / 2


def _to_grid(array, spacing, new_spacing, size):
    array = np.asarray(array, dtype=np.float32)
    for axis in (1, 2):
        step = new_spacing[axis - 1] / spacing[axis - 1]
        if step > 1:  # a coarser grid: average over a pixel of it first, against aliasing (as scikit-image's resize)
            array = ndimage.gaussian_filter1d(array, (step - 1) / 2, axis=axis, mode="nearest")
        centres = _centres(array.shape[axis], spacing[axis - 1], size[axis - 1], new_spacing[axis - 1])
        array = _interpolate(array, centres, axis)
    return np.ascontiguousarray(array, dtype=np.float32)


def _interpolate(array, positions, axis):
    """Linear interpolation along an axis; beyond the ends, the end's value."""
    last = array.shape[axis] - 1
    positions = np.clip(positions, 0, last)
    below = np.minimum(np.floor(positions).astype(int), max(last - 1, 0))
    share = np.expand_dims((positions - below).astype(np.float32), tuple(range(1, array.ndim - axis)))
    low, high = array.take(below, axis), array.take(np.minimum(below + 1, last), axis)
    return low * (1 - share) + high * share  # exact where a new centre is an old one
