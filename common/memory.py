"""How much memory this process may still take, and how large images are worked on with little of it."""
import contextlib
import resource
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
BAND = 1 << 18  # pixels: an image of 512² is one band, and some float64 copies of a band are few megabytes


def bands(shape):
    """The rows of an image (H, W) in slices of about ``BAND`` pixels, a multiple of 8 rows each but for the last.

    What is computed band by band takes its temporary arrays once for a band, not for a whole image.
    """
    height, width = shape
    rows = max(BAND // max(width, 1) // 8, 1) * 8
    return [slice(first, min(first + rows, height)) for first in range(0, height, rows)]


def available() -> int | None:
    """Bytes: what the machine has free, the control groups that hold this process allow and ``ulimit -v`` leaves.

    The least of them; None where the system tells nothing of it.
    """
    found = [_of_machine(), *_of_groups(), _of_limit()]
    return min((one for one in found if one is not None), default=None)


def _of_machine():
    return _entry("/proc/meminfo", "MemAvailable:")


def _of_limit():
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _entry("/proc/self/status", "VmSize:")
    return None if limit == resource.RLIM_INFINITY or used is None else max(limit - used, 0)


def _entry(path, name):
    """Kilobytes of a line ``name`` as bytes."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None


def _of_groups():
    """What is left in each group (version 2: memory.max; version 1: memory.limit_in_bytes), up to the root."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root = GROUPS / "memory" if controllers else GROUPS
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max",
                                                                                            "memory.current")
            own = root / path.lstrip("/")
            for folder in (own, *own.parents):  # in a container the path is of its outside, and only root is there
                if folder == root or root in folder.parents:
                    yield _left(folder, *names)


def _left(folder, limit, usage):
    with contextlib.suppress(OSError, ValueError):
        files = _entry_of_statistics(folder / "memory.stat")  # the cache of files gives way
        return max(int((folder / limit).read_text()) - int((folder / usage).read_text()) + files, 0)
    return None


def _entry_of_statistics(path):
    with contextlib.suppress(OSError, ValueError):
        return next((int(line.split()[1]) for line in path.read_text().splitlines()
                     if line.startswith("inactive_file ")), 0)
    return 0
