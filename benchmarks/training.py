"""Training steps: plain Chainer, medi2i's CPU code, and the PyTorch twin in both layouts.

Chainer checks types in the first update only, as in all trainings here.

    python benchmarks/training.py pix2pix 512 4 medi2i        one step in this process; prints its peak memory in MB
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

import measure
import subjects

from medi2i.common.kernels import cpu_engine

CASES = (("pix2pix", 128, 1), ("pix2pix", 128, 4), ("pix2pix", 256, 1), ("pix2pix", 256, 4), ("cyclegan", 128, 1))
CHAINER, OURS, CONTIGUOUS, LAST = "Chainer", "medi2i", "PyTorch", "PyTorch channels last"


def chainer_step(application: str, size: int, batch: int, engine: str) -> Callable[[], None]:
    """A function that makes one update with the CPU engine ``engine``."""
    _, updater = subjects.APPLICATIONS[application](size, batch)

    def step() -> None:
        with cpu_engine.using(engine):
            updater.update()

    return step


def torch_step(application: str, size: int, batch: int, channels_last: bool) -> Callable[[], None] | None:
    """A function that makes one update of the PyTorch twin, or None without PyTorch. Parameters are counted equal."""
    try:
        import torch
        import twin
    except ImportError:
        return None
    networks, updater = subjects.APPLICATIONS[application](size, batch)
    step = twin.STEPS[application](networks, updater.options, subjects.RATE, subjects.DECAY)
    modules = step.modules()
    ours = subjects.parameter_count(*networks.as_dict().values())
    theirs = sum(p.numel() for module in modules for p in module.parameters())
    if ours != theirs:
        raise ValueError(f"{application}: {ours} parameters here, {theirs} in the twin")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for module in modules:
        module.to(memory_format=layout)
    batches = [
        torch.stack([torch.from_numpy(x) for x in subjects.images(batch, size, seed)]).contiguous(memory_format=layout)
        for seed in (1, 2)
    ]
    return lambda: step(*batches)


def make(name: str, application: str, size: int, batch: int) -> Callable[[], None] | None:
    """The step called ``name``, None where it cannot be had here."""
    if name in (CHAINER, OURS):
        return chainer_step(application, size, batch, "chainer" if name == CHAINER else "auto")
    return torch_step(application, size, batch, name == LAST)


def run(repeats: int, cases: Iterable[tuple[str, int, int]] = CASES) -> list[dict[str, Any]]:
    """Measure and print all cases. Returns a list of dicts for the JSON file."""
    results = []
    for application, size, batch in cases:
        names = (CHAINER, OURS, CONTIGUOUS, LAST)
        steps = {name: step for name in names if (step := make(name, application, size, batch)) is not None}
        seconds = measure.alternate(steps, repeats)
        rows = measure.summary(seconds, CHAINER)
        measure.show(f"Training step, {application} {size}x{size}, batch {batch}", rows, CHAINER)
        result = {"what": "training", "application": application, "size": size, "batch": batch, "candidates": rows}
        if CONTIGUOUS in rows:
            result["medi2i_to_best_pytorch"] = to_best(seconds)
            print(f"  medi2i takes {result['medi2i_to_best_pytorch']:.2f} x the time of PyTorch's better layout")
        results.append(result)
    return results


def to_best(seconds: measure.Seconds) -> float:
    """Median over the rounds of ours / PyTorch in the layout that is better over all rounds."""
    best = min((CONTIGUOUS, LAST), key=lambda name: measure.statistics.median(seconds[name]))
    return measure.summary({OURS: seconds[OURS], best: seconds[best]}, best)[OURS]["ratio"]


def memory(size: int, batch: int) -> dict[str, Any]:
    """Peak memory of one pix2pix step in a process of its own, MB, for each candidate."""
    rows = {
        name: measure.peak_memory(__file__, ["pix2pix", str(size), str(batch), name])
        for name in (OURS, CONTIGUOUS, LAST)
    }
    print(f"\nPeak memory of two training steps, pix2pix {size}x{size}, batch {batch}")
    for name, megabytes in rows.items():
        print(f"  {name:22}", "did not run" if megabytes is None else f"{megabytes:6.0f} MB", flush=True)
    return {"what": "memory", "size": size, "batch": batch, "megabytes": rows}


if __name__ == "__main__":
    step = make(sys.argv[4], sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    if step is None:
        sys.exit(f"{sys.argv[4]}: not installed")
    step()
    step()
    print(measure.own_peak())
