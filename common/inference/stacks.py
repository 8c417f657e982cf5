"""From the slices of a volume to the network's inputs, and from its results to slices: 2.5-D stacks."""

import enum
import threading

import numpy as np

from medi2i.common.errors import UserError
from medi2i.common.inference.pipeline import Job


class Combine(enum.Enum):
    """Which slices of a converted stack are used."""

    MIDDLE = "the middle slice of the stack around it"
    AVERAGE = "the mean over all stacks that hold the slice"


def middle_stack(index, count, size):
    """Indices of the ``size`` slices around ``index`` of ``count``; at the ends of the volume the last is repeated."""
    first = index - size // 2
    return [min(max(i, 0), count - 1) for i in range(first, first + size)]


def whole_stacks(count, size):
    """All stacks of ``size`` neighbours in a volume of ``count`` slices; a shorter one gives one, its last repeated."""
    return [[min(i, count - 1) for i in range(first, first + size)] for first in range(max(count - size, 0) + 1)]


def jobs(cache, count, size, combine, wanted, deliver, failed):
    """The pipeline jobs that convert the slices ``wanted`` (a set of indices) of a volume of ``count`` slices.

    cache.get(index) -> Slice, cache.size(index) -> bytes that it takes.
    deliver(index, y (C', h, w), slices that went in, by index) -> a callable that writes it;
    failed(index, error) is told of a slice that cannot be converted.
    """
    if combine is Combine.MIDDLE:
        return _middle_jobs(cache, count, size, wanted, deliver, failed)
    return _average_jobs(cache, count, size, wanted, deliver, failed)


def _middle_jobs(cache, count, size, wanted, deliver, failed):
    for index in sorted(wanted):
        members = middle_stack(index, count, size)
        slices = {}

        def load(members=members, slices=slices):
            return _stacked(cache, members, slices)

        def collect(y, index=index, slices=slices):
            if y is None:
                return []
            return [deliver(index, _parts(y, size)[size // 2], slices)]

        yield Job(load, collect, lambda error, index=index: failed(index, error), sum(map(cache.size, members)))


def _average_jobs(cache, count, size, wanted, deliver, failed):
    stacks = whole_stacks(count, size)
    needed = [members for members in stacks if wanted.intersection(members)]
    last_of = {index: members for members in needed for index in members if index in wanted}
    sums, slices, errors, went_in = {}, {}, {}, {}
    lock = threading.Lock()  # reading threads add to ``slices`` while the main thread takes from it

    for members in needed:

        def load(members=members):
            own = {}
            x = _stacked(cache, members, own)
            with lock:
                slices.update(own)
            return x

        def collect(y, members=members):
            if y is not None:
                for place, part in enumerate(_parts(y, size)):
                    index = members[place]
                    if index in wanted and members.index(index) == place:  # repeated slices count once
                        total, number = sums.get(index, (0.0, 0))
                        sums[index] = (total + part, number + 1)
                        went_in.setdefault(index, set()).update(members)
            ready = []
            for index in sorted({i for i in members if last_of.get(i) is members}):
                if index not in sums:
                    failed(index, errors[index])
                    continue
                total, number = sums.pop(index)
                with lock:
                    near = {i: slices[i] for i in sorted(went_in.pop(index))}
                ready.append(deliver(index, total / np.float32(number), near))
            with lock:
                for index in [i for i in slices if i < members[0] - size]:
                    del slices[index]
            return ready

        def skipped(error, members=members):
            for index in members:
                errors[index] = error

        yield Job(load, collect, skipped, sum(map(cache.size, members)))


def _stacked(cache, members, slices):
    for index in members:
        slices[index] = cache.get(index)
    images = [slices[index].unit for index in members]
    if len({image.shape for image in images}) > 1:
        raise UserError(f"slices {members} of one volume have different sizes; a stack needs equal ones")
    return images[0] if len(images) == 1 else np.concatenate(images)


def _parts(y, size):
    if len(y) % size:
        raise ValueError(f"a network for stacks of {size} gave {len(y)} channels")
    return np.split(y, size)
