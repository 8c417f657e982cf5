"""Finding images by relative name in folders and lists, and matching those that belong together."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medi2i.common.errors import UserError
from medi2i.datasets import catalogue, dicom, kinds, lists, reading

DICOM = "dcm"
NO_IMAGES = (".json", ".html", ".md")  # reports that lie beside converted images; DICOM may have any other name


@dataclass(frozen=True)
class Loaded:
    """An image in its own unit: `array` float32 (H, W) or (C, H, W); `mask` bool (H, W), True where a pixel counts
    (None: everywhere); `bits` 8 or 16 for unsigned pictures, else None."""

    array: object
    mask: object = None
    bits: int | None = None


@dataclass(frozen=True)
class Found:
    """One image: a file, or one frame of it. `key` is its name relative to the folder, as people read it."""

    key: str
    path: Path
    kind: str
    series: str
    frame: int = 0
    modality: str = ""
    spacing: tuple[float, float] | None = None

    def load(self) -> Loaded:
        """Read the image. Raises Unreadable."""
        image = reading.read_image(self.path, self.kind, frame=self.frame)
        array = image.array[0] if len(image.array) == 1 else image.array
        return Loaded(array, None if image.mask is None else ~image.mask, image.bits)


@dataclass
class Listing:
    """The images of a folder or list by key, in the order of their series, and the files passed over."""

    files: dict = field(default_factory=dict)
    skipped: list = field(default_factory=list)

    @property
    def first(self) -> Found:
        """Any of the images: kind and modality are the same for all."""
        return next(iter(self.files.values()))


def list_folder(folder, kind: str | None = None) -> Listing:
    """All images of one kind below `folder`; without `kind`, of the only kind that is there. Raises UserError."""
    kind, paths = catalogue.find_files(folder, kind or "auto")
    return list_files([path for path in paths if path.suffix.lower() not in NO_IMAGES], Path(folder), kind)


def list_pairs(list_file, root, from_col: int = 0, to_col: int = 1, kind: str | None = None) -> tuple[Listing, Listing]:
    """Inputs and truths of a tab-separated list, both under the key of the input: its path as the list has it.

    Raises UserError for a list that lacks a column, and for files that are not there.
    """
    root, list_file = Path(root), lists.locate_list(list_file, root)
    rows = lists.read_list(list_file)
    for row in rows:
        if len(row.columns) <= max(from_col, to_col):
            raise UserError(
                f"{list_file}: line {row.line} has {len(row.columns)} column(s); it needs input and truth, "
                "separated by a tab"
            )
    absent = [
        row.columns[column]
        for row in rows
        for column in (from_col, to_col)
        if not (root / row.columns[column]).is_file()
    ]
    if absent:
        raise UserError(
            f"{list_file}: {len(absent)} files are not there, the first {root / absent[0]}; paths count from --root"
        )
    sides = []
    for column in (from_col, to_col):
        keys = {}
        for row in rows:  # several inputs may have one truth
            keys.setdefault(root / row.columns[column], []).append(PurePosixPath(row.columns[from_col]).as_posix())
        own = kind or kinds.kind_of(next(iter(keys))) or DICOM
        sides.append(list_files(list(keys), root, own, keys))
    return sides[0], sides[1]


def list_files(paths, root, kind: str, keys=None) -> Listing:
    """The images in `paths`, all of `kind`, under the names in `keys` (path → several) or those relative to `root`."""
    if keys is None:
        keys = {path: [path.relative_to(root).as_posix()] for path in paths}
    if kind != DICOM:
        return Listing(
            {key: Found(key, path, kind, PurePosixPath(key).parent.as_posix()) for path in paths for key in keys[path]}
        )
    scan = dicom.scan(paths)
    scan.require_series()
    listing = Listing(skipped=[(skipped.path, skipped.reason) for skipped in scan.skipped])
    for series, name in zip(scan.series, _series_names(scan.series), strict=True):
        for ref in series.slices:
            for key in keys[ref.path]:
                key = f"{key}#{ref.frame + 1}" if ref.frames > 1 else key
                listing.files[key] = Found(key, ref.path, DICOM, name, ref.frame, series.modality, series.spacing)
    return listing


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
    kind = kinds.kind_of(name)
    return (kinds.name_without_suffix(name, kind) if kind else name) + mark + frame


def _series_names(series):
    """Short names that tell the series apart: the description, else the end of the UID."""
    names = [one.description or f"series …{one.uid[-8:]}" for one in series]
    repeated = Counter(names)
    return [f"{name} ({number})" if repeated[name] > 1 else name for number, name in enumerate(names, start=1)]
