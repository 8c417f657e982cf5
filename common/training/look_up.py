"""Which grey level of one domain is which of the other, where nothing pairs them: a table by rank, up or down.

Between two modalities an inverted contrast is as legal for cycles, and for discriminators nearly so, as the right one:
which of both a training falls into is chance, and it seldom comes out again. A table of levels costs nothing and knows
better, for it has but two ways to go. The share of pixels at or below a level (of all that are not background) is to be
the same in both domains: the darkest become the darkest, as from CT to CT, or the brightest, as from T1 to T2. That is
right by its levels either way; what it makes of an image resembles the other domain in the right way alone, where fat
lies beside air and fluid around grey matter. With other shares of tissues in the domains it is somewhat wrong, and a
beginning.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medi2i.common.compat import Array, F, chainer
from medi2i.common.training.likeness import spread
from medi2i.datasets.unpaired import UnpairedDataset

EXAMPLES = 32  # images of each domain
LEVELS = 257  # of a table, equally many pixels between any two
SMOOTH = 3  # pixels, side of the squares over which levels are means: noise of air would be tissue
BINS = 64  # of [-1, 1]: the fullest one along the borders of images is background, with those beside it
SCALES = 1, 2, 4, 8  # pixels, of what surrounds a pixel
SAMPLES, DIRECTIONS = 20_000, 64


@dataclasses.dataclass(frozen=True)
class LookUp:
    """levels, becomes: float (LEVELS,), ascending, and what they become, in [-1, 1]; between them in straight pieces.
    background, of_background: the level of what surrounds the body, and what that becomes."""

    levels: np.ndarray
    becomes: np.ndarray
    background: float
    of_background: float

    def __call__(self, images: Array) -> Array:
        """Images (N, C, H, W) in [-1, 1] of one domain with the levels of the other, smoothed over ``SMOOTH`` pixels;
        on the device of the images."""
        xp = chainer.backend.get_array_module(images)
        half = SMOOTH // 2
        padded = xp.pad(images.astype("f", copy=False), ((0, 0), (0, 0), (half, half), (half, half)), mode="edge")
        smooth = F.average_pooling_2d(padded, SMOOTH, 1).array
        made = xp.interp(smooth, xp.asarray(self.levels), xp.asarray(self.becomes))
        return xp.where(_near(smooth, self.background), self.of_background, made).astype("f")


@dataclasses.dataclass(frozen=True)
class Tables:
    """there, back: from the first domain to the second, and from that to the first. distances: of what rising and
    falling tables make of images from the other domain, both directions together; less is more alike."""

    there: LookUp
    back: LookUp
    falling: bool
    distances: tuple[float, float]

    @property
    def sentence(self) -> str:
        """In words."""
        rising, falling = self.distances
        way = "bright levels become dark, dark ones bright" if self.falling else "bright levels stay bright"
        return f"{way} (distance to the other domain: rising {rising:.2f}, falling {falling:.2f})"


def between(dataset_x: UnpairedDataset, dataset_y: UnpairedDataset, way: str = "auto") -> Tables:
    """Tables by evenly spread images of both domains. way: one of ``choices.LOOK_UPS``.

    "auto" is the way whose results resemble the other domain more: each pixel with means over what surrounds it,
    ``SCALES``, as a point; sliced Wasserstein distance (Rabin et al., 2011) of both clouds, whitened by that of the
    real one.
    """
    x, y = (
        [channel for i in spread(len(dataset), EXAMPLES) for channel in dataset.whole(i)]
        for dataset in (dataset_x, dataset_y)
    )
    of_x, of_y = _levels(x), _levels(y)
    both = [(_table(of_x, of_y, falling), _table(of_y, of_x, falling)) for falling in (False, True)]
    cloud_x, cloud_y = _cloud(x), _cloud(y)
    rising, falling = (
        _distance(_cloud(_made(there, x)), cloud_y) + _distance(_cloud(_made(back, y)), cloud_x) for there, back in both
    )
    chosen = falling < rising if way == "auto" else way == "falling"
    return Tables(*both[chosen], chosen, (rising, falling))


def _near(values: Array, level: float) -> Array:
    return abs(values - level) <= 3 / BINS


def _smooth(image: np.ndarray) -> np.ndarray:
    return ndimage.uniform_filter(image, SMOOTH, mode="nearest")


def _made(table: LookUp, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [table(image[np.newaxis, np.newaxis])[0, 0] for image in images]


def _background(images: Sequence[np.ndarray]) -> float:
    """The level that is most frequent along the borders of smoothed images (H, W)."""
    borders = np.concatenate([np.concatenate([i[0], i[-1], i[:, 0], i[:, -1]]) for i in images])
    counts, edges = np.histogram(borders, BINS, (-1, 1))
    fullest = counts.argmax()
    inside = (borders >= edges[fullest]) & (borders <= edges[fullest + 1])
    return float(np.median(borders[inside]))


def _levels(images: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
    """(level of the background, quantiles (LEVELS,) of all else) of images (H, W)."""
    smooth = [_smooth(image) for image in images]
    ground, values = _background(smooth), np.concatenate([image.ravel() for image in smooth])
    tissue = values[~_near(values, ground)]
    return ground, np.quantile(tissue if tissue.size else values, np.linspace(0, 1, LEVELS))


def _table(x: tuple[float, np.ndarray], y: tuple[float, np.ndarray], falling: bool) -> LookUp:
    """From one domain to another, each by its ``_levels``."""
    (ground, levels), (of_ground, becomes) = x, y
    return LookUp(levels, becomes[::-1] if falling else becomes, ground, of_ground)


def _cloud(images: Sequence[np.ndarray]) -> np.ndarray:
    """(SAMPLES, scales): means of smoothed images (H, W) around pixels, drawn with replacement."""
    rng, points = np.random.default_rng(0), []
    for image in images:
        chosen = rng.integers(image.size, size=-(-SAMPLES // len(images)))
        around = (ndimage.gaussian_filter(_smooth(image), scale, mode="nearest") for scale in SCALES)
        points.append(np.stack([one.ravel()[chosen] for one in around], axis=1))
    return np.concatenate(points)[:SAMPLES].astype(np.float64)


def _distance(made: np.ndarray, real: np.ndarray) -> float:
    variances, axes = np.linalg.eigh(np.cov(real.T) + 1e-4 * np.eye(real.shape[1]))
    directions = np.random.default_rng(0).normal(size=(real.shape[1], DIRECTIONS))
    seen = (axes / np.sqrt(variances)) @ (directions / np.linalg.norm(directions, axis=0))
    return float(abs(np.sort(made @ seen, axis=0) - np.sort(real @ seen, axis=0)).mean())
