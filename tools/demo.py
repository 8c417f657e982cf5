#!/usr/bin/env python
"""The tutorial from one end to the other: a CT, noise, a pix2pix trained to remove it, and how well that went.

  python tools/demo.py --out demo                    on a phantom made here
  python tools/demo.py --out demo --ct /path/to/ct   on your own CT, as found: any names, several series, compressed

Every step is one of the commands of this project and is printed as you would type it. The folder may be used again: it
is emptied of what the demo made, and of nothing else.
"""

import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np

from medi2i.common.bounded_files import read_json
from medi2i.common.errors import UserError, as_main
from medi2i.common.locks import is_lock, locked
from medi2i.common.options import Checked, option, parse
from medi2i.common.options.paired import PairedOptions
from medi2i.common.outputs import write_text
from medi2i.datasets import dicom
from medi2i.datasets.pairs import read_list
from medi2i.pix2pix import convert, train
from medi2i.tools import evaluate, make_noisy, make_phantom, split_pairs

COUNTS = 100  # of the released noise model
MOST_PAIRS = 80  # of a large CT: evenly spaced slices, so that reading and converting stay short
LISTS = 3  # train, val, test
UPDATES = 4000  # of the training, two minutes or three
# Not the released options: in so few updates those do not even learn to leave the image as it is.
PRESET = "denoise"
MAKER = "medi2i demo"
RECORD = ".made-by.json"
MOST_BYTES = 1 << 24


@dataclass
class DemoOptions(Checked):
    """What to show"""

    out: str = option("demo", "-o", metavar="FOLDER", help="folder for everything the demo makes")
    ct: str | None = option(None, metavar="FOLDER", help="CT series to use instead of the phantom")
    updates: int = option(UPDATES, type=int, low=1, help="updates of the training, rounded to whole epochs")
    size: int = option(256, type=int, low=32, high=2048, metavar="PX", help="width and height of the phantom")
    slices: int = option(40, type=int, low=10, high=2000, help="slices of the phantom")
    seed: int = option(0, type=int, low=0, high=2**32 - 1, help="the same seed gives the same result")


class StepFolders:
    """A folder that may be emptied and filled again, without ever deleting what was not made here.

    `path` holds a record of what was made in it: the files of each finished step, and the step under way. Raises
    UserError where the folder holds things but no record.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._record: dict = {"maker": MAKER, "steps": {}, "under_way": None}
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; --out needs a folder")
        record = self.path / RECORD
        if record.is_file():
            try:
                self._record = read_json(record, "a record of what the demo made", MOST_BYTES)
            except UserError:
                self._record = {}
            if not _is_record(self._record):
                raise UserError(f"{record}: damaged; remove the folder yourself or give another --out")
        elif self.path.is_dir() and any(not is_lock(path) for path in self.path.iterdir()):
            raise UserError(f"{self.path}: was not made by {MAKER}; give a new folder as --out")

    def clear(self) -> None:
        """Delete what earlier runs made. Raises UserError, before anything is deleted, where a step's folder holds
        other files too; other files beside these folders stay."""
        for step, known in self._record["steps"].items():
            foreign = sorted(set(_files(self.path / step)) - set(known))
            if foreign:
                raise UserError(
                    f"{self.path / step / foreign[0]}: was not made by {MAKER}, and its folder is in "
                    "the way; move it elsewhere or give another --out"
                )
        for step in filter(None, (*self._record["steps"], self._record["under_way"])):
            if (self.path / step).is_dir():
                shutil.rmtree(self.path / step)
        self._record.update(steps={}, under_way=None)
        self._save()

    @contextmanager
    def step(self, name: str) -> Iterator[Path]:
        """The path of the folder `name`, new: the body of the `with` makes and fills it. Raises UserError."""
        folder = self.path / name
        if folder.exists():
            raise UserError(
                f"{folder}: is in the way and was not made by {MAKER}; move it elsewhere or give another --out"
            )
        self._record["under_way"] = name
        self._save()
        yield folder
        self._record["under_way"] = None
        self._record["steps"][name] = sorted(_files(folder))
        self._save()

    def _save(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / RECORD, json.dumps(self._record))


def _is_record(record: object) -> bool:
    """Whether it has the form that `_save` writes; a step is a plain name, so nothing outside can be meant."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("steps"), dict)
        and all(_is_name(name) and isinstance(known, list) for name, known in record["steps"].items())
        and (record.get("under_way") is None or _is_name(record["under_way"]))
    )


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]


def command(argv: list[str]) -> None:
    options = parse(DemoOptions, argv, __doc__)
    if options.ct is not None and not Path(options.ct).exists():
        raise UserError(f"--ct: {options.ct}: no such folder; it should hold a CT as DICOM")
    if options.ct is not None and Path(options.out).resolve() in (Path(options.ct) / "x").resolve().parents:
        raise UserError(f"--ct: {options.ct} lies in {options.out}, which the demo empties; give another --out")
    with locked(Path(options.out), "working"):
        show(options, StepFolders(options.out))


def show(options: DemoOptions, folder: StepFolders) -> None:
    """All steps, in a folder that is emptied first. Raises UserError."""
    folder.clear()
    started = time.monotonic()
    seed = ["--seed", options.seed]

    ct: str | Path | None = options.ct
    if ct is None:
        with folder.step("ct") as path:
            step(
                "a CT phantom",
                "tools/make_phantom.py",
                make_phantom,
                ["-o", path, "--size", options.size, "--slices", options.slices, *seed],
            )
            ct = path

    with folder.step("data") as data:
        step("noise on every slice", "tools/make_noisy.py", make_noisy, ["-i", ct, "-o", data, "-n", COUNTS, *seed])
        pairs = thin_out(data / "pairs.txt")
        step(
            "slices to train, to choose and to test with",
            "tools/split_pairs.py",
            split_pairs,
            ["-i", pairs, "--ratio", 0.75, "--test", 0.15, *keep_together(pairs), *seed],
        )
        part = {phase: pairs.with_name(f"{pairs.stem}_{phase}.txt") for phase in ("train", "val", "test")}

    count = len(read_list(part["train"]))
    settings = parse(PairedOptions, ["--preset", PRESET])
    per_epoch = count * settings.crops_per_image / settings.batch_size
    epochs = max(1, round(options.updates / per_epoch))
    with folder.step("run") as runs:
        step(
            f"training: {epochs} epochs of {count} slices, {epochs * per_epoch:.0f} updates",
            "pix2pix/train.py",
            train,
            [
                "-R",
                data,
                "-t",
                part["train"],
                "--val",
                part["val"],
                "-o",
                runs,
                "--preset",
                PRESET,
                "-e",
                epochs,
                *small_crop(data, part["train"], settings.crop_width),
                *seed,
            ],
        )
        trained = max(runs.iterdir())

    with folder.step("converted") as step_folder:
        converted = step_folder / "images"  # what the conversion says of them lies beside it
        step(
            "conversion of the test slices",
            "pix2pix/convert.py",
            convert,
            ["-m", trained, "-R", data, "--val", part["test"], "-o", converted],
        )

    with folder.step("evaluation") as evaluation:
        step(
            "measuring",
            "tools/evaluate.py",
            evaluate,
            [
                "-R",
                data,
                "--pairs",
                part["test"],
                "-c",
                f"pix2pix={converted}",
                *known_bias(data, part["test"]),
                "--classical",
                "tv",
                "nlm",
                "--val_pairs",
                part["val"],
                "-o",
                evaluation,
                "--title",
                "medi2i demo",
            ],
        )
    minutes = (time.monotonic() - started) / 60
    print(
        f"\ndone in {minutes:.1f} minutes; open {evaluation / evaluate.REPORT} in a browser\n"
        "Trained for minutes on a few slices: this shows how the commands go together, not how good they can be."
    )


def step(what: str, script: str, module: ModuleType, words: Sequence[object]) -> None:
    """Print a command as one would type it and run it. Raises UserError where it fails, naming the command."""
    argv = [str(word) for word in words]
    print(f"\n# {what}\n$ python {script} {shlex.join(argv)}", flush=True)
    began = time.monotonic()
    try:
        status = module.command(argv)
    except UserError as error:
        raise UserError(f"{script}: {error}") from error
    if status:
        raise UserError(f"{script}: ended with status {status}; the demo stops here")
    print(f"# {time.monotonic() - began:.0f} s", flush=True)


def thin_out(pairs: Path) -> Path:
    """The list of pairs, or beside it a shorter one with MOST_PAIRS evenly spaced lines."""
    lines = pairs.read_text(encoding="utf-8").splitlines(keepends=True)
    if len(lines) <= MOST_PAIRS:
        return pairs
    shorter = pairs.with_name("pairs_some.txt")
    chosen = np.linspace(0, len(lines) - 1, MOST_PAIRS).round().astype(int)
    write_text(shorter, "".join(lines[index] for index in chosen))
    print(f"# {MOST_PAIRS} of {len(lines)} pairs, evenly spaced, are in {shorter}")
    return shorter


def keep_together(pairs: Path) -> list[object]:
    """`--by block` where there are fewer patients, or series, than lists: then these have to be cut."""
    rows = [split_pairs.describe(row.columns, pairs.parent) for row in read_list(pairs)]
    by, _ = split_pairs.choose(rows, "auto")
    enough = by == split_pairs.BLOCK or len({row.group(by) for row in rows}) >= LISTS
    return [] if enough else ["--by", split_pairs.BLOCK]


def small_crop(data: Path, pairs: Path, side: int) -> list[object]:
    """`-cw` and `-ch` where images are smaller than the preset's crop of `side` pixels; [] elsewhere."""
    shapes = {dicom.read(data / row.columns[0]).hu.shape for row in read_list(pairs)}
    smallest = min(min(shape) for shape in shapes) // 16 * 16
    return [] if smallest >= side else ["-cw", smallest, "-ch", smallest]


def known_bias(data: Path, pairs: Path) -> list[object]:
    """`--bias HU`: the released noise adds COUNTS to stored values, which the slope makes HU; [] where slopes vary."""
    slopes = {dicom.read(data / row.columns[1]).slope for row in read_list(pairs)}
    return ["--bias", f"{COUNTS * slopes.pop():g}"] if len(slopes) == 1 else []


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
