"""What to do about files that no reader here takes, by their names."""

from collections.abc import Iterable
from pathlib import Path

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


def next_step(path: Path | str) -> str:
    """What would make a file of this name readable ("tools/nifti.py makes DICOM of it"), or ""."""
    name = Path(path).name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else name[name.rfind(".") :]
    return _STEP_OF.get(suffix, "")


def next_steps(paths: Iterable[Path | str]) -> str:
    """The same for several files as the end of a sentence ("; a.nii: tools/nifti.py makes DICOM of it"), or ""."""
    first = {}
    for path in paths:
        if step := next_step(path):
            first.setdefault(step, Path(path).name)
    return "".join(f"; {name}: {step}" for step, name in first.items())
