"""Finding images by relative name in folders and lists, and matching those that belong together."""
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from medi2i.common.errors import UserError
from medi2i.datasets import dicom, images

DICOM = "dcm"
RASTER = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".tif": "tif", ".tiff": "tif", ".bmp": "bmp", ".npy": "npy"}
TABLES = {".csv": "csv", ".txt": "txt"}  # only where nothing else is: lists and logs look the same
SUFFIXES = {**RASTER, **TABLES, ".dcm": DICOM, ".ima": DICOM}


@dataclass(frozen=True)
class Found:
    """One image: a file, or one frame of it. `key` is its name relative to the folder, as people read it."""
    key: str
    path: Path
    kind: str
    series: str
    frame: int = 0
    modality: str = ""

    def load(self):
        """The image in its own unit, float32 (H, W) or (C, H, W), and the mask (H, W) of pixels that count, or None."""
        if self.kind == DICOM:
            image = dicom.read(self.path, self.frame)
            array, mask = image.hu, image.mask
        else:
            image = images.read_image(self.path, self.kind)
            array, mask = image.array, image.mask
        array = np.asarray(array, dtype=np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{self.path}: holds NaN or infinite values; an image to be measured must be finite")
        return array[0] if array.ndim == 3 and len(array) == 1 else array, mask


@dataclass
class Listing:
    """The images of a folder or list by key, in the order of their series, and the files passed over."""
    files: dict = field(default_factory=dict)
    skipped: list = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The kind of the images (all of one listing have the same)."""
        return next(iter(self.files.values())).kind if self.files else ""


def list_folder(folder, kind: str | None = None) -> Listing:
    """All images of one kind below `folder`. Without `kind`: DICOM where there is any, else the most frequent kind."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it should hold the images to be measured")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if kind is None:
        kind = _kind_of(paths)
    listing = list_files(paths if kind == DICOM else [p for p in paths if SUFFIXES.get(p.suffix.lower()) == kind],
                         folder, kind)
    if not listing.files:
        raise UserError(f"{folder}: no {kind} image among its {len(paths)} files; give another folder or --imgtype")
    return listing


def list_files(paths, root, kind: str, keys=None) -> Listing:
    """The images in `paths`, all of `kind`, under the names in `keys` (path → several) or those relative to `root`."""
    if keys is None:
        keys = {path: [path.relative_to(root).as_posix()] for path in paths}
    if kind != DICOM:
        return Listing({key: Found(key, path, kind, PurePosixPath(key).parent.as_posix())
                        for path in paths for key in keys[path]})
    scan = dicom.scan(paths)
    frames = Counter(Path(ref.path) for series in scan.series for ref in series.slices)
    names = _series_names(scan.series)
    listing = Listing(skipped=[(Path(skipped.path), skipped.reason) for skipped in scan.skipped])
    for series, name in zip(scan.series, names, strict=True):
        for ref in series.slices:
            path = Path(ref.path)
            for key in keys[path]:
                key = f"{key}#{ref.frame + 1}" if frames[path] > 1 else key
                listing.files[key] = Found(key, path, DICOM, name, ref.frame, series.modality)
    return listing


def list_pairs(list_file, root, from_col: int = 0, to_col: int = 1, kind: str | None = None) -> tuple[Listing, Listing]:
    """Inputs and truths of a tab-separated list, both under the key of the input (its path as the list has it)."""
    list_file, root = Path(list_file), Path(root)
    if not list_file.is_file():
        raise UserError(f"{list_file}: no such list file")
    rows = [line.split("\t") for line in list_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) <= max(from_col, to_col):
            raise UserError(f"{list_file}: line {number} has {len(row)} columns; it needs input and truth, "
                            "separated by a tab")
    absent = [row[col] for row in rows for col in (from_col, to_col) if not (root / row[col]).is_file()]
    if absent:
        raise UserError(f"{list_file}: {len(absent)} files are not there, the first {root / absent[0]}; "
                        "paths count from --root")
    sides = []
    for column in (from_col, to_col):
        keys = {}
        for row in rows:  # several inputs may have one truth
            keys.setdefault(root / row[column], []).append(PurePosixPath(row[from_col]).as_posix())
        sides.append(list_files(list(keys), root, kind or _kind_of(list(keys)), keys))
    return sides[0], sides[1]


@dataclass(frozen=True)
class Slice:
    """A truth and what is to be compared with it: row name → image."""
    key: str
    series: str
    truth: Found
    images: dict


@dataclass
class Matching:
    """Slices that every row has, in order; keys that a row lacks, and keys that no truth is known for."""
    slices: list
    missing: dict
    extra: dict


def match(truth: Listing, rows: dict) -> Matching:
    """Bring together files of equal relative name; the suffix may differ (a PNG converted to npy).

    `rows`: name → Listing. A converted folder may leave out the first folder of the key (trainA/x is found as x).
    """
    missing = {name: [] for name in rows}
    used = {name: set() for name in rows}
    lookups = {name: _Lookup(listing) for name, listing in rows.items()}
    slices = []
    for key, found in truth.files.items():
        partners = {name: lookup.find(key) for name, lookup in lookups.items()}
        for name, partner in partners.items():
            if partner is None:
                missing[name].append(key)
            else:
                used[name].add(partner.key)
        if all(partner is not None for partner in partners.values()):
            slices.append(Slice(key, found.series, found, partners))
    extra = {name: [key for key in listing.files if key not in used[name]] for name, listing in rows.items()}
    return Matching(slices, missing, extra)


class _Lookup:
    def __init__(self, listing):
        self.exact = listing.files
        stems = Counter(_stem(key) for key in listing.files)
        self.stems = {_stem(key): found for key, found in listing.files.items() if stems[_stem(key)] == 1}

    def find(self, key):
        below = key.partition("/")[2]
        for name in (key, below) if below else (key,):
            found = self.exact.get(name) or self.stems.get(_stem(name))
            if found is not None:
                return found
        return None


def _stem(key):
    name, mark, frame = key.partition("#")
    path = PurePosixPath(name)
    return (path.with_suffix("") if path.suffix.lower() in SUFFIXES else path).as_posix() + mark + frame


def _kind_of(paths):
    counts = Counter(SUFFIXES.get(path.suffix.lower(), DICOM) for path in paths)
    if counts[DICOM] and dicom.scan([p for p in paths if SUFFIXES.get(p.suffix.lower(), DICOM) == DICOM]).series:
        return DICOM
    for group in (RASTER, TABLES):
        kinds = [(counts[kind], kind) for kind in sorted(set(group.values())) if counts[kind]]
        if kinds:
            return max(kinds)[1]
    return DICOM


def _series_names(series):
    """Short names that tell the series apart: the description, else the end of the UID."""
    names = [one.description or f"series …{one.uid[-8:]}" for one in series]
    repeated = Counter(names)
    return [f"{name} ({number})" if repeated[name] > 1 else name for number, name in enumerate(names, start=1)]
