"""One line for what the operating system refuses, with what would be right."""

import logging
import os
import signal
import sys

import pytest

from medi2i.common.errors import UserError, run
from medi2i.common.locks import locked
from medi2i.common.outputs import whole_file


@pytest.mark.parametrize(
    ("below", "words"),
    [
        ("file", "File exists; a file is where a folder should be"),
        ("file/x", "Not a directory; a file is where a folder should be"),
    ],
)
def test_a_file_where_a_folder_should_be(tmp_path, capsys, below, words):
    (tmp_path / "file").write_text("x")
    assert run(lambda _: os.makedirs(tmp_path / below), []) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / below}: {words}")


def test_no_right_to_write(capsys):
    def refuse(_):
        raise PermissionError(13, "Permission denied", "out")

    assert run(refuse, []) == 1
    assert capsys.readouterr().err.startswith("error: out: Permission denied; another place, or the right to use this")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_output_that_goes_nowhere(capsys, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert run(lambda _: print("as many pairs as were made"), []) == 1
    assert capsys.readouterr().err == "error: standard output: No space left on device\n"


def test_nothing_that_a_terminal_obeys_reaches_it(capsys):
    """Whoever prints it: an error, a progress bar, a log, a list of lines."""
    nasty = "a\x1b[2J\x07\x9b\x7f\u202e\u2066é"

    def command(_):
        print(nasty, end="\r\n")
        sys.stdout.writelines([nasty, "\n"])
        print(nasty, file=sys.stderr)
        handler = logging.StreamHandler(sys.stderr)
        handler.emit(logging.makeLogRecord({"msg": nasty}))
        raise UserError(nasty)

    before = sys.stdout, sys.stderr
    assert run(command, []) == 1 and (sys.stdout, sys.stderr) == before
    shown, safe = capsys.readouterr(), r"a\x1b[2J\x07\x9b\x7f\u202e\u2066é"
    assert shown.out == f"{safe}\r\n{safe}\n"
    assert shown.err == f"{safe}\n{safe}\nerror: {safe}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_neither_lock_nor_half_a_file(tmp_path, capsys, number):
    before = signal.getsignal(number)

    def work(_):
        with locked(tmp_path / "out", "writing"), whole_file(tmp_path / "out/a", force=False) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), number)

    assert run(work, []) == 128 + number
    assert os.listdir(tmp_path) == [] and signal.getsignal(number) is before
    said = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    assert capsys.readouterr().err.strip() == said
