"""How many cores this process may use."""

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path


@functools.cache
def available_cores() -> int:
    """Cores by affinity, and no more than the CPU time that a container is given (docker run --cpus, Kubernetes)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, cpu_quota() or cores))


def cpu_quota(root: Path = Path("/")) -> int | None:
    """The cores' worth of CPU time that control groups allow this process, rounded up; None where they do not limit it.

    root: where /proc and /sys are. Of a group and those that it lies in the least counts. Sources:
    https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max),
    https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us of version 1).
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    found = []
    for line in lines:
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            for folder in _folders(root / "sys/fs/cgroup", group):
                found.append(_share(*_words(folder / "cpu.max")))
        elif "cpu" in controllers.split(","):
            for mounted in dict.fromkeys((controllers, "cpu")):
                for folder in _folders(root / "sys/fs/cgroup" / mounted, group):
                    found.append(_share(*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")))
    limits = [share for share in found if share is not None]
    return math.ceil(min(limits) - 1e-6) if limits else None


def _folders(mounted: Path, group: str) -> Iterator[Path]:
    """The folder of a group and of those it lies in. Within a container only the last of them may be there."""
    path = Path(group.lstrip("/"))
    for part in (path, *path.parents):
        if ".." not in part.parts:
            yield mounted / part


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []


def _share(*words: str) -> float | None:
    if len(words) != 2 or not all(word.isdigit() and int(word) > 0 for word in words):
        return None  # "max", -1, or no such file
    return int(words[0]) / int(words[1])
