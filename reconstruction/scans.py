"""A folder of scans: sinograms, where their rays ran, and what they are of."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medi2i.common.bounded_files import read_json
from medi2i.common.errors import UserError, one_line
from medi2i.datasets import dicom
from medi2i.reconstruction import geometry as geometries
from medi2i.reconstruction.fbp import first_image

GEOMETRY, SOURCES, TRUTH = "geometry.json", "sources.json", "truth"


def find_sinograms(root: Path) -> list[Path]:
    """The npy files of a folder, by name, or the one that is given. Raises UserError."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise UserError(f"--root: {root}: no such file or folder")
    if not (files := sorted(root.glob("*.npy"))):
        raise UserError(f"--root: {root}: holds no sinogram, which would be an npy file (views, bins)")
    return files


def sinograms(files: list[Path], geometry: geometries.Geometry) -> Iterator[tuple[str, np.ndarray]]:
    """Name and sinogram (views, bins) of every image; of a file of several, each by its number. Raises UserError."""
    for path in files:
        array = _load(path)
        views, bins = geometry.sinogram_shape
        if array.ndim not in (2, 3) or array.shape[-2:] != (views, bins) or array.dtype.kind not in "fiu":
            raise UserError(
                f"{path}: holds {' x '.join(map(str, array.shape))} values of type {array.dtype}; the geometry has "
                f"{views} views x {bins} bins, and (slices, views, bins) or (views, bins) numbers would be right"
            )
        if array.ndim == 2:
            yield path.stem, np.asarray(array, np.float32)
        else:
            for number, one in enumerate(array, 1):
                yield f"{path.stem}_{number:04d}", np.asarray(one, np.float32)


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as npy: {one_line(error)}") from None


def sources_of(folder: Path) -> dict[str, tuple[str, int]]:
    """Name of an image -> (DICOM file, frame from 0) of what it is of; {} where nothing says so. Raises UserError."""
    path = folder / SOURCES
    return read_json(path, "names of sinograms, each with [file, frame], would be right") if path.is_file() else {}


class Scans:
    """Scans with their truth, to learn from. Raises UserError where a scan has none.

    Example i: (sinogram (1, views, bins), its filtered back-projection (1, H, W), truth (1, H, W)), images with water =
    1. The sinogram is in 1/mm·mm, as measured. ``geometry``: what all have.
    """

    def __init__(self, root: str | Path) -> None:
        self.folder = Path(root)
        self.geometry = geometries.load(self.folder / GEOMETRY)
        self.size = self.geometry.shape
        self._files, self._sources = find_sinograms(self.folder), sources_of(self.folder)
        for path in self._files:
            if path.stem not in self._sources and not (self.folder / TRUTH / path.name).is_file():
                raise UserError(f"{path}: no truth is known; make_sinograms.py keeps it in {TRUTH} or {SOURCES}")

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """What scan ``index`` is called."""
        return self._files[index].stem

    def load(self, index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Example ``index``; nothing of it is random. Raises UserError."""
        path, geometry = self._files[index], self.geometry
        ((_, sinogram),) = sinograms([path], geometry)
        if path.stem in self._sources:
            file, frame = self._sources[path.stem]
            hu = np.asarray(dicom.read(Path(file), frame).hu)
        else:
            hu = _load(self.folder / TRUTH / path.name)
        if hu.shape != geometry.shape:
            raise UserError(f"{path}: its truth has {hu.shape}, the geometry {geometry.shape} pixels")
        truth = np.maximum(1 + hu / 1000, 0)
        return sinogram[None], first_image(geometry, sinogram)[None], truth[None].astype(np.float32)

    def share_cache(self, processes: int | None = None) -> None:
        """There is none."""
