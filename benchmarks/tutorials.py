#!/usr/bin/env python
"""The three small tutorials on generated shapes, trained and judged: does each learn what it should?

  python benchmarks/tutorials.py --out tutorials            all three, some minutes each on 2 cores
  python benchmarks/tutorials.py --only shapes --seed 1

shapes    pix2pix turns rectangles into ellipses; SSIM against the truth clearly above the input's
automap   one AUTOMAP layer reconstructs 32×32 images from sinograms; RMSE below that of predicting the mean image
segment   3 kinds of shapes in noisy pictures; their mean Dice (without the background) at least 0.9

Everything is done by the commands of the project, which are printed. Ends with status 1 if one of them misses its mark.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from medi2i.datasets.reading import read_image
from medi2i.pix2pix import convert, train
from medi2i.tools import evaluate, make_shapes, make_sinograms
from medi2i.tools.evaluation import metrics

Judged = tuple[str, bool, float]
CLEARLY = 0.05  # of SSIM
DICE = 0.9


def call(module: ModuleType, script: str, *words: object) -> None:
    """Run a command of the project and print it as one would type it."""
    argv = [str(word) for word in words]
    print(f"$ python {script} {shlex.join(argv)}", flush=True)
    if module.main(argv):
        raise SystemExit(f"{script} failed")


def trained_and_converted(folder: Path, data: Path, seed: int, *options: object) -> tuple[Path, float]:
    """Train on `data` and convert its test images. Returns (folder of the converted images, seconds of training)."""
    began = time.monotonic()
    call(
        train,
        "pix2pix/train.py",
        "-i",
        data,
        "-t",
        "train.txt",
        "--val",
        "test.txt",
        "-o",
        folder / "run",
        "-rt",
        0,
        "--vis_freq",
        10**6,
        "--seed",
        seed,
        *options,
    )
    seconds = time.monotonic() - began
    out = folder / "converted"
    call(
        convert,
        "pix2pix/convert.py",
        "-m",
        max((folder / "run").iterdir()),
        "-R",
        data,
        "--val",
        "test.txt",
        "-o",
        out,
        "--structure",
        "none",
    )
    return out, seconds


def evaluated(folder: Path, data: Path, converted: Path, *options: object) -> dict[str, Any]:
    """What tools/evaluate.py writes about the test images."""
    call(
        evaluate,
        "tools/evaluate.py",
        "-R",
        data,
        "--pairs",
        data / "test.txt",
        "-c",
        f"pix2pix={converted}",
        "-o",
        folder / "evaluation",
        *options,
    )
    return json.loads((folder / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))


def shapes(folder: Path, seed: int) -> Judged:
    """Returns (what was measured, passed, seconds of training)."""
    data = folder / "data"
    call(make_shapes, "tools/make_shapes.py", "-o", data, "--size", 64, "--num", 200, "--num_test", 40, "--seed", seed)
    converted, seconds = trained_and_converted(folder, data, seed, *SHAPES.split())
    found = {
        one["row"]: one["mean"]
        for one in evaluated(folder, data, converted)["summary"]
        if (one["series"], one["metric"]) == ("all", "ssim full")
    }
    before, after = found["identity"], found["pix2pix"]
    return f"SSIM {after:.3f}, of the input {before:.3f}", after > before + CLEARLY, seconds


def automap(folder: Path, seed: int) -> Judged:
    """Returns (what was measured, passed, seconds of training)."""
    data = folder / "data"
    call(
        make_sinograms,
        "tools/make_sinograms.py",
        "-o",
        data,
        "--size",
        32,
        "--num",
        2000,
        "--num_test",
        100,
        "--seed",
        seed,
    )
    converted, seconds = trained_and_converted(folder, data, seed, *AUTOMAP.split())
    truths = {path.name: read_image(path, "png").array for path in sorted((data / "testB").iterdir())}
    mean = np.mean([read_image(path, "png").array for path in sorted((data / "trainB").iterdir())], axis=0)
    ours = {path.name: read_image(path, "png").array for path in converted.rglob("*.png")}
    guess = np.mean([metrics.rmse(mean, truth) for truth in truths.values()]) / 65535
    found = np.mean([metrics.rmse(ours[name], truth) for name, truth in truths.items()]) / 65535
    return f"RMSE {found:.3f}, of the mean image {guess:.3f} (images are 0…1)", bool(found < guess), seconds


def segment(folder: Path, seed: int) -> Judged:
    """Returns (what was measured, passed, seconds of training)."""
    data = folder / "data"
    call(
        make_shapes,
        "tools/make_shapes.py",
        "-o",
        data,
        "--make",
        "labels",
        "--size",
        64,
        "--num",
        600,
        "--num_test",
        60,
        "--shapes",
        2,
        "--grey",
        "--seed",
        seed,
    )
    converted, seconds = trained_and_converted(folder, data, seed, *SEGMENT.split())
    pooled = evaluated(folder, data, converted, "-cn", 4, "-it", "png")["pooled"]["pix2pix"]["dice"]
    each = ", ".join(f"{value:.3f}" for value in pooled)
    return f"Dice {np.mean(pooled):.3f} ({each})", bool(np.mean(pooled) >= DICE), seconds


SMALL = "-gc 16 32 64 -gnb 4 -gs none -u concat"
SHAPES = f"-cw 64 -ch 64 -b 4 -e 16 {SMALL} -lrg 0.001 -dc 16 32 64 -ldis 0.003"
AUTOMAP = "-cw 32 -ch 32 -b 8 -e 4 -gfc 1 -u none -gc 32 64 -gnb 2 -gs none -go none -lrg 0.001 -ldis 0"
SEGMENT = f"-cw 64 -ch 64 -b 8 -e 20 -cn 4 -l1 0 -lce 1 -fg 0 -ldice 0.1 -ldis 0 {SMALL} -lrg 0.002"
TUTORIALS = {"shapes": shapes, "automap": automap, "segment": segment}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tutorials"), help="new folder for everything")
    parser.add_argument("--only", nargs="+", choices=list(TUTORIALS), default=list(TUTORIALS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lines = []
    for name in options.only:
        told, passed, seconds = TUTORIALS[name](options.out / name, options.seed)
        lines.append((passed, f"{name:8} {told}; trained in {seconds:.0f} s: {'passed' if passed else 'MISSED'}"))
    print("\n" + "\n".join(line for _, line in lines))
    return 0 if all(passed for passed, _ in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
