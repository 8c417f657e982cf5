"""Which images belong together: from list files or from the folders trainA/trainB, with every problem told at once."""

import dataclasses
import logging
from pathlib import Path

from medi2i.common.errors import UserError
from medi2i.datasets.catalogue import Source, describe, find_files, matches
from medi2i.datasets.kinds import name_without_suffix
from medi2i.datasets.lists import locate_list, read_list

log = logging.getLogger(__name__)

FOLDERS = {"__train__": ("trainA", "trainB"), "__test__": ("testA", "testB")}
SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Pair:
    """Images that belong together: one source for each input column and for each output column."""

    inputs: tuple[Source, ...]
    outputs: tuple[Source, ...]

    @property
    def name(self):
        """The first input's name: below the root, without suffix."""
        return self.inputs[0].name

    @property
    def group(self):
        """Neighbours in a stack share it."""
        return self.inputs[0].group

    @property
    def place(self):
        """Order within the group."""
        return self.inputs[0].place


class Problems:
    """What is wrong with the pairs of one list or folder, collected to be told at once."""

    def __init__(self, where):
        self.where = where
        self.lines = []

    def add(self, line):
        """One problem in one line."""
        self.lines.append(line)

    def stop(self):
        """Raise UserError if there are any, after logging them all."""
        if not self.lines:
            return
        if len(self.lines) > SHOWN:
            log.error(
                "%s: %d problems with pairs:\n%s",
                self.where,
                len(self.lines),
                "\n".join(f"  {line}" for line in self.lines),
            )
        rest = f"; and {len(self.lines) - SHOWN} more (all are listed above)" if len(self.lines) > SHOWN else ""
        raise UserError(
            f"{self.where}: {len(self.lines)} problem(s) with pairs: " + "; ".join(self.lines[:SHOWN]) + rest
        )


@dataclasses.dataclass(frozen=True)
class Columns:
    """The files of one row: as many inputs and outputs as columns were asked for, and how to call it."""

    label: str
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]


def find_pairs(
    root,
    name,
    *,
    kinds=("auto", "auto"),
    from_col=(0,),
    to_col=(1,),
    pattern=None,
    btoa=False,
    labels=False,
    scale=1,
    by_file=False,
):
    """All pairs of the list file ``name``, or of folders if it is ``__train__`` (trainA, trainB) or ``__test__``.

    kinds: of inputs and outputs ("auto": by name, or what the folder holds). ``btoa`` makes the second column or folder
    the input. ``labels``: outputs are class numbers. ``scale``: outputs have so many times the rows and columns of
    inputs. ``by_file``: as for ``sources.describe``. Files that cannot be read are left out with their partners, with
    a warning that counts them. Raises UserError with all that is missing or does not fit.
    """
    root = Path(root)
    if name in FOLDERS:
        first, second = (root / folder for folder in FOLDERS[name])
        rows, problems, roots, kinds = _rows_of_folders(*((second, first) if btoa else (first, second)), kinds, pattern)
    else:
        path = locate_list(name, root)
        columns = (to_col, from_col) if btoa else (from_col, to_col)
        rows, problems = _rows_of_list(path, root, *columns, pattern)
        roots, kinds = (root, root), tuple(None if kind == "auto" else kind for kind in kinds)
    inputs = describe([file for row in rows for file in row.inputs], roots[0], kinds[0], by_file=by_file)
    outputs = describe([file for row in rows for file in row.outputs], roots[1], kinds[1], labels, by_file)
    pairs, left_out = [], 0
    for row in rows:
        if any(file in inputs.skipped for file in row.inputs) or any(file in outputs.skipped for file in row.outputs):
            left_out += 1
            continue
        pairs.extend(_pairs_of(row, inputs.by_path, outputs.by_path, problems, scale))
    for found, where in ((inputs, roots[0]), (outputs, roots[1])):
        found.warn(where)
    problems.stop()
    if left_out:
        log.warning(
            "%s: %d of %d pairs left out, because a file of them cannot be read", problems.where, left_out, len(rows)
        )
    if not pairs:
        reasons = [f"{path}: {reason}" for side in (inputs, outputs) for path, reason in side.skipped.items()]
        raise UserError(f"{problems.where}: none of the {len(rows)} pairs can be read ({'; '.join(reasons[:SHOWN])})")
    return pairs


def _rows_of_folders(first, second, kinds, pattern):
    """Files of two folders with equal names (apart from the suffix of their kind), in the order of the first."""
    for folder, other in ((first, second), (second, first)):
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no such folder; pairs need {first.name} and {second.name} with equal names "
                f"in both" + ("" if other.is_dir() else ", or a list file (--train FILE)")
            )
    kinds_found, named = [], []
    for folder, kind in zip((first, second), kinds, strict=True):
        kind, files = find_files(folder, kind, pattern)
        kinds_found.append(kind)
        named.append({name_without_suffix(file.relative_to(folder).as_posix(), kind): file for file in files})
    problems = Problems(f"{first} and {second}")
    if len(named[0]) != len(named[1]):
        problems.add(f"{first} has {len(named[0])} images and {second} has {len(named[1])}")
    for here, there, folder in ((named[0], named[1], second), (named[1], named[0], first)):
        for name, file in here.items():
            if name not in there:
                problems.add(f"{file} has no partner in {folder}")
    rows = [Columns(name, (file,), (named[1][name],)) for name, file in named[0].items() if name in named[1]]
    if not rows:
        problems.stop()
    return rows, problems, (first, second), tuple(kinds_found)


def _rows_of_list(path, root, from_col, to_col, pattern):
    """The rows of a list file, with columns counted from 0 and paths below ``root``."""
    problems = Problems(path)
    rows, needed = [], max(*from_col, *to_col) + 1
    listed = read_list(path)
    widest = max(len(row.columns) for row in listed)
    if widest < needed:
        raise UserError(
            f"{path}: no line has more than {widest} column(s); --from_col and --to_col need {needed}, "
            "separated by tabs"
        )
    for row in listed:
        if len(row.columns) < needed:
            problems.add(
                f"line {row.line} has {len(row.columns)} column(s), --from_col and --to_col need {needed}, "
                f"separated by tabs"
            )
            continue
        files = [[root / row.columns[column] for column in columns] for columns in (from_col, to_col)]
        if not matches(files[0][0].name, pattern):
            continue
        missing = [file for side in files for file in side if not file.is_file()]
        for file in missing:
            why = "does not exist" if not file.exists() else "is not a regular file"
            problems.add(f"line {row.line}: {file} {why}" if file != root else f"line {row.line}: has an empty column")
        if not missing:
            rows.append(Columns(f"line {row.line}", *map(tuple, files)))
    if not rows and not problems.lines:
        raise UserError(f"--fn_pattern: no input file of {path} fits {pattern!r}")
    if not rows:
        problems.stop()
    return rows, problems


def _pairs_of(row, inputs, outputs, problems, scale=1):
    """The pairs of one row: one, or one for each frame where its files have several."""
    sides = [[inputs[file] for file in row.inputs], [outputs[file] for file in row.outputs]]
    counts = {len(frames) for side in sides for frames in side}
    if len(counts) > 1:
        problems.add(
            f"{row.label}: {row.inputs[0]} and {row.outputs[0]} have different numbers of frames "
            f"({', '.join(str(count) for count in sorted(counts))})"
        )
        return
    for frame in range(counts.pop()):
        pair = Pair(*(tuple(frames[frame] for frames in side) for side in sides))
        sizes = {source.shape[1:]: source for source in (*pair.inputs, *pair.outputs)}
        fine = {tuple(scale * n for n in source.shape[1:]) for source in pair.inputs}
        fine |= {source.shape[1:] for source in pair.outputs}
        if len(fine) > 1:
            rule = (
                f"with --scale {scale} outputs must have {scale} times the rows and columns of inputs"
                if scale > 1
                else "a pair must have one size"
            )
            problems.add(
                ", ".join(f"{source.path} is {width}x{height}" for (height, width), source in sizes.items())
                + f" (width x height): {rule}"
            )
            continue
        yield pair
