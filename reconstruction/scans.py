"""A folder of scans: sinograms, where their rays ran, and what they are of."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from medi2i.common.bounded_files import BrokenFile, StoredArrays, read_json
from medi2i.common.errors import UserError, one_line
from medi2i.datasets import dicom
from medi2i.datasets.reading import read_image
from medi2i.reconstruction import geometry as geometries
from medi2i.reconstruction.fbp import first_image

GEOMETRY, SOURCES, TRUTH = "geometry.json", "sources.json", "truth"
_TIFF = (".tif", ".tiff")
KINDS = (".npy", ".npz", *_TIFF)
MOST, LEAST = 100.0, -0.1  # of a line integral, of which nothing is left long before, and of the mean of all


def find_sinograms(root: Path) -> list[Path]:
    """The sinograms of a folder (``KINDS``), by name, or the one that is given. Raises UserError."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise UserError(f"--root: {root}: no such file or folder")
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in KINDS)
    if not files:
        raise UserError(f"--root: {root}: holds no sinogram, which would be an npy, npz or tif file (views, bins)")
    if twice := [path for path, after in pairwise(files) if path.stem == after.stem]:
        raise UserError(f"--root: {twice[0]}: another sinogram has its name; one kind of file for each would be right")
    return files


def sinograms(files: list[Path], geometry: geometries.Geometry) -> Iterator[tuple[str, np.ndarray]]:
    """Name and sinogram (views, bins) of every image; of a file of several, each by its number. Raises UserError."""
    views, bins = geometry.sinogram_shape
    for path in files:
        array = _load(path)
        if array.ndim not in (2, 3) or array.shape[-2:] != (views, bins) or array.dtype.kind not in "fiu":
            raise UserError(
                f"{path}: holds {' x '.join(map(str, array.shape))} values of type {array.dtype}; the geometry has "
                f"{views} views x {bins} bins, and (slices, views, bins) or (views, bins) numbers would be right"
            )
        several = array.ndim == 3 and path.suffix.lower() not in _TIFF
        for number, one in enumerate(array if array.ndim == 3 else [array], 1):
            _check(path, one)
            yield f"{path.stem}_{number:04d}" if several else path.stem, np.asarray(one, np.float32)


def _check(path: Path, sinogram: np.ndarray) -> None:
    """Refuses what cannot be line integrals; noise makes some of them negative, in air, but not their mean."""
    wrong = None
    if not np.isfinite(sinogram).all():
        wrong = f"{np.count_nonzero(~np.isfinite(sinogram))} values are no numbers"
    elif sinogram.max() > MOST:
        wrong = f"a value of {sinogram.max():.4g} says that nothing came through"
    elif sinogram.mean() < LEAST:
        wrong = f"the mean of {sinogram.mean():.4g} says that more came through than was sent"
    if wrong:
        raise UserError(f"{path}: {wrong}; line integrals, -log(I/I0) of counts I above 0, would be right")


def _load(path: Path) -> np.ndarray:
    """What the file of a sinogram holds; of a TIFF (1, views, bins). Raises UserError."""
    kind = path.suffix.lower()
    try:
        if kind in _TIFF:
            return read_image(path, "tif").array
        if kind == ".npz":
            arrays = StoredArrays(path)
            if len(arrays) != 1:
                raise UserError(f"{path}: holds {len(arrays)} arrays; one, the sinogram, would be right")
            return next(iter(arrays.values()))
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:  # of npy; BrokenFile, of npz, says it all
        raise UserError(
            str(error) if isinstance(error, BrokenFile) else f"{path}: cannot be read as npy: {one_line(error)}"
        ) from None


def sources_of(folder: Path) -> dict[str, tuple[str, int]]:
    """Name of an image -> (DICOM file, frame from 0) of what it is of; {} where nothing says so. Raises UserError."""
    path = folder / SOURCES
    if not path.is_file():
        return {}
    right = "names of sinograms, each with [file, frame from 0], would be right"
    found = read_json(path, right)
    for source in found.values() if isinstance(found, dict) else [found]:
        if not isinstance(source, list) or [type(value) for value in source] != [str, int]:
            raise UserError(f"{path}: {str(source)[:60]!r} is no source of a sinogram; {right}")
    return found


def _start(folder: Path, name: str) -> Path:
    """The image of a scan in the folder of ``--against``. Raises UserError."""
    for kind in (".npy", ".dcm"):
        if (path := folder / (name + kind)).is_file():
            return path
    raise UserError(
        f"--against: {folder / name}.npy: no such file; an image of reconstruct.py for each scan would be right"
    )


class Scans:
    """Scans with their truth, to learn from. Raises UserError where a scan has none.

    Example i: (sinogram (1, views, bins), its filtered back-projection (1, H, W), truth (1, H, W)), images with water =
    1. The sinogram is in 1/mm·mm, as measured. ``geometry``: what all have. starts: a folder with other images of the
    same scans, of reconstruct.py, in place of filtered back-projections.
    """

    def __init__(self, root: str | Path, starts: str | Path | None = None) -> None:
        self.folder = Path(root)
        self.geometry = geometries.load(self.folder / GEOMETRY)
        self.size = self.geometry.shape
        self._files, self._sources = find_sinograms(self.folder), sources_of(self.folder)
        for path in self._files:
            if path.stem not in self._sources and not self._truth(path).is_file():
                raise UserError(f"{path}: no truth is known; make_sinograms.py keeps it in {TRUTH} or {SOURCES}")
        self._starts = [None if starts is None else _start(Path(starts), path.stem) for path in self._files]

    def __len__(self) -> int:
        return len(self._files)

    def _truth(self, path: Path) -> Path:
        return self.folder / TRUTH / f"{path.stem}.npy"

    def name(self, index: int) -> str:
        """What scan ``index`` is called."""
        return self._files[index].stem

    def load(self, index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Example ``index``; nothing of it is random. Raises UserError."""
        path, geometry = self._files[index], self.geometry
        if len(found := list(sinograms([path], geometry))) != 1:
            raise UserError(f"{path}: holds {len(found)} sinograms; to learn from, one in each file would be right")
        ((_, sinogram),) = found
        if path.stem in self._sources:
            file, frame = self._sources[path.stem]
            hu = np.asarray(dicom.read(Path(file), frame).hu)
        else:
            hu = _load(self._truth(path))
        truth = self._image(path, "truth", hu)
        start = self._starts[index]
        if start is None:
            return sinogram[None], first_image(geometry, sinogram)[None], truth[None]
        hu = np.asarray(dicom.read(start).hu) if start.suffix == ".dcm" else _load(start)
        return sinogram[None], self._image(start, "image", hu)[None], truth[None]

    def _image(self, path: Path, what: str, hu: np.ndarray) -> np.ndarray:
        """HU -> water = 1, float32. Raises UserError for another size than the geometry's."""
        if hu.shape != self.size:
            raise UserError(f"{path}: its {what} has {hu.shape}, the geometry {self.size} pixels")
        return np.maximum(1 + hu / 1000, 0).astype(np.float32)

    def share_cache(self, processes: int | None = None) -> None:
        """There is none."""
