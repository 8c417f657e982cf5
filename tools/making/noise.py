"""Noise models as formulas. Every one takes an explicit generator and leaves its input alone.

``poisson`` is the released helper's: counts added to the stored values. ``dose`` simulates a scan with fewer photons
in the projections, where CT noise comes from (correlated, strongest behind bone); see Kalender, Computed Tomography,
chapter 5.

The projections are those of ``reconstruction``: images (H, W), lengths in mm, sinograms (views, bins) of ray sums.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
from scipy import ndimage

from medi2i.datasets.noise_level import NoiseMeter
from medi2i.reconstruction.fbp import fbp
from medi2i.reconstruction.geometry import ARC, MU_WATER, PARALLEL, Geometry, regular
from medi2i.reconstruction.operator import Operator

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
    ``source_distance`` in mm from the axis for a fan beam over a full turn (0: parallel beams)."""

    fraction: float = 0.25
    photons: float = 1e5
    electronic: float = 10.0
    views: int | None = None
    window: str = "hann"
    bowtie: float = 0.0
    source_distance: float = 0.0


def photons_for(
    images: Sequence[tuple[np.ndarray, float]], level: float, dose: Dose, rng: np.random.Generator, xp: ModuleType = np
) -> float:
    """The photons a ray with which the noise of a scan of full dose has the standard deviation ``level`` (HU, as
    NoiseMeter measures it) in CT images, each (HU (H, W), spacing in mm): that of the series itself, as a rule.

    ``dose``: all but its ``fraction`` and ``photons``, which is where the search begins. The variance of the simulated
    noise is that by which it raises the one that is measured in the images. ValueError where nothing can be measured,
    or structures hide what is added.
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
    if not 0.5 < ratio < 2:
        raise ValueError(f"{level:.1f} HU of noise cannot be told from what else is in its middle slices")
    return photons


def dose_noise(hu: np.ndarray, spacing: float, dose: Dose, rng: np.random.Generator, xp: ModuleType = np) -> np.ndarray:
    """The noise (H, W) float32 in HU that a scan of ``dose`` adds to an image in HU with square pixels of ``spacing``
    mm.

    p = ∫mu, counts ~ Poisson(d·I0·exp(-p)) + N(0, electronic²), and filtered back-projection of the
    difference between the noisy and the noiseless -log(counts). Zero mean (the logarithm's own bias, about 1/2N, is
    taken off), variance ∝ 1/d where electronic noise does not count. The image itself is taken as noise-free. Random
    numbers are drawn on the CPU: the same noise with and without a GPU.
    """
    views = dose.views or max(180, round(0.75 * max(hu.shape)))
    parallel = scan = regular(hu.shape, (spacing, spacing), views)
    if dose.source_distance > 0:
        scan = regular(hu.shape, parallel.spacing, 2 * views, beam=ARC, source_distance=dose.source_distance)
    flux = dose.fraction * dose.photons * _bowtie(scan, dose)
    difference = _log_noise(flux * np.exp(-line_integrals(hu, scan, xp)), dose.electronic, rng)
    if scan is not parallel:
        difference = fan_to_parallel(difference, scan, parallel)
    noise = fbp(parallel, difference, dose.window, xp=xp) * np.float32(1000 / MU_WATER)
    return noise if xp is np else xp.asnumpy(noise)


def line_integrals(hu: np.ndarray, scan: Geometry, xp: ModuleType = np) -> np.ndarray:
    """Attenuation -log(I/I0) along every ray of a ``regular`` scan, (views, bins) float64, of an image in HU; air and
    below count as nothing.

    Only the expected counts depend on it, and they are smooth: a large image is projected at half its resolution or
    less, and every second view is interpolated.
    """
    factor = max(1, min(hu.shape) // 192)
    small = _block_mean(scan.to_attenuation(hu.astype(np.float32)), factor)
    half, turn = (len(scan.angles) + 1) // 2, 180.0 if scan.beam == PARALLEL else 360.0
    bins = 2 * (scan.bins // (2 * factor)) + 3
    coarse = replace(
        scan,
        shape=small.shape,
        spacing=(scan.spacing[0] * factor, scan.spacing[1] * factor),
        angles=tuple(turn * view / half for view in range(half)),
        bins=bins,
        bin_width=scan.bin_width * factor,
    )
    rays = _operator(coarse, xp)(small)
    rays = (rays if xp is np else xp.asnumpy(rays)).astype(np.float64)
    # After half a turn a parallel projection comes back mirrored, after a turn any as it was.
    full = np.vstack([rays, rays[:1, ::-1] if scan.beam == PARALLEL else rays[:1]])
    bins_at = (np.arange(scan.bins) - (scan.bins - 1) / 2) / factor + (bins - 1) / 2
    views_at = np.arange(len(scan.angles)) * (half / len(scan.angles))
    return _interpolate(full, views_at[:, None], bins_at[None, :])


@functools.lru_cache(maxsize=1)
def _operator(geometry: Geometry, xp: ModuleType) -> Operator:
    """Kept from slice to slice of a series."""
    return Operator(geometry, xp=xp)


def _block_mean(image: np.ndarray, factor: int) -> np.ndarray:
    rows, columns = (-side % factor for side in image.shape)
    padded = np.pad(image, ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)))
    return padded.reshape(padded.shape[0] // factor, factor, -1, factor).mean(axis=(1, 3))


def _bowtie(scan: Geometry, dose: Dose) -> np.ndarray:
    """What the bow-tie filter lets through to each bin, 1 in the middle: the shorter the way through the cylinder,
    the less."""
    if dose.bowtie <= 0:
        return np.ones(scan.bins)
    chord = 2 * np.sqrt(np.maximum(dose.bowtie**2 - scan.rays(0)[1] ** 2, 0))
    return np.exp(-MU_WATER * (2 * dose.bowtie - chord))


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


def _interpolate(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """``table`` linearly at (rows, columns), which broadcast; 0 outside."""
    return ndimage.map_coordinates(table, np.broadcast_arrays(rows, columns), order=1)


def fan_to_parallel(fan: np.ndarray, scan: Geometry, parallel: Geometry) -> np.ndarray:
    """Rays of a fan beam over a full turn as those of parallel beams over half of one: each is seen twice, and
    averaged (Kak and Slaney, 3.4)."""
    offset, theta = parallel.detector()[None, :], np.radians(parallel.angles)[:, None]
    full = np.vstack([fan, fan[:1]])
    both = np.zeros(parallel.sinogram_shape)
    for angle, side in ((theta, 1.0), (theta + np.pi, -1.0)):
        gamma = np.arcsin(side * offset / scan.source_distance)
        beta = np.mod(angle - gamma, 2 * np.pi) * (len(fan) / (2 * np.pi))
        both += _interpolate(full, beta, gamma * scan.source_distance / scan.bin_width + (scan.bins - 1) / 2)
    return (both / 2).astype(np.float32)
