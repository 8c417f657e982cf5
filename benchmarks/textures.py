"""CycleGAN on colour images, as horse to zebra: do the textures swap while the shapes stay where they are?

    python benchmarks/textures.py --out textures --picture docs/pictures/textures.png

Domain A: brown shapes on a meadow. Domain B: striped ones. No image of A belongs to one of B. After training, test
images of both go to the other domain and back. A shape's place is where an image is not meadow, so that it can be
compared before and after; how striped it is, is how many of its pixels have no colour. The training takes about seven
minutes of one core.
"""

import argparse
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from medi2i.common.networks.checkpoint import find_run
from medi2i.cyclegan import convert, train
from medi2i.tools import make_shapes

SIZE, IMAGES, TESTS = 64, 200, 20
CROP, SHIFT = 56, 4  # shifted crops stay inside: what a shift uncovers is black, and would be learned as a border
# Connections carry the edges, so that few updates suffice. No autoencoder term (-lcAz, -lcBz): with connections it
# would only teach the decoders to copy.
NETWORK = ("-gc", "12", "24", "48", "-gnb", "2", "-gs", "none", "-gu", "resize", "-u", "concat", "-dc", "16", "32")
TRAINING = ("-cw", CROP, "-ch", CROP, "-rt", SHIFT, "-b", "1", "-lrg", "2e-3", "-lrd", "3e-4")
LOSSES = ("-lcA", "5", "-lcB", "5", "-lcAz", "0", "-lcBz", "0", "-ld", "0")
SHOWN, ENLARGED, GAP = 8, 1.5, 3
ROWS = (("x", "testA"), ("x → y", "ab"), ("x → y → x", "aba"), ("y", "testB"), ("y → x", "ba"), ("y → x → y", "bab"))


def must(command: ModuleType, argv: list) -> None:
    """Run a command of this project; end with its status where it fails."""
    argv = [str(word) for word in argv]
    print(f"\n$ {command.__name__} {' '.join(argv)}", flush=True)
    status = command.main(argv)
    if status:
        sys.exit(status)


def pictures(folder: Path) -> np.ndarray:
    """The images of a folder by name: uint8 (N, H, W, 3)."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))])


def shape_of(images: np.ndarray) -> np.ndarray:
    """Where images (N, H, W, 3) are not meadow: bool (N, H, W)."""
    meadow = np.array(make_shapes.MEADOW) * 255
    return np.linalg.norm(images - meadow, axis=-1) > 60


def colourless(images: np.ndarray) -> float:
    """Share of the shapes' pixels whose red, green and blue lie within 30 of each other: 1 for stripes, 0 for brown."""
    spread = np.ptp(images.astype(int), axis=-1)
    return float(np.mean(spread[shape_of(images)] < 30))


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of the shapes in two sets of images, 0…1."""
    first, second = shape_of(first), shape_of(second)
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def montage(sets: dict[str, np.ndarray]) -> Image.Image:
    """One picture: a row for each of ROWS, a column for each of the first images."""
    side, label = int(SIZE * ENLARGED), 78
    sheet = Image.new("RGB", (label + SHOWN * (side + GAP), len(ROWS) * (side + GAP) - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 13)  # Pillow's own has no arrows
    for row, (text, folder) in enumerate(ROWS):
        draw.text((4, row * (side + GAP) + side // 2 - 6), text, fill="black", font=font)
        for column, image in enumerate(sets[folder][:SHOWN]):
            tile = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(tile, (label + column * (side + GAP), row * (side + GAP)))
    return sheet.quantize(256, dither=Image.Dither.NONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("textures"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="where the picture goes [textures.png in the --out folder]")
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} is there already; name another --out")

    data = given.out / "data"
    must(
        make_shapes,
        ["-o", data, "--make", "textures", "--size", SIZE, "-n", IMAGES, "--num_test", TESTS, "--seed", given.seed],
    )
    must(
        train,
        [
            "-R",
            data,
            "-o",
            given.out / "run",
            *NETWORK,
            *TRAINING,
            *LOSSES,
            "-e",
            given.epochs,
            "--seed",
            given.seed,
            "-g",
            -1,
        ],
    )
    (run,) = (given.out / "run").iterdir()
    # The best epoch by its cycle may be one that hardly translates: take the last.
    epoch = find_run(run).epochs[-1]
    for source, name, target in (
        (data / "testA", "x", "ab"),
        (given.out / "ab", "y", "aba"),
        (data / "testB", "y", "ba"),
        (given.out / "ba", "x", "bab"),
    ):
        must(
            convert,
            [
                "-m",
                run / f"enc_{name}{epoch}.npz",
                "-R",
                source,
                "-o",
                given.out / target,
                "-g",
                -1,
                "--structure",
                "none",
            ],
        )

    sets = {name: pictures((data if name.startswith("test") else given.out) / name) for _, name in ROWS}
    target = given.picture or given.out / "textures.png"
    montage(sets).save(target, optimize=True)
    print(f"\nepoch {epoch}; {target}: {target.stat().st_size / 1000:.0f} kB")
    for text, name in ROWS:
        before = sets["testA" if name.startswith("a") or name == "testA" else "testB"]
        print(
            f"{text:10} colourless {colourless(sets[name]):5.2f}   Dice of the shapes with the original "
            f"{dice(before, sets[name]):5.2f}"
        )


if __name__ == "__main__":
    main()
