"""The lock of a folder: one writer, parts of one work together, what a killed process leaves."""

import json
import os
import subprocess
import sys
import threading

import pytest

from medi2i.common import locks
from medi2i.common.errors import UserError
from medi2i.common.locks import WHOLE, FolderLock, is_lock, locked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes as Linux tells of them")


def killed(folder, code="import os, signal; os.kill(os.getpid(), signal.SIGKILL)", **how):
    """A process that takes the lock and ends by ``code``. Its number."""
    given = ", ".join(f"{name}={value!r}" for name, value in how.items())
    program = "from medi2i.common.locks import FolderLock\n"
    program += f"lock = FolderLock({str(folder)!r}, 'converting', {given})\n"
    process = subprocess.Popen([sys.executable, "-c", program + code])
    process.wait()
    return process.pid


def test_one_at_a_time_and_it_says_who(tmp_path):
    lock = FolderLock(tmp_path, "converting")
    assert os.listdir(tmp_path) == [WHOLE] and is_lock(tmp_path / WHOLE) and not is_lock(tmp_path / "a.dcm")
    about = json.loads((tmp_path / WHOLE).read_text())
    assert about["pid"] == os.getpid() and about["host"] == os.uname().nodename and about["doing"] == "converting"
    with pytest.raises(UserError) as refused:
        FolderLock(tmp_path, "training")
    assert str(refused.value) == (
        f"{tmp_path}: another process is converting in this folder (process {os.getpid()}, "
        f"since {about['since']}); wait for it, or stop it first"
    )
    lock.release()
    assert os.listdir(tmp_path) == []
    FolderLock(tmp_path, "training").release()
    lock.release()  # once more does nothing
    other = FolderLock(tmp_path, "training")
    del lock
    assert os.listdir(tmp_path) == [WHOLE]
    del other  # given up, however that came
    assert os.listdir(tmp_path) == []


def test_a_folder_made_for_nothing_goes_again(tmp_path):
    with locked(tmp_path / "a/b", "writing"):
        assert os.listdir(tmp_path / "a/b") == [WHOLE]
    assert os.listdir(tmp_path) == []
    with locked(tmp_path / "a/b", "writing"):
        (tmp_path / "a/x").touch()
    assert os.listdir(tmp_path / "a") == ["x"]


def test_a_folder_that_another_part_took_away_is_made_again(tmp_path, monkeypatch):
    """Of two parts that find nothing to do, one removes the empty folder while the other takes its lock."""
    take_name, left = locks.take_name, [True]

    def away_at_first(temporary, path):
        if left:
            left.pop()
            temporary.unlink()
            path.parent.rmdir()
        take_name(temporary, path)

    monkeypatch.setattr(locks, "take_name", away_at_first)
    with locked(tmp_path / "out", "converting", "2of2"):
        assert os.listdir(tmp_path / "out") == [".medi2i.2of2.lock"]
    assert os.listdir(tmp_path) == [] and not left


def test_parts_of_one_work_share_a_folder(tmp_path):
    first, second = (FolderLock(tmp_path, "converting", f"{number}of3", "model") for number in (1, 2))
    for part, work in (("1of3", "model"), ("3of3", "another"), (None, "")):
        with pytest.raises(UserError, match="another process is converting"):
            FolderLock(tmp_path, "converting", part, work)
    second.release()
    first.release()
    whole = FolderLock(tmp_path, "converting")
    with pytest.raises(UserError, match="another process is converting"):
        FolderLock(tmp_path, "converting", "1of3", "model")
    whole.release()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("part", [None, "1of2"])
def test_a_killed_process_is_known_to_be_gone(tmp_path, capsys, part):
    pid = killed(tmp_path, part=part)
    assert len(os.listdir(tmp_path)) == 1
    lock = FolderLock(tmp_path, "converting", *(["2of2"] if part else []))
    told = capsys.readouterr().err
    if part:  # no other part minds, until it is this one's turn
        assert told == "" and len(os.listdir(tmp_path)) == 2
        lock.release()
        lock = FolderLock(tmp_path, "converting")
        told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"process {pid}, which was converting here since" in told
    assert os.listdir(tmp_path) == [WHOLE]
    lock.release()


@pytest.mark.parametrize(
    "code",
    [
        "",
        "raise SystemExit(3)",
        "raise ValueError",
        "raise KeyboardInterrupt",
        "import os; pid = os.fork()\nif not pid: raise SystemExit\nos.waitpid(pid, 0)\n"
        "assert len(os.listdir(lock.folder)) == 1",
    ],
)
def test_other_ends_leave_no_lock(tmp_path, code):
    killed(tmp_path, code)
    assert os.listdir(tmp_path) == []


def test_a_number_that_went_to_another_process(tmp_path):
    lock = FolderLock(tmp_path, "converting")
    about = json.loads((tmp_path / WHOLE).read_text())
    (tmp_path / WHOLE).write_text(json.dumps(about | {"start": "1"}))
    FolderLock(tmp_path, "converting").release()
    (tmp_path / WHOLE).write_text(json.dumps(about | {"pid": 10**30}))
    FolderLock(tmp_path, "converting").release()
    lock.release()


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"host": "elsewhere"}, False),
        ({"machine": "f" * 32}, False),
        ({"pids": "pid:[1]"}, False),
        ({"boot": "another"}, True),
    ],
)
def test_of_another_machine_nothing_can_be_seen(tmp_path, monkeypatch, change, gone):
    monkeypatch.setattr(locks, "_text", lambda path, read=None: "0" if "machine" in path or "boot" in path else "")
    FolderLock(tmp_path, "converting").release()
    lock = FolderLock(tmp_path, "converting")
    about = json.loads((tmp_path / WHOLE).read_text()) | change
    lock.release()
    (tmp_path / WHOLE).write_text(json.dumps(about))
    if gone:
        FolderLock(tmp_path, "converting").release()
        assert os.listdir(tmp_path) == []
        return
    with pytest.raises(UserError) as refused:
        FolderLock(tmp_path, "converting")
    assert f"(process {os.getpid()} on {about['host']}, since " in str(refused.value)
    assert str(refused.value).endswith(f"if it runs no more, which cannot be seen from here, remove {tmp_path / WHOLE}")
    assert os.listdir(tmp_path) == [WHOLE]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": "x"}', "\0" * 100])
def test_a_lock_that_cannot_be_read(tmp_path, monkeypatch, content):
    monkeypatch.setattr(locks, "_PATIENCE", 0)
    (tmp_path / WHOLE).write_text(content)
    with pytest.raises(UserError, match="is no lock that can be read; if nothing writes into this folder, remove it"):
        FolderLock(tmp_path, "converting")


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*names):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    lock = FolderLock(tmp_path, "converting")
    with pytest.raises(UserError, match="another process"):
        FolderLock(tmp_path, "converting")
    lock.release()
    assert os.listdir(tmp_path) == []


def test_of_many_who_take_over_one_succeeds(tmp_path):
    """Threads of one process are as good as processes here: the lock knows no threads."""
    killed(tmp_path)
    found, ready = [], threading.Barrier(8)

    def take():
        ready.wait()
        try:
            found.append(FolderLock(tmp_path, "converting"))
        except UserError:
            found.append(None)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lock is not None for lock in found) == 1 and os.listdir(tmp_path) == [WHOLE]
