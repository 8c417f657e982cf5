"""Commands in processes of their own that begin at once: forks of a process that has imported what commands need.

Of everything else, such as signals, limits, what a kill leaves and what is printed, they are processes like any other.
"""

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_IMPORTED = (
    *(f"medi2i.{application}.{script}" for application in ("pix2pix", "cyclegan") for script in ("train", "convert")),
    "medi2i.tools.make_noisy",
)
_context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
_context.set_forkserver_preload(list(_IMPORTED))


class Command:
    """A started command, as ``subprocess.Popen`` has it with ``text=True`` and both outputs piped."""

    def __init__(self, program: str, argv: list[str], environment: dict[str, str], before: Callable | None) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="command")
        self._outputs = [Path(self._place.name, name) for name in ("out", "err")]
        self._process = _context.Process(
            target=_run, args=(program, argv, environment, before, [str(path) for path in self._outputs])
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The status, minus the number of a signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float = 240) -> int:
        """Its status. Kills it after ``timeout`` seconds and raises TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.returncode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """What it printed and its errors, once it has ended (see ``wait``)."""
        self.wait(timeout)
        out, err = (path.read_text() if path.exists() else "" for path in self._outputs)
        return out, err


def start(program: str, *argv: object, before: Callable | None = None, **environment: str) -> Command:
    """Begin ``python -m program argv``, or where program has several lines ``python -c program argv``.

    before: an importable function, or a partial of one, that is called first. environment: what is added to it.
    """
    return Command(program, [str(word) for word in argv], environment, before)


def finish(program: str, *argv: object, **how: object) -> subprocess.CompletedProcess:
    """``start`` it and wait for its end: returncode, stdout and stderr."""
    command = start(program, *argv, **how)
    out, err = command.communicate()
    return subprocess.CompletedProcess([program, *argv], command.returncode, out, err)


def _run(
    program: str, argv: list[str], environment: dict[str, str], before: Callable | None, outputs: list[str]
) -> None:
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.environ.update(environment)
    sys.argv = ["-c" if "\n" in program else program, *argv]
    if before is not None:
        before()
    if "\n" in program:
        exec(compile(program, "-c", "exec"), {"__name__": "__main__"})
    else:
        sys.exit(importlib.import_module(program).main(argv))
