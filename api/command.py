"""The command ``medi2i``: what it can do, in one table, and the way from a word to the module that does it."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from medi2i.common.version import VERSION


class Command(NamedTuple):
    """One line of ``medi2i --help``. ``module``: below medi2i; its ``main(argv)`` is the command, here and as a script.

    ``old``: the name of its own that it had before there was ``medi2i``, kept for one release.
    """

    name: str
    module: str
    what: str
    old: str = ""


COMMANDS = {
    "Try": [
        Command("demo", "tools.demo", "a CT denoised by a network trained here, in minutes"),
    ],
    "Data": [
        Command("scan", "datasets.dicom.__main__", "the series in a folder, and why files are left out"),
        Command("noise", "tools.make_noisy", "pairs with noise and without, or of a lower dose", "make-noisy"),
        Command("lowres", "tools.make_lowres", "pairs of coarse and fine images", "make-lowres"),
        Command("register", "tools.register", "series brought to one place, size and spacing", "register"),
        Command("nifti", "tools.nifti", "DICOM of NIfTI, and back", "nifti"),
        Command("split", "tools.split_pairs", "lists to train, validate and test with, by patient", "split-pairs"),
        Command("phantom", "tools.make_phantom", "a CT that nobody's privacy is in", "make-phantom"),
        Command("shapes", "tools.make_shapes", "drawn pairs: colours, or classes", "make-shapes"),
        Command("sinograms", "tools.make_sinograms", "scans of images, for reconstruct", "make-sinograms"),
    ],
    "Train": [
        Command("train pix2pix", "pix2pix.train", "from pairs: noisy and clean, MR and CT", "pix2pix-train"),
        Command("train cyclegan", "cyclegan.train", "from two folders without pairs", "cyclegan-train"),
    ],
    "Use": [
        Command("convert pix2pix", "pix2pix.convert", "images by a trained pix2pix", "pix2pix-convert"),
        Command("convert cyclegan", "cyclegan.convert", "images by a trained CycleGAN", "cyclegan-convert"),
        Command("reconstruct", "reconstruction.reconstruct", "images from sinograms", "reconstruct"),
        Command("export", "tools.export_onnx", "a trained network as ONNX", "export-onnx"),
    ],
    "Measure": [
        Command("evaluate", "tools.evaluate", "how good results are, as a report", "evaluate"),
    ],
}
"""What people want to do -> the commands for it. A new command is one line here."""

BY_NAME = {command.name: command for group in COMMANDS.values() for command in group}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``medi2i`` and ``python -m medi2i``; returns the status of the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"medi2i {VERSION}")
        return 0
    name: str | None = next((name for name in (" ".join(words[:2]), words[0]) if name in BY_NAME), None)
    if name is None:
        print(f"error: {unknown(words)} (see medi2i --help)", file=sys.stderr)
        return 2
    return run(BY_NAME[name], words[len(name.split()) :])


def alias() -> int:
    """Entry point of the old names, ``medi2i-make-noisy`` for ``medi2i noise``."""
    called = Path(sys.argv[0]).stem
    return run(next(command for command in BY_NAME.values() if f"medi2i-{command.old}" == called), sys.argv[1:])


def run(command: Command, argv: list[str]) -> int:
    """Import what a command is and call it."""
    status: int = import_module(f"medi2i.{command.module}").main(argv)
    return status


def unknown(words: Sequence[str]) -> str:
    """What is wrong with words that are no command, and what was meant."""
    inner = [name.partition(" ")[2] for name in BY_NAME if name.startswith(words[0] + " ")]
    if inner:
        return f"{words[0]}: which? " + " or ".join(f"medi2i {words[0]} {name}" for name in inner)
    close = difflib.get_close_matches(words[0], [name.split()[0] for name in BY_NAME], 1)
    return f"{words[0]} is no command of medi2i" + (f"; did you mean {close[0]}?" if close else "")


def overview() -> str:
    """The text of ``medi2i --help``: within 80 columns and 24 lines."""
    lines = ["usage: medi2i COMMAND [options]    medi2i COMMAND --help    medi2i --version", ""]
    for title, group in COMMANDS.items():
        titles = [title, *[""] * len(group)]
        lines += [f"{title:9}{command.name:17}{command.what}" for title, command in zip(titles, group, strict=False)]
    return "\n".join(lines)
