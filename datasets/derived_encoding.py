"""How the values of a derived image are stored, given the image that it is made from."""

import numpy as np

from medi2i.datasets.derived_pixels import ROUNDING, SAFE_CT, Encoded, Encoding, Padding, choose_encoding, encode
from medi2i.datasets.dicom_pixels import padding_range
from medi2i.datasets.dicom_read import DicomImage


def encoding_of(
    image: DicomImage,
    modality: str,
    value_range: tuple[float, float] | None,
    hu: np.ndarray,
    mask: np.ndarray | None,
) -> Encoding:
    """As the source ``image`` where that holds the values ``hu`` (H, W) and ``value_range``, which a series of this
    ``modality`` is expected to have, else as ``choose_encoding`` says."""
    tissue = hu if mask is None else hu[~mask]
    ends = (float(tissue.min()), float(tissue.max())) if tissue.size else (np.nan, np.nan)
    values = ends if np.isfinite(ends).all() else None
    if image.modality != modality:
        return choose_encoding(SAFE_CT if modality == "CT" else Encoding(1.0, 0.0), modality, value_range, values)
    slope, intercept = _scale_of(image)
    own = Encoding(slope, intercept, int(image.header.BitsStored), int(image.header.PixelRepresentation) == 1)
    if "ModalityLUTSequence" in image.header or int(image.header.BitsAllocated) == 8:
        own = Encoding(slope, intercept)
    return choose_encoding(own, modality, value_range, values)


def encode_beside(
    image: DicomImage, modality: str, hu: np.ndarray, encoding: Encoding, mask: np.ndarray | None
) -> Encoded:
    """``encode``; what is the same as in the source ``image`` is stored as there, where stored values mean the same."""
    if (
        image.modality != modality
        or "ModalityLUTSequence" in image.header
        or hu.shape != image.hu.shape
        or not encoding.scaled_as(*_scale_of(image))
    ):
        return encode(hu, encoding, mask)
    padding = _padding_of(image) if mask is not None and mask is image.mask else None
    return encode(hu, encoding, mask, padding, (image.hu, image.stored) if _exceeds_float32(image, encoding) else None)


def _scale_of(image):
    """Slope and intercept as a file can say them."""
    return float(decimal(image.slope)), float(decimal(image.intercept))


def _padding_of(image):
    """What the source's padding pixels hold."""
    ends = padding_range(image.header)
    limit = None if ends is None or "PixelPaddingRangeLimit" not in image.header else ends[1]
    return None if ends is None else Padding(image.stored, ends[0], limit)


def _exceeds_float32(image, encoding):
    """Whether a step of the file may get lost in float32, which the values are in."""
    largest = float(np.abs(image.stored).max(initial=0)) * abs(encoding.slope) + abs(encoding.intercept)
    return largest * np.finfo(np.float32).eps > ROUNDING * abs(encoding.slope)


def decimal(value: float) -> str:
    """A DS: at most 16 characters, as exact as they allow."""
    value = float(value)
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return next(s for digits in range(17, 0, -1) if len(s := f"{value:.{digits}g}") <= 16)
