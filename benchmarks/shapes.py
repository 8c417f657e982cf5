#!/usr/bin/env python
"""Shape consistency where a fault is provoked: shapes of domain B are 12 % larger, and CycleGAN enlarges those of A.

  python benchmarks/shapes.py --work shapes --seeds 0 1 2

Domain A: a disc and a square, plain, in other places of each image of 64x64 pixels. Domain B: the same, striped, and
12 % larger. CycleGAN is trained plainly, with labels (--shape_classes) and with frozen segmentors of both domains
(--segmentor), which are trained first. What it makes of test images of A is cut at half of its range and compared with
the labels of these: Dice, whose best without shape consistency is that of a shape with its enlarged one. Looks are
compared by the sliced Wasserstein distance to test images of B, which is less for what is enlarged. Every step stays
in --work: a run that was ended goes on. Ends with status 1 where the figures that were asked for are not there.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from quality_work import Work

from medi2i.common.device import use_cpu_engine
from medi2i.cyclegan import convert
from medi2i.cyclegan import train as cyclegan
from medi2i.datasets.writing import write_npy
from medi2i.pix2pix import train as pix2pix
from medi2i.synthesis.sets import distances
from medi2i.tools.make_shapes import ELLIPSE, RECTANGLE, Shape

SIZE, RADIUS, LARGER = 64, 9.0, 1.12
IMAGES, TESTS, PARTS = 200, 40, {"trainA": "labelsA", "trainB": "labelsB", "testA": "truthA", "testB": "truthB"}
STRIPES = 0.15  # half of the height of those of B
CLASSES = 3  # background, disc, square
LEVELS = -0.6, 0.4  # of background and shapes in [-1, 1]; half of the range between them is the threshold
SEEN = ("-ca", -1, 1, "-cb", -1, 1, "-cw", 56, "-ch", 56, "-rt", 4, "-g", -1)
SEGMENTOR = ("--preset", "segment", "-cn", CLASSES, "-gnb", 2, "--nvis", 0)
NETWORK = ("-gc", 16, 32, "-gnb", 2, "-gs", "none", "-gu", "resize", "-u", "none", "-dc", 16, 32, 64)
TRAINING = ("-b", 1, "-lrg", "1e-3", "-lrd", "3e-4", "-lcAz", 0, "-lcBz", 0, "-ld", 0, "--nvis_A", 0, "--nvis_B", 0)
WEIGHT = 150  # of the shape loss
PLAIN, LABELS, SEGMENTORS = "plain", "labels", "segmentors"
MOST, LEAST, WORSE = 0.90, 0.97, 1.5  # Dice without and with shape consistency; distance to B, as a multiple


def must(command: ModuleType, *words: object) -> dict[str, Any]:
    """Run a command of this project, which leaves no facts; ends the program where it fails."""
    argv = [str(word) for word in words]
    print(f"$ {command.__name__} {' '.join(argv)}", flush=True)
    if command.main(argv):
        raise SystemExit(f"{command.__name__} failed")
    return {}


def drawn(rng: np.random.Generator, striped: bool) -> tuple[np.ndarray, np.ndarray]:
    """(image (SIZE, SIZE) in [-1, 1], classes) of one domain: a disc and a square that do not touch."""
    radius = RADIUS * (LARGER if striped else 1.0)
    room = RADIUS * LARGER + 1
    while True:
        first, second = rng.uniform(room, SIZE - 1 - room, (2, 2))
        if max(abs(first - second)) > 2 * room:
            break
    classes = np.zeros((SIZE, SIZE))
    image = np.full((SIZE, SIZE), LEVELS[0])
    rows, columns = np.indices(image.shape)
    texture = LEVELS[1] + (STRIPES * np.sign(np.sin((rows + columns) * 1.2)) if striped else 0.0)
    for number, (centre, kind) in enumerate(((first, ELLIPSE), (second, RECTANGLE)), 1):
        half = (radius, radius) if kind == ELLIPSE else (0.85 * radius, 0.85 * radius)
        place = float(centre[0]), float(centre[1])
        cover = Shape(place, half, 0.0, (1.0, 1.0, 1.0)).coverage(image.shape, kind)
        image += cover * (texture - image)
        classes[cover >= 0.5] = number
    return image + rng.normal(0, 0.05, image.shape), classes


def make_data(folder: Path, images: int, tests: int) -> dict[str, Any]:
    """Training and test images of both domains and their classes, in the folders PARTS."""
    for number, (part, labels) in enumerate(PARTS.items()):
        rng = np.random.default_rng(number)
        (folder / labels).mkdir()
        for index in range(tests if part.startswith("test") else images):
            image, classes = drawn(rng, part.endswith("B"))
            write_npy(folder / part / f"{index:03d}.npy", image.astype(np.float32))
            Image.fromarray(classes.astype(np.uint8)).save(folder / labels / f"{index:03d}.png")
    for domain in "AB":  # for the segmentors, whose pairs are images and classes
        for target, source in (("trainA", f"train{domain}"), ("trainB", f"labels{domain}")):
            (folder / f"pairs{domain}").mkdir(exist_ok=True)
            (folder / f"pairs{domain}" / target).symlink_to(Path("..") / source)
    return {}


def learnt(words: tuple[object, ...], folder: Path) -> dict[str, Any]:
    """A segmentor, trained into ``folder``."""
    return must(pix2pix, *words, folder / "run")


def only_run(folder: Path) -> Path:
    """The run folder of a training."""
    (run,) = folder.iterdir()
    return run


def words_of(way: str, work: Work) -> tuple[object, ...]:
    """What a way adds to the words of a training."""
    if way == PLAIN:
        return ()
    if way == LABELS:
        return "--lambda_shape", WEIGHT, "--shape_classes", CLASSES
    return "--lambda_shape", WEIGHT, "--segmentor", *(only_run(work.folder(f"classes{domain}/run")) for domain in "AB")


def images_in(folder: Path) -> np.ndarray:
    """The arrays of a folder by name: float32 (N, SIZE, SIZE)."""
    return np.stack([np.load(path) for path in sorted(folder.glob("*.npy"))])


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two boolean arrays, 0 to 1."""
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def judged(data: Path, made: Path) -> dict[str, float]:
    """Dice of translated shapes with the labels, how large they are beside these, distance of the looks to B."""
    images, reference = images_in(made), images_in(data / "testB")
    truth = np.stack([np.asarray(Image.open(path)) for path in sorted((data / "truthA").glob("*.png"))]) > 0
    shapes = images > sum(LEVELS) / 2
    looks = distances(images[:, None], reference[:, None], 0)
    return {
        "dice": dice(shapes, truth),
        "area": float(shapes.sum() / truth.sum()),
        "distance": float(np.mean(list(looks.values()))),
    }


def measured(work: Work, way: str, seed: int, epochs: int) -> dict[str, float]:
    """Train one way with one seed, convert the test images of A, and judge them; each is done once."""
    data, name = work.folder("data"), f"{way}{seed}"
    decided = {"way": way, "seed": seed, "epochs": epochs, "network": NETWORK, "training": TRAINING, "weight": WEIGHT}

    def trained(folder: Path) -> dict[str, Any]:
        words = ("-R", data, "-o", folder / "run", *SEEN, *NETWORK, *TRAINING, *words_of(way, work))
        must(cyclegan, *words, "-e", epochs, "--seed", seed)
        must(convert, only_run(folder / "run"), "-R", data / "testA", "-o", folder / "made", "-ch", SIZE, "-cw", SIZE)
        return judged(data, folder / "made")

    return work.step(name, decided, trained)


def table(found: dict[str, list[dict[str, float]]]) -> list[str]:
    """One line for each way: the means over the seeds."""
    lines = [f"{'':<12} {'Dice':>6} {'area':>6} {'distance to B':>14}"]
    for way, rows in found.items():
        means = [np.mean([row[key] for row in rows]) for key in ("dice", "area", "distance")]
        lines.append(f"{way:<12} {means[0]:6.3f} {means[1]:6.3f} {means[2]:14.3f}")
    return lines


def asked(found: dict[str, list[dict[str, float]]]) -> list[tuple[str, bool]]:
    """(what was asked for, whether every seed has it)."""
    plain = [row["distance"] for row in found[PLAIN]]
    return [
        (f"Dice at most {MOST} without shape consistency", all(row["dice"] <= MOST for row in found[PLAIN])),
        *(
            (f"Dice at least {LEAST} with {way}", all(row["dice"] >= LEAST for row in found[way]))
            for way in (LABELS, SEGMENTORS)
        ),
        *(
            (
                f"distance to B at most {WORSE} times the plain one with {way}",
                all(row["distance"] <= WORSE * one for row, one in zip(found[way], plain, strict=True)),
            )
            for way in (LABELS, SEGMENTORS)
        ),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("shapes"), help="folder for all steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12, help="of each CycleGAN")
    parser.add_argument("--segmentor_epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=IMAGES, help="of each domain to train on")
    given = parser.parse_args(argv)
    use_cpu_engine("auto")
    work = Work(given.work)
    data = work.folder("data")
    shapes = {"size": SIZE, "radius": RADIUS, "larger": LARGER, "stripes": STRIPES}
    decided = {"images": given.images, "tests": TESTS, **shapes}
    work.step("data", decided, lambda folder: make_data(folder, given.images, TESTS))
    for domain in "AB":
        words = (*SEGMENTOR, *SEEN, "-e", given.segmentor_epochs, "-R", data / f"pairs{domain}", "-o")
        name, after = f"classes{domain}", {**decided, "epochs": given.segmentor_epochs}
        work.step(name, after, partial(learnt, words))
    found = {
        way: [measured(work, way, seed, given.epochs) for seed in given.seeds] for way in (PLAIN, LABELS, SEGMENTORS)
    }
    print("\n" + "\n".join(table(found)))
    verdicts = asked(found)
    for what, there in verdicts:
        print(f"{'yes' if there else 'NO '} {what}")
    print(json.dumps(found))
    return int(not all(there for _, there in verdicts))


if __name__ == "__main__":
    sys.exit(main())
