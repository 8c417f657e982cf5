"""The processes below another one, as Linux tells, for the benchmarks that kill some of them."""

import contextlib
import os
import signal
import sys
from pathlib import Path


def children(pid: int) -> list[int]:
    """Process numbers of the children of all threads of a process."""
    with contextlib.suppress(OSError):
        return [
            int(number) for path in Path(f"/proc/{pid}/task").glob("*/children") for number in path.read_text().split()
        ]
    return []


def interpreters(pid: int, word: str = "") -> list[int]:
    """Those of this Python below a process whose command line holds ``word``: ranks below mpiexec, workers."""
    found = []
    for child in children(pid):
        command = b""
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        if command.startswith(os.fsencode(sys.executable)) and word.encode() in command:
            found.append(child)
        found += interpreters(child, word)
    return found


def kill(pid: int) -> bool:
    """SIGKILL; False where the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def mpiexec() -> str:
    """That of this environment, as ``pip install .[mpi]`` has it."""
    return str(Path(sys.executable).with_name("mpiexec"))
