"""Whole files or none: a full disk, a limit, a kill."""

import csv
import errno
import functools
import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import commands
import numpy as np
import pytest

from medi2i.common import outputs
from medi2i.common.errors import UserError
from medi2i.common.outputs import whole_file
from medi2i.datasets import dicom

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and signals as POSIX has them")


def test_a_file_appears_when_it_is_whole(tmp_path):
    with whole_file(tmp_path / "new/a", force=False) as temporary:
        temporary.write_text("x")
        assert not (tmp_path / "new/a").exists() and temporary.parent == tmp_path / "new"
    assert os.listdir(tmp_path / "new") == ["a"] and (tmp_path / "new/a").read_text() == "x"


def test_a_name_as_long_as_a_file_system_takes(tmp_path):
    with whole_file(tmp_path / ("n" * 255), force=False) as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == ["n" * 255]


def test_what_another_process_wrote_meanwhile_stays(tmp_path):
    with pytest.raises(UserError, match="a: exists; --force"), whole_file(tmp_path / "a", force=False) as temporary:
        temporary.write_text("late")
        (tmp_path / "a").write_text("early")
    assert (tmp_path / "a").read_text() == "early" and os.listdir(tmp_path) == ["a"]


def test_the_error_of_a_library_gets_number_and_name_back(tmp_path):
    with pytest.raises(OSError) as caught, whole_file(tmp_path / "a", force=False):
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "some other file")
        except OSError as error:
            raise OSError("With tag (7FE0,0010) got exception:\nTraceback …") from error
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_a_later_run_removes_what_a_kill_left(tmp_path):
    code = f"""
        import os, signal
        from pathlib import Path
        from medi2i.common.outputs import whole_file
        with whole_file(Path({str(tmp_path / "a")!r}), force=False) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=60)
    (left,) = os.listdir(tmp_path)
    assert done.returncode == -signal.SIGKILL and left.startswith(".") and left.endswith(".part")
    assert dicom.scan(tmp_path).skipped[0].reason.startswith("unfinished")
    living = left.replace(left.split(".")[2], str(os.getppid()))
    elsewhere = left.replace(outputs._HOST, "0" * 8)
    for name in (living, elsewhere, ".hidden.part"):
        (tmp_path / name).write_text("")
    with whole_file(tmp_path / "a", force=False) as temporary:
        temporary.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == sorted(["a", living, elsewhere, ".hidden.part"])


COMMANDS = {
    "make_noisy": ["medi2i.tools.make_noisy", "-i", "IN", "-o", "OUT", "-j", "1"],
    "convert": ["medi2i.pix2pix.convert", "-m", "identity", "-R", "IN", "-o", "OUT"],
}


def command_line(name, source, out):
    return [{"IN": str(source), "OUT": str(out)}.get(part, part) for part in COMMANDS[name]]


@pytest.fixture
def series(ct_file, tmp_path):
    """Three slices, the last one with more pixels than the others."""
    for number, size in ((1, 20), (2, 20), (3, 120)):
        ct_file(f"in/{number}", np.full((size, 30), number, np.uint16), InstanceNumber=number)
    return tmp_path / "in"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_write_that_fails_half_way_is_one_line_and_no_half_file(series, tmp_path, name):
    limit = 6000  # bytes; the third slice alone is larger
    limited = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    done = commands.finish(*command_line(name, series, tmp_path / "out"), before=limited)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and last.endswith(": File too large") and str(tmp_path / "out") in last
    check_whole(tmp_path / "out", 2)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(series, name):
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", folder]
        if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("needs the right to mount a small file system")
        try:
            done = commands.finish(*command_line(name, series, Path(folder, "out")))
            last = done.stderr.strip().splitlines()[-1]
            assert done.returncode == 1 and last.startswith("error: ") and last.endswith(": No space left on device")
            assert folder in last
            check_whole(Path(folder, "out"), 1)
        finally:
            subprocess.run(["umount", folder], check=True)


def check_whole(folder, least):
    """Every file has its name and can be read; not all are there."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "conversion.json"]
    assert not [path for path in files if path.name.startswith(".")]
    assert least <= len(files) < 6 and "pairs.txt" not in [path.name for path in files]
    for path in files:
        assert dicom.read(path).hu.shape[1] == 30


@pytest.mark.parametrize("name", COMMANDS)
def test_names_that_are_no_utf8_and_a_terminal_of_ascii(ct_file, tmp_path, name):
    ct_file("in/1", np.full((20, 30), 1, np.uint16))
    odd = os.fsdecode(b"r\xf6ntgen\xff")
    try:
        os.rename(tmp_path / "in/1", tmp_path / "in" / odd)
        (tmp_path / "in" / (odd + "\n.txt")).write_text("no image")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    strict = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done, report = (
        subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, env=strict)
        for words in (command_line(name, tmp_path / "in", tmp_path / "out"), ["medi2i.tools.scan", tmp_path / "in"])
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and p.suffix not in (".json", ".txt")]
    assert len(written) == {"make_noisy": 2, "convert": 1}[name]
    assert report.returncode == 0 and "skipped " in report.stdout and "r\\udcf6ntgen\\udcff" in report.stdout


@pytest.mark.parametrize("cell", ["=1+1", "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"])
def test_text_that_a_spreadsheet_would_run_is_text(cell):
    (row,) = csv.reader(io.StringIO(outputs.csv_text([["a", cell, 1.5]]), newline=""))
    assert row == ["a", "'" + cell, "1.5"]


@pytest.mark.parametrize("cell", [-1.5, "-1.5", "+3e-7", "-inf", "a=1", "", None, "slice -3", "'=1"])
def test_numbers_and_other_text_stay_as_they_are(cell):
    (row,) = csv.reader(io.StringIO(outputs.csv_text([[cell, 1]]), newline=""))
    assert row == ["" if cell is None else str(cell), "1"]
