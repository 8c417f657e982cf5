#!/usr/bin/env python
"""How many slices does a training need? The same updates on 1, 2, 4 … slices, measured on the same test slices.

  python tools/make_noisy.py -i /path/to/series -o slices/data -m dose --dose 0.25
  python tools/split_pairs.py -i slices/data/pairs.txt --by block --ratio 0.5 --test 0.34
  python benchmarks/slices.py slices/data --out slices --write docs/pictures/slices.png

The slices of a training are evenly spaced over the training part. What is in --out already is kept, so that a run that
was interrupted goes on, and more sizes or seeds may be added. Prints a table of mean and range over the seeds.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from superres import call

from medi2i.common.options import parse as parse_options
from medi2i.common.options.paired import PairedOptions
from medi2i.datasets import dicom
from medi2i.datasets.pairs import read_list
from medi2i.pix2pix import convert, train
from medi2i.tools.evaluation import metrics

PRESET = "denoise"
CROPS = 1024  # of an epoch


def measure(data: Path, converted: Path | None) -> float:
    """Mean over the test slices of the RMSE in HU; of the input itself where nothing is converted."""
    found = []
    for row in read_list(data / "pairs_test.txt"):
        result = (converted or data) / row.columns[0]
        found.append(metrics.rmse(dicom.read(result).hu, dicom.read(data / row.columns[1]).hu))
    return float(np.mean(found))


def trained_on(count: int, seed: int, given: argparse.Namespace) -> float:
    """RMSE in HU of a training on so many slices."""
    lines = (given.data / "pairs_train.txt").read_text(encoding="utf-8").splitlines()
    chosen = np.linspace(0, len(lines) - 1, count + 2).round().astype(int)[1:-1] if count < len(lines) else range(count)
    part = given.data / f"pairs_train_{count}.txt"
    part.write_text("".join(lines[index] + "\n" for index in chosen), encoding="utf-8")
    settings = parse_options(PairedOptions, ["--preset", PRESET])
    crops = max(1, round(CROPS / count))  # an epoch is as long for each count, and so validation takes the same time
    epochs = max(1, round(given.updates * settings.batch_size / (crops * count)))
    run = given.out / f"run_{count}_{seed}"
    words = ["-R", given.data, "-t", part.name, "--val", "pairs_val.txt", "-o", run, "--preset", PRESET]
    words += ["--crops_per_image", crops]
    rare = ["--nvis", 0, "--vis_freq", 100000, "--snapinterval", epochs, "-e", epochs, "--seed", seed]
    call(train, "pix2pix/train.py", *words, *rare)
    converted = given.out / f"converted_{count}_{seed}"
    words = ["-R", given.data, "--val", "pairs_test.txt", "-o", converted]
    call(convert, "pix2pix/convert.py", max(run.iterdir()), *words)
    return measure(given.data, converted)


def draw(found: dict[str, float], nothing: float, path: Path) -> None:
    """The curve with all seeds, beside doing nothing."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.2), layout="constrained")
    points = np.array([(int(name.split("_")[0]), value) for name, value in found.items()])
    counts = np.unique(points[:, 0])
    axes.plot(counts, [points[points[:, 0] == count, 1].mean() for count in counts], color="C0")
    axes.plot(*points.T, "o", color="C0", alpha=0.6, label="trained, each seed")
    axes.axhline(nothing, color="0.5", linestyle="--", label="doing nothing")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{count:.0f}" for count in counts])
    axes.set(xlabel="slices trained on", ylabel="RMSE / HU on test slices", ylim=(0, 1.1 * nothing))
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with pairs_train.txt, pairs_val.txt and pairs_test.txt")
    parser.add_argument("--out", type=Path, default=Path("slices"))
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--updates", type=int, default=3000, help="of each training, rounded to whole epochs")
    parser.add_argument("--write", type=Path, help="picture to write")
    given = parser.parse_args()
    kept = given.out / "slices.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for seed in given.seeds:
        for count in given.counts:
            if f"{count}_{seed}" not in found:
                found[f"{count}_{seed}"] = trained_on(count, seed, given)
                kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    nothing = measure(given.data, None)
    print(f"\n| slices | RMSE / HU |\n|---|---|\n| none (identity) | {nothing:.2f} |")
    for count in sorted({int(name.split("_")[0]) for name in found}):
        values = [value for name, value in found.items() if name.startswith(f"{count}_")]
        print(f"| {count} | {np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f}) |")
    if given.write:
        draw(found, nothing, given.write)


if __name__ == "__main__":
    main()
