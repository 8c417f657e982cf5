"""One line for what the operating system refuses, with what would be right."""
import os

import pytest

from medi2i.common.errors import run


@pytest.mark.parametrize(("below", "words"), [
    ("file", "File exists; a file is where a folder should be"),
    ("file/x", "Not a directory; a file is where a folder should be"),
])
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
