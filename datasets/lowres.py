"""Coarser grids: an image as it would look with pixels n times as large, and interpolation back to the fine grid.

Both grids cover the same area: pixel i of the coarse one lies over the pixels n·i … n·i + n - 1 of the fine one, so
its centre is at n·i + (n - 1)/2. Arrays are (C, H, W), float32, in any unit.
"""

import numpy as np
from PIL import Image as Pillow
from scipy import fft

BICUBIC, KSPACE = "bicubic", "kspace"
METHODS = (BICUBIC, KSPACE)


def reduce(array: np.ndarray, scale: int, method: str = BICUBIC) -> np.ndarray:
    """(C, H, W) -> (C, H/scale, W/scale). Raises ValueError where the sizes are no multiples of ``scale``.

    bicubic: Pillow's, with Keys' kernel (a = -1/2) widened by ``scale``, so that nothing aliases; at the border its
    weights are renormalised. kspace: the spatial frequencies that the coarse grid cannot hold are cut off, as a
    magnetic resonance scan with a smaller matrix does not measure them (Chen et al., arXiv 2003.01217);
    the image counts as periodic, and edges ring.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}; it can be {', '.join(METHODS)}")
    height, width = array.shape[1:]
    if height % scale or width % scale or scale < 1:
        raise ValueError(f"image of {height}x{width} (height x width): no multiples of {scale}")
    if method == BICUBIC:
        return _resized(array, height // scale, width // scale)
    low = _truncated(_truncated(np.asarray(array, np.float64), scale, 1), scale, 2)
    return low.astype(np.float32)


def enlarge(array: np.ndarray, scale: int) -> np.ndarray:
    """(C, H, W) -> (C, scale·H, scale·W) by bicubic interpolation (Keys, IEEE TASSP 29, 1981, a = -1/2; Pillow's)."""
    return _resized(array, scale * array.shape[1], scale * array.shape[2])


def enlarge_mask(mask: np.ndarray, scale: int) -> np.ndarray:
    """(H, W) bool -> (scale·H, scale·W): each pixel becomes a square."""
    return mask.repeat(scale, axis=0).repeat(scale, axis=1)


def reduce_mask(mask: np.ndarray, scale: int) -> np.ndarray:
    """(H, W) bool -> (H/scale, W/scale): True where any of the fine pixels is, for the value is made of it, too."""
    height, width = (n // scale for n in mask.shape)
    return mask.reshape(height, scale, width, scale).any(axis=(1, 3))


def continued(array: np.ndarray, scale: int) -> np.ndarray:
    """(C, H, W) continued at the bottom and the right by its last row and column to multiples of ``scale``."""
    missing = [(0, -n % scale) for n in array.shape[1:]]
    return np.pad(array, [(0, 0), *missing], mode="edge") if any(after for _, after in missing) else array


def cut(array: np.ndarray, scale: int) -> np.ndarray:
    """(..., H, W) without the last rows and columns that would make an incomplete coarse pixel."""
    height, width = (n // scale * scale for n in array.shape[-2:])
    return array[..., :height, :width]


def _resized(array, height, width):
    planes = [Pillow.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in array]
    return np.stack([np.asarray(plane.resize((width, height), Pillow.Resampling.BICUBIC)) for plane in planes])


def _truncated(array, scale, axis):
    """float64 with the frequencies of a grid ``scale`` times as coarse along an axis, at the coarse pixels' centres."""
    fine = array.shape[axis]
    coarse = fine // scale
    spectrum = np.moveaxis(fft.rfft(array, axis=axis), axis, -1)[..., : coarse // 2 + 1]
    # The first coarse pixel's centre lies (scale - 1)/2 fine pixels from that of the first fine one.
    turned = spectrum * np.exp(2j * np.pi * np.arange(coarse // 2 + 1) * ((scale - 1) / 2) / fine)
    return np.moveaxis(fft.irfft(turned, coarse, axis=-1), -1, axis) * (coarse / fine)
