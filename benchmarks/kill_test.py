"""Kill one training many times at random moments, resume it each time, and compare the end with a training left alone.

    python benchmarks/kill_test.py [--application pix2pix|cyclegan] [--kills 20] [--seed 0] [--epochs 60]
                                   [--victim training|rank|loader]
    python benchmarks/kill_commands.py      # conversions, alone, in shards and two at once, and scans

Every kill is SIGKILL, at a random moment: one of four within three seconds of the start, two once the training goes
on, one while a snapshot is being written. The options switch on everything that draws random numbers or keeps a state.
--victim rank: the training runs under mpiexec -n 2, and one of its ranks is killed (needs ``pip install .[mpi]``).
--victim loader: one of two processes that load images is killed; the training must say so and leave the snapshot that
it goes on from, as nothing else writes one.
Prints what each kill hit; ends with status 1 unless all final weights and the log are the same bit for bit (CPU).
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from kill_processes import interpreters, mpiexec
from kill_processes import kill as kill_process
from PIL import Image

COMMON = (
    "-g -1 -cw 16 -ch 16 -gc 4 8 -gnb 1 -dc 4 8 -rt 2 -rr 10 -rs 0.1 -n 0.1 "
    "-nz 0.1 -gdo 0.3 -ddo 0.2 --snapshot_interval 1 --snapshot_minutes 0 --display_interval 3 -si 7"
).split()
OWN = {
    "pix2pix": ["--nvis", "0", "-lm", "0.5", "--dis_warmup", "9"],
    "cyclegan": ["--nvis_A", "0", "--nvis_B", "0", "-lz", "1", "-lidm", "1", "-lfd", "2"],
}
RANKS = ["--communicator", "naive"]
VICTIMS = {
    "training": [],
    "rank": RANKS,
    "loader": ["--workers", "2", "--worker_processes", "--snapshot_interval", "100000"],
}
AGAIN = {"training": [], "rank": RANKS, "loader": []}
KINDS = ("start", "training", "training", "snapshot")  # what to aim at, in turn


def write_images(root: Path, count: int = 7) -> None:
    """trainA, trainB, testA, testB: noisy and clean blocks, 18×22 pixels."""
    generator = np.random.default_rng(5)
    for phase, number in (("train", count), ("test", 3)):
        for domain in "AB":
            (root / f"{phase}{domain}").mkdir(parents=True)
        for i in range(number):
            clean = np.kron(generator.integers(0, 255, (3, 4)), np.ones((6, 6)))[:, :22]
            noisy = np.clip(clean + generator.normal(0, 20, clean.shape), 0, 255)
            for domain, image in (("A", noisy), ("B", clean)):
                Image.fromarray(image.astype(np.uint8)).save(root / f"{phase}{domain}" / f"{i}.png")


def start(application: str, *argv: object, victim: str) -> subprocess.Popen:
    """The training command in a process of its own, or in two below mpiexec."""
    under = [mpiexec(), "-n", "2"] if victim == "rank" else []
    return subprocess.Popen(
        [*under, sys.executable, "-m", f"medi2i.{application}.train", *map(str, argv)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_of(out: Path) -> Path | None:
    """The run folder in ``out``, None as long as there is none."""
    found = [path for path in out.glob("2*") if (path / "args").is_file()] if out.is_dir() else []
    return found[0] if found else None


def kill_loader(process: subprocess.Popen, out: Path, chance: random.Random) -> str | None:
    """Kill a process that loads images, at a random moment; what was hit, None if the training ended before.

    Raises RuntimeError where the training did not end with a snapshot and a message that names the cause.
    """
    before, lines, trains = progress(out), logged(out), chance.random() < 0.7
    victims: list[int] = []
    while (len(victims) < 2 or trains and logged(out) == lines) and process.poll() is None:
        victims = interpreters(process.pid, "multiprocessing.spawn")
        time.sleep(0.02)
    end = time.monotonic() + chance.uniform(0, 0.5 if trains else 2)
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.001)
    if process.poll() is not None or not kill_process(chance.choice(victims)):
        process.communicate()
        return None
    _, error = process.communicate()
    if process.returncode == 0:
        return None  # all images had been loaded
    told = "a process that loads images died (SIGKILL)" in error and "Traceback" not in error
    if process.returncode != 1 or not told or "The training up to here is in" not in error:
        raise RuntimeError(f"status {process.returncode}, newest snapshot {before} -> {progress(out)}: {error[-2000:]}")
    return "the training" if progress(out) > before else "the start"


def kill(process: subprocess.Popen, out: Path, chance: random.Random, kind: str, victim: str) -> str | None:
    """Wait for a moment of ``kind``, kill, and say what was hit. None if the training ended before."""
    if victim == "loader":
        return kill_loader(process, out, chance)
    before, old = progress(out), half_written(out)
    moments: dict[str, Callable[[], bool]] = {
        "start": lambda: True,
        "training": lambda: progress(out) > before,
        "snapshot": lambda: bool(half_written(out) - old),
    }
    reached = moments[kind]
    while not reached():
        if process.poll() is not None:
            return None
        time.sleep(0.0005)
    end = time.monotonic() + chance.uniform(0, {"start": 3.0, "training": 1.0, "snapshot": 0.002}[kind])
    while time.monotonic() < end:
        if process.poll() is not None:
            return None
        time.sleep(0.0005)
    ranks = interpreters(process.pid, "medi2i") if victim == "rank" else [process.pid]
    if not ranks or not kill_process(chance.choice(ranks)):
        process.kill()  # before there was a rank
    process.communicate()
    if half_written(out) - old:
        return "a snapshot half written"
    return "the training" if progress(out) > before else "the start"


def half_written(out: Path) -> set[tuple]:
    """The snapshots being written, or left by a kill: {(name, time of its making)}."""
    run = run_of(out)
    found: set[tuple] = set()
    for path in [] if run is None else (run / "snapshots").glob(".*.part"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ino, path.stat().st_mtime_ns))
    return found


def progress(out: Path) -> int:
    """The iteration of the newest snapshot of the run in ``out``; 0 without one."""
    run = run_of(out)
    names = [] if run is None else [path.stem for path in (run / "snapshots").glob("snapshot_*.npz")]
    return max((int(name.rpartition("_")[2]) for name in names), default=0)


def logged(out: Path) -> int:
    """Bytes of the log of the run in ``out``; 0 without one."""
    run = run_of(out)
    return (run / "log.jsonl").stat().st_size if run is not None and (run / "log.jsonl").is_file() else 0


def results(run: Path | None) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """What has to be equal: all arrays of all npz files but the snapshots', and the log without its times."""
    if run is None:
        raise FileNotFoundError("a training left no run folder")
    arrays = {}
    for path in sorted(run.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            arrays.update({f"{path.name}:{key}": file[key].tobytes() for key in file.files})
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return arrays, [{key: value for key, value in entry.items() if key != "elapsed_time"} for entry in log]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--application", choices=tuple(OWN), default="pix2pix")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--victim", choices=("training", "rank", "loader"), default="training", help="what is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    args = parser.parse_args(argv)
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_images(folder / "data")
        options = ["-R", folder / "data", "-e", args.epochs, *COMMON, *OWN[args.application], *VICTIMS[args.victim]]
        began = time.monotonic()
        alone = start(args.application, *options, "-o", folder / "alone", victim=args.victim)
        _, error = alone.communicate()
        if alone.returncode:
            print(error, file=sys.stderr)
            return 1
        print(
            f"{args.application}, left alone: {time.monotonic() - began:.1f} s, {progress(folder / 'alone')} iterations"
        )
        hits: list[str] = []
        while True:
            run = run_of(folder / "killed")
            again = ["--resume", run, *AGAIN[args.victim]] if run else [*options, "-o", folder / "killed"]
            process = start(args.application, *again, victim=args.victim)
            if len(hits) == args.kills:
                break
            hit = kill(process, folder / "killed", chance, KINDS[len(hits) % len(KINDS)], args.victim)
            if hit is None:
                print(f"the training was over after {len(hits)} kills; --epochs {2 * args.epochs} gives more time")
                return 1
            hits.append(hit)
            print(f"kill {len(hits):2d}: {hit}; newest snapshot {progress(folder / 'killed')}", flush=True)
        _, error = process.communicate()
        if process.returncode:
            print(error, file=sys.stderr)
            return 1
        expected, found = results(run_of(folder / "alone")), results(run_of(folder / "killed"))
    equal = expected == found
    counts = ", ".join(f"{hits.count(kind)} hit {kind}" for kind in sorted(set(hits)))
    print(
        f"{len(hits)} kills ({counts}): {len(expected[0])} arrays and {len(expected[1])} lines of the log are "
        + ("equal bit for bit" if equal else "NOT EQUAL")
    )
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
