"""The images of make_noisy: its options, and one image made noisy and written with its clean twin."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medi2i.common.choices import image_kind
from medi2i.common.errors import UserError
from medi2i.common.options import Checked, option
from medi2i.datasets import dicom, kinds, reading, writing
from medi2i.datasets.dicom.derived_series import DerivedSeries
from medi2i.datasets.dicom.encoding import Encoding
from medi2i.datasets.dicom.header_checks import text
from medi2i.tools.making import noise
from medi2i.tools.making.pair_folders import Done, Task, copy_file, refuse_existing

LARGEST_HU = (-3000.0, 8000.0)
"""What noisy HU must be able to hold where they may leave the source's range: clipping would shift the mean."""


@dataclass
class NoiseOptions(Checked):
    """What to add"""

    root: str = option("data", "-i", "-R", metavar="FOLDER", help="images; searched recursively")
    out: str = option("data/ldct", "-o", "--outdir", metavar="FOLDER", help="folder for trainA, trainB and pairs.txt")
    model: str = option("poisson", "-m", choices=list(noise.MODELS), help="noise model")
    counts: float = option(
        100.0, "-n", "--n", type=float, low=0, help="poisson: mean counts added to the stored values"
    )
    sd: float = option(20.0, "-s", type=float, low=0, help="gaussian: standard deviation, HU in CT")
    dose: float = option(0.25, "-d", type=float, low=1e-6, high=1, help="dose: fraction of the full dose")
    photons: float = option(1e5, type=float, low=1, help="dose: photons a ray at full dose")
    electronic: float = option(10.0, type=float, low=0, help="dose: electronic noise, standard deviation in photons")
    views: int = option(
        None, type=int, low=8, high=100000, help="dose: views over half a turn; default: 0.75 per pixel of width"
    )
    kernel: str = option("hann", choices=["hann", "ramp"], help="dose: reconstruction, hann is soft, ramp sharp")
    bowtie: float = option(0.0, type=float, low=0, metavar="MM", help="dose: radius of the bow-tie filter's cylinder")
    fan: float = option(
        0.0, type=float, low=0, metavar="MM", help="dose: fan beam with the source at this distance; 0: parallel"
    )
    repeat: int = option(1, "-r", type=int, low=1, high=10000, help="realisations of the noise for each image")
    seed: int = option(
        0,
        type=int,
        low=0,
        high=2**32 - 1,
        help="same seed and image: same noise, in any order, by any number of workers",
    )
    modality: list = option(["CT"], nargs="+", metavar="NAME", help="DICOM modalities to take")
    imgtype: str = option(
        "auto", "-it", choices=["auto", *kinds.SUFFIXES], spelled=image_kind, help="kind of the images"
    )
    workers: int = option(None, "-j", type=int, low=1, high=1024, help="processes; default: one per core")
    gpu: int = option(None, "-g", type=int, low=-1, help="dose: GPU number, -1 for the CPU; default: the first if any")
    force: bool = option(False, type=bool, help="overwrite existing files")


def series_for(options: NoiseOptions, header: Dataset, repeat: int) -> DerivedSeries:
    """The noisy series: its description says what was done; all that decides the noise enters the UIDs."""
    what, decisive = {
        noise.POISSON: (f"Poisson noise n={options.counts:g}", {"n": options.counts}),
        noise.UNBIASED: (f"Poisson noise n={options.counts:g}, mean kept", {"n": options.counts}),
        noise.GAUSSIAN: (f"Gaussian noise sd={options.sd:g}", {"sd": options.sd}),
        noise.DOSE: (
            f"Simulated dose {options.dose:g}",
            {
                name: getattr(options, name)
                for name in ("dose", "photons", "electronic", "views", "kernel", "bowtie", "fan")
            },
        ),
    }[options.model]
    within = options.model in (noise.POISSON, noise.UNBIASED)
    modality = text(header, "Modality")
    return DerivedSeries(
        header,
        model_name=f"medi2i make_noisy {options.model}",
        description=what,
        options={**decisive, "seed": options.seed, "repeat": repeat},
        value_range=None if within or modality != "CT" else LARGEST_HU,
    )


def add_noise(task: Task, out: Path, options: NoiseOptions, on_gpu: bool = False) -> Done:
    """Write the noisy and the clean image of a task. An input that cannot be read is a problem of that image only."""
    try:
        return add_to_image(task, out, options) if task.series is None else add_to_dicom(task, out, options, on_gpu)
    except dicom.Unreadable as error:
        return Done(task.name, problem=error.reason)


def add_to_dicom(task: Task, out: Path, options: NoiseOptions, on_gpu: bool) -> Done:
    image = dicom.read(task.source.path, task.source.frame, modalities=tuple(options.modality))
    rng = noise.generator_for(
        options.seed,
        task.repeat,
        text(image.header, "SOPInstanceUID"),
        str(task.source.frame),
        np.ascontiguousarray(image.stored).tobytes(),
    )
    saturated = 0
    if options.model in (noise.POISSON, noise.UNBIASED):
        own = Encoding(
            image.slope, image.intercept, int(image.header.BitsStored), int(image.header.PixelRepresentation) == 1
        )
        stored, saturated = noise.poisson(
            image.stored, options.counts, rng, own.least, own.most, unbiased=options.model == noise.UNBIASED
        )
        values = stored * image.slope + image.intercept
    elif options.model == noise.GAUSSIAN:
        values = noise.gaussian(image.hu, options.sd, rng)
    else:
        values = image.hu + dose_noise(image, options, rng, on_gpu)
    report = task.series.write(out / "trainA" / task.name, image, values, mask=image.mask, force=options.force)
    clean = out / "trainB" / task.name
    if task.source.frames > 1:
        task.clean_series.write(clean, image, image.hu, mask=image.mask, force=options.force)
    else:
        copy_file(task.source.path, clean, options.force)
    return Done(task.name, saturated + report.clipped, values.size)


def dose_noise(image: dicom.DicomImage, options: NoiseOptions, rng: np.random.Generator, on_gpu: bool) -> np.ndarray:
    """Noise in HU of a CT image. Raises Unreadable where the image does not say how large its pixels are."""
    if image.modality != "CT":
        raise dicom.Unreadable(image.path, "dose noise needs HU, so a CT image")
    if image.spacing is None or abs(image.spacing[0] - image.spacing[1]) > 1e-3 * image.spacing[0]:
        raise dicom.Unreadable(image.path, "dose noise needs square pixels of a known PixelSpacing")
    dose = noise.Dose(
        options.dose, options.photons, options.electronic, options.views, options.kernel, options.bowtie, options.fan
    )
    xp = np
    if on_gpu:
        import cupy as xp
    try:
        return noise.dose_noise(image.hu, image.spacing[0], dose, rng, xp)
    except ValueError as error:
        raise UserError(f"--fan: {error}") from error


def add_to_image(task: Task, out: Path, options: NoiseOptions) -> Done:
    image = reading.read_image(task.source.path)
    array, kind = image.array, kinds.kind_of(task.name)
    rng = noise.generator_for(options.seed, task.repeat, np.ascontiguousarray(array).tobytes())
    whole = image.bits is not None
    least, most = (0, 2**image.bits - 1) if whole else (-np.inf, np.inf)
    if options.model == noise.GAUSSIAN:
        values, saturated = noise.gaussian(array, options.sd, rng), 0
    else:
        values, saturated = noise.poisson(
            array, options.counts, rng, least, most, unbiased=options.model == noise.UNBIASED
        )
    refuse_existing(out, task.name, options.force)
    saturated += writing.write_image(out / "trainA" / task.name, values, kind, bits=image.bits)
    if kinds.kind_of(task.source.path) == kind:
        copy_file(task.source.path, out / "trainB" / task.name, options.force)
    else:
        writing.write_image(out / "trainB" / task.name, array, kind, bits=image.bits)
    return Done(task.name, saturated, values.size)
