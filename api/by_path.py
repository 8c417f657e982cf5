"""``python pix2pix/train.py`` by a Python without medi2i: the one in .venv takes over, or a line says what is missing.

A script's folder is where Python looks first, and the ``medi2i.py`` there runs this file, with ``HERE``, that folder,
and ``WORDS``, what was typed.
"""

import importlib
import os
import sys
from pathlib import Path


def take_over(here: Path, words: list[str]) -> None:
    """Put the package in the place of the file beside the script, in this process or in that of .venv's Python."""
    del sys.modules["medi2i"]
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != here]
    try:
        importlib.import_module("medi2i")
    except ModuleNotFoundError:
        home = here.parent / ".venv"
        python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if not python.exists() or Path(sys.prefix).resolve() == home.resolve():
            sys.exit(f"error: {sys.executable} has no medi2i, nor is there {home}; make demo makes it (README.md)")
        print(f"note: {sys.executable} has no medi2i; {python} runs this", file=sys.stderr, flush=True)
        os.execv(python, [str(python), *words])


if __name__ == "by_path":
    take_over(globals()["HERE"], globals()["WORDS"])
