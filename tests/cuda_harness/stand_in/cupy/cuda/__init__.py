"""Devices, streams, events, memory: there are two GPUs, and everything on them is done at once."""

import threading
import time

from cupy import _array, _watch
from cupy.cuda import cublas, driver, memory, memory_hook, nccl, nvtx, runtime
from cupy.cuda.memory import Memory, MemoryPointer, UnownedMemory, alloc, alloc_pinned_memory
from cupy.cuda.memory_hook import MemoryHook

nvtx_enabled = nvtx_available = False
nccl_enabled = True


def is_available():
    return True


def set_allocator(allocator=None):
    pass


def set_pinned_memory_allocator(allocator=None):
    pass


class Device:
    """``with`` and ``use`` make it the current one of this thread."""

    def __init__(self, device=None):
        self.id = _array.current_device() if device is None else int(device)
        if not 0 <= self.id < _array.DEVICES:
            raise runtime.CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self._before = []

    def __int__(self):
        return self.id

    def __enter__(self):
        self._before.append(_array.current_device())
        _array.use_device(self.id)
        return self

    def __exit__(self, *args):
        _array.use_device(self._before.pop())

    def use(self):
        _array.use_device(self.id)

    def synchronize(self):
        _watch.seen("waits")

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self):
        return hash(self.id)

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    compute_capability = "90"
    mem_info = (1 << 36, 1 << 36)


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.disable_timing, self._at = disable_timing, None

    done = True

    def record(self, stream=None):
        self._at = time.perf_counter()

    def synchronize(self):
        _watch.seen("waits")


def get_elapsed_time(start_event, end_event):
    if start_event.disable_timing or end_event.disable_timing:
        raise runtime.CUDARuntimeError("cudaErrorInvalidResourceHandle: an event without timing")
    return 1e3 * (end_event._at - start_event._at)


class Stream:
    null: "Stream"

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.ptr = 0 if null else id(self)
        self._before = []

    done = True

    def synchronize(self):
        _watch.seen("waits")

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        pass

    def use(self):
        _streams.current = self
        return self

    def __enter__(self):
        self._before.append(get_current_stream())
        return self.use()

    def __exit__(self, *args):
        self._before.pop().use()

    def __eq__(self, other):
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self):
        return hash(self.ptr)


_streams = threading.local()
Stream.null = Stream(null=True)


def get_current_stream(device_id=None):
    return getattr(_streams, "current", Stream.null)


if _array.VERSION < 14:
    from cupy.cuda import cudnn


def __getattr__(name):
    from cupy import Missing

    raise Missing(f"the stand-in for CuPy has no cupy.cuda.{name}")
