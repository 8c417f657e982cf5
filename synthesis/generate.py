#!/usr/bin/env python
"""Make images of noise with a trained network.

python synthesis/generate.py result/20260101_120000 -n 100 --seed 0 -o out
python synthesis/generate.py result/20260101_120000 -n 1000 -o made --imgtype npy
python synthesis/generate.py result/20260101_120000 --real -o real --imgtype npy
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np

from medi2i.common import VERSION
from medi2i.common.compat import chainer
from medi2i.common.device import choose_device, use_cpu_engine, use_gpu_engine
from medi2i.common.errors import UserError, as_main
from medi2i.common.locks import locked
from medi2i.common.networks.checkpoint import digest
from medi2i.common.options import Checked, option, parse
from medi2i.common.options.learned import SynthesisOptions
from medi2i.common.outputs import write_text
from medi2i.common.training.pictures import Panel, draw_grid, plane, range_text, window_of
from medi2i.datasets.dicom.encoding import Encoding, encode
from medi2i.datasets.dicom.new_series import NewSeries
from medi2i.datasets.scaling import Clip
from medi2i.datasets.writing import write_image
from medi2i.synthesis import net
from medi2i.synthesis.train import dataset

KINDS = ("png", "npy", "dcm")
SHOWN, STEPS = 8, 8  # rows and columns of the grid, at most; images on the way from one latent vector to another
MARK = "SYNTHETIC"
BATCH = 100  # images in memory at a time


@dataclass
class GenerateOptions(Checked):
    """What to make"""

    run: str = option(None, metavar="RUN", bare=True, help="folder of a training by synthesis/train.py")
    num: int = option(100, "-n", type=int, low=1, high=10**7, help="number of images")
    seed: int = option(0, type=int, low=0, high=2**32 - 1, help="same seed, same images; more of them begin alike")
    out: str = option("generated", "-o", metavar="FOLDER", help="where they go; pictures and report to <out>.report")
    imgtype: str = option(
        "png",
        "-it",
        choices=KINDS,
        help="png: grey levels 0 to 255 over the clip; npy: in the unit of the training images (HU); "
        f"dcm: Secondary Capture, marked {MARK}, at no place of any patient",
    )
    real: bool = option(
        False, type=bool, help="write the training images instead, as the network saw them: to compare with"
    )
    epoch: int = option(None, type=int, low=0, help="which of the saved epochs [the last]")
    gpu: int = option(None, "-g", low=-1, type=int, help="number of the GPU, -1 for the CPU [the first GPU, if any]")
    cpu_engine: str = option("auto", choices=("auto", "onednn", "numpy", "chainer"), help="what computes on the CPU")
    vis_window: list = option(None, type=float, nargs=2, metavar="X", help="values shown black and white [the clip]")
    force: bool = option(False, type=bool, help="overwrite files that are there")


def command(argv: Sequence[str]) -> None:
    """Make the images. Raises UserError."""
    options = parse(GenerateOptions, argv, __doc__)
    if options.run is None:
        raise UserError("RUN: which training? The folder of one by synthesis/train.py is needed")
    networks, trained, file = net.load(options.run, "last" if options.epoch is None else options.epoch)
    device = choose_device(options.gpu)
    device.use()
    use_cpu_engine(options.cpu_engine)
    use_gpu_engine("auto")
    networks.gen.to_device(device)
    if options.imgtype != "npy" and trained.ch not in ((1, 3) if options.imgtype == "png" else (1,)):
        raise UserError(f"--imgtype: {options.imgtype} holds no images of {trained.ch} channels; npy does")
    out = Path(options.out)
    with locked(out, "writing"), chainer.using_device(device):
        if options.real:
            real(networks, trained, options, out)
        else:
            generate(networks, trained, file, options, out)


def generate(
    networks: net.Networks, trained: SynthesisOptions, file: Path, options: GenerateOptions, out: Path
) -> None:
    """Write the images, and what tells of them: a picture of the first, one of ways between them, a report."""
    clip = Clip(*(trained.clipA or (None, None)))
    sha = digest([file])
    series = series_of(trained, clip, (sha, options.seed), f"{trained.network} {file.name}, seed {options.seed}")
    rng = np.random.default_rng(options.seed)
    first = None
    for begin in range(0, options.num, BATCH):
        z = rng.standard_normal((min(BATCH, options.num - begin), networks.latent), dtype=np.float32)
        unit = made(networks, z)
        first = (z, unit) if first is None else first
        for number, image in enumerate(unit, begin):
            write(out / f"{number + 1:05d}.{options.imgtype}", image, clip, series, number, options.force)
    assert first is not None  # there is one image at least
    report = out.with_name(out.name + ".report")
    _grid(report / "grid.png", first[1][: SHOWN**2], clip, trained, options)
    ends = first[0] if len(first[0]) > 1 else np.concatenate([first[0], -first[0]])
    pairs = list(zip(ends, ends[1:], strict=False))[::2][:SHOWN]
    between = np.concatenate([made(networks, way(*pair, STEPS)) for pair in pairs])
    _grid(report / "interpolation.png", between, clip, trained, options)
    told = {"run": str(options.run), "file": file.name, "sha256": sha, "seed": options.seed, "images": options.num}
    told |= {"pixels": unit.shape[2], "clip": trained.clipA, "medi2i": VERSION, "what": f"{MARK}: images of nobody"}
    write_text(report / "report.json", json.dumps(told, indent=1) + "\n")
    print(f"{out}: {options.num} images of {unit.shape[3]}x{unit.shape[2]} pixels; pictures of them: {report}")


def real(networks: net.Networks, trained: SynthesisOptions, options: GenerateOptions, out: Path) -> None:
    """Write the images that were trained on, neither flipped nor turned, of the size that the network makes."""
    if options.imgtype == "dcm":
        raise UserError("--imgtype: real images are somebody's and are not written as DICOM of nobody; npy would do")
    images, clip = dataset(trained), Clip(*(trained.clipA or (None, None)))
    for number in range(len(images)):
        unit = networks.seen(images.load(number)[None])[0]
        write(out / f"{number + 1:05d}.{options.imgtype}", unit, clip, None, number, options.force)
    print(f"{out}: the {len(images)} images of the training")


def made(networks: net.Networks, z: np.ndarray) -> np.ndarray:
    """What becomes of latent vectors (N, latent) on the device that is in use: (N, C, H, W) in [-1, 1]."""
    return networks.generate(networks.gen.xp.asarray(z))


def way(begin: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """(steps, latent) from one latent vector to another along the sphere, near which those of N(0, 1) are."""
    cosine = begin @ end / (np.linalg.norm(begin) * np.linalg.norm(end))
    angle = np.arccos(np.clip(cosine, -1, 1))
    shares = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
    if np.sin(angle) < 1e-3:  # the same direction, or opposite ones, between which no way is the shortest
        return (1 - shares) * begin + shares * end
    return ((np.sin((1 - shares) * angle) * begin + np.sin(shares * angle) * end) / np.sin(angle)).astype(np.float32)


def write(path: Path, unit: np.ndarray, clip: Clip, series: NewSeries | None, number: int, force: bool) -> None:
    """One image (C, H, W) in [-1, 1]. Raises UserError where there is a file, without ``force``."""
    if path.exists() and not force:
        raise UserError(f"{path}: exists; --force would overwrite it")
    if path.suffix == ".png":
        write_image(path, (unit + 1) * 127.5)
    elif path.suffix == ".npy":
        write_image(path, clip.from_unit(unit))
    elif series is not None:
        series.write(path, number, encode(clip.from_unit(unit)[0], series.encoding, None), force)


def series_of(trained: SynthesisOptions, clip: Clip, entropy: tuple, how: str) -> NewSeries:
    """The DICOM series of the images: of no patient, at no place; values as in the training images."""
    low, high = (-1.0, 1.0) if clip.lower is None or clip.upper is None else (clip.lower, clip.upper)
    step = 1.0 if high - low >= 255 else (high - low) / 65535
    return NewSeries(
        modality="OT",
        affine=None,
        encoding=Encoding(step, low, signed=False),
        entropy=("synthesis", VERSION, *entropy),
        patient_id=MARK,
        patient_name=f"{MARK}^NOBODY",
        study_description=f"{MARK}: images made of noise",
        description=f"{MARK} {how}",
        comment=f"{MARK}: made of noise by a network; no patient, not for diagnosis",
        manufacturer_model="synthesis",
        image_type=("DERIVED", "SECONDARY"),
        extra={
            "DerivationDescription": f"{MARK}: made of noise by medi2i {VERSION}, {how}",
            "BurnedInAnnotation": "NO",
            "WindowCenter": (low + high) / 2,
            "WindowWidth": high - low,
            **({"RescaleType": "HU"} if trained.modality == "CT" else {}),
        },
    )


def _grid(path: Path, unit: np.ndarray, clip: Clip, trained: SynthesisOptions, options: GenerateOptions) -> None:
    """A picture of images (N, C, H, W) in [-1, 1], ``SHOWN`` in a row."""
    images = clip.from_unit(unit)
    low, high = window_of(images, clip, options.vis_window)
    panels = [Panel(plane(image, len(image) == 3), low, high) for image in images]
    rows = [panels[begin : begin + SHOWN] for begin in range(0, len(panels), SHOWN)]
    draw_grid(path, rows, [MARK, range_text(low, high, trained.modality)], [""] * len(rows))


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
