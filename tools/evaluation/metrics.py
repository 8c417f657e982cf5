"""How far an image is from the truth: pure functions of arrays in the image's own unit (HU for CT).

Every function takes two arrays of one shape, (H, W) or (C, H, W), and an optional boolean mask (H, W): True where
pixels count (padding is no tissue and does not). Sums are made in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from skimage.metrics import structural_similarity

from medi2i.common import compat
from medi2i.common.errors import UserError
from medi2i.datasets import scaling
from medi2i.tools.evaluation.files import Slice, load

SSIM_SIGMA = 1.5  # Wang et al. 2004: Gaussian weights, sigma 1.5, population covariance
SSIM_WIDTH = 11  # 2·int(3.5·sigma + 0.5) + 1 pixels: the smallest image that has an SSIM


@dataclass(frozen=True)
class Window:
    """A range of values [lower, upper] with a name; PSNR and SSIM are only told together with theirs."""

    name: str
    lower: float
    upper: float

    def __post_init__(self) -> None:
        if not self.upper > self.lower:
            raise ValueError(f"window {self.name}: upper {self.upper:g} must be above lower {self.lower:g}")

    @property
    def range(self) -> float:
        """The data range L of PSNR and SSIM."""
        return float(self.upper) - float(self.lower)

    def clip(self, array: np.ndarray) -> np.ndarray:
        return np.clip(np.asarray(array, dtype=np.float64), self.lower, self.upper)


BONE_HU = 150.0
FULL = Window("full", -1024, 2000)
SYNTHETIC = Window("full", -1024, 3000)
"""The dynamic range of synthetic CT in SynthRAD (Huijben et al., Medical Image Analysis 97, 2024)."""
WINDOWS = {
    window.name: window
    for window in (
        FULL,
        Window("soft", *scaling.SOFT_TISSUE),
        Window("brain", 0, 80),
        Window("lung", -1350, 150),
        Window("bone", -500, 1300),
    )
}


def rmse(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Root of the mean squared difference."""
    return float(np.sqrt(np.mean(_difference(image, truth, mask) ** 2)))


def mae(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute difference."""
    return float(np.mean(np.abs(_difference(image, truth, mask))))


def bias(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean of image - truth: positive where the image is too bright."""
    return float(np.mean(_difference(image, truth, mask)))


def psnr(image: np.ndarray, truth: np.ndarray, window: Window, mask: np.ndarray | None = None) -> float:
    """10·log10(L² / mean squared difference) in dB, both images clipped to the window, L its width; inf when equal."""
    error = np.mean(_difference(window.clip(image), window.clip(truth), mask) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(window.range**2 / error))


def ssim(image: np.ndarray, truth: np.ndarray, window: Window, mask: np.ndarray | None = None) -> float:
    """Mean structural similarity (Wang et al. 2004), both images clipped to the window, L its width.

    Channels are averaged. The mean leaves out a border of half a filter, and what the mask leaves out.
    """
    first, second = (window.clip(array).reshape(-1, *array.shape[-2:]) for array in (image, truth))
    _same_shape(first, second)
    if min(first.shape[1:]) < SSIM_WIDTH:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WIDTH}×{SSIM_WIDTH} pixels, not {first.shape[2]}×{first.shape[1]}"
        )
    border = SSIM_WIDTH // 2
    inside = (slice(border, -border), slice(border, -border))
    keep = np.ones(first.shape[1:], dtype=bool)[inside] if mask is None else mask[inside]
    if not keep.any():
        return math.nan
    _, similarity = structural_similarity(
        first,
        second,
        data_range=window.range,
        channel_axis=0,
        gaussian_weights=True,
        sigma=SSIM_SIGMA,
        use_sample_covariance=False,
        full=True,
    )
    return float(np.mean([channel[inside][keep].mean() for channel in similarity]))


def confusion(labels: np.ndarray, truth: np.ndarray, classes: int, mask: np.ndarray | None = None) -> np.ndarray:
    """(classes + 1)² counts of pixels by class of the truth and of `labels`; what is no class 0 … counts as the last.
    Sums of several are what Dice and IoU are made of."""
    found, true = (
        np.where(np.isin(image, range(classes)), image, classes).astype(np.int32).reshape(-1, image.shape[-1])
        for image in (labels, truth)
    )
    if mask is not None:
        true[~np.broadcast_to(mask, labels.shape).reshape(true.shape)] = -1  # which ChainerCV leaves out
    counts = compat.chainercv.evaluations.calc_semantic_segmentation_confusion([found], [true])
    return np.pad(counts, (0, classes + 1 - len(counts)))


def dice_and_iou(counts: np.ndarray) -> dict[str, list[float]]:
    """2·|A ∩ B| / (|A| + |B|) and |A ∩ B| / |A ∪ B| of classes 1, 2, … (0 is the background) of a `confusion`; nan
    where neither image has the class."""
    with np.errstate(invalid="ignore"):
        iou = compat.chainercv.evaluations.calc_semantic_segmentation_iou(counts)[1:-1]
    return {"dice": (2 * iou / (1 + iou)).tolist(), "iou": iou.tolist()}


def mean_of_known(values: Sequence[float]) -> float:
    """The mean of what is not nan."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def dice_above(image: np.ndarray, truth: np.ndarray, threshold: float, mask: np.ndarray | None = None) -> float:
    """2·|A ∩ B| / (|A| + |B|) of what lies above a threshold in both images; nan where neither has such."""
    _same_shape(image, truth)
    keep = np.True_ if mask is None else np.broadcast_to(mask, truth.shape)
    found, true = ((array > threshold) & keep for array in (image, truth))
    total = int(found.sum()) + int(true.sum())
    return 2 * int((found & true).sum()) / total if total else math.nan


def larger_is_better(metric: str) -> bool:
    """Of `rmse`, `psnr soft` and so on."""
    return metric.partition(" ")[0] in ("psnr", "ssim", "dice", "iou")


def of_image(
    image: np.ndarray,
    truth: np.ndarray,
    windows: Sequence[Window],
    mask: np.ndarray | None = None,
    bone: bool = False,
) -> dict[str, float]:
    """rmse, mae, bias, and psnr and ssim of every window, as `psnr soft` and so on; no number where it is too small.
    bone: with the Dice of it, `dice bone`."""
    values = {"rmse": rmse(image, truth, mask), "mae": mae(image, truth, mask), "bias": bias(image, truth, mask)}
    for window in windows:
        values[f"psnr {window.name}"] = psnr(image, truth, window, mask)
        small = min(truth.shape[-2:]) < SSIM_WIDTH
        values[f"ssim {window.name}"] = math.nan if small else ssim(image, truth, window, mask)
    return {**values, "dice bone": dice_above(image, truth, BONE_HU, mask)} if bone else values


def of_labels(counts: np.ndarray) -> dict[str, float]:
    """dice and iou of every class in a slice, from its `confusion`, and their means over the classes that are there.

    A class that only one of both images has counts as 0, be it a single pixel; pooled over all slices it weighs less.
    """
    values = {}
    for name, each in dice_and_iou(counts).items():
        values[f"{name} mean"] = mean_of_known(each)
        values.update({f"{name} {label}": value for label, value in enumerate(each, start=1)})
    return values


def _difference(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    _same_shape(image, truth)
    difference = np.subtract(image, truth, dtype=np.float64)
    if mask is None:
        return difference
    mask = np.broadcast_to(mask, difference.shape)
    return difference[mask] if mask.any() else np.array([np.nan])


def _same_shape(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape:
        raise ValueError(f"image of shape {first.shape} against a truth of shape {second.shape}")


def parse_window(text: str) -> Window:
    """`soft`, or `liver=-50:150`. Raises UserError."""
    name, mark, limits = text.partition("=")
    if not mark:
        if name not in WINDOWS:
            raise UserError(
                f"--window: {name!r} is unknown; it can be {', '.join(WINDOWS)}, or one's own as liver=-50:150"
            )
        return WINDOWS[name]
    try:
        lower, upper = (float(limit) for limit in limits.split(":"))
        return Window(name, lower, upper)
    except ValueError:
        raise UserError(
            f"--window: {text!r} is not a window; it should look like liver=-50:150, the lower limit first"
        ) from None


def clip_window(clip: Sequence[float] | None) -> Window | None:
    """The full range that the user gave as (lower, upper), or None. Raises UserError."""
    if clip is None:
        return None
    if not clip[1] > clip[0]:
        raise UserError(f"--clip: {clip[0]:g} {clip[1]:g}: the first must be below the second")
    return Window(FULL.name, clip[0], clip[1])


def full_window(slices: Sequence[Slice], unit: str) -> Window:
    """CT: -1024…2000 HU; pictures: what their bits hold; other numbers: the range of the truth."""
    loaded = [load(one.truth) for one in slices]
    bits = {one.bits for one in loaded}
    known = unit == "HU" or len(bits) == 1 and bits != {None}
    clip = scaling.default_clip(slices[0].truth.kind, loaded[0].bits) if known else scaling.Clip()
    lower = min(float(one.array.min()) for one in loaded) if clip.lower is None else clip.lower
    upper = max(float(one.array.max()) for one in loaded) if clip.upper is None else clip.upper
    return Window(FULL.name, lower, upper if upper > lower else lower + 1)
