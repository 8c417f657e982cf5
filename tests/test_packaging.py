"""The wheel, installed where the checkout is not on the path: every module imports, every command answers."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("api", "common", "datasets", "pix2pix", "cyclegan", "reconstruction", "synthesis", "tools")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source")
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    for name in filter(None, files):  # a copy, so that no build folder appears in the checkout
        if name.startswith(FOLDERS) or "/" not in name:
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_file():
                target.write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source],
        check=True,
        timeout=300,
    )
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel; what it depends on is lent by this one, its editable medi2i is not."""
    home = tmp_path_factory.mktemp("env")
    venv.create(home, with_pip=False)
    site = next(home.glob("lib/python*/site-packages"))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "-q", "--no-deps", wheel],
        check=True,
        timeout=300,
    )
    # ChainerCV imports distutils, which from Python 3.12 on setuptools lends where its own .pth lies.
    distutils = (
        "import importlib.util as u; u.find_spec('_distutils_hack') and __import__('_distutils_hack').add_shim()"
    )
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + f"\n{distutils}\n")
    return home, site


def test_wheel_holds_only_medi2i(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"medi2i"}
    here = {str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
    modules = {f"medi2i/{name.removeprefix('api/')}" for name in here if name.endswith((".py", "/py.typed"))}
    assert modules <= set(names)
    assert {f"medi2i/{folder}/py.typed".replace("api/", "") for folder in FOLDERS} <= modules
    extra = {name for name in names if name.startswith("medi2i/")} - modules
    assert {name for name in extra if name.removeprefix("medi2i/") not in here} == set()
    assert [name for name in names if "test" in name or "nvrtc" in name or "on_cpu" in name] == []


def test_every_module_imports_from_the_wheel(installed, tmp_path):
    home, site = installed
    modules = sorted(
        ".".join(p.relative_to(site).with_suffix("").parts).removesuffix(".__init__")
        for p in (site / "medi2i").rglob("*.py")
    )
    assert len(modules) > 30
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    module = importlib.import_module(name)\n"
        f"    assert module.__file__.startswith({str(site)!r}), module.__file__\n"
        "import medi2i.common; print(medi2i.common.VERSION)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV"))}
    result = subprocess.run(
        [home / "bin" / "python", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M).group(1)
    assert result.stdout.split() == [version]


def test_lock_names_no_other_index_than_pypi():
    """A mirror that was in use when the lock was made is nobody else's."""
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert set(re.findall(r'registry = "([^"]*)"', lock)) == {"https://pypi.org/simple"}
    files = re.findall(r'url = "([^"]*)"', lock)
    assert files and [url for url in files if not url.startswith("https://files.pythonhosted.org/packages/")] == []


def test_lock_is_of_the_dependencies_of_today():
    """Else ``uv sync --locked`` refuses it, and every other ``uv sync`` writes it anew: run ``uv lock``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    (locked,) = [package["metadata"] for package in packages if package["name"] == project["name"]]
    wanted = [Requirement(text) for part in project["optional-dependencies"].values() for text in part]
    wanted += [Requirement(text) for text in project["dependencies"]]
    assert {(canonicalize_name(one.name), one.specifier) for one in wanted} == {
        (one["name"], SpecifierSet(one.get("specifier", ""))) for one in locked["requires-dist"]
    }


def test_commands_answer(installed, tmp_path):
    home, _ = installed
    text = (ROOT / "pyproject.toml").read_text()
    commands = re.findall(r"^(medi2i[\w-]*) =", text, re.M)
    assert len(commands) >= 8
    scripts = [(home / "bin" / name).read_text() for name in commands]
    code = f"""
import sys
for name, script in zip({commands!r}, {scripts!r}):
    sys.argv = [name, "--help"]
    try:
        exec(script, {{"__name__": "__main__"}})
    except SystemExit as error:
        print("status", error.code)
"""
    starts = [[home / "bin" / commands[0], "--help"], [home / "bin" / "python", "-c", code]]
    first, all_of_them = (
        subprocess.run(words, cwd=tmp_path, text=True, capture_output=True, timeout=300) for words in starts
    )
    assert first.returncode == all_of_them.returncode == 0, first.stderr + all_of_them.stderr
    *answers, rest = re.split(r"^status (?:0|None)$", all_of_them.stdout, flags=re.M)
    assert len(answers) == len(commands) and not rest.strip()
    for name, answer in zip(commands, answers, strict=True):
        assert "usage" in answer or "--debug" in answer, name
    assert first.stdout.strip() == answers[0].strip()
