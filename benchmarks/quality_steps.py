"""The steps of quality.py. Each is one command of the project, or a classical filter, in a process of its own."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from quality_subjects import (
    DATA,
    SPECTRAL,
    SPLIT,
    SUBJECTS,
    conversion_words,
    link_unpaired,
    lists_in,
    thin_out,
    training_words,
)
from quality_work import Work

from medi2i.common.training.log import read_log
from medi2i.datasets import dicom
from medi2i.datasets.pairs import read_list
from medi2i.tools.evaluation import classical, files, measure

IDENTITY = "identity"
TUNED_ON = 6  # validation slices that a filter's strength is chosen on


def command(words: Sequence[object], log: Path) -> float:
    """Run a command of the project, its output to `log`. Returns seconds. Ends the program where it fails."""
    script, *argv = [str(word) for word in words]
    module = "medi2i." + script.removesuffix(".py").replace("/", ".")
    print(f"$ python {script} {shlex.join(argv)}", flush=True)
    began = time.monotonic()
    with open(log, "w", encoding="utf-8") as file:
        status = subprocess.run([sys.executable, "-m", module, *argv], stdout=file, stderr=subprocess.STDOUT).returncode
    if status:
        last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
        raise SystemExit(f"{script} ended with status {status}: {last} (all of it: {log})")
    return time.monotonic() - began


def make_data(work: Work, name: str, ct: Path, slices: int) -> None:
    """The pairs of a Data and their lists."""
    data = DATA[name]
    words = [f"tools/{data.tool}.py", *data.options, "--seed", 0]
    if data.tool != "make_noisy":
        words = words[:-2]  # nothing is drawn

    def make(folder: Path) -> dict[str, Any]:
        command([*words, "-i", ct, "-o", folder / "images"], folder / "log.txt")
        thin_out(folder / "images" / "pairs.txt", slices)
        command(["tools/split_pairs.py", "-i", folder / "images" / "pairs.txt", *SPLIT], folder / "split.txt")
        counts = {
            part: len(path.read_text(encoding="utf-8").splitlines())
            for part, path in lists_in(folder / "images").items()
        }
        return {"counts": counts, "bias": known_bias(folder / "images", data.bias)}

    work.step(f"data/{name}", {"ct": str(Path(ct).resolve()), "words": words, "slices": slices}, make)


def known_bias(images: Path, stored: float | None, part: str = "train") -> float | None:
    """The known mean of the noise in HU: that in stored values times the slope; None where slopes vary."""
    if stored is None:
        return None
    slopes = {dicom.read(images / row.columns[1]).slope for row in read_list(lists_in(images)[part])}
    return stored * slopes.pop() if len(slopes) == 1 else None


def decided_by_data(work: Work, name: str) -> dict[str, Any]:
    """What decides a step that works on a Data."""
    return {"data": work.finished(f"data/{name}")["decided_by"]}


def train_and_convert(path: Path, name: str, seed: int, minutes: float) -> str:
    """One training of a subject and its converted test part. Returns what to tell."""
    work, subject = Work(path), SUBJECTS[name]
    data = work.folder(f"data/{subject.data}") / "images"

    def make(folder: Path) -> dict[str, Any]:
        images = folder / "unpaired"
        if subject.unpaired:
            link_unpaired(data, images)
        command(training_words(subject, data, images, folder / "run", minutes, seed), folder / "train.txt")
        run = next((folder / "run").iterdir())
        seconds = command(conversion_words(subject, data, run, folder / "converted"), folder / "convert.txt")
        entries = read_log(run / "log.jsonl")
        best = run / "best.json"
        return {
            "run": run.relative_to(work.path).as_posix(),
            "updates": entries[-1]["iteration"],
            "seconds": entries[-1]["elapsed_time"],
            "conversion_seconds": seconds,
            "best": json.loads(best.read_text(encoding="utf-8")) if best.exists() else None,
        }

    decided_by = {"options": subject.options, "minutes": minutes, "seed": seed, **decided_by_data(work, subject.data)}
    facts = work.step(f"trained/{name}/{seed}", decided_by, make)
    return f"{name}, seed {seed}: {facts['updates']} updates in {facts['seconds'] / 60:.1f} minutes"


def slices_of(data: Path, part: str) -> list[files.Slice]:
    """The pairs of a part, as evaluate.py reads them."""
    inputs, truth = files.list_pairs(lists_in(data)[part], data)
    return files.match(truth, {IDENTITY: inputs})[0]


def input_rows(bias: float | None, lower: float) -> list[measure.Row]:
    """identity and, where the noise has a known mean, identity without it; the last is what filters work on."""
    identity = measure.file_row(IDENTITY, "the input as it is: doing nothing")
    return [identity] if bias is None else [identity, measure.without_bias(identity, bias, lower)]


def filter_test_part(path: Path, name: str, filter_name: str, lower: float) -> str:
    """One classical filter, tuned on validation slices, on the bias-free test part. Returns what to tell."""
    work = Work(path)
    images = work.folder(f"data/{name}") / "images"

    def make(folder: Path) -> dict[str, Any]:
        rows = input_rows(work.finished(f"data/{name}")["facts"]["bias"], lower)
        one = spectral_filter(images, rows) if filter_name == SPECTRAL else classical.FILTERS[filter_name]
        every = slices_of(images, "val")
        chosen = [every[i] for i in sorted({*np.linspace(0, len(every) - 1, TUNED_ON).round().astype(int).tolist()})]
        scenes = [measure.read(slice_, rows) for slice_ in chosen]
        tuned = classical.tune(one, [(scene.images[rows[-1].name], scene.truth, scene.mask) for scene in scenes])
        test = slices_of(images, "test")
        began = time.process_time()  # one thread: what else the machine does does not count
        for number, slice_ in enumerate(test):
            np.save(folder / f"{number}.npy", tuned(rows[-1].image(slice_)), allow_pickle=False)
        return {
            "strength": tuned.strength,
            "sigma": tuned.sigma,
            "tried": list(tuned.tried.items()),
            "tuned_on": len(chosen),
            "seconds_per_slice": (time.process_time() - began) / len(test),
        }

    facts = work.step(f"classical/{name}/{filter_name}", {"lower": lower, **decided_by_data(work, name)}, make)
    return (
        f"{filter_name} on {name}: strength {facts['strength']:.3g} × {facts['sigma']:.3g} HU, "
        f"{facts['seconds_per_slice']:.2f} s a slice"
    )


def spectral_filter(images: Path, rows: Sequence[measure.Row]) -> classical.Filter:
    """BM3D (Mäkinen et al. 2020) with the power spectrum of the noise of the training part, where all are of one size.

    The strength scales the standard deviation, as for the other filters.
    """
    from bm3d import bm3d

    scenes = [measure.read(one, rows) for one in slices_of(images, "train")[::4]]
    noise = [np.float64(scene.images[rows[-1].name]) - scene.truth for scene in scenes]
    power = np.mean([np.abs(np.fft.fft2(one - one.mean())) ** 2 for one in noise], axis=0)
    power /= power.mean() / power.size  # as bm3d wants it: the mean is variance times number of pixels
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # type: ignore[attr-defined]  # bm4d 4.2.5, which bm3d calls, still asks NumPy by the old name
    return classical.Filter(
        SPECTRAL, "", 1.25, lambda image, strength, sigma: bm3d(np.float64(image), power * (strength * sigma) ** 2)
    )


def one_thread() -> None:
    """Processes started from here on compute with one thread each."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
