"""The command ``medi2i``: what it can do, in one table, and the way from a word to the module that does it."""

import ast
import difflib
import os
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medi2i.common import VERSION, errors

if TYPE_CHECKING:
    from medi2i.common.options.machinery import Parser


class Command(NamedTuple):
    """One line of ``medi2i --help``.

    module: below medi2i; its ``main(argv)`` is the command, here and as a script. options: the class of its options,
    below medi2i too, or in that module. old: its name of before there was ``medi2i``, kept for one release.
    """

    name: str
    module: str
    options: str
    what: str
    old: str = ""


COMMANDS = {
    "Try": [
        Command("demo", "tools.demo", "DemoOptions", "a CT denoised by a network trained here, in minutes"),
    ],
    "Data": [
        Command("scan", "tools.scan", "ScanOptions", "the series in a folder, and why files are left out"),
        Command(
            "noise",
            "tools.make_noisy",
            "NoiseOptions",
            "pairs with noise and without, or of a lower dose",
            "make-noisy",
        ),
        Command("lowres", "tools.make_lowres", "LowresOptions", "pairs of coarse and fine images", "make-lowres"),
        Command(
            "register", "tools.register", "RegisterOptions", "series brought to one place, size and spacing", "register"
        ),
        Command("nifti", "tools.nifti", "NiftiOptions", "DICOM of NIfTI, and back", "nifti"),
        Command(
            "split",
            "tools.split_pairs",
            "SplitOptions",
            "lists to train, validate and test with, by patient",
            "split-pairs",
        ),
        Command("phantom", "tools.make_phantom", "PhantomOptions", "a CT of nobody, drawn", "make-phantom"),
        Command("shapes", "tools.make_shapes", "ShapesOptions", "drawn pairs: colours, or classes", "make-shapes"),
        Command(
            "sinograms",
            "tools.make_sinograms",
            "SinogramOptions",
            "scans of images, for reconstruct",
            "make-sinograms",
        ),
    ],
    "Train": [
        Command(
            "train pix2pix",
            "pix2pix.train",
            "common.options.PairedOptions",
            "from pairs: noisy and clean, MR and CT of one patient",
            "pix2pix-train",
        ),
        Command(
            "train cyclegan",
            "cyclegan.train",
            "common.options.UnpairedOptions",
            "from images of two kinds that are no pairs",
            "cyclegan-train",
        ),
        Command(
            "train recon",
            "reconstruction.train",
            "common.options.learned.LearnedOptions",
            "what reconstructs, from scans of known images",
        ),
        Command(
            "train synthesis",
            "synthesis.train",
            "common.options.learned.SynthesisOptions",
            "what makes images of noise",
        ),
    ],
    "Use": [
        Command("denoise", "tools.denoise", "DenoiseOptions", "noisy CT without a training, with a safety report"),
        Command(
            "convert",
            "",  # of the application that the run is of
            "common.options.conversion.UnpairedConversionOptions",
            "images by a trained network",
        ),
        Command(
            "reconstruct",
            "reconstruction.reconstruct",
            "ReconstructionOptions",
            "images from sinograms",
            "reconstruct",
        ),
        Command("generate", "synthesis.generate", "GenerateOptions", "images of nobody, by a network trained for it"),
        Command("export", "tools.export_onnx", "ExportOptions", "a trained network as ONNX", "export-onnx"),
    ],
    "Measure": [
        Command("evaluate", "tools.evaluate", "EvaluateOptions", "how good results are, as a report", "evaluate"),
        Command("models", "tools.models", "ModelsOptions", "trained models by name, and the runs in a folder"),
    ],
}
"""What people want to do -> the commands for it. A new command is one entry here."""

BY_NAME = {command.name: command for group in COMMANDS.values() for command in group}
BY_OLD_NAME = {
    **{f"medi2i-{command.old}": command for command in BY_NAME.values() if command.old},
    "medi2i-pix2pix-convert": BY_NAME["convert"]._replace(module="pix2pix.convert"),
    "medi2i-cyclegan-convert": BY_NAME["convert"]._replace(module="cyclegan.convert"),
}
SHELLS = ("bash", "zsh")
FILES = ("FOLDER", "DIR", "FILE", "PATH", "RUN")  # what an option's value is called where it is one

ABOUT_CONVERT = """Convert images with a trained network; DICOM to DICOM, every other kind to its own.

python pix2pix/convert.py RUN data/ldct/testA -o converted
python pix2pix/convert.py RUN data/mr --modality CT -o synthetic
python pix2pix/convert.py -m old/enc_x50.npz -a old/args data/ldct/testA -o converted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``medi2i`` and ``python -m medi2i``; returns the status of the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"medi2i {VERSION}")
        return 0
    if words[0] == "completion" and words[1:] in (["-h"], ["--help"]):
        print("usage: medi2i completion bash > FILE    medi2i completion zsh > FILE    FILE is what the shell reads")
        return 0
    if words[0] == "completion":
        return errors.run(completion, words[1:])
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in BY_NAME), None)
    if any(known.startswith(f"{words[0]} ") for known in BY_NAME) and words[1:] in (["-h"], ["--help"]):
        print(overview(words[0]))
        return 0
    if name is None:
        print(f"error: {unknown(words)} (see medi2i --help)", file=sys.stderr)
        return 2
    return run(BY_NAME[name], words[len(name.split()) :])


def alias() -> int:
    """Entry point of the old names, ``medi2i-make-noisy`` for ``medi2i noise``."""
    return run(BY_OLD_NAME[Path(sys.argv[0]).stem], sys.argv[1:])


def run(command: Command, argv: list[str]) -> int:
    """Call what a command is, with messages that speak of commands as the user does. Returns the status."""
    with speaking(command):
        if command.options.startswith("common.") and not {"-h", "--help", "--help-all"}.isdisjoint(argv):
            return errors.run(lambda words: parser_of(command).parse_args(words), argv)
        module = command.module or f"{application_of(argv)}.convert"
        status: int = import_module(f"medi2i.{module}").main(argv)
        return status


@contextmanager
def speaking(command: Command) -> Iterator[None]:
    """Help and messages say ``medi2i noise`` where they would say ``python tools/make_noisy.py``."""
    before, names = sys.argv[:], dict(errors.NAMES)
    program = called()
    for other in (*BY_NAME.values(), *BY_OLD_NAME.values()):
        errors.NAMES[other.module.replace(".", "/") + ".py"] = f"{program} {other.name}"
    sys.argv[0] = f"medi2i {command.name}"
    try:
        yield
    finally:
        sys.argv[:] = before
        errors.NAMES.clear()
        errors.NAMES.update(names)


def called() -> str:
    """How the user calls this program: the words before those of a command."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return f"{sys.orig_argv[0]} -m medi2i"
    if "UV_RUN_RECURSION_DEPTH" in os.environ:
        return "uv run medi2i"
    found = shutil.which("medi2i")
    elsewhere = program.stem == "medi2i" and (found is None or program.resolve() != Path(found).resolve())
    return str(program) if elsewhere else "medi2i"


def application_of(argv: Sequence[str]) -> str:
    """The application whose run the words of a conversion name: the first word that is a run; pix2pix where none is."""
    from medi2i.common.networks.checkpoint import find_run
    from medi2i.common.options import load_args

    for word in argv:
        with suppress(errors.UserError, OSError):
            return load_args(find_run(word).args).APPLICATION
    return "pix2pix"


def parser_of(command: Command) -> "Parser":
    """The parser of a command, without what else it would import."""
    from medi2i.common.options import build_parser
    from medi2i.common.options.conversion import PairedConversionOptions, conversion_parser

    place, _, name = f"{'' if '.' in command.options else command.module + '.'}{command.options}".rpartition(".")
    options = getattr(import_module(f"medi2i.{place}"), name)
    about = about_of(command.module) if command.module else ABOUT_CONVERT
    return (conversion_parser if issubclass(options, PairedConversionOptions) else build_parser)(options, about)


def about_of(module: str) -> str:
    """The docstring of a module below medi2i, which is not imported."""
    spec = find_spec(f"medi2i.{module}")
    assert spec is not None and spec.origin is not None  # a test holds the table to it
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def completion(argv: Sequence[str]) -> None:
    """Print what completes commands and options in a shell, for ``medi2i completion bash > FILE``."""
    import shtab

    if list(argv) not in [[shell] for shell in SHELLS]:
        raise errors.UserError(
            f"completion: of which shell? {' or '.join(SHELLS)}: medi2i completion bash > FILE, which the shell reads"
        )
    top = ArgumentParser(prog="medi2i")
    top.add_argument("--version", action="store_true")
    groups = {"": top.add_subparsers()}
    for command in BY_NAME.values():
        group, _, name = command.name.rpartition(" ")
        if group not in groups:
            groups[group] = groups[""].add_parser(group, help=f"{group} …").add_subparsers()
        parser = parser_of(command)
        for action in parser._actions:
            action.choices = parser.rules.get(action.dest, {}).get("choices")
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # which is how shtab is told
        parser.add_argument("words", nargs="*").complete = shtab.FILE  # type: ignore[attr-defined]
        groups[group].add_parser(name, help=command.what)
        groups[group].choices[name] = parser
    groups[""].add_parser("completion", help="of commands and options, for a shell").add_argument(
        "shell", choices=SHELLS
    )
    print(shtab.complete(top, argv[0]))


def unknown(words: Sequence[str]) -> str:
    """What is wrong with words that are no command, and what was meant."""
    inner = [name.partition(" ")[2] for name in BY_NAME if name.startswith(words[0] + " ")]
    if inner:
        return f"{words[0]}: which? " + " or ".join(f"medi2i {words[0]} {name}" for name in inner)
    close = difflib.get_close_matches(words[0], [name.split()[0] for name in BY_NAME], 1)
    return f"{words[0]} is no command of medi2i" + (f"; did you mean {close[0]}?" if close else "")


def overview(word: str = "") -> str:
    """The text of ``medi2i --help``, within 80 columns and 24 lines; or of ``medi2i train --help``, for that word."""
    lines = ["usage: medi2i COMMAND [options]    medi2i COMMAND --help    medi2i --version"]
    for title, group in COMMANDS.items():
        shown = [command for command in group if command.name.startswith(word)]
        titles = [title, *[""] * len(group)]
        lines += [f"{title:9}{command.name:16}{command.what}" for title, command in zip(titles, shown, strict=False)]
    return "\n".join(lines if word else [*lines, "Shell    completion      what TAB needs, of bash or zsh"])
