"""``--check``: a rehearsal that reads all data, does an update, and says what the training would cost."""

import functools
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError, one_line
from medi2i.common.options.reading import AnyOptions
from medi2i.common.training.adversarial import AdversarialUpdater
from medi2i.common.training.log import duration
from medi2i.common.training.validation import Measure, batches
from medi2i.datasets.paired import PairedDataset
from medi2i.datasets.unpaired import UnpairedDataset

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # every use asks for it

SHOWN_ERRORS = 10
MIB = 2**20


def check(
    datasets: Mapping[str, Any],
    updater: AdversarialUpdater,
    networks: Mapping[str, chainer.Link],
    measure: Measure | None,
    options: AnyOptions,
) -> None:
    """Rehearse and print a report. Nothing is written.

    datasets: dict name -> data set (or None), all images of which are read.
    measure(indices): validates these images of the data set "validation"; None without one.
    Raises UserError, with all files that cannot be read, or a loss that is not finite.
    """
    datasets = {name: dataset for name, dataset in datasets.items() if dataset is not None}
    for name, dataset in datasets.items():
        print(
            f"{name:<12} {len(dataset)} examples read in {_timed(functools.partial(read_all, dataset)):.1f} s, "
            f"{dataset.size[0]}×{dataset.size[1]} pixels (height × width)"
        )
    for name, link in networks.items():
        print(f"{name:<12} {sum(p.size for p in link.params() if p.array is not None):,} weights")

    gpu = updater.device is not None and updater.device.xp.__name__ == "cupy"
    first = _timed(lambda: _update(updater))
    # The first update also allocates, and compiles kernels on a GPU; where that could matter, later ones are timed.
    again = updater.ranks.agreed(gpu or first < 2.0)
    update = min(_timed(lambda: _update(updater)) for _ in range(3)) if again else first
    validation = 0.0
    if measure is not None:
        first_batch = range(min(options.batch_size, measure.count))
        validation = _timed(lambda: measure(first_batch)) * len(batches(measure.count, options.batch_size))
    iterator = updater.get_iterator("main")
    per_epoch = iterator.per_epoch / iterator.examples_per_update
    iterations = options.epoch * per_epoch
    limit = getattr(options, "iteration", None)
    if limit is not None:
        iterations = min(iterations, limit)
    seconds = iterations * update + iterations / per_epoch * validation
    print(f"{'update':<12} {update:.3g} s; validation {validation:.3g} s each epoch")
    if options.minutes is not None:
        epochs = 60 * options.minutes / (per_epoch * update + validation)
        seconds, iterations = 60 * options.minutes, epochs * per_epoch
    print(f"{'expected':<12} {duration(seconds)} for {iterations:,.0f} updates, {per_epoch:g} in an epoch")
    memory = (_peak() + _pool_growth(updater, gpu)) / MIB
    print(f"{'memory':<12} {memory:,.0f} MiB" + (_gpu_memory(updater) if gpu else ""))


def read_all(dataset: PairedDataset | UnpairedDataset) -> None:
    """Load every example, unaugmented. Raises UserError with all that fail (the first ten by name)."""
    errors = []
    for i in range(len(dataset)):
        try:
            dataset.load(i, None)
        except (UserError, OSError) as error:
            errors.append(one_line(error))
    if errors:
        more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        raise UserError(
            f"{len(errors)} of {len(dataset)} examples cannot be read: " + "; ".join(errors[:SHOWN_ERRORS]) + more
        )


def _update(updater: AdversarialUpdater) -> None:
    reporter = chainer.Reporter()
    for name, optimizer in updater.get_all_optimizers().items():
        reporter.add_observer(name, optimizer.target)
    observation: dict[str, Any] = {}
    with reporter.scope(observation):
        updater.update()
    values = {
        name: float(chainer.as_array(value) if isinstance(value, chainer.Variable) else value)
        for name, value in observation.items()
    }  # on a GPU this also waits for the update
    for name, value in values.items():
        if not abs(value) < float("inf"):
            raise UserError(f"{name} is {value} in the very first update; look at the data's clip and the loss weights")


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _peak() -> int:
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _pool_growth(updater: AdversarialUpdater, gpu: bool) -> int:
    """Bytes by which the history pools will still grow on the CPU."""
    pools = [] if gpu else [pool for pool in updater.pools.values() if len(pool)]
    return sum((pool.size - len(pool)) * pool.images[0].nbytes for pool in pools)


def _gpu_memory(updater: AdversarialUpdater) -> str:
    import cupy

    with chainer.using_device(updater.device):
        taken = cupy.get_default_memory_pool().total_bytes()
    growth = sum((pool.size - len(pool)) * pool.images[0].nbytes for pool in updater.pools.values() if len(pool))
    return f"; GPU {(taken + growth) / MIB:,.0f} MiB"
