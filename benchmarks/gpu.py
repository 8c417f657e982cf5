"""Training steps and conversion on a GPU: medi2i and the PyTorch twin on the same one. Nothing runs without a GPU.

    python benchmarks/gpu.py medi2i tf32 20 pix2pix:256:8 convert:512:1    one candidate; a line of JSON for each case

Every candidate runs in a process of its own: whether TF32 is used is decided before the first product of matrices.
"mixed" is float16 weights with float32 copies; beside it PyTorch's autocast to bfloat16 and to float16 (without scaling
the loss, which costs time, so that it is measured no slower than it is). Times are between CUDA events, memory is what
the pools of both held at most.
"""

import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import subjects

from medi2i.common.compat import chainer
from medi2i.common.device import choose_device, gpu_count, use_gpu_engine
from medi2i.common.inference.engines import ChainerEngine

CASES = (("pix2pix", 256, 4), ("pix2pix", 512, 4), ("cyclegan", 256, 4), ("cyclegan", 512, 4), ("convert", 512, 1))
OURS, CONTIGUOUS, LAST = "medi2i", "PyTorch", "PyTorch channels last"
FULL, HALF = ("fp32", "tf32"), {OURS: ("mixed",), CONTIGUOUS: ("bf16", "fp16"), LAST: ("bf16", "fp16")}


def ours(what: str, size: int, batch: int, numbers: str) -> Callable[[], object]:
    """A function that makes one update or conversion."""
    device = choose_device(0, tf32=numbers != "fp32")
    device.use()
    use_gpu_engine("auto", tf32=numbers != "fp32")
    dtype = "mixed16" if numbers == "mixed" else "fp32"
    if what == "convert":
        networks, _ = subjects.pix2pix(size, batch, device, dtype)
        engine, x = ChainerEngine(networks.enc_x, networks.dec_y, device), subjects.images(batch, size, 3)[0][None]
        return lambda: engine.run(x)
    _, updater = subjects.APPLICATIONS[what](size, batch, device, dtype)
    return updater.update


def pytorch(what: str, size: int, batch: int, numbers: str, channels_last: bool) -> Callable[[], object]:
    """The same of the twin."""
    import torch
    import twin

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = numbers != "fp32"
    torch.backends.cudnn.benchmark = True
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def on_gpu(array: torch.Tensor) -> torch.Tensor:
        return array.to("cuda").contiguous(memory_format=layout)

    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(numbers)
    number_format = contextlib.nullcontext() if half is None else torch.autocast("cuda", half)
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

        return convert
    trained, updater = subjects.APPLICATIONS[what](size, batch)
    step = twin.STEPS[what](trained, updater.options, subjects.RATE, subjects.DECAY)
    for module in step.modules():
        module.to("cuda", memory_format=layout)
    batches = [torch.stack([torch.from_numpy(x) for x in subjects.images(batch, size, seed)]) for seed in (1, 2)]

    def update() -> None:
        with number_format:
            step(*(on_gpu(b) for b in batches))

    return update


def measured(step: Callable[[], object], name: str, repeats: int) -> list[float]:
    """Seconds of each of ``repeats`` steps, from the event before to the event after it on the device; some before them
    do not count."""
    if name == OURS:
        import cupy

        new, seconds = cupy.cuda.Event, lambda a, b: cupy.cuda.get_elapsed_time(a, b) / 1e3
    else:
        import torch

        new, seconds = lambda: torch.cuda.Event(enable_timing=True), lambda a, b: a.elapsed_time(b) / 1e3
    found, warm_up = [], min(5, repeats)
    for turn in range(warm_up + repeats):
        before, after = new(), new()
        before.record()
        step()
        after.record()
        after.synchronize()
        if turn >= warm_up:
            found.append(seconds(before, after))
    return found


def held_megabytes(name: str) -> float:
    """The most that the pool held since the last time, in MB; it then gives back what is free."""
    gc.collect()
    if name == OURS:
        import cupy

        pool = cupy.get_default_memory_pool()
        held = pool.total_bytes()
        pool.free_all_blocks()
    else:
        import torch

        held = torch.cuda.max_memory_reserved()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return held / 2**20


def run(repeats: int, cases: Iterable[tuple[str, int, int]] = CASES) -> list[dict[str, Any]]:
    """Measure and print all cases. Returns a list of dicts for the JSON file, empty without a GPU."""
    count, why = gpu_count()
    if not count:
        print(f"\nNo GPU columns: {why}")
        return []
    cases = list(cases)
    results: list[dict[str, Any]] = [
        {"what": f"gpu {what}", "size": size, "batch": batch, "median_s": {}, "megabytes": {}}
        for what, size, batch in cases
    ]
    for name in HALF:
        for numbers in FULL + HALF[name]:
            print(f"\nOn the GPU: {name}, {numbers}")
            rows = in_own_process(name, numbers, repeats, cases)
            for (what, size, batch), row, result in zip(cases, rows, results, strict=True):
                shown = "did not run" if row is None else f"{1e3 * row['median_s']:8.1f} ms {row['megabytes']:8.0f} MB"
                print(f"  {what} {size}x{size}, batch {batch}: {shown}", flush=True)
                for key in ("median_s", "megabytes"):
                    result[key][f"{name}, {numbers}"] = row and row[key]
    return results


def in_own_process(
    name: str, numbers: str, repeats: int, cases: list[tuple[str, int, int]]
) -> list[dict[str, float] | None]:
    """A row for each case, None from where it fails (PyTorch not installed, memory too small); its last words are
    printed."""
    done = subprocess.run(
        [sys.executable, __file__, name, numbers, str(repeats), *(":".join(map(str, case)) for case in cases)],
        capture_output=True,
        text=True,
        env={**os.environ, "CUPY_TF32": str(int(numbers != "fp32"))},
    )
    if done.returncode:
        print("  " + (done.stderr.strip().splitlines() or ["no message"])[-1])
    rows: list[dict[str, float] | None] = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
    return rows + [None] * (len(cases) - len(rows))


def main(names: str, numbers: str, repeats: str, *cases: str) -> None:
    """One candidate in this process, or several (with commas between) that take the same numbers."""
    for name in names.split(","):
        for case in cases:
            what, size, batch = case.split(":")
            if name == OURS:
                step = ours(what, int(size), int(batch), numbers)
            else:
                step = pytorch(what, int(size), int(batch), numbers, name == LAST)
            held_megabytes(name)
            with chainer.using_config("autotune", True):
                seconds = statistics.median(measured(step, name, int(repeats)))
            del step
            row = {"candidate": f"{name}, {numbers}", "case": case, "median_s": seconds}
            print(json.dumps(row | {"megabytes": held_megabytes(name)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
