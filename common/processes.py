"""Worker processes for a list of files, safe to start from any script.

The multiprocessing module runs the caller's script again in every worker, so a script without its ``if __name__ ==
"__main__"`` would start over in each; and when one worker dies its pool is lost. Here a worker is a plain interpreter
that imports this module and the task, nothing of the caller's script, and one that dies is replaced: it costs the one
item it was working on.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

_PROGRAM = "import sys; sys.path[:] = {path!r}; from medi2i.common.processes import serve; serve()"


@dataclass(frozen=True)
class Died:
    """In place of a result: the process that worked on the item ended without an answer."""

    status: int


def map_in_processes(task: Callable, items: Sequence, workers: int) -> Iterator[tuple[int, object]]:
    """Yield (index, task(item)) for all items as they get done, in any order; (index, Died) where the process died.

    ``task`` is an importable function, or a partial of one. An exception of it is raised here; then items under way
    are finished and the rest is left. RuntimeError where workers cannot even start.
    """
    source, stop, lock = iter(enumerate(items)), threading.Event(), threading.Lock()
    answers: queue.Queue[tuple[int, bool, Any]] = queue.Queue()
    program = pickle.dumps(task)

    def next_item() -> tuple[int, object] | None:
        with lock:
            return None if stop.is_set() else next(source, None)

    def feed() -> None:
        worker: _Worker | None = None
        try:
            while (numbered := next_item()) is not None:
                worker = worker or _started(program)
                answers.put((numbered[0], *worker.ask(numbered[1])))
                worker = worker if worker.alive else None
        except Exception as error:  # of the machinery itself: handed to the caller, who would wait for ever
            answers.put((-1, False, error))
        finally:
            if worker is not None:
                worker.end()

    threads = [threading.Thread(target=feed, daemon=True) for _ in range(min(workers, len(items)))]
    for thread in threads:
        thread.start()
    try:
        for _ in items:
            index, good, answer = answers.get()
            if not good:
                raise answer
            yield index, answer
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _started(program: bytes) -> "_Worker":
    """A worker; one that is killed before it answers is started again, twice."""
    for _ in range(2):
        with contextlib.suppress(_Killed):
            return _Worker(program)
    return _Worker(program)


class _Killed(RuntimeError):
    """A worker that a signal ended before it answered."""


class _Worker:
    """One interpreter that runs the task on what it is sent."""

    def __init__(self, program: bytes) -> None:
        command = [sys.executable, "-c", _PROGRAM.format(path=sys.path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None and self.process.stdout is not None  # they are pipes
        self.requests, self.answers = self.process.stdin, self.process.stdout
        self.alive = True
        if self._exchange(program) is None:
            status = self.end()
            raise (_Killed if status < 0 else RuntimeError)(
                f"a worker process did not start (status {status}); its message is above"
            )

    def ask(self, item: object) -> tuple[bool, object]:
        """(True, result), (True, Died) or (False, exception)."""
        answer = self._exchange(pickle.dumps(item))
        return answer if answer is not None else (True, Died(self.end()))

    def _exchange(self, data: bytes) -> tuple[bool, object] | None:
        try:
            self.requests.write(data)
            self.requests.flush()
            return pickle.load(self.answers)
        except (EOFError, OSError, pickle.UnpicklingError):
            return None

    def end(self) -> int:
        """Let it finish, and return its status."""
        self.alive = False
        with contextlib.suppress(OSError):  # it is gone, and what was meant for it too
            self.requests.close()
        self.answers.close()
        return self.process.wait()


def serve() -> None:
    """A worker: reads a pickled task and then items from standard input, answers each on standard output.

    Ends with its input, so never outlives the caller for more than the item at hand. What libraries print goes to
    standard error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the caller decides
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    task = pickle.load(requests)
    _answer(answers, (True, None))
    while True:
        try:
            item = pickle.load(requests)
        except EOFError:
            return
        try:
            result = (True, task(item))
        except Exception as error:  # whatever the task raises is the caller's to judge
            result = (False, error)
        _answer(answers, result)


def _answer(file: BinaryIO, result: tuple[bool, object]) -> None:
    file.write(pickle.dumps(result))
    file.flush()
