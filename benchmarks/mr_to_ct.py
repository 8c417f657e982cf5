#!/usr/bin/env python
"""MR to CT on two patients: trained on one, tested on the other, and the reverse; with pairs, and without.

    python benchmarks/mr_to_ct.py /path/to/mr-ct-thigh --work mr_to_ct --minutes 10 [--only paired] [--seeds 0 1 2]

The folder has one folder a patient, with CT and MR_T1 in one frame of reference; register.py bends the CT onto the MR
and masks what both have. Told are, inside of the body of the patient who was not learnt from, MAE in HU and the Dice of
bone by evaluate.py beside its simple rows, and the means of muscle and fat, which the MR tells (Otsu's threshold of its
tissue). "anatomy" is paired, with the features of a segmentor of air, fat, muscle and bone, trained on CT of the same
patient. With pairs a third split follows, of the patient with most slices: learnt from all but their middle third
("rest"), and judged there ("middle"); two slices on either side are in neither. What is trained is kept in --work.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from own_scripts import command, trained
from skimage.filters import threshold_otsu

from medi2i.common.outputs import write_text
from medi2i.datasets import dicom
from medi2i.datasets.writing import write_image, write_npy

CLIP = (-1024, 2000)
MR = ("--normaliseA", "percentiles", "-cb", *CLIP)
ROWS, METRICS = ("network", "water", "histogram"), ("mae", "dice bone", "psnr full", "ssim full")
CLASSES = (-400, -20, 150)  # HU between air, fat, muscle and bone
WAYS = {
    "paired": ("pix2pix/train.py", "--preset", "synthesis", *MR),
    "anatomy": ("pix2pix/train.py", "--preset", "synthesis", *MR, "--lambda_anatomy", 1),
    "unpaired": ("cyclegan/train.py", "--preset", "synthesis", "--normaliseA", "percentiles", "-cb", -300, 300),
}
TISSUE = 0.1  # of the brightest MR; what is darker is no tissue, or bone
BODY = -300.0  # HU


def cut(folder: Path, out: Path) -> list[str]:
    """Of each patient trainA (MR), truthB (CT bent onto it) and trainB (the same, 0 HU outside of the body, so that
    dark bone in MR is not taken for air) in ``out``, on one grid, and lists of pairs_PART.txt to learn from and
    truth_PART.txt to judge by, for each patient and for "rest" and "middle". Returns patients."""
    patients = sorted(path.name for path in folder.iterdir() if path.is_dir())
    parts: dict[str, list[Path]] = {}
    for patient in patients:
        mr, ct = out / "trainA" / patient, out / "truthB" / patient
        steps = (
            (folder / patient / "CT", ct, folder / patient / "MR_T1", "--deform"),
            (folder / patient / "MR_T1", mr, ct),
            (ct, out / "trainB" / patient, mr, "--padding", 0),
        )
        for source, target, template, *words in steps:
            if not target.exists():
                place = ("--to", "position", "--mask", "template", "--template", template)
                command("tools/register.py", "-i", source, "-o", target, *place, *words)
        parts[patient] = sorted(path.relative_to(out / "trainA") for path in mr.rglob("*.dcm"))
    longest = max(parts.values(), key=len)
    first, last = len(longest) // 3, 2 * len(longest) // 3
    parts |= {"middle": longest[first:last], "rest": longest[: first - 2] + longest[last + 2 :]}
    for part, names in parts.items():
        for what, domain in (("pairs", "trainB"), ("truth", "truthB")):
            write_text(out / f"{what}_{part}.txt", "".join(f"trainA/{one}\t{domain}/{one}\n" for one in names))
    return patients


def pairs_of(data: Path, part: str) -> list[list[str]]:
    """MR and CT, with air around the body, of a part."""
    return [line.split("\t") for line in (data / f"truth_{part}.txt").read_text().splitlines()]


def segmentor(data: Path, part: str, work: Path, minutes: float) -> Path:
    """A run that tells air, fat, muscle and bone of the CT of a part by its levels."""
    place = work / f"classes_{part}"
    for _, ct in pairs_of(data, part):
        hu = dicom.read(data / ct).hu.astype(np.int16)
        for folder, values in (("trainA", hu), ("trainB", np.digitize(hu, CLASSES).astype(np.uint8))):
            write_npy(place / "data" / folder / Path(ct).with_suffix(".npy"), values)
    words = ("--imgtype", "npy", "-cn", len(CLASSES) + 1, "-ca", *CLIP, "-R", place / "data", "-gc", 16, 32, 64)
    size = ("-cw", 64, "-ch", 64, "-gnb", 2, "-u", "concat", "-b", 4, "-rt", -1)
    return trained(place / "runs", minutes, "pix2pix/train.py", *words, *size)


def tissues(mr: list[np.ndarray], ct: list[np.ndarray], made: list[np.ndarray]) -> tuple[float, float]:
    """Means of ``made`` in muscle and in fat, HU: what is dark and bright in the MR's tissue, within the CT's body."""
    grey, body = np.stack(mr), np.stack(ct) > BODY
    tissue = body & (grey > TISSUE * np.percentile(grey, 99.5))
    bright = grey > threshold_otsu(grey[tissue])
    result = np.stack(made)
    return float(result[tissue & ~bright].mean()), float(result[tissue & bright].mean())


def judged(data: Path, learnt: str, shown: str, run: Path, application: str) -> tuple[dict[str, float], np.ndarray]:
    """Figures of a run, HU and Dice, and MR, result and truth of four slices, [0, 1]."""
    place = run.parent.parent / f"{run.parent.name}_shown"
    folder, given = place / "converted", data / f"truth_{shown}.txt"
    words = ("-R", data, "--val", given, "--modality", "CT", "--ensemble")
    command(f"{application}/convert.py", run, *words, "-o", folder, "--force")
    table = ("--val_pairs", data / f"truth_{learnt}.txt", "--body", "-o", place / "evaluation")
    command("tools/evaluate.py", "-R", data, "--pairs", given, "-c", f"network={folder}", *table)
    summary = json.loads((place / "evaluation" / "evaluation.json").read_text())["summary"]
    pairs = pairs_of(data, shown)
    mr, ct, made = (
        [dicom.read(path).hu for path in paths]
        for paths in (
            [data / a for a, _ in pairs],
            [data / b for _, b in pairs],
            sorted(folder.rglob("*.dcm")),
        )
    )
    muscle, fat = tissues(mr, ct, made)
    some = range(len(pairs) // 8, len(pairs), max(len(pairs) // 4, 1))
    pictures = [
        np.concatenate(
            [
                mr[i] / np.percentile(np.stack(mr), 99.5),
                (np.where(ct[i] > -1000, made[i], -1000) + 300) / 600,
                (ct[i] + 300) / 600,
            ]
        )
        for i in some
    ]
    figures = {
        f"{one['row']}_{one['metric']}": one["mean"]
        for one in summary
        if one["row"] in ROWS and one["metric"] in METRICS and one["series"] == "all"
    }
    return {**figures, "muscle": muscle, "fat": fat}, np.concatenate(pictures, axis=1)


def one_patient(data: Path, patient: str, out: Path) -> Path:
    """trainA and trainB of a patient, as links."""
    for part in ("trainA", "trainB"):
        (out / part).mkdir(parents=True, exist_ok=True)
        if not (out / part / patient).exists():
            (out / part / patient).symlink_to((data / part / patient).resolve())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with a folder a patient")
    parser.add_argument("--work", type=Path, default=Path("mr_to_ct_work"), help="folder for pairs and trainings")
    parser.add_argument("--minutes", type=float, default=10, help="of each training; a segmentor has a fifth")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--learnt", nargs="+", help="patients, or rest, to learn from; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    data = options.work / "data"
    patients = cut(options.data, data)
    for way in options.only:
        levels = [("rest", "middle")] if way != "unpaired" else []
        splits = [*zip(patients, reversed(patients), strict=True), *levels]
        for learnt, shown in (split for split in splits if split[0] in (options.learnt or split)):
            words: list[object] = [*WAYS[way]]
            if way == "anatomy":
                words += ["--segmentor", segmentor(data, learnt, options.work, options.minutes / 5)]
            if way == "unpaired":
                words += ["-R", one_patient(data, learnt, options.work / f"only_{learnt}")]
            else:
                words += ["-R", data, "-t", data / f"pairs_{learnt}.txt"]
            for seed in options.seeds:
                place = options.work / f"{way}_{learnt}_{seed}"
                run = trained(place, options.minutes, *words, "--seed", seed)
                figures, picture = judged(data, learnt, shown, run, Path(str(WAYS[way][0])).parent.name)
                write_image(
                    options.work / f"{way}_{learnt}_{seed}.png", np.clip(picture, 0, 1)[None] * 255, "png", bits=8
                )
                print(
                    f"{way}, {learnt} -> {shown}, seed {seed}: "
                    + json.dumps({name: round(value, 3) for name, value in figures.items()}),
                    flush=True,
                )


if __name__ == "__main__":
    main()
