#!/usr/bin/env python
"""Split a list of pairs into lists for training, validation and test.

  python tools/split_pairs.py data/ldct/pairs.txt --ratio 0.8
  python tools/split_pairs.py data/mine --ratio 0.7 --test 0.15

writes pairs_train.txt and pairs_val.txt beside the list (and pairs_test.txt with --test); a folder with trainA and
trainB does in place of a list. No patient is in two lists: by default whole patients are drawn where there are several,
else whole series, else whole folders, else the list is cut into contiguous blocks, because neighbouring slices are
nearly the same image. The patient of DICOM is its PatientID; that of pictures is what all of their names or folders say
(sub-01, patient3, case_0012).
"""

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np

from medi2i.common.errors import Unreadable, UserError, as_main, counted
from medi2i.common.locks import locked
from medi2i.common.options import Checked, option, parse
from medi2i.common.outputs import check_target, write_text
from medi2i.datasets import file_names
from medi2i.datasets.dicom.header_checks import text
from medi2i.datasets.dicom.parse import parse_file
from medi2i.datasets.pairs import find_pairs, read_list

PATIENT, SERIES, FOLDER, BLOCK, IMAGE = "patient", "series", "folder", "block", "image"
_PLURAL = {PATIENT: "patients", SERIES: "series", FOLDER: "folders", IMAGE: "images"}


@dataclass
class SplitOptions(Checked):
    """What to split"""

    list: str = option(
        "data/ldct/pairs.txt",
        "-i",
        "-f",
        metavar="FILE",
        help="list of pairs; paths are relative to its folder; or a folder with trainA and trainB",
        bare=True,
    )
    root: str = option(None, "-R", metavar="FOLDER", help="folder the paths are relative to; default: the list's")
    out: str = option(
        None, "-o", "--outdir", metavar="FOLDER", help="where to write the lists; default: beside the list"
    )
    ratio: float = option(0.8, "-r", "-tr", type=float, low=0.0, high=1.0, help="share of the pairs for training")
    test: float = option(0.0, type=float, low=0.0, high=1.0, help="share for test; the rest is for validation")
    by: str = option(
        "auto",
        choices=["auto", PATIENT, SERIES, FOLDER, BLOCK, IMAGE],
        help="what stays together; image splits slices of one patient at random, which flatters results",
    )
    seed: int = option(0, type=int, low=0, high=2**32 - 1, help="the same seed makes the same lists")
    force: bool = option(False, type=bool, help="overwrite existing lists")


@dataclass(frozen=True)
class Row:
    """A line of the list with what its image belongs to; "" where that is not known."""

    columns: tuple[str, ...]
    patient: str
    series: str
    folder: str
    image: str

    def group(self, by: str) -> str:
        return getattr(self, by)


def command(argv: list[str]) -> None:
    options = parse(SplitOptions, argv, __doc__)
    shares = {"train": options.ratio, "val": 1 - options.ratio - options.test, "test": options.test}
    if shares["val"] < -1e-9:
        raise UserError(f"--ratio {options.ratio:g} and --test {options.test:g} are more than 1 together")
    parts = {name: share for name, share in shares.items() if share > 1e-9}
    path = Path(options.list)
    if path.is_dir():
        root, pairs = path, pairs_below(path)
        path /= "pairs.txt"
    else:
        root, pairs = Path(options.root) if options.root else path.parent, pairs_listed(path)
    rows = [describe(columns, root) for columns in pairs]
    if not all(row.patient for row in rows):  # names of some files say it and of others not: they do not count
        rows = [row if row.series else replace(row, patient="") for row in rows]
    by, note = choose(rows, options.by)
    chosen = blocks(rows, parts) if by == BLOCK else whole_groups(rows, by, parts, np.random.default_rng(options.seed))
    if by != IMAGE and options.by != BLOCK:
        refuse_leak(chosen, by)
    out = Path(options.out) if options.out else path.parent
    with locked(out, "writing"):
        targets = {name: out / f"{path.stem}_{name}.txt" for name in parts}
        for target in targets.values():
            check_target(target, [path], options.force)
        for name, target in targets.items():
            write_text(target, "".join("\t".join(row.columns) + "\n" for row in chosen[name]))
        print(note)
        for name, target in targets.items():
            number = len({row.group(by) for row in chosen[name]}) if by in _PLURAL else 0
            groups = f", {counted(number, by, _PLURAL[by])}" if number else ""
            print(f"{target}: {counted(len(chosen[name]), 'pair')}{groups}")


def pairs_listed(path: Path) -> list[tuple[str, ...]]:
    """The columns of each line of a list. Raises UserError."""
    listed = read_list(path)
    for row in listed:
        if len(row.columns) < 2:
            raise UserError(f"{path}: line {row.line} has one column; a pair is two paths, separated by a tab")
    return [row.columns for row in listed]


def pairs_below(root: Path) -> list[tuple[str, ...]]:
    """The pairs of trainA and trainB, as a list would name them. Raises UserError."""
    pairs = [(pair.inputs[0].path, pair.outputs[0].path) for pair in find_pairs(root, "__train__")]
    return list(dict.fromkeys(tuple(file.relative_to(root).as_posix() for file in files) for files in pairs))


def describe(columns: Sequence[str], root: Path) -> Row:
    """Which patient, series and folder the last image of a line (the clean one) belongs to. UserError if it is
    missing."""
    name = columns[-1]
    path = root / name
    if not path.is_file():
        raise UserError(f"{path}: listed, but there is no such file; --root gives the folder the paths are relative to")
    # realisations of one image (noise01/…, noise02/…) belong together
    parts = [part for part in Path(name).parts if not re.fullmatch(r"noise\d+", part)]
    folder = "/".join(file_names.folder_of(parts[:-1]))
    patient = next((person for part in parts if (person := file_names.person_in(part))), "")
    series = ""
    with contextlib.suppress(Unreadable):  # what is no DICOM says nothing more
        header = parse_file(path).dataset
        study = text(header, "StudyInstanceUID")
        patient = text(header, "PatientID") or study
        series = text(header, "SeriesInstanceUID") or "\t".join((study, text(header, "SeriesNumber"), folder))
    return Row(tuple(columns), patient, series, folder, "/".join(parts))


def choose(rows: list[Row], wanted: str) -> tuple[str, str]:
    """What to keep together, and a sentence about it. UserError where that cannot be split."""
    counts = {by: len({row.group(by) for row in rows}) for by in (PATIENT, SERIES, FOLDER, IMAGE)}
    known = {by: all(row.group(by) for row in rows) for by in (PATIENT, SERIES)} | {FOLDER: True, IMAGE: True}
    if wanted == BLOCK:
        return BLOCK, "in contiguous blocks of the list; neighbours on both sides of a cut may be of one patient"
    if wanted != "auto":
        if not known[wanted]:
            raise UserError(
                f"--by {wanted}: not all images are DICOM that say their {wanted}, or named after it; folder, block or "
                "image would work"
            )
        if counts[wanted] < 2:
            raise UserError(f"--by {wanted}: there is only one; block would cut it, image would split it at random")
        leak = "; slices of one patient are on both sides, which flatters results" if wanted == IMAGE else ""
        return wanted, f"by {wanted}: {counts[wanted]} {_PLURAL[wanted]}{leak}"
    candidates = [by for by in (PATIENT, SERIES) if known[PATIENT] and known[by]]
    for by in candidates if known[SERIES] else [*candidates, FOLDER]:
        if counts[by] > 1:
            one = "; all of one patient" if by != PATIENT and counts[PATIENT] == 1 and known[PATIENT] else ""
            return by, f"by {by}: {counts[by]} {_PLURAL[by]}{one}"
    return (
        BLOCK,
        "one series only: in contiguous blocks of the list (training first), as neighbouring slices look alike",
    )


def blocks(rows: list[Row], parts: dict[str, float]) -> dict[str, list[Row]]:
    """Cut the list in the order of the parts. Realisations of one image stay together."""
    names = list(dict.fromkeys(row.image for row in rows))
    counts = shares_of(len(names), parts)
    place = dict(zip(names, np.repeat(list(counts), list(counts.values())), strict=True))
    return {part: [row for row in rows if place[row.image] == part] for part in parts}


def whole_groups(rows: list[Row], by: str, parts: dict[str, float], rng: np.random.Generator) -> dict[str, list[Row]]:
    """Deal groups in random order, each to the part that lacks most pairs; no part stays empty."""
    sizes = Counter(row.group(by) for row in rows)
    names = sorted(sizes)
    if len(names) < len(parts):
        raise UserError(
            f"{counted(len(names), by, _PLURAL[by])} cannot fill {len(parts)} lists; --by block or image would split "
            "them further"
        )
    lacking = {part: share * len(rows) for part, share in parts.items()}
    place: dict[str, str] = {}
    for index, number in enumerate(rng.permutation(len(names))):
        name = names[number]
        empty = [part for part in parts if part not in place.values()]
        must = len(empty) >= len(names) - index
        part = max(empty if must else parts, key=lambda p: lacking[p])
        place[name] = part
        lacking[part] -= sizes[name]
    return {part: [row for row in rows if place[row.group(by)] == part] for part in parts}


def shares_of(count: int, parts: dict[str, float]) -> dict[str, int]:
    """Whole numbers that add up to ``count`` in proportion to the shares, at least 1 each. UserError for too few."""
    if count < len(parts):
        raise UserError(f"{count} image(s) cannot fill {len(parts)} lists")
    names = list(parts)
    ends = np.rint(np.cumsum([parts[name] for name in names]) * count).astype(int)
    ends[-1] = count
    for index in range(len(names)):
        least = ends[index - 1] + 1 if index else 1
        ends[index] = min(max(ends[index], least), count - (len(names) - 1 - index))
    return dict(zip(names, np.diff(ends, prepend=0).tolist(), strict=True))


def refuse_leak(chosen: dict[str, list[Row]], by: str) -> None:
    """UserError if a patient is in two lists though there are several patients to split by."""
    patients = {row.patient for rows in chosen.values() for row in rows}
    seen: dict[str, str] = {}
    for part, rows in chosen.items():
        for row in rows:
            if row.patient and len(patients) > 1 and seen.setdefault(row.patient, part) != part:
                raise UserError(
                    f"--by {by}: patient {row.patient} would be in {seen[row.patient]} and {part}; "
                    "--by patient keeps patients apart, --by image allows it"
                )


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
