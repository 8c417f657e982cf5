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

from medi2i.common.errors import UserError, counted, run
from medi2i.common.options import parse
from medi2i.datasets.catalogue import Skipped
from medi2i.datasets.locks import locked
from medi2i.tools.making import noise
from medi2i.tools.making.noisy_images import NoiseOptions, add_noise, series_for
from medi2i.tools.making.pair_folders import Done, check_folders, find_tasks, make_pairs, told_losses


def command(argv: list[str]) -> None:
    options = parse(NoiseOptions, argv, prog="make_noisy", description=__doc__.splitlines()[0])
    root, out = Path(options.root), Path(options.out)
    with locked(out, "writing"):
        check_folders(root, out, options.force)
        tasks, skipped = find_tasks(
            root,
            options.imgtype,
            partial(series_for, options),
            "medi2i make_noisy",
            modalities=tuple(options.modality),
            workers=options.workers,
            repeats=options.repeat,
        )
        if options.model == noise.DOSE and tasks[0].series is None:
            raise UserError("--model dose: needs HU and the size of a pixel, so DICOM CT images")
        on_gpu = uses_gpu(options)
        good, failed = make_pairs(
            partial(add_noise, out=out, options=options, on_gpu=on_gpu),
            tasks,
            root,
            out,
            workers=1 if on_gpu else options.workers,
            progress="adding noise",
        )
        print("\n".join(report(options, out, good, skipped, failed)))


def uses_gpu(options: NoiseOptions) -> bool:
    """True if the dose model is to run on a GPU. UserError for one that is not there."""
    if options.model != noise.DOSE or options.gpu == -1:
        return False
    from medi2i.common.device import choose_device

    device = choose_device(options.gpu)
    device.use()
    return device.name.startswith("@cupy")


def report(options: NoiseOptions, out: Path, good: list[Done], skipped: list[Skipped], failed: list[str]) -> list[str]:
    """What a user should know, one fact a line."""
    lines = [f"{out}: {counted(len(good), 'pair')} in trainA (noisy) and trainB (clean), listed in pairs.txt"]
    if options.model == noise.POISSON:
        lines.append(
            f"the released noise model raises the mean by n = {options.counts:g} stored values "
            f"(sd {options.counts**0.5:.3g}); poisson-unbiased keeps it"
        )
    return lines + told_losses(good, failed, skipped)


def main(argv: list[str] | None = None) -> int:
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
