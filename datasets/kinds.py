"""Kinds of image files, by their names; and what to do about files that no reader here takes."""

from collections.abc import Iterable
from pathlib import Path

SUFFIXES = {
    "dcm": (".dcm", ".dicom", ".ima"),
    "jpg": (".jpg", ".jpeg"),
    "png": (".png",),
    "tif": (".tif", ".tiff"),
    "bmp": (".bmp",),
    "gif": (".gif",),
    "npy": (".npy",),
    "csv": (".csv",),
    "txt": (".txt",),
}
KINDS = tuple(SUFFIXES)
CHOICES = ("auto", *KINDS)
"""Of ``--imgtype``."""
PICTURES = ("jpg", "png", "tif", "bmp")
PLAIN_NUMBERS = ("npy", "csv", "txt")
_KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes}

_STEPS = {
    "tools/nifti.py makes DICOM of it": (".nii", ".nii.gz"),
    "save it as NIfTI (3D Slicer, ITK-SNAP or SimpleITK do), of which tools/nifti.py makes DICOM": (
        ".mha",
        ".mhd",
        ".nrrd",
        ".nhdr",
        ".mgz",
        ".mgh",
        ".hdr",
        ".img",
        ".mnc",
        ".vtk",
        ".vti",
        ".gipl",
        ".raw",
    ),
    "unpack it first": (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst"),
    "save each of its images as .npy": (".npz", ".mat", ".h5", ".hdf5", ".pkl", ".pickle", ".pt", ".pth", ".zarr"),
    "save it as .png": (
        ".webp",
        ".jp2",
        ".j2k",
        ".jpx",
        ".heic",
        ".heif",
        ".avif",
        ".svg",
        ".pdf",
        ".eps",
        ".ps",
        ".ppm",
        ".pgm",
        ".pnm",
        ".tga",
        ".pcx",
        ".psd",
    ),
    "save it as text with tabs, in UTF-8": (".xlsx", ".xls", ".ods"),
}
_STEP_OF = {suffix: step for step, suffixes in _STEPS.items() for suffix in suffixes}


def kind_of(path: Path | str) -> str | None:
    """The kind that a file name says, or None: DICOM files often have no suffix."""
    return _KIND_OF_SUFFIX.get(Path(path).suffix.lower())


def kind_named(text: str) -> str:
    """The kind that ``--imgtype`` means: a suffix as the released codes took it says it, too: JPG, jpeg, .tiff, IMA."""
    name = text.lower().removeprefix(".")
    return _KIND_OF_SUFFIX.get(f".{name}", name)


def name_without_suffix(name: str, kind: str) -> str:
    """``name`` (text, may hold folders) without a suffix of ``kind``; other dots stay, as in names made of UIDs."""
    for suffix in SUFFIXES[kind]:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def next_step(path: Path | str) -> str:
    """What would make a file of this name readable ("tools/nifti.py makes DICOM of it"), or ""."""
    name = Path(path).name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else name[name.rfind(".") :]
    return _STEP_OF.get(suffix, "")


def next_steps(paths: Iterable[Path | str]) -> str:
    """The same for several files as the end of a sentence ("; a.nii: tools/nifti.py makes DICOM of it"), or ""."""
    first: dict[str, str] = {}
    for path in paths:
        if step := next_step(path):
            first.setdefault(step, Path(path).name)
    return "".join(f"; {name}: {step}" for step, name in first.items())
