#!/usr/bin/env python
"""Make low-resolution partners of images and list the pairs (low, high resolution) for training.

  python tools/make_lowres.py -i data/ct -o data/lowres --scale 2
  python tools/make_lowres.py -i data/mr -o data/lowres --scale 2 --method kspace --keep_small

Low-resolution images go to OUT/trainA, brought back to the grid of the originals (--keep_small: on their own grid, for
training with --scale), the originals to OUT/trainB under equal names, and OUT/pairs.txt lists them.
"""

import sys
from functools import partial
from pathlib import Path

from medi2i.common.errors import counted, run
from medi2i.common.options import parse
from medi2i.datasets.locks import locked
from medi2i.tools.making.lowres_images import LowresOptions, make_coarse, series_for
from medi2i.tools.making.pair_folders import check_folders, find_tasks, make_pairs, told_losses


def command(argv: list[str]) -> None:
    options = parse(LowresOptions, argv, prog="make_lowres", description=__doc__.splitlines()[0])
    root, out = Path(options.root), Path(options.out)
    with locked(out, "writing"):
        check_folders(root, out, options.force)
        tasks, skipped = find_tasks(
            root,
            options.imgtype,
            partial(series_for, options),
            f"medi2i make_lowres 1/{options.scale}",
            modalities=tuple(options.modality),
            workers=options.workers,
            clean="originals, cut to whole pixels of the low resolution" if options.keep_small else "single frames",
        )
        good, failed = make_pairs(
            partial(make_coarse, out=out, options=options),
            tasks,
            root,
            out,
            workers=options.workers,
            progress="lowering the resolution",
        )
        grid = "on their own grid: train with --scale" if options.keep_small else "on the grid of the originals"
        lines = [
            f"{out}: {counted(len(good), 'pair')} in trainA (1/{options.scale} of the resolution) and trainB "
            "(originals), listed in pairs.txt",
            f"low-resolution images are {grid}{f' {options.scale}' if options.keep_small else ''}",
        ]
        print("\n".join(lines + told_losses(good, failed, skipped)))


def main(argv: list[str] | None = None) -> int:
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
