"""What the name of a file says: its kind, what to do where no reader here takes it, and whose image it is."""

import re
from collections.abc import Iterable, Sequence
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


def next_steps(paths: Iterable[Path | str]) -> str:
    """What would make files of these names readable, as the end of a sentence ("; a.nii: tools/nifti.py makes DICOM of
    it"), or ""."""
    first: dict[str, str] = {}
    for path in paths:
        name = Path(path).name
        suffix = ".nii.gz" if name.lower().endswith(".nii.gz") else name[name.rfind(".") :].lower()
        if suffix in _STEP_OF:
            first.setdefault(_STEP_OF[suffix], name)
    return "".join(f"; {name}: {step}" for step, name in first.items())


# What files and folders are called after: what they hold, not whom.
_WORDS = frozenset(
    """ct cbct mr mri pet pt us xray cr t1 t1w t2 t2w pd flair dwi adc bold swi t1c t1ce t1gd t2f fa md
    image images img imgs im volume volumes vol scan scans series ser serie slice slices frame frames data dataset raw
    input inputs output outputs target targets source src truth gt label labels labelstr labelsts seg segmentation
    mask masks ses session sessions visit study exam date day week timepoint tp anat func fmap perf nifti nii dicom dcm
    dicoms png jpg jpeg tif tiff bmp gif npy csv axial sagittal coronal ax sag cor pre post contrast noisy clean noise
    lowdose fulldose ld fd low high dose train traina trainb trainx trainy test testa testb val vala valb validation
    imagestr imagests images_tr images_ts converted result results export preprocessed registered resampled recon
    hu lr hr echo part rec reconstruction acq run desc dir space thorax abdomen head brain pelvis chest""".split()
)
_KINDS = frozenset("ct cbct mr mri pet t1 t1w t2 t2w pd flair dwi adc seg mask label image img".split())
_PERSON = re.compile(
    r"sub-[a-z0-9]+(?=_|$)|"  # of BIDS
    r"(?:sub|subj|subject|patient|pat|pt|case|proband|participant|pid|id|p)[-_ ]?[0-9]+[a-z]?"
    r"(?![a-z0-9])",
    re.IGNORECASE,
)
_NNUNET = re.compile(r"(.*[0-9])_[0-9]{4}$")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]+")


def person_in(part: str) -> str:
    """The patient that a file's or folder's name says outright (``sub-01_ses-1_T1w``, ``patient3_slice7``), or ""."""
    found = _PERSON.match(part)
    return found[0] if found else ""


def says_nothing(name: str) -> bool:
    """Whether a name tells what is in a file or folder and not whose it is: ``ct``, ``ses-2``, ``slice0012``, ``3``."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    return all(word in _WORDS or word.rstrip("0123456789") in _WORDS | {""} for word in words)


def folder_of(parts: Sequence[str]) -> tuple[str, ...]:
    """Folders without the last ones that say nothing (``1BA001/ct/slices``: 1BA001); as they are if all are so."""
    parts = tuple(parts)
    kept = parts
    while kept and says_nothing(kept[-1]):
        kept = kept[:-1]
    return kept or parts


def patient_of(parts: Sequence[str], name: str) -> str:
    """Whom the volume ``name`` (without suffix) in the folders ``parts`` is of; "" where nothing says it.

    A person named outright counts first, in folders from the outside; then the name, where it says more than what is
    in the file, without the channel of nnU-Net (``liver_12_0000``) and words like ``_ct``; then the nearest folder
    that does.
    """
    for part in (*parts, name):
        if person := person_in(part):
            return person
    if not says_nothing(name):
        return _without_words(_NNUNET.sub(r"\1", name))
    return next((_without_words(part) for part in reversed(parts) if not says_nothing(part)), "")


def _without_words(name: str) -> str:
    """``1BA001_ct`` and ``mr-1BA001`` are 1BA001."""
    pieces = re.split(r"([-_. ]+)", name)
    while len(pieces) > 1 and pieces[-1].lower() in _KINDS:
        pieces = pieces[:-2]
    while len(pieces) > 1 and pieces[0].lower() in _KINDS:
        pieces = pieces[2:]
    return "".join(pieces)


def as_id(text: str) -> str:
    """``text`` as a PatientID: 64 characters, no backslash or control characters (PS3.5 6.2, LO)."""
    return _UNSAFE.sub("_", text).strip()[:64]
