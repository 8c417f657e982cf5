"""What this process may take: cores, memory, and its place among others that mpiexec or srun started with it."""

import contextlib
import ctypes
import functools
import math
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@functools.cache
def available_cores() -> int:
    """Cores by affinity, and no more than the CPU time that a container is given (docker run --cpus, Kubernetes)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, cpu_quota() or cores))


def threads() -> int:
    """As many as OMP_NUM_THREADS says, else as there are cores for this process and its container."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else available_cores()


def cpu_quota(root: Path = Path("/")) -> int | None:
    """The cores' worth of CPU time that control groups allow this process, rounded up; None where they do not limit it.

    root: where /proc and /sys are. Of a group and those that it lies in the least counts. Sources:
    https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max),
    https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us of version 1).
    """
    found = [
        _share(*_words(folder / "cpu.max"))
        if unified
        else _share(*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us"))
        for folder, unified in _groups("cpu", root)
    ]
    limits = [share for share in found if share is not None]
    return math.ceil(min(limits) - 1e-6) if limits else None


def _groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[Path, bool]]:
    """(folder, whether it is of version 2) of this process's control groups for ``controller``, and of those that they
    lie in. Within a container only the last of them may be there.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, group = [*line.split(":", 2), "", ""][:3]
            if controllers and controller not in controllers.split(","):
                continue
            path = Path(group.lstrip("/"))
            for mounted in dict.fromkeys((controllers, controller)) if controllers else ("",):
                for part in (path, *path.parents):
                    if ".." not in part.parts:
                        yield root / "sys/fs/cgroup" / mounted / part, not controllers


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []


def _share(*words: str) -> float | None:
    if len(words) != 2 or not all(word.isdigit() and int(word) > 0 for word in words):
        return None  # "max", -1, or no such file
    return int(words[0]) / int(words[1])


# Variables for rank, number of processes, and rank among the processes of one machine. Slurm's are those of a job step:
# a batch script sees SLURM_PROCID and SLURM_NTASKS too, though it is one process.
LAUNCHERS = {
    "Open MPI's mpiexec": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}


@dataclass(frozen=True)
class Launched:
    """One of ``size`` processes, ``rank`` from 0; ``local_rank`` counts those of this machine, None if not known."""

    rank: int
    size: int
    local_rank: int | None
    launcher: str


def launched() -> Launched | None:
    """What the launcher says of this process; None for a process that stands alone."""
    for launcher, names in LAUNCHERS.items():
        rank, size, local = (_number(os.environ.get(name)) for name in names)
        if rank is not None and size is not None:
            return Launched(rank, size, local, launcher) if size > 1 else None
    return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


BAND = 1 << 18  # pixels: an image of 512² is one band, and some float64 copies of a band are few megabytes


def bands(shape: tuple[int, int]) -> list[slice]:
    """The rows of an image (H, W) in slices of about ``BAND`` pixels, a multiple of 8 rows each but for the last.

    What is computed band by band takes its temporary arrays once for a band, not for a whole image.
    """
    height, width = shape
    rows = max(BAND // max(width, 1) // 8, 1) * 8
    return [slice(first, min(first + rows, height)) for first in range(0, height, rows)]


def keep_memory() -> None:
    """Let this process keep the memory of arrays that it is done with, up to half a GiB, for the next ones.

    glibc gives every large array back to the kernel and asks for it anew, page by page: a seventh of the time of a
    training step (256², 32 channels, one core) went there. Nothing happens where the C library has no ``mallopt``
    (musl, macOS, Windows) or the environment has its settings for it.
    """
    if os.environ.keys() & {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}:
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        # Some versions take no more than half of a heap, 32 MiB, for the first.
        if any(mallopt(_MMAP_THRESHOLD, size) for size in (1 << 28, 1 << 25)):
            mallopt(_TRIM_THRESHOLD, 1 << 29)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def available_memory() -> int | None:
    """Bytes: what the machine has free, the control groups that hold this process allow and ``ulimit -v`` leaves.

    The least of them; None where the system tells nothing of it.
    """
    found = [_entry(Path("/proc/meminfo"), "MemAvailable:", 1024), _of_limit()]
    for folder, unified in _groups("memory"):
        names = ("memory.max", "memory.current") if unified else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        found.append(_left(folder, *names))
    return min((one for one in found if one is not None), default=None)


def _of_limit() -> int | None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _entry(Path("/proc/self/status"), "VmSize:", 1024)
    return None if limit == resource.RLIM_INFINITY or used is None else max(limit - used, 0)


def _entry(path: Path, name: str, unit: int = 1) -> int | None:
    """The number of the line ``name``, times ``unit`` bytes."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * unit
    return None


def _left(folder: Path, limit: str, usage: str) -> int | None:
    """Bytes that are left in a group; None where it has no limit, or none that is told."""
    with contextlib.suppress(OSError, ValueError):
        files = _entry(folder / "memory.stat", "inactive_file ") or 0  # the cache of files gives way
        return max(int((folder / limit).read_text()) - int((folder / usage).read_text()) + files, 0)
    return None
