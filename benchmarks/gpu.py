"""Training steps and conversion on a GPU: medi2i and the PyTorch twin on the same one. Nothing runs without a GPU.

    python benchmarks/gpu.py pix2pix 256 8 medi2i tf32       one candidate; prints its median seconds as JSON

Every candidate runs in a process of its own: whether TF32 is used is decided before the first product of matrices.
"mixed" is float16 weights with float32 copies here, autocast to bfloat16 in PyTorch.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import subjects

from medi2i.common.compat import chainer
from medi2i.common.device import choose_device, gpu_count, use_gpu_engine
from medi2i.common.inference.engines import ChainerEngine

CASES = (("pix2pix", 256, 8), ("pix2pix", 512, 4), ("cyclegan", 256, 8), ("cyclegan", 512, 4), ("convert", 512, 1))
OURS, CONTIGUOUS, LAST = "medi2i", "PyTorch", "PyTorch channels last"
NUMBERS = ("fp32", "tf32", "mixed")


def ours(what: str, size: int, batch: int, numbers: str) -> tuple[Callable[[], object], Callable[[], None]]:
    """(a function that makes one update or conversion, a function that waits for the device)."""
    device = choose_device(0, tf32=numbers != "fp32")
    device.use()
    use_gpu_engine("auto", tf32=numbers != "fp32")
    dtype = "mixed16" if numbers == "mixed" else "fp32"
    if what == "convert":
        networks, _ = subjects.pix2pix(size, batch, device, dtype)
        engine, x = ChainerEngine(networks.enc_x, networks.dec_y, device), subjects.images(batch, size, 3)[0][None]
        return lambda: engine.run(x), device.device.synchronize
    _, updater = subjects.APPLICATIONS[what](size, batch, device, dtype)
    return updater.update, device.device.synchronize


def pytorch(
    what: str, size: int, batch: int, numbers: str, channels_last: bool
) -> tuple[Callable[[], object], Callable[[], None]]:
    """The same of the twin."""
    import torch
    import twin

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = numbers != "fp32"
    torch.backends.cudnn.benchmark = True
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def on_gpu(array: torch.Tensor) -> torch.Tensor:
        return array.to("cuda").contiguous(memory_format=layout)

    number_format = torch.autocast("cuda", torch.bfloat16) if numbers == "mixed" else contextlib.nullcontext()
    if what == "convert":
        networks, _ = subjects.pix2pix(size, batch)
        model = (
            torch.nn.Sequential(twin.twin(networks.enc_x), twin.twin(networks.dec_y))
            .eval()
            .to("cuda", memory_format=layout)
        )
        x = torch.from_numpy(subjects.images(batch, size, 3)[0][None])

        def convert() -> torch.Tensor:
            with torch.inference_mode(), number_format:
                return model(on_gpu(x)).float().cpu()

        return convert, torch.cuda.synchronize
    trained, updater = subjects.APPLICATIONS[what](size, batch)
    step = twin.STEPS[what](trained, updater.options, subjects.RATE, subjects.DECAY)
    for module in step.modules():
        module.to("cuda", memory_format=layout)
    batches = [torch.stack([torch.from_numpy(x) for x in subjects.images(batch, size, seed)]) for seed in (1, 2)]

    def update() -> None:
        with number_format:
            step(*(on_gpu(b) for b in batches))

    return update, torch.cuda.synchronize


def measured(step: Callable[[], object], wait: Callable[[], None], repeats: int, warm_up: int = 5) -> list[float]:
    """Seconds of each of ``repeats`` steps, the device waited for."""
    seconds = []
    for turn in range(warm_up + repeats):
        wait()
        start = time.perf_counter()
        step()
        wait()
        if turn >= warm_up:
            seconds.append(time.perf_counter() - start)
    return seconds


def run(repeats: int, cases: Iterable[tuple[str, int, int]] = CASES) -> list[dict[str, Any]]:
    """Measure and print all cases. Returns a list of dicts for the JSON file, empty without a GPU."""
    count, why = gpu_count()
    if not count:
        print(f"\nNo GPU columns: {why}")
        return []
    results = []
    for what, size, batch in cases:
        print(f"\nOn the GPU: {what} {size}x{size}, batch {batch}")
        rows = {}
        for numbers in NUMBERS:
            for name in (OURS, CONTIGUOUS, LAST):
                seconds = in_own_process(what, size, batch, name, numbers, repeats)
                rows[f"{name}, {numbers}"] = seconds
                shown = "did not run" if seconds is None else f"{1e3 * seconds:8.1f} ms"
                print(f"  {name:22} {numbers:6} {shown}", flush=True)
        results.append({"what": f"gpu {what}", "size": size, "batch": batch, "median_s": rows})
    return results


def in_own_process(what: str, size: int, batch: int, name: str, numbers: str, repeats: int) -> float | None:
    """Median seconds, None where it fails (PyTorch not installed, memory too small); its last words are printed."""
    done = subprocess.run(
        [sys.executable, __file__, what, str(size), str(batch), name, numbers, str(repeats)],
        capture_output=True,
        text=True,
        env={**os.environ, "CUPY_TF32": str(int(numbers != "fp32"))},
    )
    if done.returncode:
        print("  " + (done.stderr.strip().splitlines() or ["no message"])[-1])
        return None
    return json.loads(done.stdout.splitlines()[-1])


def main(what: str, size: str, batch: str, name: str, numbers: str, repeats: str = "20") -> None:
    """One candidate, in this process."""
    if name == OURS:
        step, wait = ours(what, int(size), int(batch), numbers)
    else:
        step, wait = pytorch(what, int(size), int(batch), numbers, name == LAST)
    with chainer.using_config("autotune", True):
        print(json.dumps(statistics.median(measured(step, wait, int(repeats)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
