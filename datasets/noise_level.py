"""How much noise CT images have, and of which texture, measured in the images themselves.

Standard deviations are taken in small squares of soft tissue, the most uniform of each slice. The smoothed slice
decides which these are, its fine structure what they measure: where noise happens to be low is then not preferred, as
it would be by a choice after the standard deviation itself. The level of a series is the median of its squares (that of
Christianson et al., AJR 2015, is the mode): what vessels and edges do in some of them does not count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from medi2i.datasets.dicom.reading import read
from medi2i.datasets.dicom.series import Series

SIDE = 16  # pixels of a square: some hundred independent values, and small enough to fit between vessels
STRIDE = 8
SMOOTHING = 2.0  # pixels (sd): what is left of white noise is a seventh
SHARE = 0.15  # of the squares of a slice; on eight series, the next ones have more anatomy in them
FEWEST = 12  # squares of a slice, where there are so many
TISSUE = (-150.0, 150.0)  # HU, of a square's mean: fat to muscle; air is cut off at -1024 by many scanners
SURROUNDINGS = (-300.0, 400.0)  # HU, of all in it, smoothed: no air, no bone
NOT_AIR = -950.0  # HU; where there is no soft tissue, all above counts
CALM = 2.0  # times the median variance: above, there is anatomy in a square, and its texture is not the noise's
SLICES = 12  # of a series, evenly spaced
WHITE_SHARE = 0.3  # of the level; in eight series what looks white of their own noise is 0.03 to 0.23 of it
AS_TOLD = 1.2  # times the white level: a level that is told may be that of white noise
TO_REMOVE = 0.9
_RADIUS = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None, :])
_CORNERS, _FINE = _RADIUS > 0.65, _RADIUS > 0.5  # kernels pass nothing there, and little
NEARLY_WHITE = 0.7  # of the level: what white noise is measured by the many frequencies that kernels pass little of
_WINDOW = np.outer(*[np.hanning(SIDE + 1)[:-1]] * 2)  # or low frequencies would leak into corners
_WINDOW /= np.sqrt((_WINDOW**2).sum())
_ring_of = np.rint(_RADIUS * SIDE).astype(int)


@dataclass(frozen=True)
class Noise:
    """level: standard deviation in HU.

    frequencies, power: radial spectrum, 1/pixel and HU² pixel²; its first two lose some to the planes.
    white_level: of the white noise that has the power of the highest frequencies, in the corners of the spectrum, HU.
    neighbours: correlation of pixels one below the other, and side by side; about 0 for white noise.
    between_slices: correlation of the noise of neighbouring slices, None where none were given.
    """

    level: float
    frequencies: np.ndarray
    power: np.ndarray
    neighbours: tuple[float, float]
    between_slices: float | None
    white_level: float

    @property
    def to_remove(self) -> float:
        """Standard deviation in HU of what a denoiser should take for noise that came on top of an image.

        Where much of it is white, that, for no scan's own noise is white; else nine tenths: a quarter of the dose
        adds twice the noise that a scan has, which is 0.89 of what results, and some texture is to stay.
        """
        much_white = self.white_level > WHITE_SHARE * self.level
        return min(self.white_level, self.level) if much_white else TO_REMOVE * self.level

    def white_at(self, level: float) -> bool:
        """Whether ``level`` HU that are to be taken away may be all white noise."""
        return level <= AS_TOLD * self.white_level

    def share_of(self, level: float) -> float:
        """How much of a network's change is to be made where ``level`` HU are to be taken away: all where this may be
        the white noise; else ``level`` over what there is to remove to the power of 1.5, at most 1.

        Of noise of one texture no network can tell which part is to stay. Where the noise of a scan has the deviation
        s0 and ``level`` came on top, the best share of what takes away all of it is level² / (level² + s0²); networks
        take away less than all. By this power no image of five series, with 3 to 60 HU of a lower dose, became worse.
        """
        if self.white_at(level) or self.to_remove == 0:
            return 1.0
        return min(1.0, (level / self.to_remove) ** 1.5)

    @property
    def mean_frequency(self) -> float:
        """Of the noise power in 1/pixel: 0.35 for white noise, less for smoother noise. nan without noise."""
        weights = self.power * self.frequencies  # rings grow with their radius
        return float((weights * self.frequencies).sum() / weights.sum()) if weights.sum() > 0 else float("nan")

    @property
    def white(self) -> bool:
        """Whether neighbouring pixels are independent."""
        return max(map(abs, self.neighbours)) < 0.1

    @property
    def text(self) -> str:
        """In words, as "8.2 HU, correlated (mean frequency 0.25 / pixel)"."""
        texture = "white" if self.white else f"correlated (mean frequency {self.mean_frequency:.2f} / pixel)"
        return f"{self.level:.1f} HU" + (f", {texture}" if self.level > 0 else "")


_Found = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of one slice: variances of its squares; power of the calm ones; means of their squared pixels, of products with those
below and beside them, and of their finest power, in corners and all; power of calm ones, of those in the slice after,
of what both share."""


class NoiseMeter:
    """Add some slices of a series, then ask."""

    def __init__(self) -> None:
        self._found: dict[bool, list[_Found]] = {True: [], False: []}  # in soft tissue or not

    def add(
        self,
        hu: np.ndarray,
        mask: np.ndarray | None = None,
        after: np.ndarray | None = None,
        like: np.ndarray | None = None,
    ) -> float | None:
        """Add a slice (H, W) in HU; ``mask``: True on padding; ``after``: the next slice, for what both share.

        like: another slice whose uniform squares are taken.

        Returns the level of this slice, None where nothing can be measured in it.
        """
        if min(hu.shape) < SIDE:
            return None
        chosen, tissue = uniform_squares(hu if like is None else like, mask)
        if not len(chosen):
            return None
        squares = detrend(squares_of(hu)[chosen])
        variances = (squares**2).sum(axis=(1, 2)) / (SIDE * SIDE - 3)
        calm = variances <= CALM * np.median(variances)
        squares, pairs = squares[calm], np.zeros((3, SIDE, SIDE))
        transformed = np.fft.fft2(squares)
        down, right = squares[:, 1:] * squares[:, :-1], squares[:, :, 1:] * squares[:, :, :-1]
        windowed = np.abs(np.fft.fft2(squares * _WINDOW)) ** 2
        corners, fine = (windowed[:, which].mean() for which in (_CORNERS, _FINE))
        if after is not None:
            other = np.fft.fft2(detrend(squares_of(after)[chosen[calm]]))
            power = np.abs(transformed) ** 2, np.abs(other) ** 2, (transformed * other.conj()).real
            pairs = np.stack([one.sum(axis=0) for one in power])
        self._found[tissue].append(
            (
                variances,
                (np.abs(transformed) ** 2).sum(axis=0),
                np.array([(squares**2).mean(), down.mean(), right.mean(), corners, fine]),
                pairs,
            )
        )
        return float(np.sqrt(np.median(variances)))

    def result(self) -> Noise | None:
        """The Noise of all slices together; None where nothing could be measured."""
        found = self._found[True] or self._found[False]
        if not found:
            return None
        of_squares, powers, products, pairs = zip(*found, strict=True)
        variances, whole = np.concatenate(of_squares), np.sum(powers, axis=0)
        rings = np.arange(1, SIDE // 2 + 1)
        power = np.array([whole[_ring_of == ring].mean() for ring in rings])
        power *= np.median(variances) / max(float(whole.sum() / SIDE**2), 1e-12)
        squares, down, right, corners, fine = np.mean(products, axis=0)
        white = fine if corners > NEARLY_WHITE**2 * squares else corners
        return Noise(
            level=float(np.sqrt(np.median(variances))),
            frequencies=rings / SIDE,
            power=power,
            neighbours=(float(down / squares), float(right / squares)) if squares > 0 else (0.0, 0.0),
            between_slices=_between(np.sum(pairs, axis=0), rings, power),
            white_level=float(np.sqrt(white)),
        )


def _between(pairs: np.ndarray, rings: np.ndarray, power: np.ndarray) -> float | None:
    """Above the mean frequency: both slices have their anatomy in common, which lies below it."""
    weights = power * rings
    fine = pairs[:, (weights * rings).sum() / max(weights.sum(), 1e-12) <= _ring_of].sum(axis=1)
    return float(fine[2] / np.sqrt(fine[0] * fine[1])) if fine[0] * fine[1] > 0 else None


def noise_of(series: Series) -> Noise | None:
    """The Noise of a CT series, from evenly spaced slices and the neighbours of these; None where nothing can be
    measured. Raises Unreadable."""

    def load(index: int) -> tuple[np.ndarray, np.ndarray | None]:
        image = read(series.slices[index].path, series.slices[index].frame)
        return image.hu, image.mask

    return noise_in(load, series.places() or list(range(len(series.slices))))


def noise_in(load: Callable[[int], tuple[np.ndarray, np.ndarray | None]], places: Sequence[int]) -> Noise | None:
    """The same of slices that ``load(index)`` gives as (HU (H, W), mask or None), at ``places`` in steps of slices."""
    meter, count = NoiseMeter(), len(places)
    for index in np.unique(np.linspace(0, count - 1, min(SLICES, count)).round().astype(int)):
        hu, mask = load(index)
        beside = index + 1 < count and places[index + 1] - places[index] == 1
        meter.add(hu, mask, load(index + 1)[0] if beside else None)
    return meter.result()


def detrend(patches: np.ndarray) -> np.ndarray:
    """Patches (..., H, W) minus the planes that fit them best: shading is not noise. float64."""
    patches = np.asarray(patches, dtype=np.float64)
    rows, columns = (axis - axis.mean() for axis in np.indices(patches.shape[-2:], dtype=np.float64))
    result = patches - patches.mean(axis=(-2, -1), keepdims=True)
    for axis in (rows, columns):
        result -= axis * ((axis * result).sum(axis=(-2, -1), keepdims=True) / (axis**2).sum())
    return result


def corner_of(number: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """First row and column of a square in images of ``shape`` (H, W)."""
    row, column = divmod(int(number), (shape[1] - SIDE) // STRIDE + 1)
    return row * STRIDE, column * STRIDE


def squares_of(image: np.ndarray) -> np.ndarray:
    """All squares (K, SIDE, SIDE) of an image (H, W)."""
    return np.lib.stride_tricks.sliding_window_view(image, (SIDE, SIDE))[::STRIDE, ::STRIDE].reshape(-1, SIDE, SIDE)


def uniform_squares(hu: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Numbers of the squares to measure in, the most uniform first, and whether they are of soft tissue; ``corner_of``
    has their places."""
    smooth = squares_of(gaussian_filter(np.asarray(hu, np.float32), SMOOTHING))
    mean, least, most = smooth.mean(axis=(1, 2)), smooth.min(axis=(1, 2)), smooth.max(axis=(1, 2))
    values = squares_of(hu)
    free = values.max(axis=(1, 2)) > values.min(axis=(1, 2))  # what was filled in has no noise
    free |= not free.any()  # all of it: an image without any
    if mask is not None and mask.any():
        free &= ~squares_of(mask).any(axis=(1, 2))
    soft = (mean > TISSUE[0]) & (mean < TISSUE[1]) & (least > SURROUNDINGS[0]) & (most < SURROUNDINGS[1])
    tissue = int(np.count_nonzero(free & soft)) >= FEWEST
    there = np.flatnonzero(free & (soft if tissue else least > NOT_AIR))
    structure = (detrend(smooth[there]) ** 2).mean(axis=(1, 2))
    return there[np.argsort(structure, kind="stable")[: max(FEWEST, round(SHARE * len(there)))]], tissue
