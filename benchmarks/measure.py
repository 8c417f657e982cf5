"""Timings in alternating order, medians and ratios, peak memory, and the machine they are of."""

import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from medi2i.common.resources import available_cores

PACKAGES = ("numpy", "chainer", "onednn-cpu-gomp", "onnxruntime", "openvino", "torch")


Seconds = dict[str, list[float]]
"""Of each candidate, round by round."""

Rows = dict[str, dict[str, float]]
"""Of each candidate what ``summary`` gives."""

SETTLE = 0.2  # seconds


def alternate(candidates: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> Seconds:
    """Run every candidate in turn, ``repeats`` times after ``warm_up`` rounds that do not count.

    candidates: dict name -> function without arguments. Returns dict name -> list of seconds, round by round, so that
    candidates can be compared within a round: what else the machine did meanwhile met all of them.

    The threads of a library wait actively for some time after their last work (those of NumPy's BLAS for 20 ms), and
    hold the cores of the next candidate, which has threads of its own. So each begins after a pause.
    """
    seconds: Seconds = {name: [] for name in candidates}
    for turn in range(warm_up + repeats):
        names = list(candidates) if turn % 2 == 0 else list(candidates)[::-1]
        for name in names:
            time.sleep(SETTLE)
            start = time.perf_counter()
            candidates[name]()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: Seconds, reference: str) -> Rows:
    """dict name -> median seconds, fastest, and the median over the rounds of (this time / the reference's)."""
    return {
        name: {
            "median_s": statistics.median(times),
            "fastest_s": min(times),
            "ratio": statistics.median(t / r for t, r in zip(times, seconds[reference], strict=True)),
            "rounds": len(times),
        }
        for name, times in seconds.items()
    }


def show(title: str, rows: Rows, reference: str) -> None:
    """Print one table."""
    print(f"\n{title}")
    width = max(len(name) for name in rows)
    for name, row in rows.items():
        print(
            f"  {name:{width}}  {row['median_s']:8.3f} s  (fastest {row['fastest_s']:.3f})"
            f"  {row['ratio']:6.2f} x {reference}",
            flush=True,
        )


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    about = dict(re.findall(r"^(model name|flags)\s*: (.*)$", info.read_text(), re.M)) if info.exists() else {}
    flags = set(about.get("flags", "").split())
    cores = available_cores()
    cpu = about.get("model name", platform.processor())
    return {
        "cpu": cpu,
        "cores": cores,
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "instructions": sorted(flags & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def version(name: str) -> str | None:
    """Version of a distribution, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def peak_memory(script: str, arguments: list[str]) -> float | None:
    """Largest memory in MB of a process of its own that runs ``script``; None if it failed."""
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    lines = done.stdout.split()
    return float(lines[-1]) if done.returncode == 0 and lines else None


def own_peak() -> float:
    """Largest memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss begins with the memory of the process that started this one
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
