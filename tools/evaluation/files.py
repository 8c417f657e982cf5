"""Finding images by relative name in folders and lists, and matching those that belong together."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from medi2i.common.errors import UserError
from medi2i.datasets.catalogue import Entry, Source, Volume, find_files, list_images, name_below
from medi2i.datasets.file_names import kind_of, name_without_suffix
from medi2i.datasets.pairs import locate_list, read_list
from medi2i.datasets.reading import Image, read_image
from medi2i.datasets.unpacking import unpacked

NO_IMAGES = (".json", ".html", ".md")  # reports that lie beside converted images; DICOM may have any other name


def load(source: Source) -> Image:
    """Read an image, whose array is (H, W) where it has one channel. Raises Unreadable."""
    image = read_image(source.path, source.kind, frame=source.frame)
    return replace(image, array=image.array[0]) if len(image.array) == 1 else image


@dataclass
class Listing:
    """The images of a folder or list by key (the name below the folder, as people read it), in the order of their
    series; what each series (by `Source.group`) is called; and the files passed over with why."""

    files: dict[str, Source]
    series: dict[int, str]
    skipped: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def first(self) -> Source:
        """Any of the images: kind and modality are the same for all."""
        return next(iter(self.files.values()))


def list_folder(folder: Path | str, kind: str | None = None) -> Listing:
    """All images of one kind below `folder`; without `kind`, of the only kind that is there. Raises UserError."""
    folder = unpacked(folder)
    kind, paths = find_files(folder, kind or "auto")
    chosen = [path for path in paths if path.suffix.lower() not in NO_IMAGES]
    return _listed(folder, [((path,), name_below(path, folder)) for path in chosen], kind)


def list_pairs(
    list_file: Path | str, root: Path | str, from_col: int = 0, to_col: int = 1, kind: str | None = None
) -> tuple[Listing, Listing]:
    """Inputs and truths of a tab-separated list, both under the key of the input: its path as the list has it.

    Raises UserError for a list that lacks a column, and for files that are not there.
    """
    root = unpacked(root)
    list_file = locate_list(list_file, root)
    rows = read_list(list_file)
    for row in rows:
        if len(row.columns) <= max(from_col, to_col):
            raise UserError(
                f"{list_file}: line {row.line} has {len(row.columns)} column(s); it needs input and truth, "
                "separated by a tab"
            )
    keys = [PurePosixPath(row.columns[from_col]).as_posix() for row in rows]
    sides = [[root / row.columns[column] for row in rows] for column in (from_col, to_col)]
    absent = [path for pair in zip(*sides, strict=True) for path in pair if not path.is_file()]
    if absent:
        raise UserError(
            f"{list_file}: {len(absent)} files are not there, the first {absent[0]}; paths count from --root"
        )
    inputs, truths = (
        _listed(root, [((path,), key) for path, key in zip(paths, keys, strict=True)], kind or kind_of(paths[0]))
        for paths in sides
    )
    return inputs, truths


def _listed(root: Path, entries: list[Entry], kind: str | None) -> Listing:
    found = list_images(entries, kind or "dcm", copies=True)
    if (kind or "dcm") == "dcm":
        found.require_series(root)
    files = {
        source.name if source.frames == 1 else f"{source.name}#{source.frame + 1}": source for source in found.sources
    }
    return Listing(files, _names(found.volumes), [(item.path, item.reason) for item in found.skipped])


def _names(volumes: list[Volume]) -> dict[int, str]:
    """Short names that tell series apart: the folder, the description of DICOM, else the end of its UID."""
    names = [
        str(PurePosixPath(volume.sources[0].name).parent)
        if volume.series is None
        else volume.series.description or f"series …{volume.series.uid[-8:]}"
        for volume in volumes
    ]
    repeated = Counter(names)
    return {i: f"{name} ({i + 1})" if repeated[name] > 1 else name for i, name in enumerate(names)}


@dataclass(frozen=True)
class Slice:
    """A truth and what is to be compared with it: row name → image."""

    key: str
    series: str
    truth: Source
    images: dict[str, Source]


Keys = dict[str, list[str]]
"""Of images, by the name of a row."""


def match(truth: Listing, rows: dict[str, Listing]) -> tuple[list[Slice], Keys, Keys]:
    """Bring together files of equal relative name; the suffix may differ (a PNG converted to npy).

    Returns the slices that every row has, in order; keys that a row lacks; and keys that no truth is known for.

    `rows`: name → Listing. A converted folder may leave out the first folder of the key (trainA/x is found as x).
    """
    partners = {name: _partners(truth.files, listing.files) for name, listing in rows.items()}
    slices = [
        Slice(key, truth.series[found.group], found, {row: rows[row].files[own[key]] for row, own in partners.items()})
        for key, found in truth.files.items()
        if all(key in own for own in partners.values())
    ]
    missing = {name: [key for key in truth.files if key not in own] for name, own in partners.items()}
    used = {name: set(own.values()) for name, own in partners.items()}
    extra = {name: [key for key in listing.files if key not in used[name]] for name, listing in rows.items()}
    return slices, missing, extra


def _partners(keys: Iterable[str], files: Collection[str]) -> dict[str, str]:
    """key → the key in `files` of what belongs to it, for all that have one."""
    stems = Counter(_stem(key) for key in files)
    only = {_stem(key): key for key in files if stems[_stem(key)] == 1}
    found = {}
    for key in keys:
        names = filter(None, (key, key.partition("/")[2]))
        partner = next((own for name in names if (own := name if name in files else only.get(_stem(name)))), None)
        if partner is not None:
            found[key] = partner
    return found


def _stem(key: str) -> str:
    name, mark, frame = key.partition("#")
    kind = kind_of(name)
    return (name_without_suffix(name, kind) if kind else name) + mark + frame
