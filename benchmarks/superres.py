#!/usr/bin/env python
"""Super-resolution of a real CT: a preset beside nearest and bicubic interpolation, all from the same coarse images.

  python benchmarks/superres.py /path/to/series --out superres --minutes 10
  python benchmarks/superres.py /path/to/series --out superres --minutes 0                only the interpolations
  python benchmarks/superres.py /path/to/series --out gan --preset superres_gan --method kspace --keep_small

The series is cut into contiguous blocks as by quality.py: the first half is for training, the next sixth chooses the
epoch, the last third is measured. Ends with status 1 where the preset is not at least 1 dB better than bicubic.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from medi2i.datasets import dicom, grid
from medi2i.datasets.pairs import read_list
from medi2i.pix2pix import convert, train
from medi2i.tools import make_lowres, split_pairs
from medi2i.tools.evaluation import metrics
from medi2i.tools.evaluation.metrics import FULL

SPLIT = ("--by", "block", "--ratio", 1 / 2, "--test", 1 / 3)
GAIN = 1.0  # dB
MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "RMSE / HU": metrics.rmse,
    "PSNR / dB": lambda y, t: metrics.psnr(y, t, FULL),
    "SSIM": lambda y, t: metrics.ssim(y, t, FULL),
}


def call(module: ModuleType, script: str, *words: object) -> None:
    """Run a command of the project and print it as one would type it."""
    argv = [str(word) for word in words]
    print(f"$ python {script} {shlex.join(argv)}", flush=True)
    if module.main(argv):
        raise SystemExit(f"{script} failed")


def learned(given: argparse.Namespace, data: Path) -> Path:
    """Train the preset and convert the test part. Returns the folder of the results."""
    scale = ("--scale", given.scale) if given.keep_small else ()
    call(
        train,
        "pix2pix/train.py",
        "-R",
        data,
        "-t",
        "pairs_train.txt",
        "--val",
        "pairs_val.txt",
        "-o",
        given.out / "run",
        "--preset",
        given.preset,
        "--minutes",
        given.minutes,
        "--seed",
        given.seed,
        *scale,
    )
    run = max((given.out / "run").iterdir())
    call(
        convert,
        "pix2pix/convert.py",
        run,
        "-R",
        data,
        "--val",
        "pairs_test.txt",
        "-o",
        given.out / "converted",
        "--structure",
        "none",
    )
    return given.out / "converted"


def images(
    given: argparse.Namespace, data: Path, converted: Path | None
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """For each test slice: the truth, and name of the row -> image; all (H, W) in HU."""
    for row in read_list(data / "pairs_test.txt"):
        coarse, truth = (dicom.read(data / column).hu[np.newaxis] for column in row.columns)
        if not given.keep_small:  # made anew: what lies on the fine grid has been interpolated
            coarse = grid.reduce(grid.continued(truth, given.scale), given.scale, given.method)
        size = np.s_[0, : truth.shape[1], : truth.shape[2]]
        rows = {
            "nearest": coarse.repeat(given.scale, 1).repeat(given.scale, 2)[size],
            "bicubic": grid.enlarge(coarse, given.scale)[size],
        }
        if converted is not None:
            rows[given.preset] = dicom.read(converted / row.columns[0]).hu
        yield truth[0], rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ct", type=Path, help="a CT series as DICOM")
    parser.add_argument("--out", type=Path, default=Path("superres"), help="new folder for everything")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--method", choices=grid.METHODS, default=grid.BICUBIC)
    parser.add_argument("--preset", choices=("superres", "superres_gan"), default="superres")
    parser.add_argument("--minutes", type=float, default=10, help="of training; 0: none")
    parser.add_argument("--keep_small", action="store_true", help="the coarse images on their own grid, and --scale")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} is there already; name another --out")

    data = given.out / "data"
    call(
        make_lowres,
        "tools/make_lowres.py",
        "-i",
        given.ct,
        "-o",
        data,
        "--scale",
        given.scale,
        "--method",
        given.method,
        *(["--keep_small"] if given.keep_small else []),
    )
    call(split_pairs, "tools/split_pairs.py", "-i", data / "pairs.txt", *SPLIT)
    converted = learned(given, data) if given.minutes else None

    found: dict[str, list[list[float]]] = {}
    for truth, rows in images(given, data, converted):
        for name, image in rows.items():
            found.setdefault(name, []).append([measure(image, truth) for measure in MEASURES.values()])
    means = {name: np.mean(values, axis=0) for name, values in found.items()}
    print(
        f"\n×{given.scale} {given.method}, {len(found['bicubic'])} test slices\n{'':14}"
        + "".join(f"{name:>12}" for name in MEASURES)
    )
    for name, values in means.items():
        print(f"{name:14}{values[0]:12.2f}{values[1]:12.2f}{values[2]:12.4f}")
    (given.out / "superres.json").write_text(
        json.dumps(
            {name: dict(zip(MEASURES, map(float, values), strict=True)) for name, values in means.items()}, indent=1
        )
    )
    if converted is None:
        return 0
    gain = means[given.preset][1] - means["bicubic"][1]
    print(f"{gain:+.2f} dB against bicubic: {'passed' if gain >= GAIN else 'MISSED'}, {GAIN:g} dB are asked for")
    return int(gain < GAIN)


if __name__ == "__main__":
    sys.exit(main())
