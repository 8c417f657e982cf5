"""Filtered back-projection, quantitative: line integrals -> attenuation in 1/mm.

Kak and Slaney, Principles of Computerized Tomographic Imaging, sections 3.3 (parallel), 3.4.1 (arc) and 3.4.2 (flat);
short scans of fans weighted as Parker (Med. Phys. 9, 1982), with the scan's own excess in place of the fan's angle.
"""

import functools
import math
from types import ModuleType

import numpy as np

from medi2i.common.errors import UserError
from medi2i.reconstruction.geometry import ARC, FLAT, PARALLEL, Geometry

WINDOWS = ("ramp", "hann", "shepp-logan", "cosine")


def fbp(
    geometry: Geometry, sinogram: np.ndarray, window: str = "ramp", cutoff: float = 1.0, xp: ModuleType = np
) -> np.ndarray:
    """(views, bins) -> (H, W) float32 in 1/mm.

    window: of WINDOWS; all but "ramp" are softer. cutoff: where it ends, as a part of the highest frequency (0…1].
    xp: NumPy, or CuPy to do it on the GPU and have a CuPy array.
    Raises UserError for a fan whose views do not cover half a turn and the fan's angle; see ``view_weights``.
    """
    gamma = geometry.fan_angles()
    rays = np.asarray(sinogram, np.float64) * view_weights(geometry)
    if geometry.beam != PARALLEL:
        rays *= geometry.source_distance * np.cos(gamma) if geometry.beam == ARC else np.cos(gamma)
    return _back_projected(geometry, filtered(geometry, xp.asarray(rays), window, cutoff, xp), xp)


def view_weights(geometry: Geometry) -> np.ndarray:
    """What each ray counts (views, bins), radians: the part of the half turn that is its own.

    Parallel beams: half of the way to each neighbour, mod half a turn, and no more than to the usual neighbour: what a
    limited angle leaves out is not made up for. Fans: the step between views by Parker's weight, which sees to it that
    rays that are measured twice count once; a whole turn: one half each. Raises UserError for fans over less than half
    a turn and the fan's angle.
    """
    if geometry.beam == PARALLEL:
        return np.repeat(_shares(geometry, np.pi)[:, None], geometry.bins, axis=1)
    beta = np.radians(geometry.angles)
    step = float(np.median(np.diff(np.sort(beta)))) if len(beta) > 1 else 0.0
    turn = float(beta.max() - beta.min()) + step
    gamma = geometry.fan_angles()
    if turn >= 2 * np.pi - step / 2:
        return np.repeat(_shares(geometry, 2 * np.pi)[:, None] / 2, geometry.bins, axis=1)
    excess = (turn - np.pi) / 2
    if excess < np.abs(gamma).max():
        raise UserError(
            f"the views cover {math.degrees(turn):.4g}°: filtered back-projection of this fan needs half a turn and "
            f"the fan's angle, {180 + 2 * math.degrees(np.abs(gamma).max()):.4g}°; sirt and tv take any angles"
        )
    return step * _parker((beta - beta.min() + step / 2)[:, None], gamma[None, :], excess)


def _shares(geometry: Geometry, period: float) -> np.ndarray:
    """Half of the way from each view to its two neighbours (views,), radians; across a missing wedge, a usual step."""
    angles = np.mod(np.radians(geometry.angles), period)
    order = np.argsort(angles, kind="stable")
    gaps = np.diff(np.append(angles[order], angles[order[0]] + period))
    if len(gaps) > 1:  # a wedge that was not measured is far wider than any other step
        second, widest = np.sort(gaps)[-2:]
        gaps = np.minimum(gaps, second if widest > 2 * second else widest)
    shares = np.empty(len(angles))
    shares[order] = (gaps + np.roll(gaps, 1)) / 2
    return shares


def _parker(beta: np.ndarray, gamma: np.ndarray, excess: float) -> np.ndarray:
    """Weights of rays of a scan over π + 2·excess: of the two that are one line they are sin² and cos²."""
    rise = np.maximum(excess - gamma, 1e-9)
    fall = np.maximum(excess + gamma, 1e-9)
    rising = np.sin(np.pi / 4 * np.minimum(beta / rise, 2.0)) ** 2
    falling = np.sin(np.pi / 4 * np.clip((np.pi + 2 * excess - beta) / fall, 0.0, 2.0)) ** 2
    return np.where(beta < 2 * rise, rising, np.where(beta > np.pi - 2 * gamma, falling, 1.0))


def filtered(
    geometry: Geometry, rays: np.ndarray, window: str = "ramp", cutoff: float = 1.0, xp: ModuleType = np
) -> np.ndarray:
    """Views (..., bins) through the ramp filter, float32; its matrix, between the bins of a view, is symmetric.

    window, cutoff, xp: as of ``fbp``. Raises UserError where they are none.
    """
    if window not in WINDOWS or not 0 < cutoff <= 1:
        raise UserError(f"window {window!r} with cutoff {cutoff:g}: one of {', '.join(WINDOWS)}, and above 0 to 1")
    bins = rays.shape[-1]
    size = 1 << math.ceil(math.log2(2 * bins))
    place = None if xp is np else xp.cuda.runtime.getDevice()
    spectrum = xp.fft.rfft(rays, size, axis=-1) * _response(geometry, size, window, cutoff, xp, place)
    return xp.fft.irfft(spectrum, size, axis=-1)[..., :bins].astype(np.float32)


@functools.lru_cache(8)  # a network filters many times in each update, and an array for the device is a wait
def _response(
    geometry: Geometry, size: int, window: str, cutoff: float, xp: ModuleType, place: int | None
) -> np.ndarray:
    """What ``filtered`` multiplies ``size`` // 2 + 1 frequencies by, float64; CuPy's on the device ``place``."""
    offsets = np.concatenate([np.arange(size // 2), np.arange(-size // 2, 0)])
    odd = offsets % 2 == 1
    kernel = np.zeros(size)  # equation 3.61
    if geometry.beam == ARC:  # and 3.4.1: of angles, which are further apart than their sines
        pitch = geometry.bin_width / geometry.source_distance
        with np.errstate(divide="ignore", invalid="ignore"):
            stretched = np.where(np.abs(offsets[odd] * pitch) < np.pi / 2, np.sin(offsets[odd] * pitch), np.inf)
        kernel[odd] = -1 / (np.pi * stretched) ** 2
    else:
        pitch = geometry.bin_width
        kernel[odd] = -1 / (np.pi * offsets[odd] * pitch) ** 2
    kernel[0] = 1 / (4 * pitch**2)
    response = np.fft.rfft(kernel).real * pitch
    part = np.arange(len(response)) / (len(response) - 1) / cutoff
    shape = {
        "ramp": np.ones_like(part),
        "hann": 0.5 * (1 + np.cos(np.pi * part)),
        "shepp-logan": np.sinc(part / 2),
        "cosine": np.cos(np.pi / 2 * part),
    }[window]
    return xp.asarray(response * np.where(part <= 1, shape, 0))


def _back_projected(geometry: Geometry, rays: np.ndarray, xp: ModuleType) -> np.ndarray:
    """Each pixel's share of all views, linear between bins; nothing from beside the detector."""
    (rows, columns), (down, along) = geometry.shape, geometry.spacing
    y = ((xp.arange(rows, dtype=np.float32) - (rows - 1) / 2) * down).astype(np.float32)[:, None]
    x = ((xp.arange(columns, dtype=np.float32) - (columns - 1) / 2) * along).astype(np.float32)[None, :]
    image = xp.zeros(geometry.shape, np.float32)
    distance = np.float32(geometry.source_distance)
    first = np.float32(geometry.detector()[0])
    padded = xp.pad(rays, ((0, 0), (1, 2)))
    steps = xp.diff(padded, axis=1)
    ends = geometry.detector()[[0, -1]] * (-1, 1)  # how far it reaches on both sides
    seen = geometry.beam == PARALLEL and geometry.radius <= ends.min()
    for view, angle in enumerate(np.radians(geometry.angles)):
        cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        place = x * cos + y * sin
        scale = None
        if geometry.beam != PARALLEL:
            ahead = distance + x * sin - y * cos  # from the source, along its central ray
            if geometry.beam == FLAT:
                scale = distance / ahead
                place *= scale
                scale *= scale
            else:
                scale = 1 / (ahead * ahead + place * place)
                place = xp.arctan2(place, ahead) * distance
        place -= first
        place *= np.float32(1 / geometry.bin_width)
        place += 1
        if not seen:
            place = xp.clip(place, 0, geometry.bins + 1)
        below = place.astype(np.int32)
        place -= below
        place *= steps[view].take(below)
        place += padded[view].take(below)
        image += place if scale is None else place * scale
    return image


def first_image(geometry: Geometry, sinogram: np.ndarray) -> np.ndarray:
    """What a network begins with, in training and after: (views, bins) -> (H, W) float32, water = 1, never below 0."""
    return np.maximum(fbp(geometry, sinogram) / geometry.mu_water, 0).astype(np.float32)
