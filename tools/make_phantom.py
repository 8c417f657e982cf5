#!/usr/bin/env python
"""Make CT series of a procedural phantom, to try everything without a patient's data.

  python tools/make_phantom.py -o data/phantom --size 256 --slices 40 --series 4

Each series is another trunk (air, lungs with vessels, fat, muscle, organs, bone, table) in a folder of its own, as
valid DICOM CT images in whole HU. The same seed makes the same files.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np
from tqdm import tqdm

from medi2i.common import VERSION
from medi2i.common.errors import UserError, as_main
from medi2i.common.locks import locked
from medi2i.common.options import Checked, option, parse
from medi2i.datasets.dicom.encoding import Encoding, encode
from medi2i.datasets.dicom.new_series import NewSeries
from medi2i.tools.making.phantom import Phantom, phantom

ENCODING = Encoding(1, -1024, 12, signed=False)
"""As scanners store HU: 12 bits, -1024…3071."""


@dataclass
class PhantomOptions(Checked):
    """What to make"""

    out: str = option("data/phantom", "-o", metavar="FOLDER", help="folder for the series, one sub-folder each")
    size: list[int] = option(
        [256], nargs="+", type=int, low=16, high=2048, metavar="PX", help="width, or height and width"
    )
    slices: int = option(40, type=int, low=1, high=2000, help="slices of each series")
    series: int = option(1, "-n", "--patients", type=int, low=1, help="series, each of another patient")
    thickness: float | None = option(
        None, type=float, low=0.1, high=50, help="mm between slices; default: to cover the trunk"
    )
    seed: int = option(0, type=int, low=0, high=2**32 - 1, help="the same seed makes the same phantoms")
    force: bool = option(False, type=bool, help="overwrite existing files")


def command(argv: list[str]) -> None:
    options = parse(PhantomOptions, argv, __doc__)
    if len(options.size) > 2:
        raise UserError(f"--size: {len(options.size)} values; give the width, or height and width")
    shape = (options.size[0], options.size[-1])
    out = Path(options.out)
    with locked(out, "writing"):
        existing = next((folder for n in range(options.series) if (folder := out / folder_name(n)).exists()), None)
        if existing and not options.force:
            raise UserError(f"{existing}: exists; another --out, or --force to overwrite")
        for number in tqdm(range(options.series), desc="phantoms", unit="series", disable=None):
            made = phantom(shape, options.slices, options.seed, number, options.thickness)
            series = series_of(made, options.seed, number)
            for index, hu in enumerate(made.hu):
                path = out / folder_name(number) / f"CT{index + 1:04d}.dcm"
                series.write(path, index, encode(hu, ENCODING, None), options.force)
        print(f"{out}: {options.series} series of {options.slices} slices, {shape[1]}×{shape[0]}")


def folder_name(number: int) -> str:
    return f"phantom_{number + 1:03d}"


def series_of(made: Phantom, seed: int, number: int) -> NewSeries:
    """The CT series that a phantom becomes, slices from feet to head."""
    affine = np.diag([made.spacing[1], made.spacing[0], made.thickness, 1.0])
    affine[:3, 3] = made.origin
    name = f"{seed}-{number + 1:03d}"
    return NewSeries(
        modality="CT",
        affine=affine,
        encoding=ENCODING,
        entropy=("phantom", VERSION, seed, number, made.hu.shape, made.thickness),
        patient_id=f"PHANTOM-{name}",
        patient_name=f"PHANTOM^{name}",
        study_description="Simulated trunk",
        description="Phantom",
        comment="Simulated; no patient",
        manufacturer_model="procedural phantom",
        extra={
            "BodyPartExamined": "CHEST",
            "KVP": "120",
            "WindowCenter": [40, -600],
            "WindowWidth": [400, 1500],
            "WindowCenterWidthExplanation": ["SOFT TISSUE", "LUNG"],
        },
    )


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
