"""The command medi2i: its words, its page of help, its old names."""

import ast
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import medi2i
from medi2i import command
from medi2i.common.version import VERSION

ROOT = Path(__file__).parents[2]


def answer(*words):
    return subprocess.run([sys.executable, "-m", "medi2i", *words], capture_output=True, text=True, timeout=300)


def test_the_help_fits_a_screen_and_names_every_command():
    lines = command.overview().splitlines()
    assert len(lines) <= 23 and max(map(len, lines)) < 80
    assert [name for name in command.BY_NAME if not any(f" {name} " in line for line in lines)] == []


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_without_a_command_it_shows_them(words, capsys):
    assert command.main(words) == 0
    assert capsys.readouterr().out.strip() == command.overview()


def test_help_and_version_load_neither_chainer_nor_numpy():
    code = "import sys, medi2i.command as c; c.main(['--help']); c.main(['--version']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert "medi2i.command" in loaded and loaded.isdisjoint({"chainer", "numpy", "pydicom", "matplotlib"})


def test_python_m_medi2i_is_the_command():
    done = answer("--version")
    assert (done.returncode, done.stdout) == (0, f"medi2i {VERSION}\n")
    assert medi2i.__version__ == VERSION


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nois"], "nois is no command of medi2i; did you mean noise?"),
        (["train"], "train: which? medi2i train pix2pix or medi2i train cyclegan"),
        (["xyz", "-i", "a"], "xyz is no command of medi2i"),
    ],
)
def test_words_that_are_no_command(words, said, capsys):
    assert command.main(words) == 2
    assert capsys.readouterr().err == f"error: {said} (see medi2i --help)\n"


def test_a_command_gets_what_follows_its_name(monkeypatch):
    got = []
    monkeypatch.setattr("medi2i.tools.split_pairs.main", lambda argv: got.append(argv) or 3)
    assert command.main(["split", "-i", "train", "pix2pix"]) == 3
    assert got == [["-i", "train", "pix2pix"]]


def test_every_command_has_its_module_and_every_old_name_its_command(monkeypatch):
    assert [c.module for c in command.BY_NAME.values() if find_spec(f"medi2i.{c.module}") is None] == []
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    old = {f"medi2i-{c.old}": c for c in command.BY_NAME.values() if c.old}
    assert {name: place for name, place in scripts.items() if name != "medi2i"} == dict.fromkeys(
        old, "medi2i.command:alias"
    )
    run = []
    monkeypatch.setattr(command, "run", lambda found, argv: run.append(found) or 0)
    for name in old:
        monkeypatch.setattr(sys, "argv", [f"/usr/bin/{name}"])
        command.alias()
    assert run == list(old.values())
