"""One process at a time writes into a folder; parts of one work share it.

A lock is a small hidden file that says who holds it. It is made by a hard link (or O_EXCL), which network file systems
keep to, and taken away at the end, also by a signal. What a killed process leaves is taken over on the same machine,
where it can be seen that the process is gone; of another machine that cannot be seen, and the user is told.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from medi2i.common.bounded_files import read_json
from medi2i.common.errors import Unreadable, UserError
from medi2i.common.outputs import naming, runs, take_name, unfinished, write_text

WHOLE = ".medi2i.lock"
_ANY = ".medi2i*.lock"
Owner = dict[str, Any]
"""What a lock says: values of JSON."""
_PATIENCE = 2.0  # seconds until a lock that is just being made has its content


class FolderLock:
    """The lock of a folder, which is made, held until ``release``, or until the process ends other than by a kill.

    doing: for what, in words ("converting"). part: the name of a part of a work that several processes share, and work:
    which work that is; parts of one work do not lock each other out. Raises UserError if another holds the folder.
    """

    def __init__(self, folder: Path, doing: str, part: str | None = None, work: str = "") -> None:
        self.folder = Path(folder)
        self.path = self.folder / (WHOLE if part is None else f".medi2i.{part}.lock")
        self._content = {
            "doing": doing,
            "part": part,
            "work": hashlib.sha256(work.encode()).hexdigest()[:16],
            "since": datetime.now().astimezone().isoformat(" ", "seconds"),
            **_this_process(),
        }
        while not _created(self.path, self._content):
            self._clear_or_refuse(self.path)
        self.release = weakref.finalize(self, _release, self.path, self._content)
        try:
            # Own lock first, then the look at others: of two who come at once, at least one sees the other.
            for other in sorted(self.folder.glob(_ANY)):
                if other != self.path:
                    self._clear_or_refuse(other, shared=part is not None)
        except BaseException:
            self.release()
            raise

    def _clear_or_refuse(self, path: Path, shared: bool = False) -> None:
        """Take away the lock of a process that is gone. UserError for any other; a part of the same work may stay."""
        owner = _owner(path)
        if owner is None or shared and owner["part"] is not None and owner["work"] == self._content["work"]:
            return
        alive = _is_alive(owner)
        who = f"process {owner['pid']}" + ("" if alive is not None else f" on {owner['host']}")
        if alive is False:
            if _remove(path, owner):
                print(
                    f"{self.folder}: {who}, which was {owner['doing']} here since {owner['since']}, ended without a "
                    "word; its lock is taken over",
                    file=sys.stderr,
                    flush=True,
                )
            return
        right = (
            "wait for it, or stop it first"
            if alive
            else f"wait for it; if it runs no more, which cannot be seen from here, remove {path}"
        )
        raise UserError(
            f"{self.folder}: another process is {owner['doing']} in this folder ({who}, since "
            f"{owner['since']}); {right}"
        )


@contextlib.contextmanager
def locked(folder: Path, doing: str, part: str | None = None, work: str = "") -> Iterator[None]:
    """Hold the ``FolderLock`` of a folder for a block. The folder is made; if it is empty in the end, it goes again."""
    folder = Path(folder)
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        lock = FolderLock(folder, doing, part, work)
        try:
            yield
        finally:
            lock.release()
    finally:
        for one in missing:
            with contextlib.suppress(OSError):
                one.rmdir()


def is_lock(path: Path) -> bool:
    """Whether a file is a lock, by its name."""
    return Path(path).match(_ANY)


def _created(path: Path, content: Owner) -> bool:
    """Make the lock; False if it is there already. Its folder is made where it is not there, again where another of
    the same work, which was done with it, took it away in between."""
    temporary, end = unfinished(path, os.urandom(8).hex()), time.monotonic() + _PATIENCE
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            try:
                write_text(temporary, json.dumps(content) + "\n")
                take_name(temporary, path)
                return True
            except FileExistsError:
                return False
            except FileNotFoundError:
                if time.monotonic() > end:
                    raise
            finally:
                temporary.unlink(missing_ok=True)


def _owner(path: Path) -> Owner | None:
    """What a lock says; None if it is gone. UserError for a file that is none."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            found = read_json(path, "")
            return {
                "doing": str(found["doing"])[:60],
                "part": found["part"],
                "work": found["work"],
                "since": str(found["since"])[:40],
                "host": str(found["host"])[:100],
                "machine": found["machine"],
                "boot": found["boot"],
                "pids": found["pids"],
                "pid": int(found["pid"]),
                "start": found["start"],
            }
        except FileNotFoundError:
            return None
        except (UserError, KeyError, TypeError, ValueError):
            if time.monotonic() > end:
                raise UserError(
                    f"{path}: is no lock that can be read; if nothing writes into this folder, remove it"
                ) from None
        time.sleep(0.05)


def _this_process() -> Owner:
    return {
        "host": platform.node(),
        "machine": _text("/etc/machine-id"),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "pids": _text("/proc/self/ns/pid", os.readlink),
        "pid": os.getpid(),
        "start": _start_of(os.getpid()),
    }


def _is_alive(owner: Owner) -> bool | None:
    """Whether the process that made a lock still runs; None where that cannot be told from here."""
    here = _this_process()
    if os.name != "posix" or any(owner[name] != here[name] for name in ("host", "machine")):
        return None
    if owner["boot"] != here["boot"]:  # the machine was started anew, if it is known to be the same
        return False if here["machine"] else None
    if owner["pids"] != here["pids"]:  # in another container
        return None
    # Another start: the number has gone to another process.
    return runs(owner["pid"]) and owner["start"] == _start_of(owner["pid"])


def _start_of(pid: int) -> str:
    """When a process started, in clock ticks since the boot; "" where that is not told."""
    return (_text(f"/proc/{pid}/stat").rpartition(")")[2].split() or [""] * 20)[19]


def _text(path: str, read: Callable[[str], str] | None = None) -> str:
    """What a file holds, or what ``read`` says of it; "" where the system does not tell."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip() if read is None else read(path)
    except OSError:
        return ""


def _remove(path: Path, owner: Owner) -> bool:
    """Remove the lock of ``owner``. Whether it was this call that did it: of several who try, one succeeds."""
    try:
        with open(path, "rb") as file:
            with contextlib.suppress(OSError):  # some network file systems have no such locks
                fcntl.flock(file, fcntl.LOCK_EX)
            same = os.fstat(file.fileno()).st_ino == os.stat(path).st_ino and _owner(path) == owner
            if same:
                path.unlink()
            return same
    except FileNotFoundError:
        return False


def _release(path: Path, content: Owner) -> None:
    if content["pid"] != os.getpid():  # a forked child
        return
    with contextlib.suppress(OSError, UserError, Unreadable):
        found = _owner(path)
        if found is not None and all(found[name] == content[name] for name in ("pid", "start", "host", "since")):
            path.unlink()
