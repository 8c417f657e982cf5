"""Random changes of training images: scale, rotation, flip, shift, quarter turns, noise.

What is drawn is kept apart from how it is applied, so that both images of a pair get the same. Images are (C, H, W)
in [-1, 1]; what lies outside of an image reads as -1, which is air in CT.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as Pillow

from medi2i.datasets.scaling import Clip

if TYPE_CHECKING:
    from medi2i.common.options import PairedOptions, UnpairedOptions

OUTSIDE = -1.0

Within = tuple[tuple[int, ...], tuple[int, int]]
"""(H, W) of an image and (h, w) of the crop."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far images may be changed. Flips and shifts happen only if ``translate`` (pixels) is not 0.

    ``translate`` below 0: the crop lies anywhere, wholly inside of the image. ``flips``: whether one above 0 also
    flips. ``quarter_turns``: all eight symmetries of the square (the dihedral group D4), equally often; of a crop that
    is not square the four that keep its shape. ``rotation`` in degrees and ``scale`` (a share: 0.1 is 0.9 to 1.1) go
    both ways. ``noise``: standard deviation of Gaussian noise on the input image, in [-1, 1]. ``gamma``: of its levels,
    see ``Uncut.toned``.
    """

    translate: int = 0
    rotation: float = 0.0
    scale: float = 0.0
    noise: float = 0.0
    quarter_turns: bool = False
    flips: bool = True
    gamma: float = 0.0

    def draw(self, rng: np.random.Generator, within: Within | None = None) -> "Draw":
        """One ``Draw`` from the numpy Generator ``rng``.

        within: ((H, W) of the image, (h, w) of the crop): the scaled image then covers the crop, which is not shifted
        beyond it.
        Every variate is drawn, used or not: switching one of them on leaves the others as they were.
        """
        scale, rotation = rng.uniform(-1, 1, 2)
        flip = rng.random() < 0.5
        scale = self._scale(float(scale), within)
        down, right = rng.integers(*self._shifts(scale, within), endpoint=True)
        place, turns = rng.random(2), rng.integers(4)
        return Draw(
            scale=scale,
            degrees=self.rotation * float(rotation),
            flip=bool(flip) and (self.translate < 0 or self.translate > 0 and self.flips or self.quarter_turns),
            down=int(down),
            right=int(right),
            place=(float(place[0]), float(place[1])) if self.translate < 0 else None,
            turns=int(turns) if self.quarter_turns else 0,
        )

    def _scale(self, drawn: float, within: Within | None) -> float:
        """1 - scale … 1 + scale for ``drawn`` -1 … 1, and no less than covers the crop."""
        if within is None or self.scale == 0:
            return 1.0 + self.scale * drawn
        least = max(1 - self.scale, *(part / whole for whole, part in zip(*within, strict=True)))
        return least + (1 + self.scale - least) * (drawn + 1) / 2

    def _shifts(self, scale: float, within: Within | None) -> tuple[Sequence[int], Sequence[int]]:
        """((least down, least right), (most down, most right))."""
        reach = max(self.translate, 0)
        if within is None:
            return (-reach, -reach), (reach, reach)
        rooms = [(whole * scale - part) / 2 for whole, part in zip(*within, strict=True)]  # on both sides of the crop
        odd = [(whole - part) % 2 / 2 for whole, part in zip(*within, strict=True)]  # the middle crop lies above by it
        return (
            [-min(reach, max(math.floor(room + half), 0)) for room, half in zip(rooms, odd, strict=True)],
            [min(reach, max(math.floor(room - half), 0)) for room, half in zip(rooms, odd, strict=True)],
        )


def augmentation_for(
    phase: str, options: "PairedOptions | UnpairedOptions", flips: bool = True, gamma: float = 0.0
) -> Augmentation:
    """The ``Augmentation`` of ``phase`` "train" by the options; none in "val". flips, gamma: see there."""
    if phase == "val":
        return Augmentation()
    return Augmentation(
        options.random_translate,
        options.random_rotation,
        options.random_scale,
        options.augment_noise,
        options.random_rot90,
        flips,
        gamma,
    )


@dataclasses.dataclass(frozen=True)
class Draw:
    """One change, in this order: scale about the centre, rotate counter-clockwise as seen, flip left-right, shift;
    then cut out, and turn what was cut out by ``turns`` quarters counter-clockwise.

    ``place``: where in the image to cut, (0, 0) its top left and (1, 1) its bottom right corner; None: in the middle.
    """

    scale: float = 1.0
    degrees: float = 0.0
    flip: bool = False
    down: int = 0
    right: int = 0
    place: tuple[float, float] | None = None
    turns: int = 0


STILL = Draw()


def apply(
    array: np.ndarray, draw: Draw, size: tuple[int, int], *, nearest: bool = False, outside: float = OUTSIDE
) -> np.ndarray:
    """``array`` (C, H, W) changed by ``draw`` and cut to the centre ``size`` (h, w) -> (C, h, w), a new array.

    Scale and rotation are one bilinear interpolation (``nearest``: none, for class numbers). Pixels that lie outside
    of the image get ``outside``. The same draw and sizes treat any number of channels alike.
    """
    top, left = corner(draw, array.shape[1:], size)
    if draw.scale == 1 and draw.degrees == 0:
        # The flip is about the image's centre and comes before the shift.
        result = _window(array[:, :, ::-1] if draw.flip else array, top, left, size, outside)
    else:
        result = _resample(array, draw, top, left, size, nearest, outside)
    turns = quarters(draw, size)
    return np.ascontiguousarray(np.rot90(result, turns, axes=(1, 2))) if turns else result


def corner(draw: Draw, shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the top left pixel of what ``draw`` cuts out of an image of ``shape`` (H, W)."""
    rooms = [whole - part for whole, part in zip(shape, size, strict=True)]
    if draw.place is None:
        top, left = (room // 2 for room in rooms)
    else:
        top, left = (min(int(share * (room + 1)), room) for share, room in zip(draw.place, rooms, strict=True))
    return top - draw.down, left - draw.right


def quarters(draw: Draw, size: tuple[int, int]) -> int:
    """By how many quarters it turns; a quarter would stand an oblong crop on its end."""
    return draw.turns if size[0] == size[1] else draw.turns // 2 * 2


def continued(array: np.ndarray, draw: Draw, size: tuple[int, int]) -> np.ndarray:
    """``array`` (C, H, W), continued by its edge as far on all sides as ``draw`` and ``size`` reach beyond it.

    What a rotation turns in from outside stays air.
    """
    if draw.degrees != 0 or draw.place is not None:
        return array
    beyond = [
        (part / 2 + abs(shift)) / draw.scale - whole / 2
        for part, shift, whole in zip(size, (draw.down, draw.right), array.shape[1:], strict=True)
    ]
    if max(beyond) <= 0:
        return array
    margin = math.ceil(max(beyond)) + 1
    return np.pad(array, ((0, 0), (margin, margin), (margin, margin)), mode="edge")


def _window(array: np.ndarray, top: int, left: int, size: tuple[int, int], outside: float) -> np.ndarray:
    height, width = size
    part = array[:, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    if part.shape[1:] == size:
        return part.copy(order="C")
    above, before = min(max(-top, 0), height), min(max(-left, 0), width)
    below, after = height - above - part.shape[1], width - before - part.shape[2]
    return np.pad(part, ((0, 0), (above, below), (before, after)), constant_values=outside)


def way_back(draw: Draw, top: int, left: int, shape: tuple[int, ...]) -> tuple[float, ...]:
    """(a, b, c, d, e, f): the pixel (x, y) of the window at ``top``, ``left``, before that is turned, is the image's
    (a x + b y + c, d x + e y + f). shape: (H, W) of the image."""
    centre_y, centre_x = shape[0] / 2, shape[1] / 2
    angle = math.radians(draw.degrees)
    cosine, sine = math.cos(angle) / draw.scale, math.sin(angle) / draw.scale
    mirror = -1.0 if draw.flip else 1.0
    # Back over the shift and the flip, then rotated back about the centre.
    x0, y0 = mirror * (left - centre_x), top - centre_y
    return (
        mirror * cosine,
        -sine,
        cosine * x0 - sine * y0 + centre_x,
        mirror * sine,
        cosine,
        sine * x0 + cosine * y0 + centre_y,
    )


def _resample(
    array: np.ndarray, draw: Draw, top: int, left: int, size: tuple[int, int], nearest: bool, outside: float
) -> np.ndarray:
    # Pillow's affine transform takes a third of the time of scipy.ndimage's and lets other threads run; ChainerCV's
    # rotate and resize would interpolate twice. Coordinates are of pixel corners: the centre of H pixels is at H / 2.
    height, width = size
    matrix = way_back(draw, top, left, array.shape[1:])
    result = np.empty((array.shape[0], height, width), dtype=np.float32)
    way = Pillow.Resampling.NEAREST if nearest else Pillow.Resampling.BILINEAR
    for channel, plane in zip(result, array, strict=True):
        picture = Pillow.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
        turned = picture.transform((width, height), Pillow.Transform.AFFINE, matrix, way, fillcolor=outside)
        channel[...] = np.asarray(turned)
    return result


def add_noise(array: np.ndarray, sd: float, rng: np.random.Generator | None) -> np.ndarray:
    """``array`` plus Gaussian noise of standard deviation ``sd``, float32; not clipped, so that its mean is 0. Without
    a generator none."""
    if sd == 0 or rng is None:
        return array
    return array + np.float32(sd) * rng.standard_normal(array.shape, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Uncut:
    """One image and what is to become of it.

    values: (C, H, W) in the unit of ``clip`` (CT: HU), int16 where that holds them exactly, else float32.
    draw, size, outside: as for ``augment.apply``. noise: sd of the Gaussian noise to add, in [-1, 1], made of ``key``.
    class_num: above 0, ``values`` are class numbers and the result is one-hot, (C * class_num, h, w).

    A device makes the image of it (``kernels.gpu.augment.finish``), or ``cut`` does, on the CPU.
    """

    values: np.ndarray
    clip: Clip
    draw: Draw
    size: tuple[int, int]
    noise: float = 0.0
    key: int = 0
    class_num: int = 0
    outside: float = OUTSIDE

    def cut(self) -> np.ndarray:
        """The image but for its noise, float32 (C, h, w) in [-1, 1]."""
        nearest, unit = self.class_num > 0, self.clip.to_unit(self.values)
        result = apply(unit, self.draw, self.size, nearest=nearest, outside=self.outside)
        return one_hot(result, self.class_num) if self.class_num else result

    def toned(self, reach: float, rng: np.random.Generator | None) -> "Uncut":
        """The same with other levels between the ends of the clip, 0 and 1: u becomes u^g, log g even between
        ±log(1 + reach). As it is without a generator, and nothing is drawn for 0."""
        if reach == 0 or rng is None:
            return self
        share = (self.clip.to_unit(self.values) + 1) / 2
        power = np.float32((1 + reach) ** rng.uniform(-1, 1))
        toned = np.copysign(np.abs(share) ** power, share)  # without a clip there are values below 0
        return dataclasses.replace(self, values=self.clip.from_unit(2 * toned - 1))

    def noisy(self, noise: float, rng: np.random.Generator | None) -> "Uncut":
        """The same with ``noise`` and a key from ``rng``; as it is without a generator, and nothing is drawn for 0."""
        if noise == 0 or rng is None:
            return self
        return dataclasses.replace(self, noise=noise, key=int(rng.integers(2**63)))


def one_hot(labels: np.ndarray, class_num: int) -> np.ndarray:
    """Class numbers (C, H, W) -> (C * class_num, H, W) float32 of 0 and 1."""
    classes = np.arange(class_num, dtype=labels.dtype)[:, np.newaxis, np.newaxis]
    return (labels[:, np.newaxis] == classes).astype(np.float32).reshape(-1, *labels.shape[1:])


def joined(stored: Iterable[tuple[np.ndarray, Clip]]) -> tuple[np.ndarray, Clip]:
    """(values, Clip) of many images as channels of one. Where their clips differ, all come in [-1, 1]."""
    arrays, clips = zip(*stored, strict=True)
    if len(set(clips)) > 1:
        return np.concatenate([clip.to_unit(array) for array, clip in zip(arrays, clips, strict=True)]), Clip()
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0], clips[0]
