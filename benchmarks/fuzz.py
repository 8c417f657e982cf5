"""What the fuzzers share: damaged files one after the other through an attempt, in worker processes that may die.

A subject makes its seeds and its cases and attempts one. A case passes if the attempt returns what came of it; it is a
finding if anything is raised, if the process dies, if it takes more than 5 s of processor time, or if memory grows by
more than the subject's images need.
"""

import argparse
import collections
import multiprocessing
import os
import re
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

Answer = tuple[int, str, str | None, int, float]
"""(case, outcome, finding, bytes grown, seconds)."""

MAX_PIXELS = 1 << 20
CPU_SECONDS = 5
WALL_SECONDS = 120
MEMORY_LIMIT = 160 * MAX_PIXELS + (32 << 20)
"""Bytes by which a case may grow the process: some arrays of double precision of the largest image allowed."""


@dataclass(frozen=True)
class Subject:
    """One kind of file. All functions are module-level: they cross to the workers by name.

    ``seeds(folder)``: {name: bytes} of whole files, the same each time. ``mutations``: functions (bytearray, rng) ->
    bytes. ``attempt(path, out)``: what came of a file, in words; raises what should never be raised. ``first``: name
    of a seed that is tried before all, to import what it takes. ``wrapped(data, rng)``: (data to damage, way back).
    """

    suffix: str
    seeds: Callable[[Path], dict[str, bytes]]
    mutations: tuple[Callable[[bytearray, np.random.Generator], bytes | bytearray], ...]
    attempt: Callable[[Path, Path], str]
    first: str
    wrapped: Callable[[bytes, np.random.Generator], tuple[bytes, Callable[[bytes], bytes]]] | None = None
    least: int = 200

    def case(self, files: dict[str, bytes], seed: int, case: int) -> tuple[bytes, str]:
        """(bytes, description) of a case: one to three mutations of one seed. The same numbers make the same case."""
        rng = np.random.default_rng([seed, case])
        name = list(files)[rng.integers(len(files))]
        seed_data, back = (files[name], bytes) if self.wrapped is None else self.wrapped(files[name], rng)
        data = bytearray(seed_data)
        steps = [self.mutations[rng.integers(len(self.mutations))] for _ in range(rng.choice([1, 1, 2, 3]))]
        for step in steps:
            data = bytearray(step(data, rng)) if len(data) > self.least else data
        return back(bytes(data)), f"{name}: {', '.join(step.__name__ for step in steps)}"


def flip_bits(data: bytearray, rng: np.random.Generator, start: int = 0) -> bytearray:
    """1 to 64 bits, anywhere, or in the first 2 kB where the header is."""
    end = len(data) if rng.random() < 0.5 else min(len(data), 2048)
    for place in rng.integers(start, max(end, start + 1), rng.choice([1, 2, 4, 16, 64])):
        data[min(place, len(data) - 1)] ^= 1 << rng.integers(8)
    return data


def truncate(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(0, len(data) if rng.random() < 0.5 else min(len(data), 4096))]


def in_words(reason: str, length: int = 60) -> str:
    """A reason without its numbers and names, so that equal ones are counted together."""
    return re.sub(r"[0-9][0-9.,e+]*", "#", reason.split("(")[0])[:length]


def grown(pid: int | str = "self", reset: bool = False) -> int:
    """Peak resident memory of the process in bytes since the last reset (Linux), else 0."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", text)[0])


def work(pipe: Connection, subject: Subject, seed: int, folder: Path) -> None:
    """Worker process: takes numbers of cases, answers (case, outcome, finding or None, bytes grown, seconds)."""
    os.environ["MEDI2I_MAX_PIXELS"] = str(MAX_PIXELS)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process: it counts processor time, so a busy machine
    files = subject.seeds(folder)  # makes no false alarm
    path, out = folder / f"mutated{subject.suffix}", folder / f"out{subject.suffix}"
    path.write_bytes(files[subject.first])
    subject.attempt(path, out)
    while (case := pipe.recv()) is not None:
        data, _ = subject.case(files, seed, case)
        path.write_bytes(data)
        before, started, finding = grown(reset=True), time.process_time(), None
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            outcome = subject.attempt(path, out)
        except Exception as error:  # this is what is looked for
            outcome, finding = type(error).__name__, traceback.format_exc()
        signal.setitimer(signal.ITIMER_PROF, 0)
        growth = max(0, grown() - before)
        if growth > MEMORY_LIMIT:
            finding = finding or f"memory grew by {growth >> 20} MB"
        pipe.send((case, outcome, finding, growth, time.process_time() - started))


class Worker:
    """A process that is started again when it dies."""

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject, self.seed = subject, seed
        self.folder = tempfile.TemporaryDirectory(prefix="fuzz")
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(
            target=work, args=(end, self.subject, self.seed, Path(self.folder.name)), daemon=True
        )
        self.process.start()
        end.close()

    def run(self, case: int) -> Answer:
        """Answer of ``work``, also where the process did not live to give it."""
        self.pipe.send(case)
        try:
            if self.pipe.poll(WALL_SECONDS):
                return self.pipe.recv()
            self.process.kill()
            finding = f"no answer after {WALL_SECONDS} s"
        except EOFError:
            finding = None
        self.process.join()
        code = self.process.exitcode
        if finding is None:
            hung = code == -signal.SIGPROF
            finding = f"more than {CPU_SECONDS} s of processor time" if hung else f"the process died (exit code {code})"
        self.start()
        return case, "died", finding, 0, 0.0

    def stop(self) -> None:
        self.pipe.send(None)
        self.process.join()
        self.folder.cleanup()


def run_cases(subject: Subject, cases: Iterable[int], seed: int, report: Callable[[Answer], None]) -> list[Answer]:
    """All answers, in order. report(answer) is called after each."""
    worker = Worker(subject, seed)
    answers = []
    for case in cases:
        answers.append(worker.run(case))
        report(answers[-1])
    worker.stop()
    return answers


def parser(about: str, cases: int) -> argparse.ArgumentParser:
    """The options of a fuzzer."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case, in this process, with its traceback")
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    return parser


def run(subject: Subject, args: argparse.Namespace) -> int:
    """Run a subject's cases as the options say; the status of the process."""
    with tempfile.TemporaryDirectory() as name:
        files = subject.seeds(Path(name))
        if args.only is not None:
            data, what = subject.case(files, args.seed, args.only)
            path = Path(args.keep or name, f"case{args.only}{subject.suffix}")
            path.write_bytes(data)
            print(what, path, sep="\n")
            print(subject.attempt(path, Path(name, f"out{subject.suffix}")))
            return 0
    started = time.monotonic()

    def report(answer: Answer) -> None:
        case, _, finding, _, _ = answer
        if finding is not None:
            data, what = subject.case(files, args.seed, case)
            print(f"FINDING case {case}, {what}\n{finding}", flush=True)
            if args.keep is not None:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"case{case}{subject.suffix}").write_bytes(data)
        elif (case + 1) % 1000 == 0:
            print(f"{case + 1 - args.first} cases, {time.monotonic() - started:.0f} s", flush=True)

    answers = run_cases(subject, range(args.first, args.first + args.cases), args.seed, report)
    for outcome, number in collections.Counter(a[1] for a in answers).most_common():
        print(f"{number:6d}  {outcome}")
    found = sum(a[2] is not None for a in answers)
    print(
        f"{len(answers)} files of {len(files)} seeds: {found} finding(s); "
        f"at most {max(a[4] for a in answers):.2f} s and {max(a[3] for a in answers) >> 20} MB a file "
        f"(limits: {CPU_SECONDS} s, {MEMORY_LIMIT >> 20} MB); {time.monotonic() - started:.0f} s in all"
    )
    return int(found > 0)
