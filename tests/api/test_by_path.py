"""Scripts run by a Python that has no medi2i: .venv's takes over, or one line says what to do."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medi2i.command import BY_NAME, BY_OLD_NAME

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted({c.module.replace(".", "/") + ".py" for c in (*BY_NAME.values(), *BY_OLD_NAME.values()) if c.module})


@pytest.fixture
def checkout(tmp_path):
    """The scripts alone, as they lie in a checkout without .venv."""
    for name in [*SCRIPTS, "api/by_path.py", *{f"{Path(script).parent}/medi2i.py" for script in SCRIPTS}]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def bare(checkout, script, *words):
    """Run a script by a Python without packages."""
    words = [sys.executable, "-S", "-E", script, *words]
    return subprocess.run(words, cwd=checkout, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_an_environment_one_line_says_what_makes_it(checkout, script):
    done = bare(checkout, script, "--help")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {sys.executable} has no medi2i") and "make demo" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", ["pix2pix/train.py", "tools/make_noisy.py"])
def test_the_python_of_the_environment_takes_over(checkout, script):
    (checkout / ".venv/bin").mkdir(parents=True)
    python = checkout / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    python.chmod(0o755)
    done = bare(checkout, script, "-i", "a b")
    assert (done.returncode, done.stdout) == (3, f"{script} -i a b\n")
    assert done.stderr == f"note: {sys.executable} has no medi2i; {python} runs this\n"


def test_with_medi2i_a_script_is_what_it_was(tmp_path):
    words = [sys.executable, ROOT / "tools/nifti.py", tmp_path / "none"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path / 'none'}: no such file or folder\n")
