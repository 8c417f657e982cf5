#!/usr/bin/env python
"""UNIT beside CycleGAN: T1 to T2-like of one brain, from images in no pairs, trained for equal minutes.

    python benchmarks/unit.py --work unit --minutes 20 [--picture unit.png]

The brain is the MNI152 template (Fonov et al., NeuroImage 2011) that nilearn brings (pip install nilearn): T1, and how
much of a voxel is grey and white matter. T2-like is 0.25 white + 0.55 grey + 1.0 fluid; both get Rician noise of 0.02.
Domain A: T1 of even slices, B: T2-like of odd ones, 96² pixels of 2 mm; no slice is in both. Judged on the 20 mm above,
by what T2-like with its noise, which lifts air to 0.025, is there on average. What is trained is kept in --work. Ends
with status 1 where a figure that was asked for is not there.
"""

import argparse
import json
import sys
from pathlib import Path

import nibabel
import nilearn
import numpy as np
from own_scripts import trained
from scipy import special

from medi2i.common.compat import chainer
from medi2i.common.device import use_cpu_engine
from medi2i.common.networks.checkpoint import find_run, load_generator
from medi2i.cyclegan.updater import ACTIVE, latent_statistics
from medi2i.datasets.writing import write_image, write_npy

SIZE, NOISE = 96, 0.02
LEARNT, JUDGED = range(40, 141), range(141, 161)  # slices
T2 = {"wm": 0.25, "gm": 0.55}  # of the range; fluid 1.0
SHARED = (
    *("--imgtype", "npy", "-ca", 0, 1, "-cb", 0, 1, "-cw", 64, "-ch", 64),
    *("-gc", 16, 32, 64, "-gnb", 4, "-gn", "fnorm", "-dc", 16, 32, 64, "-dn", "none", "--look_up", "auto"),
)
WAYS = {
    "cyclegan": (
        *("-u", "none", "-ld", 0, "--pad", "reflect", "--adam_beta1", 0.5),
        *("-lrg", 5e-4, "-lrd", 2e-4, "-n", 0.15),  # noise, or that of T1 would be passed on
    ),
    "unit": ("--preset", "unit"),
}
NEAR, HALF, OWN, LEAST = 1.15, 0.5, 0.03, 0.5
"""Marks: MAE by CycleGAN's, by doing nothing's, of x -> z -> x; share of active channels."""


def brain() -> tuple[np.ndarray, np.ndarray]:
    """(T1, T2-like), float32 (slices, SIZE, SIZE) from 0 to 1 without noise, pixels of 2 mm."""
    folder, parts = Path(nilearn.__file__).parent / "datasets" / "data", {}
    for name in ("t1", "gm", "wm"):
        file = nibabel.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        assert isinstance(file, nibabel.Nifti1Image)
        volume = np.asarray(file.dataobj, np.float32).T / 255  # (z, y, x)
        even = volume[:, : volume.shape[1] // 2 * 2, : volume.shape[2] // 2 * 2]
        halved = even.reshape(len(even), even.shape[1] // 2, 2, even.shape[2] // 2, 2).mean((2, 4))
        top, left = ((n - SIZE) // 2 for n in halved.shape[1:])
        parts[name] = halved[:, top : top + SIZE, left : left + SIZE]
    fluid = np.clip((parts["t1"] > 0.02) - parts["gm"] - parts["wm"], 0, 1)
    return parts["t1"], fluid + sum(share * parts[name] for name, share in T2.items())


def rician(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The length of a complex image with noise of NOISE in both parts (Gudbjartsson and Patz, 1995)."""
    real, imaginary = rng.normal(0, NOISE, (2, *image.shape))
    return np.hypot(image + real, imaginary).astype(np.float32)


def mean_of_rician(image: np.ndarray) -> np.ndarray:
    """What ``rician`` makes of an image on average (Gudbjartsson and Patz, 1995, equation 3)."""
    part = image**2 / (4 * NOISE**2)
    return NOISE * np.sqrt(np.pi / 2) * ((1 + 2 * part) * special.ive(0, part) + 2 * part * special.ive(1, part))


def make_data(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """trainA and trainB. Returns the test slices: T1 with noise, T2-like as it is on average."""
    rng, (t1, t2) = np.random.default_rng(0), brain()
    for index in LEARNT:
        part, image = ("trainA", t1[index]) if index % 2 == 0 else ("trainB", t2[index])
        write_npy(folder / part / f"{index:03d}.npy", rician(image, rng))
    return np.stack([rician(t1[index], rng) for index in JUDGED]), mean_of_rician(t2[list(JUDGED)])


def judged(run: Path, x: np.ndarray, truth: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Figures of a training, in parts of the range, and its translations of ``x`` (N, H, W)."""
    last = max(find_run(run).epochs)
    there, back = (load_generator(run / f"enc_{name}{last}.npz", None, "last") for name in "xy")
    with chainer.using_config("train", False), chainer.using_config("enable_backprop", False):
        unit = (2 * x - 1)[:, None]
        made, own, between, latents = [], [], [], []
        for one, other in zip(unit, np.roll(unit, 7, axis=0), strict=True):
            z, far = ([f.array for f in there.encoder(image[None])] for image in (one, other))
            made.append(there.decoder(list(z)).array[0, 0])
            own.append(back.decoder(list(z)).array[0, 0])
            middle = [(a + b) / 2 for a, b in zip(z, far, strict=True)]
            between.append(there.decoder(middle).array[0, 0])
            latents.append(z[-1])
    square, active = latent_statistics(np.concatenate(latents))
    translated, again, middles = ((np.stack(some) + 1) / 2 for some in (made, own, between))
    return {
        "mae": float(np.abs(translated - truth).mean()),
        "own_mae": float(np.abs(again - x).mean()),
        "between_lowest": float(middles.min()),
        "between_highest": float(middles.max()),
        "latent_square": float(square),
        "latent_active": float(active),
    }, translated


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("unit_work"), help="folder for images and trainings")
    parser.add_argument("--minutes", type=float, default=20, help="of each of both trainings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="T1, both translations and the true T2-like, below each other")
    options = parser.parse_args()
    use_cpu_engine("auto")
    x, truth = make_data(options.work / "data")
    found, pictures = {}, [x]
    for way, words in WAYS.items():
        place = options.work / f"{way}{options.seed}"
        every = ("cyclegan/train.py", *words, *SHARED, "-R", options.work / "data", "--seed", options.seed)
        found[way], made = judged(trained(place, options.minutes, *every), x, truth)
        pictures.append(made)
    nothing = float(np.abs(x - truth).mean())
    print(f"doing nothing: MAE {nothing:.4f} of the range")
    for way, row in found.items():
        print(f"{way}: " + ", ".join(f"{name} {value:.4f}" for name, value in row.items()))
    unit, cyclegan = found["unit"], found["cyclegan"]
    asked = [
        (f"MAE of unit at most {NEAR} x cyclegan's", unit["mae"] <= NEAR * cyclegan["mae"]),
        (f"both at most {HALF} x that of doing nothing", max(unit["mae"], cyclegan["mae"]) <= HALF * nothing),
        (f"x -> z -> x of unit below {OWN}", unit["own_mae"] < OWN),
        (f"channels of unit that vary by {ACTIVE} at least {LEAST}", unit["latent_active"] >= LEAST),
        ("between two latents within the range", -0.05 <= unit["between_lowest"] <= unit["between_highest"] <= 1.05),
    ]
    for what, there in asked:
        print(f"{'yes' if there else 'NO '} {what}")
    print(json.dumps({"nothing": nothing, **found}))
    if options.picture:
        rows = [np.concatenate(list(images[::5]), axis=1) for images in (*pictures, truth)]
        write_image(options.picture, np.concatenate(rows)[None] * 255, "png", bits=8)
    return int(not all(there for _, there in asked))


if __name__ == "__main__":
    sys.exit(main())
