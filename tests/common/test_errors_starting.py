"""Ctrl-C while a command imports its modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medi2i.command import BY_NAME, BY_OLD_NAME

ROOT = Path(__file__).parents[2]
# A module of each command's imports sends the signal, as a hand would that comes at that moment.
INTERRUPT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "medi2i.common.limits":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


def interrupted(folder, *words):
    (folder / "sitecustomize.py").write_text(INTERRUPT)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )


MODULES = sorted({f"medi2i.{c.module}" for c in (*BY_NAME.values(), *BY_OLD_NAME.values()) if c.module})


@pytest.mark.parametrize("words", [*MODULES, "medi2i noise"])
def test_ctrl_c_during_imports_ends_a_command_without_a_word(tmp_path, words):
    done = interrupted(tmp_path, "-m", *words.split())
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_so_it_is_for_a_script_and_an_installed_command(tmp_path):
    (tmp_path / "medi2i-nifti").write_text("from medi2i.tools.nifti import main\nmain()\n")
    (tmp_path / "medi2i").write_text("from medi2i.command import main\nmain()\n")
    for words in ([ROOT / "tools/nifti.py"], [tmp_path / "medi2i-nifti"], [tmp_path / "medi2i", "nifti"]):
        done = interrupted(tmp_path, *words)
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_program_that_imports_the_package_keeps_what_python_does(tmp_path):
    (tmp_path / "other.py").write_text("import medi2i.datasets.reading\n")
    pytest_of_the_checkout = "import sys; sys.argv[0] = sys.argv[1]; import medi2i.datasets.reading"
    for words in (
        ["-c", "import medi2i.datasets.reading"],
        ["-m", "other"],
        [tmp_path / "other.py"],
        ["-c", pytest_of_the_checkout, ROOT / ".venv/bin/pytest"],
    ):
        done = interrupted(tmp_path, *words)
        assert done.returncode != 130 and "KeyboardInterrupt" in done.stderr
