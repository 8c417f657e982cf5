"""Noise models as formulas. Every one takes an explicit generator and leaves its input alone.

``poisson`` is the released helper's: counts added to the stored values. ``dose`` simulates a scan with fewer photons
in the projections, where CT noise comes from (correlated, strongest behind bone); see Kalender, Computed Tomography,
chapter 5.

Projections (parallel and fan beams, filtered back-projection) work on NumPy or CuPy arrays alike. Images are (H, W),
lengths in mm; sinograms are (angles, bins), ray sums, with bins as wide as a pixel. Sources: Kak and Slaney, Principles
of Computerized Tomographic Imaging, chapter 3 (equations 3.61 for the ramp filter, 3.31 for the sum).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from medi2i.datasets.noise_level import NoiseMeter
from medi2i.reconstruction.geometry import MU_WATER

POISSON, UNBIASED, GAUSSIAN, DOSE = "poisson", "poisson-unbiased", "gaussian", "dose"
TRIES = 5  # of the search for a flux
PHOTONS = (1e2, 1e9)  # a ray; beyond, no scan is like it
MODELS = (POISSON, UNBIASED, GAUSSIAN, DOSE)


def generator_for(seed: int, repeat: int, *identity: bytes | str) -> np.random.Generator:
    """A generator that depends on the image itself, not on when or by whom it is drawn. identity: pixels, UIDs, …"""
    digest = hashlib.sha256()
    for part in (str(seed), str(repeat), *identity):
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return np.random.default_rng(np.frombuffer(digest.digest(), np.uint32))


def poisson(
    stored: np.ndarray, counts: float, rng: np.random.Generator, least: float, most: float, unbiased: bool = False
) -> tuple[np.ndarray, int]:
    """stored + Poisson(counts), saturating at least…most; the mean rises by ``counts``, the standard deviation is its
    root.

    unbiased: ``counts`` is subtracted again. Returns float64 values of the same shape, and how many pixels saturated.
    """
    noisy = stored + rng.poisson(counts, stored.shape).astype(np.float64)
    if unbiased:
        noisy -= counts
    saturated = int(np.count_nonzero((noisy < least) | (noisy > most)))
    return np.clip(noisy, least, most), saturated


def gaussian(values: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """values + N(0, deviation²), float32, in the unit of the values."""
    return (values + deviation * rng.standard_normal(values.shape)).astype(np.float32)


@dataclass(frozen=True)
class Dose:
    """A low-dose scan: ``fraction`` of ``photons`` a ray, electronic noise in photons (standard deviation), ``views``
    over half a turn (None: 0.75 per pixel of width, at least 180), ``window`` of the reconstruction (hann: soft,
    ramp: sharp), ``bowtie`` radius in mm of the water cylinder that the filter evens out (0: none),
    ``source_distance`` in mm from the axis for a fan beam over a full turn (0: parallel beams), ``mu_water`` in
    1/mm."""

    fraction: float = 0.25
    photons: float = 1e5
    electronic: float = 10.0
    views: int | None = None
    window: str = "hann"
    bowtie: float = 0.0
    source_distance: float = 0.0
    mu_water: float = MU_WATER

    def views_for(self, shape: tuple[int, int]) -> int:
        return self.views or max(180, round(0.75 * max(shape)))


def photons_for(
    images: Sequence[tuple[np.ndarray, float]], level: float, dose: Dose, rng: np.random.Generator, xp: ModuleType = np
) -> float:
    """The photons a ray with which the noise of a scan of full dose has the standard deviation ``level`` (HU, as
    NoiseMeter measures it) in CT images, each (HU (H, W), spacing in mm): that of the series itself, as a rule.

    ``dose``: all but its ``fraction`` and ``photons``, which is where the search begins. The variance of the simulated
    noise is that by which it raises the one that is measured in the images. ValueError where nothing can be measured.
    """
    photons = dose.photons
    for _ in range(TRIES):
        full = replace(dose, fraction=1.0, photons=photons)
        before, after = NoiseMeter(), NoiseMeter()
        for hu, spacing in images:
            before.add(hu)
            after.add(hu + dose_noise(hu, spacing, full, rng, xp))
        found = before.result(), after.result()
        if found[0] is None or found[1] is None or level <= 0:
            raise ValueError("no noise that could be measured")
        variance = found[1].level ** 2 - found[0].level ** 2
        # Where the noise that is there hides what was added, a quarter of it is as little as can be told.
        ratio = max(variance, (found[0].level / 4) ** 2) / level**2
        photons = float(np.clip(photons * ratio, *PHOTONS))
        if abs(ratio - 1) < 0.05:
            break
    return photons


def dose_noise(hu: np.ndarray, spacing: float, dose: Dose, rng: np.random.Generator, xp: ModuleType = np) -> np.ndarray:
    """The noise (H, W) float32 in HU that a scan of ``dose`` adds to an image in HU with square pixels of ``spacing``
    mm.

    p = ∫mu, counts ~ Poisson(d·I0·exp(-p)) + N(0, electronic²), and filtered back-projection of the
    difference between the noisy and the noiseless -log(counts). Zero mean (the logarithm's own bias, about 1/2N, is
    taken off), variance ∝ 1/d where electronic noise does not count. The image itself is taken as noise-free. Random
    numbers are drawn on the CPU: the same noise with and without a GPU.
    """
    theta = angles(dose.views_for(hu.shape))
    rays = line_integrals(hu, spacing, len(theta), dose.mu_water, xp)
    flux = dose.fraction * dose.photons * _bowtie(rays.shape[1], spacing, dose)
    if dose.source_distance > 0:
        fan = parallel_to_fan(rays, dose.source_distance, spacing)
        flux = parallel_to_fan(np.broadcast_to(flux, rays.shape), dose.source_distance, spacing)
        difference = _log_noise(flux * np.exp(-fan), dose.electronic, rng)
        difference = fan_to_parallel(difference, rays.shape, dose.source_distance, spacing)
    else:
        difference = _log_noise(flux * np.exp(-rays), dose.electronic, rng)
    filtered = ramp_filter(xp.asarray(difference), spacing, dose.window, xp)
    noise = back_project(filtered, theta, hu.shape, xp) * np.float32(1000 / dose.mu_water)
    return noise if xp is np else xp.asnumpy(noise)


def line_integrals(hu: np.ndarray, spacing: float, views: int, mu_water: float, xp: ModuleType = np) -> np.ndarray:
    """Attenuation -log(I/I0) along every ray (views, bins) float64 of an image in HU; air and below count as nothing.

    Only the expected counts depend on it, and they are smooth: a large image is projected at half its resolution or
    less, and every second view is interpolated.
    """
    mu = np.maximum(mu_water * (1 + hu.astype(np.float32) / 1000), 0)
    factor = max(1, min(hu.shape) // 192)
    small = _block_mean(mu, factor)
    theta = angles((views + 1) // 2)
    rays = project(small, theta, spacing * factor, xp)
    rays = (rays if xp is np else xp.asnumpy(rays)).astype(np.float64)
    return resample_sinogram(rays, (views, bin_count(hu.shape)), 1 / factor)


def _block_mean(image: np.ndarray, factor: int) -> np.ndarray:
    rows, columns = (-side % factor for side in image.shape)
    padded = np.pad(image, ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)))
    return padded.reshape(padded.shape[0] // factor, factor, -1, factor).mean(axis=(1, 3))


def _bowtie(bins: int, spacing: float, dose: Dose) -> np.ndarray:
    """What the bow-tie filter lets through in each bin, 1 in the middle: the shorter the way through the cylinder,
    the less."""
    if dose.bowtie <= 0:
        return np.ones(bins)
    off = (np.arange(bins) - (bins - 1) / 2) * spacing
    chord = 2 * np.sqrt(np.maximum(dose.bowtie**2 - off**2, 0))
    return np.exp(-dose.mu_water * (2 * dose.bowtie - chord))


def _log_noise(expected: np.ndarray, electronic: float, rng: np.random.Generator) -> np.ndarray:
    """-log(measured) + log(expected) for Poisson counts with electronic noise, without the bias of the logarithm.

    To second order, E[-log(1 + e)] = Var(e) / 2 with Var(e) = (N + electronic²) / N². Below one photon a detector
    reads 1: no ray is ever infinitely dense.
    """
    counts = rng.poisson(np.minimum(expected, 1e15)).astype(np.float64)
    if electronic > 0:
        counts += electronic * rng.standard_normal(counts.shape)
    noise = np.log(expected) - np.log(np.maximum(counts, 1.0))
    variance = (expected + electronic**2) / expected**2
    return (noise - np.minimum(variance / 2, 0.5)).astype(np.float32)


# --- projections ----------------------------------------------------------------------------------------------------


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


def resample_sinogram(sinogram: np.ndarray, shape: tuple[int, int], bins_per_bin: float) -> np.ndarray:
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
