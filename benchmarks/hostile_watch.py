"""Run a command as a stranger's file would have it run: limits around it, everything it does to the machine noted.

Imports take longer than most cases. So each module waits imported in a process of its own, and a case is a fork of it
that goes on as ``python -m MODULE`` does.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ADDRESS_SPACE = 8_000_000 << 10
"""Bytes of address space of a process: what asks for more gets MemoryError, not the machine's memory."""
FILE_SIZE = 4 << 30
"""Bytes of a file it may write."""
OUTPUT = 4 << 20
MARKS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they turn the text after them round
_CALL = re.compile(r"^\d+\s+(\w+)\((.*)")
_LOCAL = ("AF_UNIX", "AF_NETLINK", "NULL, 0")
_ASKED = re.compile(r"socket\(AF_INET6, SOCK_STREAM|bind\(\d+, \{sa_family=AF_INET6, sin6_port=htons\(0\)")
"""Whether the system has IPv6: urllib3's question, which pydicom asks where requests is installed. Nothing is sent."""


@dataclass(frozen=True)
class Seen:
    """What came of a command. ``seconds`` of processor time and ``peak`` (bytes, resident) as the kernel counts them.

    ``peak`` is that of the largest process. ``outside``: programs started and connections made, None where nobody
    watched. ``late``: it was killed after its time.
    """

    status: int
    text: str
    seconds: float
    wall: float
    peak: int
    late: bool
    outside: tuple[str, ...] | None

    @property
    def last(self) -> str:
        """The last line a user sees, without what a bar drew before it."""
        lines = [line.split("\r")[-1].strip() for line in self.text.splitlines()]
        return next((line for line in reversed(lines) if line), "")

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.text

    @property
    def outcome(self) -> str:
        """One of: hangs, dies (signal), traceback, refused (status and a reason), done."""
        if self.late:
            return "hangs"
        if self.status < 0 or self.status in (128 + signal.SIGKILL, 128 + signal.SIGSEGV, 128 + signal.SIGABRT):
            number = -self.status if self.status < 0 else self.status - 128
            return f"dies ({signal.Signals(number).name})"
        if self.traceback:
            return "traceback"
        if self.status == 0:
            return "done"
        return "refused" if "error: " in self.text else "no reason"

    @property
    def control(self) -> str:
        """Characters in what was printed that a terminal obeys instead of showing them."""
        found = {c for c in self.text if (unicodedata.category(c) == "Cc" and c not in "\n\r\t") or c in MARKS}
        return " ".join(sorted(f"U+{ord(c):04X}" for c in found))


_WAIT = """
import importlib, json, os, sys
module, space, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
importlib.import_module(module)
print("{}", flush=True)
child = 1
while child:
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    given = json.loads(line)
    child = os.fork()
    if child:
        print(json.dumps({"pid": child}), flush=True)
        _, status, usage = os.wait4(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "seconds": usage.ru_utime + usage.ru_stime,
                          "peak": usage.ru_maxrss << 10}), flush=True)
os.setsid()
import resource, runpy
resource.setrlimit(resource.RLIMIT_AS, (space, space))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
os.chdir(given["folder"])
output = os.open(given["output"], os.O_WRONLY | os.O_CREAT)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(output, 1)
os.dup2(output, 2)
sys.argv[1:] = given["arguments"]
del sys.modules[module]  # else runpy warns that it is there
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def tracer() -> str | None:
    """Path of strace, or None."""
    return shutil.which("strace")


class Waiting:
    """A module of this project, imported and waiting for command lines; under strace where ``traced`` and installed."""

    def __init__(self, python: str, module: str, traced: bool = True) -> None:
        self.python, self.place = str(python), tempfile.TemporaryDirectory(prefix="watch")
        self.trace, self.output = Path(self.place.name, "trace"), Path(self.place.name, "output")
        self.traced = traced and tracer() is not None
        self.case: int | None = None
        before = [str(tracer()), "-f", "--seccomp-bpf", "-e", "trace=network,execve", "-o", str(self.trace)]
        surroundings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        process = subprocess.Popen(
            [*(before if self.traced else ()), self.python, "-c", _WAIT, module, str(ADDRESS_SPACE), str(FILE_SIZE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=surroundings | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
        )
        assert process.stdin is not None and process.stdout is not None  # pipes, as asked for
        self.process, self.given, self.told = process, process.stdin, process.stdout
        if not self.told.readline():
            raise RuntimeError(f"{module}: cannot be imported by {python}")

    def run(self, arguments: Sequence[object], limit: float, folder: Path) -> Seen:
        """Run the module's command in ``folder`` with ``limit`` seconds of real time."""
        self.output.unlink(missing_ok=True)
        began = time.monotonic()
        self._send({"arguments": [str(a) for a in arguments], "folder": str(folder), "output": str(self.output)})
        case, over = self._receive()["pid"], threading.Event()
        self.case = case

        def end() -> None:
            over.set()
            _kill(case)

        timer = threading.Timer(limit, end)
        timer.start()
        ended = self._receive()
        timer.cancel()
        _kill(case)  # a worker that outlives its parent
        self.case = None
        text = self.output.read_bytes()[-OUTPUT:].decode("utf-8", "backslashreplace") if self.output.exists() else ""
        outside = tuple(_outside(self.trace.read_text(errors="replace"), self.python)) if self.traced else None
        if self.traced:
            os.truncate(self.trace, 0)
        return Seen(
            ended["status"], text, ended["seconds"], time.monotonic() - began, ended["peak"], over.is_set(), outside
        )

    def _send(self, message: dict[str, Any]) -> None:
        self.given.write(json.dumps(message) + "\n")
        self.given.flush()

    def _receive(self) -> dict[str, Any]:
        return json.loads(self.told.readline())

    def stop(self) -> None:
        if self.case is not None:
            _kill(self.case)
        self.given.close()
        self.process.wait()
        self.told.close()
        self.place.cleanup()


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _outside(trace: str, python: str) -> Iterator[str]:
    """What a trace shows beyond the interpreter itself: programs by name, and sockets that leave the machine."""
    own = {python, os.path.realpath(python)}
    sockets = []
    for line in trace.splitlines():
        call = _CALL.match(line)
        if call is None:
            continue
        name, rest = call.groups()
        if name == "execve":
            program = rest.split('"')[1] if '"' in rest else rest
            if program not in own and os.path.realpath(program) not in own:  # started, or tried and not found
                yield f"program {os.path.basename(program)}"
        elif name in ("socket", "connect", "sendto", "bind", "listen") and not any(kind in rest for kind in _LOCAL):
            sockets.append(f"{name}({rest[:80]}")
    if not all(_ASKED.match(call) for call in sockets):
        yield from sockets
