#!/usr/bin/env python
"""Add noise to images and list the pairs (noisy, clean) for training.

  python tools/make_noisy.py -i CPTAC-SAR -o data/ldct
  python tools/make_noisy.py -i CPTAC-SAR -o data/ldct --model dose --dose 0.25

Noisy images go to OUT/trainA, the clean ones to OUT/trainB under equal names, and OUT/pairs.txt lists them. DICOM is
found by its content in nested folders, as a download from TCIA has it; what is not CT is left out and counted.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np
from pydicom.dataset import Dataset

from medi2i.common.errors import UserError, as_main, counted
from medi2i.common.options import Checked, option, parse
from medi2i.datasets import dicom, file_names
from medi2i.datasets.dicom.encoding import Encoding
from medi2i.datasets.dicom.header_checks import text
from medi2i.datasets.dicom.new_series import DerivedSeries
from medi2i.datasets.noise_level import noise_of
from medi2i.datasets.reading import Image
from medi2i.tools.making import noise
from medi2i.tools.making.training_pairs import LARGEST_HU, Pair, PairMaker, make_pairs

AUTO = "auto"
LOOKED_AT = 3  # slices of a series, for its photons


def photons_in_words(text: str) -> str:
    """What ``--photons`` says: AUTO, or a number of at least 1. Raises UserError."""
    try:
        if text == AUTO or 1 <= float(text) < float("inf"):
            return text
    except ValueError:
        pass
    raise UserError(f"--photons: {text!r}; it is a number of at least 1, or {AUTO}")


@dataclass
class NoiseOptions(Checked):
    """What to add"""

    root: str = option("data", "-i", "-R", metavar="FOLDER", help="images; searched recursively", bare=True, first=True)
    out: str = option(
        "data/ldct", "-o", "--outdir", metavar="FOLDER", help="folder for trainA, trainB and pairs.txt", first=True
    )
    model: str = option("poisson", "-m", choices=list(noise.MODELS), help="noise model", first=True)
    counts: float = option(
        100.0, "-n", "--n", type=float, low=0, help="poisson: mean counts added to the stored values", first=True
    )
    sd: float = option(20.0, "-s", type=float, low=0, help="gaussian: standard deviation, HU in CT", first=True)
    dose: float = option(0.25, "-d", type=float, low=1e-6, high=1, help="dose: fraction of the full dose", first=True)
    photons: str = option(
        AUTO,
        spelled=photons_in_words,
        metavar="N",
        help="dose: photons a ray at full dose; auto: as many as make the noise that the series has",
    )
    electronic: float = option(10.0, type=float, low=0, help="dose: electronic noise, standard deviation in photons")
    views: int | None = option(
        None, type=int, low=8, high=8192, help="dose: views over half a turn; default: 0.75 per pixel of width"
    )
    kernel: str = option("hann", choices=["hann", "ramp"], help="dose: reconstruction, hann is soft, ramp sharp")
    bowtie: float = option(0.0, type=float, low=0, metavar="MM", help="dose: radius of the bow-tie filter's cylinder")
    fan: float = option(
        0.0, type=float, low=0, metavar="MM", help="dose: fan beam with the source at this distance; 0: parallel"
    )
    repeat: int = option(
        1, "-r", type=int, low=1, high=10000, help="realisations of the noise for each image", first=True
    )
    seed: int = option(
        0,
        type=int,
        low=0,
        high=2**32 - 1,
        help="same seed and image: same noise, in any order, by any number of workers",
        first=True,
    )
    modality: list[str] = option(["CT"], nargs="+", metavar="NAME", help="DICOM modalities to take")
    imgtype: str = option(
        "auto", "-it", choices=file_names.CHOICES, spelled=file_names.kind_named, help="kind of the images"
    )
    workers: int | None = option(None, "-j", type=int, low=1, high=1024, help="processes; default: one per core")
    gpu: int | None = option(
        None, "-g", type=int, low=-1, help="dose: GPU number, -1 for the CPU; default: the first if any"
    )
    force: bool = option(False, type=bool, help="overwrite existing files", first=True)


class NoisyPairs(PairMaker):
    """Noise by the model that was chosen; ``on_gpu``: that of ``dose``."""

    options: NoiseOptions
    name = "medi2i make_noisy"

    def __init__(self, options: NoiseOptions, on_gpu: bool) -> None:
        super().__init__(options)
        self.repeats, self.on_gpu = options.repeat, on_gpu
        self.workers = 1 if on_gpu else options.workers
        self.photons: dict[str, float] = {}
        """Of a series, by its UID."""
        self.told: list[str] = []

    def look_at(self, series: dicom.Series) -> None:
        """Find the photons of a series for ``dose``; where its noise cannot be measured, Dose has a number."""
        if self.options.model != noise.DOSE or self.options.photons != AUTO or series.modality != "CT":
            return
        name, middle = series.description or series.uid, len(series.slices) // 2
        try:
            found = noise_of(series)
            images = [dicom.read(one.path, one.frame) for one in series.slices[middle : middle + LOOKED_AT]]
            usable = [(image.hu, self.spacing(image)) for image in images]
        except dicom.Unreadable:
            return  # each image tells its own
        rng = noise.generator_for(self.options.seed, 0, series.uid)
        level = 0.0 if found is None else found.level
        try:
            photons = noise.photons_for(usable, level, self.dose(noise.Dose.photons), rng, self.xp)
        except ValueError as error:
            self.told.append(f"{name}: {error}: {noise.Dose.photons:g} photons a ray, a guess; --photons says how many")
            return
        self.photons[series.uid] = photons
        low = level / self.options.dose**0.5
        self.told.append(
            f"{name}: {photons:.3g} photons a ray make the {level:.1f} HU of noise that it has; {low:.1f} HU are added "
            f"at {self.options.dose:g} of the dose"
        )

    def series(self, header: Dataset, repeat: int) -> DerivedSeries:
        """Its description says what was done; all that decides the noise enters the UIDs."""
        options = self.options
        what, decisive = {
            noise.POISSON: (f"Poisson noise n={options.counts:g}", {"n": options.counts}),
            noise.UNBIASED: (f"Poisson noise n={options.counts:g}, mean kept", {"n": options.counts}),
            noise.GAUSSIAN: (f"Gaussian noise sd={options.sd:g}", {"sd": options.sd}),
            noise.DOSE: (
                f"Simulated dose {options.dose:g}",
                {name: getattr(options, name) for name in ("dose", "electronic", "views", "kernel", "bowtie", "fan")}
                | {"photons": self.photons_of(header)},
            ),
        }[options.model]
        within = options.model in (noise.POISSON, noise.UNBIASED)
        return DerivedSeries(
            header,
            model_name=f"{self.name} {options.model}",
            description=what,
            options={**decisive, "seed": options.seed, "repeat": repeat},
            value_range=None if within or text(header, "Modality") != "CT" else LARGEST_HU,
        )

    def of_dicom(self, image: dicom.DicomImage, rng: np.random.Generator) -> Pair:
        if self.options.model == noise.DOSE:
            return Pair(image.hu + self.dose_noise(image, rng), mask=image.mask)
        if self.options.model == noise.GAUSSIAN:
            return Pair(noise.gaussian(image.hu, self.options.sd, rng), mask=image.mask)
        bits, signed = int(image.header.BitsStored), int(image.header.PixelRepresentation) == 1
        own = Encoding(image.slope, image.intercept, bits, signed)
        stored, saturated = self.poisson(image.stored, rng, own.least, own.most)
        return Pair(stored * image.slope + image.intercept, saturated, mask=image.mask)

    def of_plain(self, image: Image, path: Path, rng: np.random.Generator) -> Pair:
        if self.options.model == noise.DOSE:
            raise UserError("--model dose: needs HU and the size of a pixel, so DICOM CT images")
        if self.options.model == noise.GAUSSIAN:
            return Pair(noise.gaussian(image.array, self.options.sd, rng))
        least, most = (-np.inf, np.inf) if image.bits is None else (0, 2**image.bits - 1)
        return Pair(*self.poisson(image.array, rng, least, most))

    def poisson(
        self, stored: np.ndarray, rng: np.random.Generator, least: float, most: float
    ) -> tuple[np.ndarray, int]:
        unbiased = self.options.model == noise.UNBIASED
        return noise.poisson(stored, self.options.counts, rng, least, most, unbiased=unbiased)

    def dose_noise(self, image: dicom.DicomImage, rng: np.random.Generator) -> np.ndarray:
        """Noise in HU. Raises Unreadable where the image does not say how large its pixels are."""
        spacing, dose = self.spacing(image), self.dose(self.photons_of(image.header))
        try:
            return noise.dose_noise(image.hu, spacing, dose, rng, self.xp)
        except ValueError as error:
            raise UserError(f"--fan: {error}") from error

    def photons_of(self, header: Dataset) -> float:
        """A ray at full dose, in images of this series."""
        if self.options.photons != AUTO:
            return float(self.options.photons)
        return self.photons.get(text(header, "SeriesInstanceUID"), noise.Dose.photons)

    def dose(self, photons: float) -> noise.Dose:
        o = self.options
        return noise.Dose(o.dose, photons, o.electronic, o.views, o.kernel, o.bowtie, o.fan)

    @property
    def xp(self) -> ModuleType:
        """What computes arrays: CuPy or NumPy."""
        if self.on_gpu:
            import cupy as xp

            return xp
        return np

    @staticmethod
    def spacing(image: dicom.DicomImage) -> float:
        """Of its square pixels, mm. Raises Unreadable where the image does not say how large they are."""
        if image.modality != "CT":
            raise dicom.Unreadable(image.path, "dose noise needs HU, so a CT image")
        if image.spacing is None or abs(image.spacing[0] - image.spacing[1]) > 1e-3 * image.spacing[0]:
            raise dicom.Unreadable(image.path, "dose noise needs square pixels of a known PixelSpacing")
        return image.spacing[0]


def command(argv: list[str]) -> None:
    options = parse(NoiseOptions, argv, __doc__)
    maker = NoisyPairs(options, uses_gpu(options))
    count, told = make_pairs(maker, progress="adding noise")
    print(f"{Path(options.out)}: {counted(count, 'pair')} in trainA (noisy) and trainB (clean), listed in pairs.txt")
    if options.model == noise.POISSON:
        print(
            f"the released noise model raises the mean by n = {options.counts:g} stored values "
            f"(sd {options.counts**0.5:.3g}); poisson-unbiased keeps it"
        )
    for line in [*maker.told, *told]:
        print(line)


def uses_gpu(options: NoiseOptions) -> bool:
    """True if the dose model is to run on a GPU. UserError for one that is not there."""
    if options.model != noise.DOSE or options.gpu == -1:
        return False
    from medi2i.common.device import choose_device

    device = choose_device(options.gpu)
    device.use()
    return device.name.startswith("@cupy")


main = as_main(command)


if __name__ == "__main__":
    from medi2i.tools import make_noisy  # under its own name: workers import what they are to do

    sys.exit(make_noisy.main())
