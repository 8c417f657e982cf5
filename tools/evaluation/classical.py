"""Classical denoising for comparison, with its one parameter chosen on validation data.

All of it works on grey images (H, W) in their own unit. The parameter is a multiple of the noise's standard deviation,
so one search serves every unit.
"""

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from medi2i.common.errors import UserError
from medi2i.tools.evaluation import metrics

STEP = 1.25  # the search goes up and down by this factor
MOST_STEPS = 12  # 1.25^12 is a factor of 15 either way
Pair = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Input, truth, mask of what counts or None."""
NLM = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}  # Buades et al. 2005; scikit-image's sizes


@dataclass(frozen=True)
class Filter:
    """`apply(image, strength, sigma)`: strength as a multiple of sigma, the noise's standard deviation."""

    name: str
    note: str
    start: float
    apply: Callable[[np.ndarray, float, float], np.ndarray]


def _total_variation(image: np.ndarray, strength: float, sigma: float) -> np.ndarray:
    return denoise_tv_chambolle(image, weight=strength * sigma, eps=1e-5, max_num_iter=300)


def _non_local_means(image: np.ndarray, strength: float, sigma: float) -> np.ndarray:
    return denoise_nl_means(image, h=strength * sigma, sigma=sigma, **NLM)


def _bm3d(image: np.ndarray, strength: float, sigma: float) -> np.ndarray:
    from bm3d import bm3d  # not a dependency: its licence allows non-commercial use only

    return bm3d(np.asarray(image, dtype=np.float64), strength * sigma)


def check(names: Sequence[str]) -> None:
    """Raise UserError where a filter of these names is not installed."""
    if "bm3d" in names and importlib.util.find_spec("bm3d") is None:
        raise UserError(
            f"--classical: bm3d is not installed: pip install bm3d (its licence allows non-commercial use only), into "
            f"{sys.prefix}; or leave it out"
        )


FILTERS = {
    one.name: one
    for one in (
        Filter("tv", "total variation (Rudin et al. 1992, Chambolle 2004; scikit-image)", 1.0, _total_variation),
        Filter("nlm", "non-local means (Buades et al. 2005; scikit-image)", 0.8, _non_local_means),
        Filter("bm3d", "BM3D (Dabov et al. 2007, Mäkinen et al. 2020; bm3d)", 1.0, _bm3d),
    )
}


@dataclass(frozen=True)
class Tuned:
    """A filter with the strength that had the smallest RMSE on validation data; `tried`: strength → RMSE."""

    filter: Filter
    strength: float
    sigma: float
    tried: dict[float, float]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Filter (H, W) or, channel by channel, (C, H, W); float32."""
        image = np.asarray(image, dtype=np.float64)
        channels = image if image.ndim == 3 else image[None]
        out = np.stack([self.filter.apply(channel, self.strength, self.sigma) for channel in channels])
        return (out if image.ndim == 3 else out[0]).astype(np.float32)


def noise_deviation(pairs: Sequence[Pair]) -> float:
    """Standard deviation of input - truth over `pairs` of (input, truth, mask or None); its mean is taken off."""
    differences = [
        (image - truth)[..., mask if mask is not None else slice(None)].ravel() for image, truth, mask in pairs
    ]
    return float(np.std(np.concatenate(differences), dtype=np.float64))


def tune(one: Filter, pairs: Sequence[Pair]) -> Tuned:
    """Choose the strength on validation `pairs` of (input, truth, mask or None): a walk up or down from the start by
    factors of 1.25 until the mean RMSE grows. Raises UserError where input and truth are equal."""
    sigma = noise_deviation(pairs)
    if sigma == 0:
        raise UserError("--val_pairs: inputs and truths are equal up to a constant; there is no noise to choose for")
    tried: dict[float, float] = {}

    def score(step: int) -> float:
        strength = one.start * STEP**step
        if strength not in tried:
            tuned = Tuned(one, strength, sigma, {})
            errors = [metrics.rmse(tuned(image), truth, mask) for image, truth, mask in pairs]
            tried[strength] = math.fsum(errors) / len(pairs)
        return tried[strength]

    best = 0
    for direction in (1, -1):
        while abs(best + direction) <= MOST_STEPS and score(best + direction) < score(best):
            best += direction
    return Tuned(one, one.start * STEP**best, sigma, dict(sorted(tried.items())))
