"""Networks for one level of noise: what they are told of the noise in images, and how much of their change is made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import fft
from scipy.ndimage import uniform_filter

from medi2i.common.errors import UserError
from medi2i.datasets.catalogue import Catalogue
from medi2i.datasets.dicom import Unreadable
from medi2i.datasets.noise_level import Noise, noise_in, noise_of
from medi2i.datasets.reading import Image
from medi2i.datasets.scaling import Clip

LEAST_NOISE = 0.5  # HU; below, the noise is that of rounding
MOST_UNLIKE = 1.5  # levels of series that are converted together
SIDE, STEP = 32, 16  # pixels of the squares that ``excess`` looks at
AROUND = 5, 5, 5, 5  # squares down and right, and frequencies, that a power is the mean of
_WINDOW = np.sqrt(np.outer(*[np.hanning(SIDE + 1)[:-1]] * 2)).astype(np.float32)


class Told(NamedTuple):
    """Of the noise in the images of a conversion: the level (standard deviation in HU) that is to be taken away, the
    share of a network's change that is to be made for it, and whether it is white."""

    level: float
    share: float = 1.0
    white: bool = False

    def white_in(self, clip: Clip) -> float:
        """The standard deviation of the white noise in [-1, 1]; 0 where it is not white."""
        return 2 * self.level / clip.width if self.white else 0.0


@dataclass(frozen=True)
class Change:
    """How much of what a network changes is made: ``strength`` of it, and of white noise, whose standard deviation in
    [-1, 1] is ``white`` (0: there is none to take away), no more than there is."""

    strength: float = 1.0
    white: float = 0.0

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Images x (N, C, H, W) in [-1, 1] and what a network made of them, of the same shape -> the result."""
        if self.white > 0:
            y = y + np.array([[excess(one, self.white) for one in channels] for channels in x - y])
        return y if self.strength == 1 else x + np.float32(self.strength) * (y - x)


WHOLE = Change()


def excess(removed: np.ndarray, deviation: float) -> np.ndarray:
    """What of ``removed`` (H, W), an image less its denoised one, is more than white noise of that ``deviation``.

    Wiener's filter in overlapping squares: of a frequency whose power P around is more than that of the noise N,
    (P - N) / P is of the image. float32.
    """
    height, width = removed.shape
    wide = np.pad(
        np.asarray(removed, np.float32), [(STEP, STEP + -side % STEP) for side in removed.shape], mode="symmetric"
    )
    squares = np.lib.stride_tricks.sliding_window_view(wide, (SIDE, SIDE))[::STEP, ::STEP] * _WINDOW
    spectra = fft.rfft2(squares)
    power = uniform_filter(np.abs(spectra) ** 2, AROUND, mode="nearest")
    noise = np.float32(deviation**2 * (_WINDOW**2).sum())
    spectra *= np.maximum(1 - noise / np.maximum(power, noise), 0)
    kept, result = fft.irfft2(spectra, (SIDE, SIDE)) * _WINDOW, np.zeros_like(wide)
    rows, columns = kept.shape[:2]
    for down in (0, STEP):  # quarters of squares, each lies beside those of the next
        for right in (0, STEP):
            quarters = kept[:, :, down : down + STEP, right : right + STEP].swapaxes(1, 2)
            place = result[down : down + STEP * rows, right : right + STEP * columns]
            place += quarters.reshape(STEP * rows, STEP * columns)
    return result[STEP : STEP + height, STEP : STEP + width]


def for_noise(clip: Clip | None, trained_level: float, level: float) -> Clip:
    """The ``clip`` of a network that was trained with noise of ``trained_level``, for noise of ``level``: in [-1, 1] it
    is as strong as in training. A network that has seen one level only is told by this how much to take away."""
    if clip is None or clip.lower is None or clip.upper is None:
        raise UserError("--noise_level: the network was trained without a clip, which would be scaled")
    return Clip(clip.lower * level / trained_level, clip.upper * level / trained_level)


def noises_of(images: Catalogue) -> dict[str, Noise | None]:
    """The noise of each CT series by its name. Raises UserError where it cannot be measured."""
    found = {}
    for volume in images.volumes:
        held = [source.held for source in volume.sources if source.held is not None]
        name = "the array" if volume.series is None else volume.series.description or volume.series.uid
        if name in found and volume.series is not None:
            name += f" ({volume.series.uid})"
        try:
            if volume.sources[0].modality != "CT" or volume.series is None and not held:
                raise UserError(
                    "--noise_level: of images that are no DICOM CT it cannot be measured, so it must be given"
                )
            found[name] = noise_of(volume.series) if volume.series is not None else _noise_of_held(held)
        except Unreadable as error:
            raise UserError(f"{error.path}: {error.reason}") from None
    return found


def _noise_of_held(images: Sequence[Image]) -> Noise | None:
    return noise_in(lambda index: (images[index].array[0], images[index].mask), range(len(images)))


def told(level: float | None, measure: Callable[[], Mapping[str, Noise | None]], in_part: bool) -> Told:
    """What is told of the noise in series: by the ``level`` that is given, HU, or as ``measure()`` finds it. Raises
    UserError where it cannot be measured or series are too unlike for one level; a level that is given is all that is
    told then.

    in_part: whether a part of the change can be made, as of a residual network; of others the level is all."""
    if level is not None and not in_part:
        return Told(level)
    try:
        noises = measure()
    except UserError:
        if level is None:
            raise
        return Told(level)
    if level is None:
        level = _one_level({name: 0.0 if noise is None else noise.to_remove for name, noise in noises.items()})
    if not in_part:
        return Told(level)
    share = max(1.0 if noise is None else noise.share_of(level) for noise in noises.values())  # of the least noise
    return Told(level, share, all(noise is not None and noise.white_at(level) for noise in noises.values()))


def _one_level(found: Mapping[str, float]) -> float:
    low, high = min(found.values()), max(found.values())
    if low < LEAST_NOISE or high > MOST_UNLIKE * low:
        shown = ", ".join(
            f"{name}: {level:.1f} HU" for name, level in sorted(found.items(), key=lambda one: one[1])[:5]
        )
        raise UserError(
            f"--noise_level: the noise of the series is too low or too different for one level ({shown}); "
            "give a level, or convert each series by itself"
        )
    return float(np.sqrt(low * high))
