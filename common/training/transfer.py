"""Batches on their way to a GPU: gathered in pinned memory, copied while the CPU goes on."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.kernels.gpu import augment
from medi2i.datasets.augment import Uncut

DEPTH = 2  # buffers for each place in a batch: one is copied from while the other is filled


class PinnedConverter(chainer.dataset.Converter):
    """Converts a list of examples as Chainer's ``concat_examples`` does, by pinned buffers where the device is a GPU.

    A buffer is filled anew only once its last copy is done; with two of them that is a wait for a copy of the batch
    before last. The copy runs on the current stream: what is computed next waits for it, the CPU does not.
    Images that come uncut (``datasets.augment.Uncut``) are copied one by one and finished on the device, be it the CPU.

    pinned, event, stream: functions that give a pinned NumPy array of (shape, dtype), an event, and the current
    stream; for tests.
    """

    def __init__(
        self, pinned: Callable | None = None, event: Callable | None = None, stream: Callable | None = None
    ) -> None:
        self._pinned = pinned or _pinned
        self._event = event or _event
        self._stream = stream or _stream
        self._buffers: dict[tuple[int, Any], tuple[np.ndarray, Any]] = {}
        self._turn = 0

    def __call__(self, batch: Sequence, device: chainer.backend.Device | None = None) -> Any:
        if device is None or device.xp is np:
            return chainer.dataset.concat_examples([_finished(example) for example in batch], device)
        self._turn = (self._turn + 1) % DEPTH
        with chainer.using_device(device):
            if isinstance(batch[0], tuple):
                return tuple(
                    self._send(place, arrays, device.xp) for place, arrays in enumerate(zip(*batch, strict=True))
                )
            return self._send(0, batch, device.xp)

    def _send(self, place: Any, examples: Sequence, xp: ModuleType) -> Array:
        if not isinstance(examples[0], Uncut):
            return self._copy(place, examples, xp)
        return xp.stack(
            [
                augment.finish(self._copy((place, number), [example.values], xp)[0], example)
                for number, example in enumerate(examples)
            ]
        )

    def _copy(self, place: Any, arrays: Sequence[np.ndarray], xp: ModuleType) -> Array:
        shape, dtype = (len(arrays), *arrays[0].shape), arrays[0].dtype
        key = self._turn, place
        buffer, copied = self._buffers.get(key, (None, None))
        if copied is not None:
            copied.synchronize()
        if buffer is None or copied is None or buffer.shape != shape or buffer.dtype != dtype:
            buffer, copied = self._pinned(shape, dtype), self._event()
            self._buffers[key] = buffer, copied
        np.stack(arrays, out=buffer)
        result = xp.empty(shape, dtype)
        result.set(buffer, stream=self._stream())  # without a stream, CuPy may wait for the copy
        copied.record()
        return result


def _finished(example: Any) -> Any:
    if isinstance(example, tuple):
        return tuple(_finished(part) for part in example)
    return augment.finish(example.values, example) if isinstance(example, Uncut) else example


def _pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    import cupyx

    return cupyx.empty_pinned(shape, dtype)


def _event() -> Any:
    import cupy

    return cupy.cuda.Event(disable_timing=True)


def _stream() -> Any:
    import cupy

    return cupy.cuda.get_current_stream()
