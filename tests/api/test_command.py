"""The command medi2i: its words, its page of help, its old names."""

import ast
import contextlib
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import medi2i
from medi2i import command
from medi2i.common import VERSION, errors
from medi2i.common.options import PairedOptions, UnpairedOptions, save_args

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def called_as_installed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/medi2i"])
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/medi2i" if name == "medi2i" else f"/bin/{name}")


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


@pytest.mark.parametrize("words", [("train", "--help"), ("train", "-h"), ("help", "train")])
def test_the_first_word_of_two_shows_what_comes_next(words, capsys):
    assert command.main(words) == 0
    shown = capsys.readouterr().out
    names = [name for name in command.BY_NAME if f" {name} " in shown]
    assert names == ["train pix2pix", "train cyclegan", "train recon", "train synthesis"]


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
        (
            ["train"],
            "train: which? medi2i train pix2pix or medi2i train cyclegan or medi2i train recon or "
            "medi2i train synthesis",
        ),
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
    assert [c.name for c in command.BY_NAME.values() if c.module and find_spec(f"medi2i.{c.module}") is None] == []
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {name: place for name, place in scripts.items() if name != "medi2i"} == dict.fromkeys(
        command.BY_OLD_NAME, "medi2i.command:alias"
    )
    run = []
    monkeypatch.setattr(command, "run", lambda found, argv: run.append(found) or 0)
    for name in command.BY_OLD_NAME:
        monkeypatch.setattr(sys, "argv", [f"/usr/bin/{name}"])
        command.alias()
    assert run == list(command.BY_OLD_NAME.values())


def said(capsys, *words):
    """What a command prints: (stdout, stderr)."""
    with contextlib.suppress(SystemExit):
        command.main(words)
    return capsys.readouterr()


@pytest.mark.parametrize("name", command.BY_NAME)
def test_every_command_shows_its_help_by_its_name(name, capsys):
    shown = said(capsys, *name.split(), "--help")
    assert shown.out.startswith(f"usage: medi2i {name} [") and shown.err == ""
    assert f"medi2i {name} " in shown.out.partition("Examples:")[2] and "python " not in shown.out


def test_help_of_a_word_is_the_help_of_the_command(capsys):
    assert said(capsys, "help", "noise") == said(capsys, "noise", "--help")
    assert said(capsys, "help", "train", "pix2pix").out.startswith("usage: medi2i train pix2pix [")


def test_help_of_a_training_loads_no_chainer():
    code = "import sys, medi2i.command as c\ntry: c.main(['train', 'pix2pix', '--help-all'])\n"
    code += "except SystemExit: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--lambda_tv" in done.stdout and "chainer" not in ast.literal_eval(done.stdout.splitlines()[-1])


def test_an_option_that_is_mistyped(capsys):
    assert (
        said(capsys, "noise", "--sede", "1").err == "error: --sede: no such option; did you mean --seed? (see --help)\n"
    )


def test_messages_name_commands_as_the_user_does(capsys, tmp_path):
    for folder in ("trainA", "trainB"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.mha").write_bytes(b"no")
    told = said(capsys, "train", "pix2pix", f"{tmp_path}", "-g", "-1").err
    assert "of which medi2i nifti makes DICOM" in told
    assert errors.NAMES == {} and sys.argv == ["/usr/bin/medi2i"]


@pytest.mark.parametrize(
    ("program", "environment", "shown"),
    [
        ("/usr/bin/medi2i", {}, "medi2i"),
        ("/usr/bin/medi2i-make-noisy", {}, "medi2i"),
        (".venv/bin/medi2i", {}, ".venv/bin/medi2i"),
        ("/x/.venv/bin/medi2i", {"UV_RUN_RECURSION_DEPTH": "1"}, "uv run medi2i"),
        ("/x/medi2i/__main__.py", {}, f"{sys.orig_argv[0]} -m medi2i"),
    ],
)
def test_how_the_user_calls_it_is_how_messages_do(program, environment, shown, monkeypatch):
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", [program])
    assert command.called() == shown


def test_the_application_of_a_conversion_is_that_of_the_run(tmp_path):
    for name, options in (("one", PairedOptions()), ("two", UnpairedOptions())):
        (tmp_path / name).mkdir()
        save_args(options, tmp_path / name / "args")
        for file in ("enc_x3.npz", "dec_y3.npz"):
            (tmp_path / name / file).touch()
    assert command.application_of(["-o", "out", f"{tmp_path}/two", "folder"]) == "cyclegan"
    assert command.application_of(["-m", f"{tmp_path}/one/enc_x3.npz"]) == "pix2pix"
    assert command.application_of(["-m", "enc_x3.npz", "-a", f"{tmp_path}/two/args"]) == "cyclegan"
    assert command.application_of(["-m", "identity", "-R", f"{tmp_path}"]) in ("pix2pix", "cyclegan")


@pytest.mark.parametrize("shell", command.SHELLS)
def test_completion_is_a_script_of_the_shell(shell, capsys):
    if not Path("/bin", shell).exists():
        pytest.skip(f"{shell} is not installed")
    script = said(capsys, "completion", shell).out
    assert "--lambda_tv" in script and "superres_gan" in script
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_completion_of_bash_offers_what_fits(capsys):
    script = said(capsys, "completion", "bash").out
    ask = "COMP_WORDS=(medi2i noise --ph); COMP_CWORD=2; _shtab_medi2i; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash"], input=script + "\n" + ask, text=True, capture_output=True, check=True)
    assert done.stdout.split() == ["--photons"]


def test_help_of_completion_is_no_error(capsys):
    assert command.main(["completion", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: medi2i completion bash > FILE")


@pytest.mark.parametrize("words", [(), ("fish",), ("bash", "zsh")])
def test_completion_of_another_shell_is_refused(words, capsys):
    assert command.main(["completion", *words]) == 1
    assert "of which shell? bash or zsh" in capsys.readouterr().err
