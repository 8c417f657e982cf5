"""What is refused by what it declares."""

import os
import pickle
import socket
import subprocess
import sys

import pytest

from medi2i.common import limits
from medi2i.common.errors import Unreadable, UserError
from medi2i.common.options import PairedOptions, parse


@pytest.fixture(autouse=True)
def own_limit(monkeypatch):
    monkeypatch.setenv("MEDI2I_MAX_PIXELS", "")


def test_an_image_may_have_just_as_many_pixels_as_allowed():
    limits.check_pixels("a", 8192, 8192)
    with pytest.raises(Unreadable) as error:
        limits.check_pixels("a", 8192, 8193)
    assert str(error.value) == "a: declares 8192×8193 pixels, more than 67108864; --max-pixels 67117056 would allow it"


def test_the_number_of_pixels_bounds_the_bytes():
    limits.check_bytes("a", 2 << 30)
    with pytest.raises(Unreadable) as error:
        limits.check_bytes("a", 8 * 10**9, "5×5×80000000 values")
    assert str(error.value) == (
        "a: declares 5×5×80000000 values, which take 7.451 GiB, more than 2 GiB; --max-pixels 250000000 would allow it"
    )
    with pytest.raises(Unreadable, match="^a: unpacks to 33 bytes, more than 32 bytes; --max-pixels 2 would"):
        limits.check_bytes("a", 33, limit=32)


def test_the_option_of_every_program_counts_for_the_processes_it_starts():
    parse(PairedOptions, ["--max-pixels", "100"])
    assert limits.max_bytes() == 3200
    code = "from medi2i.common import limits; limits.check_pixels('a', 10, 10); limits.check_pixels('a', 1, 101)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "a: declares 1×101 pixels, more than 100; --max-pixels 101 would allow it" in done.stderr


@pytest.mark.parametrize("value", ["0", "-1", "1e6", "", "10" * 20, "²"])
def test_the_option_takes_positive_whole_numbers(value):
    with pytest.raises(UserError, match="^--max-pixels: '.*' is not a positive whole number$"):
        limits.set_max_pixels(value)


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to(tmp_path / "pipe")
    assert limits.check_regular(tmp_path / "file") == limits.check_regular(tmp_path / "link") == 5
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "to_pipe", tmp_path / "socket", "/dev/zero", "/dev/null"):
            with pytest.raises(Unreadable, match="is not a regular file"):
                limits.check_regular(path)
    with pytest.raises(FileNotFoundError):
        limits.check_regular(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        limits.check_regular(tmp_path)


def test_a_refusal_travels_between_processes():
    error = pickle.loads(pickle.dumps(Unreadable("a", "is odd")))
    assert (str(error), str(error.path), error.reason) == ("a: is odd", "a", "is odd")
