"""Models of the released codes convert as there, through the commands: pixels of the golden cases."""

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medi2i.cyclegan import convert as cyclegan_convert
from medi2i.datasets.reading import read_image
from medi2i.pix2pix import convert as pix2pix_convert

pytestmark = pytest.mark.parity

CASES = Path(__file__).resolve().parents[3] / "shared" / "parity-more" / "convert"
ROUNDED = {"png": 0.501, "tif": 0.501, "dcm": 0.501}  # pictures and DICOM hold whole numbers


def pytest_generate_tests(metafunc):
    """``convert_case``: every folder with names.json below ``--parity``, else of the shared cases."""
    folder = Path(metafunc.config.getoption("--parity") or CASES)
    cases = [pytest.param(path.parent, id=path.parent.name) for path in sorted(folder.rglob("names.json"))]
    skipped = pytest.param(None, marks=pytest.mark.skip(reason=f"no conversions under {folder}"))
    metafunc.parametrize("convert_case", cases or [skipped])


def pixels_of(path):
    """(C, H, W) as another program reads them."""
    if path.suffix != ".dcm":
        return read_image(path).array
    header = pydicom.dcmread(path)
    return (header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept))[np.newaxis]


def test_parity_convert(convert_case, tmp_path):
    convert = cyclegan_convert if convert_case.name.startswith("unpaired") else pix2pix_convert
    with np.load(convert_case / "io.npz") as file:
        expected = file["pixels"]
    weights = next(path for name in ("enc_*.npz", "gen*.npz") for path in convert_case.glob(name))
    assert (
        convert.main(
            [
                "-a",
                str(convert_case / "args"),
                "-m",
                str(weights),
                "-R",
                str(convert_case / "in"),
                "-o",
                str(tmp_path / "out"),
                "-g",
                "-1",
                "--structure",
                "none",
            ]
        )
        == 0
    )
    for name, wanted in zip(json.loads((convert_case / "names.json").read_text())["order"], expected, strict=True):
        found = pixels_of(tmp_path / "out" / name)
        wanted = np.broadcast_to(wanted, found.shape)
        assert abs(found - wanted).max() <= ROUNDED.get(name[-3:], 0.01), name
