"""What the stand-in counts: copies to the device and to the host, and waits, each with the line that asked for it."""

import contextlib
import sys
import threading
from dataclasses import dataclass, field

_OWN = ("/stand_in/cupy/", "/stand_in/cupyx/")


@dataclass
class Counts:
    """Lists of "file:line function", one for each time. ``kernels`` is the number of launches."""

    to_device: list = field(default_factory=list)
    to_host: list = field(default_factory=list)
    waits: list = field(default_factory=list)
    kernels: int = 0


_open: list[Counts] = []
_lock = threading.Lock()


@contextlib.contextmanager
def watched():
    """The Counts of what happens in the block, in all threads."""
    counts = Counts()
    with _lock:
        _open.append(counts)
    try:
        yield counts
    finally:
        with _lock:
            _open[:] = [other for other in _open if other is not counts]


def seen(kind):
    """Note one of ``kind`` ("to_device", "to_host", "waits")."""
    if _open:
        place = _place()
        for counts in _open:
            getattr(counts, kind).append(place)


def launched():
    for counts in _open:
        counts.kernels += 1


def _place():
    """The nearest frame outside of the stand-in, of Chainer and of NumPy; the nearest outside of the stand-in if all
    are theirs."""
    frame, nearest = sys._getframe(2), None
    while frame is not None:
        name = frame.f_code.co_filename
        if not any(own in name for own in _OWN):
            here = f"{'/'.join(name.split('/')[-2:])}:{frame.f_lineno} {frame.f_code.co_name}"
            nearest = nearest or here
            if "site-packages" not in name:
                return here if here == nearest else f"{here} by {nearest}"
        frame = frame.f_back
    return nearest
