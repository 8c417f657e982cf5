"""make_lowres: both layouts, both methods, DICOM geometry, sizes that do not divide, refusals."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest

from medi2i.datasets import dicom, grid
from medi2i.datasets.reading import read_image
from medi2i.datasets.writing import write_image
from medi2i.tools import make_lowres, make_phantom


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Phantom slices of 41 x 50 pixels: odd rows."""
    root = tmp_path_factory.mktemp("ct") / "ct"
    assert make_phantom.main(["-o", str(root), "--size", "41", "50", "--slices", "3", "--series", "1"]) == 0
    return root


def run(root, out, *options):
    return make_lowres.main(["-i", str(root), "-o", str(out), "-j", "1", *options])


def pairs(out):
    listed = [line.split("\t") for line in (out / "pairs.txt").read_text().splitlines()]
    assert listed
    return [(out / a, out / b) for a, b in listed]


@pytest.mark.parametrize("method", grid.METHODS)
def test_on_the_fine_grid(made, tmp_path, capsys, method):
    assert run(made, tmp_path / "o", "--method", method) == 0
    assert "3 pairs" in capsys.readouterr().out
    for a, b in pairs(tmp_path / "o"):
        source = made / b.relative_to(tmp_path / "o" / "trainB")
        assert b.read_bytes() == source.read_bytes()
        x, t = dicom.read(a), dicom.read(b)
        low = grid.reduce(grid.continued(t.hu[np.newaxis], 2), 2, method)
        np.testing.assert_array_equal(x.hu, np.rint(grid.enlarge(low, 2)[0, :41, :50]))
        assert x.spacing == t.spacing and x.where.position == t.where.position
        assert x.header.ImageType[0] == "DERIVED" and x.header.SeriesInstanceUID != t.header.SeriesInstanceUID
        assert x.header.SeriesDescription == "Resolution 1/2, on the fine grid"
        assert x.header.FrameOfReferenceUID == t.header.FrameOfReferenceUID


def test_on_the_coarse_grid_with_its_geometry(made, tmp_path):
    assert run(made, tmp_path / "o", "--scale", "3", "--keep_small") == 0
    for a, b in pairs(tmp_path / "o"):
        source = dicom.read(made / b.relative_to(tmp_path / "o" / "trainB"))
        x, t = dicom.read(a), dicom.read(b)
        assert x.hu.shape == (13, 16) and t.hu.shape == (39, 48)
        np.testing.assert_array_equal(t.hu, source.hu[:39, :48])
        np.testing.assert_array_equal(x.hu, np.rint(grid.reduce(t.hu[np.newaxis], 3)[0]))
        np.testing.assert_allclose(x.spacing, np.multiply(source.spacing, 3))
        np.testing.assert_allclose(t.spacing, source.spacing)
        np.testing.assert_allclose(t.where.position, source.where.position)
        # One fine pixel further along the rows and the columns, which are the patient's x and y here.
        np.testing.assert_allclose(
            np.subtract(x.where.position, source.where.position), [source.spacing[1], source.spacing[0], 0], atol=1e-6
        )
        assert x.header.SourceImageSequence[0].SpatialLocationsPreserved == "NO"


def test_originals_that_divide_are_copied(made, tmp_path):
    out = tmp_path / "o"
    root = tmp_path / "in"
    assert make_phantom.main(["-o", str(root), "--size", "40", "50", "--slices", "1", "--series", "1"]) == 0
    assert run(root, out, "--keep_small") == 0
    ((a, b),) = pairs(out)
    assert b.read_bytes() == (root / b.relative_to(out / "trainB")).read_bytes()
    assert dicom.read(a).hu.shape == (20, 25)


def test_constant_images_with_padding(made, tmp_path):
    path = next(made.rglob("*.dcm"))
    d = pydicom.dcmread(path)
    stored = np.full((41, 50), 1074, d.pixel_array.dtype)
    stored[:, 30:] = -1 if stored.dtype.kind == "i" else 4095
    d.add_new("PixelPaddingValue", "SS" if stored.dtype.kind == "i" else "US", int(stored[0, 40]))
    d.PixelData = stored.tobytes()
    (tmp_path / "in").mkdir()
    d.save_as(tmp_path / "in" / "a.dcm")
    tissue = dicom.read(tmp_path / "in" / "a.dcm").hu[0, 0]
    assert run(tmp_path / "in", tmp_path / "o") == 0
    assert run(tmp_path / "in", tmp_path / "s", "--keep_small") == 0
    fine, small = (dicom.read(tmp_path / f / "trainA" / "a.dcm") for f in "os")
    np.testing.assert_array_equal(fine.mask, np.arange(50) >= 30 + np.zeros((41, 1)))
    np.testing.assert_array_equal(small.mask, np.arange(25) >= 15 + np.zeros((20, 1)))
    np.testing.assert_array_equal(fine.hu[:, :24], tissue)
    np.testing.assert_array_equal(small.hu[:, :12], tissue)


def test_noise_is_of_the_coarse_image_and_of_its_seed(made, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(made, tmp_path / name, "--keep_small", "--noise", "30", "--seed", str(seed)) == 0
    assert run(made, tmp_path / "none", "--keep_small") == 0
    name = pairs(tmp_path / "a")[0][0].relative_to(tmp_path / "a")
    one, same, other, none = (dicom.read(tmp_path / f / name).hu for f in ("a", "b", "c", "none"))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert (one - none).std() == pytest.approx(30, rel=0.15) and abs((one - none).mean()) < 5


def test_pictures_and_arrays(tmp_path, capsys):
    grey = np.full((1, 9, 11), 77.0)
    write_image(tmp_path / "in" / "a.png", grey)
    write_image(tmp_path / "in" / "b.png", grey.repeat(3, axis=0))
    write_image(tmp_path / "in" / "small.png", grey[:, :1])
    assert run(tmp_path / "in", tmp_path / "o") == 0
    told = capsys.readouterr().out
    assert "2 pairs" in told and "1 file skipped" in told and "small.png: 11x1 pixels" in told
    for a, b in pairs(tmp_path / "o"):
        np.testing.assert_array_equal(read_image(a).array, read_image(b).array)
    assert run(tmp_path / "in", tmp_path / "s", "--keep_small", "-m", "kspace") == 0
    shapes = [(read_image(a).array.shape, read_image(b).array.shape) for a, b in pairs(tmp_path / "s")]
    assert shapes == [((1, 4, 5), (1, 8, 10)), ((3, 4, 5), (3, 8, 10))]


@pytest.mark.parametrize(
    ("options", "words"), [(["--scale", "1"], "--scale"), (["--method", "nearest"], "bicubic, kspace")]
)
def test_refusals(made, tmp_path, capsys, options, words):
    assert run(made, tmp_path / "o", *options) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "o").exists()
    assert run(made, made / "inside") == 1


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
def test_dciodvfy_finds_nothing_new(made, tmp_path):
    def errors(path):
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, errors="replace", timeout=60)
        return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}

    assert run(made, tmp_path / "fine") == 0 and run(made, tmp_path / "small", "--keep_small") == 0
    for a, b in pairs(tmp_path / "fine") + pairs(tmp_path / "small"):
        assert errors(a) == set() and errors(b) == set()
