#!/usr/bin/env python
"""Add noise to images and list the pairs (noisy, clean) for training.

  python tools/make_noisy.py -i CPTAC-SAR -o data/ldct
  python tools/make_noisy.py -i CPTAC-SAR -o data/ldct --model dose --dose 0.25

Noisy images go to OUT/trainA, the clean ones to OUT/trainB under equal names, and OUT/pairs.txt lists them. DICOM is
found by its content in nested folders, as a download from TCIA has it; what is not CT is left out and counted.
"""

import sys
from functools import partial
from pathlib import Path

from medi2i.common.errors import UserError, run
from medi2i.common.options.machinery import parse
from medi2i.common.words import counted
from medi2i.datasets import dicom, images, lists, noise
from medi2i.datasets.dicom_scan import run_parallel
from medi2i.datasets.outputs import whole_file
from medi2i.tools.noisy_images import Done, NoiseOptions, add_noise, dicom_tasks, image_tasks


def command(argv: list[str]) -> None:
    options = parse(NoiseOptions, argv, prog="make_noisy", description=__doc__.splitlines()[0])
    root, out = Path(options.root), Path(options.out)
    check_folders(root, out, options.force)
    kind = options.imgtype if options.imgtype != "auto" or root.is_file() else lists.find_files(root)[0]
    if kind in ("auto", "dcm") and (kind == "dcm" or images.kind_of(root) in (None, "dcm")):
        tasks, skipped = dicom_tasks(root, options)
    else:
        tasks, skipped = image_tasks(root, kind, options), []
    on_gpu = uses_gpu(options)
    workers = 1 if on_gpu else options.workers
    done = run_parallel(
        partial(add_noise, out=out, options=options, on_gpu=on_gpu), tasks, workers=workers, progress="adding noise"
    )
    good = [d for d in done if isinstance(d, Done) and not d.problem]
    failed = [
        f"{t.path}: {d.problem if isinstance(d, Done) else d.reason}"
        for t, d in zip(tasks, done, strict=True)
        if not isinstance(d, Done) or d.problem
    ]
    if not good:
        raise UserError(f"{root}: no image could be used; first: {failed[0]}")
    with whole_file(out / "pairs.txt", force=True) as temporary:
        temporary.write_text("".join(f"trainA/{d.name}\ttrainB/{d.name}\n" for d in good), encoding="utf-8")
    print("\n".join(report(options, out, good, skipped, failed)))


def check_folders(root: Path, out: Path, force: bool) -> None:
    """UserError unless the output is a place of its own: outputs would become inputs of the next run."""
    if not root.exists():
        raise UserError(f"--root: {root}: no such folder")
    here, there = root.resolve(), out.resolve()
    if there == here or here in there.parents or (root.is_file() and there == here.parent):
        raise UserError(f"--out: {out} is the input folder or lies in it; a folder beside {root} would be right")
    if any((out / name).is_dir() and any((out / name).iterdir()) for name in ("trainA", "trainB")) and not force:
        raise UserError(f"--out: {out} holds images already; another folder, or --force to overwrite")


def uses_gpu(options: NoiseOptions) -> bool:
    """True if the dose model is to run on a GPU. UserError for one that is not there."""
    if options.model != noise.DOSE or options.gpu == -1:
        return False
    from medi2i.common.device import choose_device

    device = choose_device(options.gpu)
    device.use()
    return device.name.startswith("@cupy")


def report(
    options: NoiseOptions, out: Path, good: list[Done], skipped: list[dicom.Skipped], failed: list[str]
) -> list[str]:
    """What a user should know, one fact a line."""
    lines = [f"{out}: {counted(len(good), 'pair')} in trainA (noisy) and trainB (clean), listed in pairs.txt"]
    saturated, pixels = sum(d.saturated for d in good), sum(d.pixels for d in good)
    if options.model == noise.POISSON:
        lines.append(
            f"the released noise model raises the mean by n = {options.counts:g} stored values "
            f"(sd {options.counts**0.5:.3g}); poisson-unbiased keeps it"
        )
    if saturated:
        lines.append(
            f"{saturated} of {pixels} pixels ({100 * saturated / pixels:.2g} %) reached the end of the stored range"
        )
    if skipped or failed:
        lines.append(f"{counted(len(skipped) + len(failed), 'file')} skipped:")
        lines.extend(f"  {text}" for text in [*failed, *(f"{s.path}: {s.reason}" for s in skipped)][:10])
        if len(skipped) + len(failed) > 10:
            lines.append("  … python -m medi2i.datasets.dicom lists them all")
    return lines


def main(argv: list[str] | None = None) -> int:
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
