"""Memory that is no array, pinned memory, and the pools' book-keeping."""

import ctypes

import numpy as np

from cupy import _array


class Memory:
    """Bytes on the current device."""

    def __init__(self, size):
        self.size, self.device_id = size, _array.current_device()
        self._host = np.zeros(max(size, 1), np.uint8)
        self._block = _array._Block(size, self.device_id)
        self.ptr = self._host.ctypes.data

    @property
    def host(self):
        return self._host


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size, self.device_id, self.owner = ptr, size, device_id, owner

    @property
    def host(self):
        return (ctypes.c_ubyte * self.size).from_address(self.ptr)


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.offset, self.device_id, self.ptr = mem, offset, mem.device_id, mem.ptr + offset

    def __add__(self, offset):
        return MemoryPointer(self.mem, self.offset + offset)

    def __int__(self):
        return self.ptr

    def copy_from_device(self, src, size):
        ctypes.memmove(self.ptr, src.ptr, size)

    def copy_from_device_async(self, src, size, stream=None):
        self.copy_from_device(src, size)

    def memset(self, value, size):
        ctypes.memset(self.ptr, value, size)

    memset_async = memset


def alloc(size):
    return MemoryPointer(Memory(size), 0)


def alloc_pinned_memory(size):
    """Has a buffer, as CuPy's has, and its address as ``ptr``."""
    kind = type("PinnedMemoryPointer", (ctypes.c_ubyte * max(size, 1),), {"ptr": property(ctypes.addressof)})
    return kind()


class MemoryPool:
    """Keeps what was once used until ``free_all_blocks``; of the current device."""

    def used_bytes(self):
        return _array._Block.used[_array.current_device()]

    def total_bytes(self):
        return _array._Block.most[_array.current_device()]

    def free_bytes(self):
        return self.total_bytes() - self.used_bytes()

    def free_all_blocks(self, stream=None):
        _array._Block.most[_array.current_device()] = self.used_bytes()

    def n_free_blocks(self):
        return int(self.free_bytes() > 0)

    def set_limit(self, size=None, fraction=None):
        pass

    def get_limit(self):
        return 0


class PinnedMemoryPool:
    def free_all_blocks(self):
        pass

    def n_free_blocks(self):
        return 0


POOL, PINNED = MemoryPool(), PinnedMemoryPool()
