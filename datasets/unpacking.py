"""NIfTI volumes and zip archives where images are expected: what they hold, in a folder that goes with the process.

A volume becomes a DICOM series (``nifti_series``), and an archive its files, so that everything behind knows neither.
"""

import lzma
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

from medi2i.common.bounded_files import MOST_MEMBERS
from medi2i.common.errors import PLACES, Unreadable
from medi2i.common.limits import check_bytes, check_file
from medi2i.datasets.catalogue import has_dicom_mark
from medi2i.datasets.dicom.scanning import folders_below
from medi2i.datasets.file_names import kind_of
from medi2i.datasets.nifti_series import patient, to_dicom, to_nifti
from medi2i.datasets.nifti_volume import is_nifti, stem

_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(RuntimeError, ArithmeticError, LookupError, ValueError),  # of numbers and names that no archive has
)
_unpacked: dict[Path, tempfile.TemporaryDirectory] = {}


def unpacked(place: Path | str) -> Path:
    """Where the images of ``place`` are: there, or in a folder of this process with what its volumes and archives hold.

    That is so where ``place`` is a NIfTI file or a zip archive, and where it is a folder of such and of no other
    images; ``sub/name.nii.gz`` becomes the folder ``sub/name``. Raises Unreadable for what cannot be unpacked.
    """
    place = Path(place)
    packed = packed_in(place)
    if not packed:
        return place
    if place not in _unpacked:
        folder = tempfile.TemporaryDirectory(prefix="medi2i-")
        try:
            for path in packed:
                target = Path(folder.name) / _below(path, place)
                PLACES[str(target)] = str(path)
                _unpack(path, target, place)
        except BaseException:  # half of it is nothing to go on with
            folder.cleanup()
            raise
        PLACES[folder.name] = str(place)
        _unpacked[place] = folder
    found = Path(_unpacked[place].name)
    return _innermost(found) if _is_zip(place) else found


def write_back(place: Path | str, out: Path, same_grid: bool, force: bool) -> None:
    """Write results below ``out``, a series for each NIfTI file of ``place``, as NIfTI files beside their folders.

    same_grid: their axes are in the order of the file's. Raises UserError for a series that NIfTI cannot hold.
    """
    place = Path(place)
    for path in packed_in(place):
        series = out / _below(path, place)
        if is_nifti(path) and series.is_dir():
            to_nifti(series, series.with_name(path.name), path if same_grid else None, force)


def packed_in(place: Path) -> list[Path]:
    """The NIfTI files and archives that ``place`` is or holds, where it holds no other images."""
    if place.is_file():
        return [place] if _is_packed(place) else []
    found: list[Path] = []
    for folder, names in folders_below(place, hidden=False):
        for path in (Path(folder, name) for name in sorted(names)):
            if _is_packed(path):
                found.append(path)
            elif kind_of(path) not in (None, "txt", "csv") or has_dicom_mark(path):
                return []
    return found


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()


def _is_packed(path: Path) -> bool:
    return path.is_file() and (is_nifti(path) or _is_zip(path))


def _below(path: Path, place: Path) -> Path:
    """Where what ``path`` holds lies below the folder of ``place``."""
    below = path.relative_to(place) if place.is_dir() else Path(path.name)
    return below.parent / (stem(path) if is_nifti(path) else below.stem)


def _unpack(path: Path, target: Path, root: Path) -> None:
    if is_nifti(path):
        to_dicom(path, target, None, False, patient(path, root))
        return
    _unzip(path, target)
    for inner in [volume for volume in packed_in(target) if is_nifti(volume)]:
        to_dicom(inner, inner.with_name(stem(inner)), None, False, patient(inner, target))
        inner.unlink()


def _unzip(path: Path, target: Path) -> None:
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir() and _is_wanted(info.filename)]
            if len(members) > MOST_MEMBERS:
                raise Unreadable(path, f"holds {len(members)} files; up to {MOST_MEMBERS} are unpacked")
            if any(info.flag_bits & 1 for info in members):
                raise Unreadable(path, "needs a password; unpack it first")
            check_bytes(path, sum(info.file_size for info in members))
            if len({"/".join(filter(None, info.filename.split("/"))) for info in members}) < len(members):
                raise Unreadable(path, "holds two files of one name; each needs its own")
            for info in members:
                archive.extract(info, target)  # without a leading / and without .., as zipfile documents
    except Unreadable:
        raise
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or error  # the system's words would name a folder of ours
        raise Unreadable(path, f"cannot be unpacked as a zip archive ({reason})") from None


def _is_wanted(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in name.split("/") if part)


def _innermost(folder: Path) -> Path:
    """``folder``, or the only folder that it holds, as archives mostly have one."""
    inner = list(folder.iterdir())
    return _innermost(inner[0]) if len(inner) == 1 and inner[0].is_dir() else folder
