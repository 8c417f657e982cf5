"""How many cores to use, and a pool of threads for NumPy code, which lets other threads run while it computes."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from medi2i.common.resources import available_cores


def threads() -> int:
    """As many as OMP_NUM_THREADS says, else as there are cores for this process and its container."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return available_cores()


@functools.cache
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    # One of each process: the threads of a pool do not survive a fork.
    return ThreadPoolExecutor(count, thread_name_prefix="medi2i")


def spread(function: Callable[[int, int], None], size: int, smallest: int) -> None:
    """Call ``function(start, stop)`` for parts of range(size), one a thread, each of at least ``smallest``."""
    count = min(threads(), max(1, size // smallest))
    edges = [size * i // count for i in range(count + 1)]
    if count == 1:
        function(0, size)
        return
    pool = _pool(os.getpid(), count - 1)
    others = [pool.submit(function, *part) for part in zip(edges[1:], edges[2:], strict=False)]
    function(edges[0], edges[1])
    for other in others:
        other.result()
