"""Updates of 1 and 2 processes on the CPU, one thread each: alone, side by side, and as ranks of one training.

python benchmarks/scaling.py --measure
"""

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import subjects
from subjects import Updater

from medi2i.common.kernels import cpu_engine
from medi2i.common.resources import available_cores
from medi2i.common.training.distributed import Ranks, joined

CASES = (("pix2pix", 128, 8), ("cyclegan", 64, 6))  # application, size of the images, updates that count
WARM_UP = 2
SECONDS = 170  # no process may take longer


def updates(application: str, size: int, number: int, together: bool) -> dict[str, Any]:
    """Seconds of each update in this process, and of all its all-reduces by themselves; a rank where ``together``."""
    cpu_engine.enable("auto")
    with joined("naive" if together else None) as ranks:
        _, updater = subjects.APPLICATIONS[application](size, 1, ranks=ranks)
        seconds = []
        for _ in range(WARM_UP + number):
            start = time.perf_counter()
            updater.update()
            seconds.append(time.perf_counter() - start)
        alone = [_all_reduces(updater, ranks) for _ in range(3)] if isinstance(ranks, Ranks) else [0.0]
        return {"first": ranks.first, "seconds": seconds[WARM_UP:], "all_reduces": min(alone)}


def _all_reduces(updater: Updater, ranks: Ranks) -> float:
    """Seconds that the messages of one update take when nobody has to be waited for."""
    links = [optimizer.target for optimizer in updater.get_all_optimizers().values()]
    ranks.mpi.Barrier()
    start = time.perf_counter()
    for link in links:
        ranks.communicator.multi_node_mean_grad(link, False)
    ranks.share_statistics(links)
    return time.perf_counter() - start


def mpiexec() -> str | None:
    """The mpiexec to use, None where there is none or no mpi4py."""
    beside = Path(sys.executable).with_name("mpiexec")
    program = str(beside) if beside.exists() else shutil.which("mpiexec")
    return program if program and importlib.util.find_spec("mpi4py") is not None else None


def _start(case: Sequence[object], *before: str, together: bool = False) -> subprocess.Popen:
    words = [*before, sys.executable, __file__, *map(str, case), "together" if together else "alone"]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    )


def _finish(process: subprocess.Popen) -> dict[str, Any]:
    """What a process measured: of ranks, the first one."""
    out, _ = process.communicate(timeout=SECONDS)
    if process.returncode:
        sys.exit(f"a measuring process ended with {process.returncode}")
    return json.loads(next(line for line in out.splitlines() if line.startswith("{")))


def measured() -> str | None:
    """The table as Markdown; None without an mpiexec."""
    program = mpiexec()
    if program is None:
        return None
    rows = [
        "| one image a rank, ms an update | 1 process | 2 side by side | 2 ranks | all-reduces alone | "
        "2 ranks / 1 process | efficiency |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in CASES:
        one = _finish(_start(case))
        two = [_finish(process) for process in [_start(case), _start(case)]]
        ranks = _finish(_start(case, program, "-n", "2", together=True))
        t1, t2, both = (1e3 * statistics.median(found["seconds"]) for found in (one, ranks, max(two, key=_median)))
        rows.append(
            f"| {case[0]}, {case[1]}² | {t1:.0f} | {both:.0f} | {t2:.0f} | {1e3 * ranks['all_reduces']:.0f} | "
            f"{t2 / t1:.2f} | {100 * t1 / t2:.0f} % |"
        )
    cores = available_cores()
    return "\n".join([*rows, "", f"({_processor()}, {cores} cores, one thread a process, `naive`)"])


def _median(found: dict[str, Any]) -> float:
    return statistics.median(found["seconds"])


def _processor() -> str:
    import measure

    return measure.machine()["cpu"]


if __name__ == "__main__":
    application, size, number, how = sys.argv[1:]
    result = updates(application, int(size), int(number), how == "together")
    if result["first"]:
        print(json.dumps(result))
