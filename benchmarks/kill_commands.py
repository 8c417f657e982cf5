"""Kill conversions and scans at random moments, start them again, and compare the end with what was left alone.

    python benchmarks/kill_commands.py [conversion] [shards] [ranks] [together] [scan] [--kills 20] [--seed 0]

conversion: one process, ended by SIGKILL, SIGTERM or SIGINT and continued by --resume until it is done, then once more
in a new folder, until there were as many kills. shards: two processes share the images, one of them is ended. ranks:
the same under mpiexec -n 2; a rank is killed, or mpiexec is sent SIGTERM or SIGINT (needs ``pip install .[mpi]``).
together: two conversions start into one folder at the same moment, ten times. scan: one of its processes is killed.
All files and reports, and what a scan prints, must be those of an undisturbed run. Ends with status 1 otherwise.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kill_processes import children, interpreters, kill, mpiexec

from medi2i.tools import make_phantom

CONVERT = """
import sys, time
from medi2i.common.inference import engines, generator
class Slow(engines.IdentityEngine):
    def run(self, x, frame=None):
        time.sleep(0.03)
        return x.copy()
generator.IdentityEngine = Slow
from medi2i.pix2pix.convert import main
sys.exit(main(sys.argv[1:]))
"""
SCAN = """
import sys
from medi2i.datasets.dicom import scanning
from medi2i.tools.scan import main
scanning.PARALLEL_FROM_SECONDS = 0
sys.exit(main(sys.argv[1:]))
"""
SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
STATUS = {signal.SIGKILL: {-9}, signal.SIGTERM: {143}, signal.SIGINT: {130}}
Ended = tuple[subprocess.Popen, signal.Signals] | None  # which process was sent what
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(
    script: Path, *arguments: object, out: int = subprocess.DEVNULL, under: Sequence[str] = ()
) -> subprocess.Popen:
    """A program in a process of its own, or in several ``under`` mpiexec."""
    return subprocess.Popen(
        [*under, sys.executable, str(script), *map(str, arguments)],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def contents(folder: Path) -> dict[tuple[bool, str], bytes]:
    """Name → bytes of all that lies in a folder of results and in that of its report, hidden files as well."""
    places = folder, folder.with_name(folder.name + ".report")
    return {
        (place == folder, path.relative_to(place).as_posix()): path.read_bytes()
        for place in places
        if place.is_dir()
        for path in place.rglob("*")
        if path.is_file()
    }


class Test:
    """Random moments, an undisturbed conversion to compare with, and what was found."""

    def __init__(self, folder: Path, slices: int, kills: int, seed: int) -> None:
        self.folder, self.kills, self.chance = folder, kills, random.Random(seed)
        make_phantom.main(["-o", str(folder / "in"), "--size", "64", "--slices", str(slices)])
        self.source = folder / "in"
        # Called as installed commands are, which end without a word while they are being imported.
        self.convert, self.scan = folder / "medi2i-convert", folder / "medi2i-scan"
        self.convert.write_text(CONVERT)
        self.scan.write_text(SCAN)
        (self.source / "notes").write_text("no image")
        began = time.monotonic()
        process = start(self.convert, *self.arguments(folder / "alone"))
        error = process.communicate()[1]
        if process.returncode:
            sys.exit(error)
        self.seconds, self.expected = time.monotonic() - began, contents(folder / "alone")
        print(f"left alone: {self.seconds:.1f} s, {len(self.expected)} files", flush=True)
        self.wrong: list[str] = []

    def arguments(self, out: Path, *more: object) -> list[object]:
        return ["-m", "identity", "-R", self.source, "-o", out, "--structure", "maps", *more]

    def end(self, processes: list[subprocess.Popen]) -> Ended:
        """Send a signal to one of the processes at a random moment. Returns it, None where all had ended by then."""
        victim, number = self.chance.choice(processes), self.chance.choice(SIGNALS)
        moment = time.monotonic() + self.chance.uniform(0.2, 1) * self.seconds
        while time.monotonic() < moment and victim.poll() is None:
            time.sleep(0.002)
        if victim.poll() is not None:
            return None
        victim.send_signal(number)
        return victim, number

    def finish(self, processes: list[subprocess.Popen], ended: Ended) -> None:
        """Wait for all. Notes statuses that are not as they should be."""
        for process in processes:
            error = process.communicate()[1]
            allowed = {0} if ended is None or process is not ended[0] else {0, *STATUS[ended[1]]}
            if ended is not None and process is ended[0] and process.returncode < 0:
                allowed |= {-ended[1]}  # while Python was starting
            if process.returncode not in allowed or "Traceback" in error and process.returncode != -9:
                self.wrong.append(f"status {process.returncode}: {error[-2000:]}")

    def compare(self, out: Path, what: str) -> None:
        """Notes what is not as in the undisturbed run."""
        found = contents(out)
        if found != self.expected:
            names = sorted(
                name
                for _, name in {key for key in {*found, *self.expected} if found.get(key) != self.expected.get(key)}
            )
            self.wrong.append(f"{what}: {len(names)} files differ: {names[:5]}")
        for place in (out, out.with_name(out.name + ".report")):
            shutil.rmtree(place, ignore_errors=True)

    def conversions(self, parts: Sequence[str] = ("",)) -> str:
        """``kills`` times: some processes are started, one is ended; they are done when all say so."""
        hits: dict[str, int] = {}
        out, runs, number = self.folder / "killed", 0, 0
        while sum(hits.values()) < self.kills:
            processes = [
                start(self.convert, *self.arguments(out, "--resume", *(["--shards", part] if part else [])))
                for part in parts
            ]
            ended = self.end(processes)
            self.finish(processes, ended)
            number += 1
            if ended is not None:
                hits[ended[1].name] = hits.get(ended[1].name, 0) + 1
            if all(process.returncode == 0 for process in processes) or number % 4 == 0:
                processes = [start(self.convert, *self.arguments(out, "--resume"))]
                self.finish(processes, None)
                self.compare(out, f"after {sum(hits.values())} kills")
                runs += 1
        processes = [start(self.convert, *self.arguments(out, "--resume"))]
        self.finish(processes, None)
        self.compare(out, "at the end")
        return f"{sum(hits.values())} kills ({hits}) of {runs + 1} conversions"

    def ranks(self) -> str:
        """``kills`` times: a conversion under mpiexec, of which a rank is killed or which is told to end."""
        hits: dict[str, int] = {}
        out, under, runs = self.folder / "ranks", (mpiexec(), "-n", "2"), 0
        while True:
            process = start(self.convert, *self.arguments(out, "--resume"), under=under)
            wanted = self.chance.choice(("SIGKILL of a rank", "SIGKILL of a rank", "SIGTERM", "SIGINT"))
            moment = time.monotonic() + self.chance.uniform(0.2, 1.2) * self.seconds
            while time.monotonic() < moment and process.poll() is None:
                time.sleep(0.002)
            hit = False
            if process.poll() is None and sum(hits.values()) < self.kills:
                if wanted.startswith("SIGKILL"):
                    found = interpreters(process.pid, "medi2i-convert")
                    hit = bool(found) and kill(self.chance.choice(found))
                else:
                    process.send_signal(signal.Signals[wanted])
                    hit = True
            error = process.communicate()[1]
            if hit:
                hits[wanted] = hits.get(wanted, 0) + 1
            if "Traceback" in error or process.returncode and not hit:
                self.wrong.append(f"ranks, status {process.returncode}: {error[-2000:]}")
            if process.returncode == 0:
                self.compare(out, f"ranks after {sum(hits.values())} kills")
                runs += 1
                if sum(hits.values()) >= self.kills:
                    return f"{sum(hits.values())} kills ({hits}) of {runs} conversions"

    def together(self, times: int = 10) -> str:
        """Two at once: one converts all, the other is refused and leaves nothing."""
        refused = 0
        for number in range(times):
            out = self.folder / f"both{number}"
            pair = [start(self.convert, *self.arguments(out)) for _ in range(2)]
            errors = [process.communicate()[1] for process in pair]
            statuses = sorted(process.returncode for process in pair)
            told = sum("another process is converting in this folder" in error for error in errors)
            if statuses != [0, 1] or told != 1:
                self.wrong.append(f"together: statuses {statuses}, {told} told of the other: {errors}")
            refused += told
            self.compare(out, f"together, number {number + 1}")
        return f"{times} pairs started together, {refused} times one was refused"

    def scans(self) -> str:
        """A child of each scan is killed, or the scan itself, which is then run again."""

        def scanned(process: subprocess.Popen) -> str:
            return process.communicate()[0]

        began = time.monotonic()
        alone = start(self.scan, self.source, "--json", "--workers", "2", out=subprocess.PIPE)
        expected, seconds, hits = scanned(alone), time.monotonic() - began, {"worker": 0, "scan": 0, "too late": 0}
        for _ in range(self.kills):
            process = start(self.scan, self.source, "--json", "--workers", "2", out=subprocess.PIPE)
            wanted, moment = self.chance.choice(("worker", "worker", "scan")), time.monotonic()
            moment += self.chance.uniform(0.5, 1) * seconds
            while process.poll() is None and (
                time.monotonic() < moment or wanted == "worker" and not children(process.pid)
            ):
                time.sleep(0.001)
            victims = children(process.pid) if wanted == "worker" else [process.pid]
            hit = process.poll() is None and victims and kill(self.chance.choice(victims))
            hits[wanted if hit else "too late"] += 1
            found = scanned(process)
            if process.returncode == -signal.SIGKILL:
                found = scanned(start(self.scan, self.source, "--json", "--workers", "2", out=subprocess.PIPE))
            if found != expected:
                self.wrong.append(f"scan after a kill of {wanted}: {found[-500:]}")
        return f"{self.kills} scans, killed: {hits}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=[], help="conversion, shards, ranks, together, scan; default: all")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--times", type=int, default=10, help="pairs that start together")
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        test = Test(Path(folder), args.slices, args.kills, args.seed)
        parts = {
            "conversion": test.conversions,
            "shards": lambda: test.conversions(("1/2", "2/2")),
            "ranks": test.ranks,
            "together": lambda: test.together(args.times),
            "scan": test.scans,
        }
        for name in args.what or parts:
            began, before = time.monotonic(), len(test.wrong)
            said = parts[name]()
            print(
                f"{name}: {said}; {len(test.wrong) - before} found that differ from an undisturbed run "
                f"({time.monotonic() - began:.0f} s)",
                flush=True,
            )
        print("\n".join(test.wrong))
    return 1 if test.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
