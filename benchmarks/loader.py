"""How fast images are loaded, and whether a training ever waits for them.

    python benchmarks/loader.py [--size 512] [--slices 64] [--workers 2] [--updates 12]

Writes CT slices as DICOM into a temporary folder, then prints, for several ways of storing and changing them, how many
slices are decoded and augmented in a second of one core (CPU time, so that a busy machine does not matter), and the
idle fraction of a pix2pix training on the CPU: the share of its time that it waited for images.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from medi2i.common.device import choose_device
from medi2i.common.errors import run
from medi2i.common.kernels import cpu_engine
from medi2i.common.options import PairedOptions
from medi2i.common.training.randomness import RandomState
from medi2i.common.training.setup import make_optimizers
from medi2i.datasets import paired
from medi2i.datasets.examples import ImageCache
from medi2i.datasets.iterator import ImageIterator
from medi2i.pix2pix import net
from medi2i.pix2pix.updater import Pix2pixUpdater

SHIFT: dict[str, Any] = {"random_translate": 4}
TURN: dict[str, Any] = {"random_translate": 4, "random_rotation": 10, "random_scale": 0.1}


def write_slices(root: Path, size: int, count: int, syntax: str) -> None:
    """A noisy disc of water in air as ``count`` pairs of DICOM slices in trainA and trainB; 12 bits in 16."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    body = np.hypot(y - size / 2, x - size / 2) < 0.4 * size
    for folder in ("trainA", "trainB"):
        (root / folder).mkdir(parents=True)
        series = generate_uid()
        for number in range(count):
            stored = np.where(body, 1024, 24) + rng.normal(0, 20, body.shape)
            dataset = pydicom.Dataset()
            dataset.file_meta = pydicom.dataset.FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            dataset.SeriesInstanceUID = dataset.StudyInstanceUID = series
            dataset.Modality, dataset.PatientID = "CT", "disc"
            dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, number]
            dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 1
            dataset.Rows = dataset.Columns = size
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
            dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
            dataset.PixelData = np.clip(np.rint(stored), 0, 4095).astype(np.uint16).tobytes()
            if syntax == RLELossless:
                dataset.compress(RLELossless, generate_instance_uid=False)
            dataset.save_as(root / folder / f"{number:04d}.dcm", enforce_file_format=True)


def slices_per_core_second(dataset: paired.PairedDataset, repeats: int = 1) -> float:
    """Slices (two for each example) loaded with augmentation in a second of CPU time."""
    start = time.process_time()
    for n in range(repeats):
        for i in range(len(dataset)):
            dataset.load(i, np.random.default_rng((n, i)))
    return 2 * repeats * len(dataset) / (time.process_time() - start)


def loading(folders: dict[str, Path], cached: bool) -> Iterator[tuple[str, str, str, float]]:
    """Rows (storage, cache, augmentation, slices per core and second)."""
    for name, root in folders.items():
        for change, options in (("shift, flip", SHIFT), ("shift, flip, rotate, scale", TURN)):
            cache = ImageCache(4096 if cached else 0)
            dataset = paired.build(PairedOptions(root=str(root), **options), cache=cache)
            if cached:
                slices_per_core_second(dataset)
            yield name, "cached" if cached else "decoded", change, slices_per_core_second(dataset, 3 if cached else 1)


def training_idle(root: Path, workers: int, processes: bool, updates: int, crop: int) -> tuple[float, float]:
    """(idle fraction, seconds an update) of a pix2pix training on the CPU: the tutorial's generator, batch 1."""
    options = PairedOptions(
        root=str(root), gen_chs=[32, 64, 128], dis_basech=16, crop_height=crop, crop_width=crop, **TURN
    )
    dataset = paired.build(options, cache=ImageCache(0))  # without a cache: every slice is decoded each time
    options = paired.complete(options, dataset)
    networks = net.build(options)
    optimizers, _ = make_optimizers(networks.as_dict(), options)
    iterator = ImageIterator(dataset, 1, 0, workers=workers, processes=processes)
    device = choose_device(-1)
    updater = Pix2pixUpdater(iterator, optimizers, networks, options, RandomState(0, device.xp), device)
    with cpu_engine.using("auto"):
        for _ in range(updates + 1):
            updater.update()
    idle = iterator.idle
    iterator.finalize()
    return idle.fraction, idle.seconds / idle.batches


def measured(
    size: int = 512, slices: int = 64, workers: int = 2, updates: int = 12, crop: int = 128
) -> list[dict[str, Any]]:
    """Print both tables. Returns their rows as dicts for the JSON file."""
    results = []
    with tempfile.TemporaryDirectory() as place:
        folders = {}
        for name, syntax in (("uncompressed", ExplicitVRLittleEndian), ("RLE", RLELossless)):
            folders[name] = Path(place) / name
            write_slices(folders[name], size, slices, syntax)
        print(f"\n| DICOM {size}², float32 pairs | | augmentation | slices / s / core |\n|---|---|---|---|")
        for cached in (False, True):
            for row in loading(folders if not cached else {"any": folders["uncompressed"]}, cached):
                print("| {} | {} | {} | {:.0f} |".format(*row), flush=True)
                results.append(
                    {
                        "what": "loading",
                        "size": size,
                        **dict(zip(("stored", "source", "augmentation", "slices_per_core_second"), row, strict=True)),
                    }
                )
        print(f"\n| training, CPU, crop {crop}², nothing cached | idle fraction | s / update |\n|---|---|---|")
        for label, count, processes in (
            ("no workers", 0, False),
            (f"{workers} threads", workers, False),
            (f"{workers} processes", workers, True),
        ):
            fraction, seconds = training_idle(folders["uncompressed"], count, processes, updates, crop)
            print(f"| {label} | {100 * fraction:.2f} % | {seconds:.2f} |", flush=True)
            results.append({"what": "idle", "crop": crop, "workers": label, "fraction": fraction, "update_s": seconds})
    return results


def command(argv: list[str] | None) -> int:
    """Measure by the options in ``argv``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="rows and columns of a slice [512]")
    parser.add_argument("--slices", type=int, default=64, help="slices in each folder [64]")
    parser.add_argument("--workers", type=int, default=2, help="threads or processes that load ahead [2]")
    parser.add_argument("--updates", type=int, default=12, help="updates of the training [12]")
    parser.add_argument("--crop", type=int, default=128, help="crop of the training [128]")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args(argv)
    measured(given.size, given.slices, given.workers, given.updates, given.crop)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
