"""CycleGAN on a real CT that was made noisy: how far from the truth is what it makes of images it never saw in pairs?

    python benchmarks/cyclegan_denoise.py /path/to/ct --out cyclegan_denoise --minutes 18

Domain A: every other slice of the series, with the released noise (n = 100). Domain B: the slices between them, clean.
No slice is in both. After training, the noisy slices of A are translated to B and measured against their clean selves,
which the training never saw.
"""
import argparse
import os
import shutil
import sys
from pathlib import Path

from medi2i.cyclegan import convert, train
from medi2i.datasets import lists
from medi2i.tools import evaluate, make_noisy

# Small, with a residual output, and without instance normalisation: it removes the mean, and the mean is what to learn.
NETWORK = ("-gc", "16", "32", "-gnb", "2", "-gs", "none", "-gn", "none", "-go", "none", "-u", "concat",
           "--gen_residual", "0.5", "-dc", "16", "32", "-dn", "none")
# Noise that is gone cannot come back, so a strong cycle loss would forbid to remove it.
TRAINING = ("-cw", "64", "-ch", "64", "-rt", "96", "-b", "1", "-lrg", "1e-3", "-lrd", "1e-4", "-e", "1000",
            "-lcA", "3", "-lcB", "3", "-lcAz", "0.3", "-lcBz", "0.3")
CLIPS = ("-ca", "-1024", "2000", "-cb", "-1024", "2000")


def must(command, argv):
    """Run a command of this project; end with its status where it fails."""
    argv = [str(word) for word in argv]
    print(f"\n$ {command.__name__} {' '.join(argv)}", flush=True)
    status = command.main(argv)
    if status:
        sys.exit(status)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ct", type=Path)
    parser.add_argument("--out", type=Path, default=Path("cyclegan_denoise"))
    parser.add_argument("--minutes", type=float, default=18)
    parser.add_argument("--seed", default=0)
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} is there already; name another --out")

    noisy, data = given.out / "noisy", given.out / "data"
    must(make_noisy, ["-i", given.ct, "-o", noisy, "--seed", given.seed])
    rows = [row.columns for row in lists.read_list(noisy / "pairs.txt")]
    for number, (a, b) in enumerate(rows):
        source, folder = (a, "trainA") if number % 2 == 0 else (b, "trainB")
        target = data / folder / Path(source).name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(noisy / source, target)
        if number % 2 == 0:
            truth = given.out / "truth" / Path(b).name
            truth.parent.mkdir(parents=True, exist_ok=True)
            os.link(noisy / b, truth)

    must(train, ["-R", data, "-o", given.out / "run", *NETWORK, *TRAINING, *CLIPS, "--max_hours", given.minutes / 60,
                 "--seed", given.seed])
    run = next((given.out / "run").iterdir())
    must(convert, [run, "-R", data / "trainA", "-o", given.out / "converted"])
    must(evaluate, ["-i", data / "trainA", "-t", given.out / "truth", "-c", f"cyclegan={given.out / 'converted'}",
                    "--bias", 100, "-o", given.out / "evaluation", "--title", "CycleGAN denoising"])
    shutil.rmtree(noisy)


if __name__ == "__main__":
    main()
