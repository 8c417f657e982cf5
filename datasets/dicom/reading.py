"""Reading: a frame of a DICOM file as HU, with everything a caller may want to know about it."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medi2i.common import limits
from medi2i.datasets.dicom import pixels
from medi2i.datasets.dicom.header_checks import (
    PARSE_ERRORS,
    VOLUME_MODALITIES,
    Unreadable,
    check_pixel_description,
    empty_like,
    has_overlay,
    refuse_others,
    rescale_of,
    short,
    text,
)
from medi2i.datasets.dicom.parse import parse_file
from medi2i.datasets.dicom.series import FrameHeaders, Series, SliceRef


@dataclass
class DicomImage:
    """One frame. ``hu`` (H, W) float32 in HU for CT, modality units else; ``mask`` (H, W) bool, True on padding, or
    None.

    ``stored`` are the integers of the file, ``header`` the data set without pixels, ``slope``/``intercept`` what
    leads from stored to hu, ``where`` the place in the patient, ``compression_ratio`` the size of the raw pixels over
    their size in the file (None: not compressed).
    """

    path: Path
    frame: int
    hu: np.ndarray
    mask: np.ndarray | None
    header: Dataset
    stored: np.ndarray
    slope: float
    intercept: float
    where: SliceRef
    warnings: tuple[str, ...]
    compression_ratio: float | None

    @property
    def modality(self) -> str:
        return self.where.modality

    @property
    def spacing(self) -> tuple[float, float] | None:
        """(between rows, between columns) in mm."""
        return self.where.spacing


def read(path: Path | str, frame: int = 0, *, modalities: tuple[str, ...] = VOLUME_MODALITIES) -> DicomImage:
    """Read one frame of one file as HU. Raises Unreadable (a UserError) with the file and the reason."""
    return next(iter_frames(path, [frame], modalities=modalities))


def iter_frames(
    path: Path | str,
    frames: Iterable[int] | None = None,
    *,
    modalities: tuple[str, ...] = VOLUME_MODALITIES,
) -> Iterator[DicomImage]:
    """Yield several frames (default: all) of a file that is parsed once. Raises Unreadable."""
    path = Path(path)
    try:
        opened = open_file(path, modalities)
        count = opened.layout.frames
        for frame in range(count) if frames is None else frames:
            if not 0 <= frame < count:
                raise Unreadable(path, f"no frame {frame}: the file has {count}")
            yield _image(opened, frame)
    except Unreadable:
        raise
    except PARSE_ERRORS as error:
        raise Unreadable(path, f"damaged DICOM ({type(error).__name__}: {short(error)})") from error


class Opened:
    """A file whose header was read and checked. ``pixels``: of its frames; ``headers``: its frames as SliceRefs."""

    def __init__(self, path: Path, modalities: tuple[str, ...]) -> None:
        self.parsed = parse_file(path)
        self.dataset = self.parsed.dataset
        refuse_others(path, self.dataset, modalities)
        self.layout = check_pixel_description(path, self.dataset)
        self.headers = FrameHeaders(path, self.dataset, self.layout.frames)
        self.pixels = pixels.FramePixels(self.parsed, self.layout)

    @functools.cached_property
    def header(self) -> Dataset:
        """The data set without pixels."""
        header = empty_like(self.dataset)
        tags = list(self.dataset.keys())  # iterating the data set itself would convert every value
        header.update({tag: self.dataset.get_item(tag) for tag in tags if tag.group != 0x7FE0})
        header.file_meta = self.dataset.file_meta
        return header


def open_file(path: Path, modalities: tuple[str, ...] = VOLUME_MODALITIES) -> Opened:
    """Parse and check the header of an image. Raises Unreadable.

    The last file is kept, as the frames of one are often asked for one by one.
    """
    return _opened(path, tuple(modalities), limits.max_pixels(), *_state(path))


@functools.lru_cache(maxsize=1)
def _opened(path: Path, modalities: tuple[str, ...], *state: int) -> Opened:
    return Opened(path, modalities)


def _state(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _image(opened: Opened, frame: int) -> DicomImage:
    path, dataset, layout = opened.parsed.path, opened.dataset, opened.layout
    where = opened.headers[frame]
    words = opened.pixels.words(frame)
    stored, unextended, notes = pixels.to_stored(path, words, layout, has_overlay(dataset))
    notes = [*opened.parsed.notes, *notes]
    rescale = rescale_of(path, dataset, frame)
    pixels.check_stored(path, dataset, stored, unextended, rescale)
    hu = pixels.to_modality(stored, rescale)
    if not np.isfinite(hu).all():
        raise Unreadable(
            path,
            f"RescaleSlope {rescale.slope:g} and RescaleIntercept {rescale.intercept:g} give infinite values",
        )
    mask = pixels.padding_mask(dataset, stored)
    if mask is not None:
        pixels.fill_padding(hu, mask, where.modality)
    if where.modality == "CT":
        if not rescale.declared:
            notes.append("no RescaleSlope and RescaleIntercept: stored values are taken as HU")
        elif rescale.kind not in ("", "HU", "US"):
            notes.append(f"RescaleType {rescale.kind}: values are not HU")
    if text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        notes.append("MONOCHROME1: shown inverted, values kept")
    encoded, raw = opened.pixels.encoded_bytes, stored.nbytes * layout.frames
    return DicomImage(
        path=path,
        frame=frame,
        hu=hu,
        mask=mask,
        header=opened.header,
        stored=stored,
        slope=rescale.slope,
        intercept=rescale.intercept,
        where=where,
        warnings=tuple(notes) + where.warnings,
        compression_ratio=raw / encoded if 0 < encoded < raw else None,
    )


def read_volume(series: Series) -> np.ndarray:
    """All slices of a series as float32 (D, H, W) in HU (CT) or the modality's units, slice 0 at the low end of the
    normal. Padding reads as air (-1024 HU) in CT, as the lowest value of the tissue elsewhere. Raises Unreadable."""
    volume = np.empty((len(series.slices), *series.shape), np.float32)
    for index, item in enumerate(series.slices):
        volume[index] = read(item.path, item.frame, modalities=(series.modality,)).hu
    return volume
