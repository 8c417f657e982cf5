"""What quality.py measures: the data, and what is trained on them with which commands."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from medi2i.datasets.pairs import read_list

COUNTS = 100
PARTS = ("train", "val", "test")
SPLIT = ("--by", "block", "--ratio", 1 / 2, "--test", 1 / 3)  # first half, next sixth, last third, in series order


@dataclass(frozen=True)
class Data:
    """Pairs (input, truth) made of a CT by one of the tools.

    bias: known mean of the noise in stored values. classical: filters that are tuned on the validation part.
    """

    name: str
    tool: str
    options: tuple
    what: str
    input_name: str
    bias: float | None = None
    classical: tuple = ()


@dataclass(frozen=True)
class Subject:
    """One thing to learn: options of train.py of an application on some Data. unpaired: domains A and B share no
    slice."""

    name: str
    title: str
    data: str
    application: str
    options: tuple
    unpaired: bool = False


FILTERS = ("tv", "nlm", "bm3d")
SPECTRAL = "bm3d-spectrum"  # BM3D that is told the power spectrum of the noise, for noise that is not white
DATA = {
    one.name: one
    for one in (
        Data(
            "n100",
            "make_noisy",
            ("-n", COUNTS),
            f"Poisson({COUNTS}) added to every stored value (the released noise "
            "model): mean +100 HU, standard deviation 10 HU",
            "noisy input",
            COUNTS,
            FILTERS,
        ),
        Data(
            "dose25",
            "make_noisy",
            ("--model", "dose", "--dose", 0.25, "--photons", "1e5"),
            "a quarter of the dose, of 10⁵ photons a ray, simulated in the projections: correlated noise with streaks",
            "noisy input",
            None,
            (*FILTERS, SPECTRAL),
        ),
        Data(
            "lowres2",
            "make_lowres",
            ("--scale", 2),
            "pixels of twice the size by anti-aliased bicubic "
            "interpolation, brought back to the grid of the truth by bicubic interpolation",
            "bicubic",
        ),
    )
}
SUBJECTS = {
    one.name: one
    for one in (
        Subject("denoise", "Denoising, n = 100", "n100", "pix2pix", ("--preset", "denoise")),
        Subject("dose", "Denoising, a quarter of the dose", "dose25", "pix2pix", ("--preset", "denoise")),
        Subject(
            "cyclegan",
            "Denoising without pairs (CycleGAN), n = 100",
            "n100",
            "cyclegan",
            ("--preset", "denoise", "-ca", -1024, 2000, "-cb", -1024, 2000),
            unpaired=True,
        ),
        Subject("superres", "Super-resolution, ×2", "lowres2", "pix2pix", ("--preset", "superres")),
    )
}


def available() -> list[str]:
    """Names of the subjects whose data can be made here."""
    return [name for name, one in SUBJECTS.items() if find_spec(f"medi2i.tools.{DATA[one.data].tool}")]


def lists_in(folder: Path) -> dict[str, Path]:
    """train, val, test -> list of pairs, as split_pairs names them."""
    return {part: folder / f"pairs_{part}.txt" for part in PARTS}


def thin_out(pairs: Path, most: int) -> None:
    """Keep `most` evenly spaced lines of a list of pairs: for a quick look at everything."""
    lines = pairs.read_text(encoding="utf-8").splitlines(keepends=True)
    if most and len(lines) > most:
        chosen = np.linspace(0, len(lines) - 1, most).round().astype(int)
        pairs.write_text("".join(lines[index] for index in chosen), encoding="utf-8")


def link_unpaired(data: Path, folder: Path) -> None:
    """trainA: the inputs of the first half of the training pairs; trainB: the truths of the second, another part of the
    body; testA: the inputs of the validation pairs."""
    rows, others = (read_list(lists_in(data)[part]) for part in ("train", "val"))
    half = len(rows) // 2
    for side, column, chosen in (("trainA", 0, rows[:half]), ("trainB", 1, rows[half:]), ("testA", 0, others)):
        (folder / side).mkdir(parents=True, exist_ok=True)
        for row in chosen:
            os.link(data / row.columns[column], folder / side / Path(row.columns[column]).name)


def training_words(subject: Subject, data: Path, images: Path, runs: Path, minutes: float, seed: int) -> list[object]:
    """The words of a training command, from the application's train.py on."""
    where = (
        ("-R", images)
        if subject.unpaired
        else ("-R", data, "-t", lists_in(data)["train"], "--val", lists_in(data)["val"])
    )
    return [
        f"{subject.application}/train.py",
        *subject.options,
        *where,
        "-o",
        runs,
        "--minutes",
        f"{minutes:g}",
        "--seed",
        seed,
    ]


def conversion_words(subject: Subject, data: Path, run: Path, out: Path) -> list[object]:
    """The words of the conversion of the test part."""
    return [f"{subject.application}/convert.py", run, "-R", data, "--val", lists_in(data)["test"], "-o", out]
