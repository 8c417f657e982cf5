"""Other people's tools on what we write: dciodvfy, dcentvfy, dcmdump, gdcminfo, dcm2niix. Each test skips without its
tools."""

import shutil
import subprocess

import numpy as np
import pytest

from medi2i.datasets import dicom
from medi2i.datasets.dicom.new_series import DerivedSeries
from medi2i.tools import make_phantom

SYNTAXES = {  # name -> command that makes it of an explicit little endian file
    "explicit": None,
    "implicit": ["dcmconv", "+ti"],
    "big endian": ["dcmconv", "+tb"],
    "deflated": ["dcmconv", "+td"],
    "jpeg lossless": ["dcmcjpeg", "+e1"],
    "jpeg-ls": ["dcmcjpls"],
    "rle": ["dcmcrle"],
}


def needs(*tools):
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def output_of(*command) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace", timeout=60)
    return done.stdout + done.stderr


def errors_of(path) -> set[str]:
    return {line for line in output_of("dciodvfy", path).splitlines() if line.startswith("Error")}


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory):
    """Three slices of a phantom."""
    folder = tmp_path_factory.mktemp("source")
    make_phantom.main(["-o", str(folder), "--size", "64", "50", "--slices", "3"])
    return folder / "phantom_001"


@pytest.fixture(scope="session", params=SYNTAXES)
def converted(request, phantom_folder, tmp_path_factory):
    """(source folder in a transfer syntax, folder with every slice made 1 HU brighter and written, the series)."""
    encoded, command = phantom_folder, SYNTAXES[request.param]
    if command is not None:
        if shutil.which(command[0]) is None:
            pytest.skip(f"not installed: {command[0]}")
        encoded = tmp_path_factory.mktemp("encoded")
        for path in phantom_folder.iterdir():
            assert output_of(*command, path, encoded / path.name) == ""
    out = tmp_path_factory.mktemp("out")
    (series,) = dicom.scan(encoded, workers=1).series
    writer = None
    for item in series.slices:
        image = dicom.read(item.path)
        writer = writer or DerivedSeries(
            image.header, model_name="m.npz", model_sha256="0" * 64, description="brighter"
        )
        assert writer.write(out / item.path.name, image, image.hu + 1, mask=image.mask).clipped == 0
    return encoded, out, series


@needs("dciodvfy")
def test_dciodvfy_finds_no_error_that_the_source_has_not(converted):
    encoded, out, _ = converted
    for path in sorted(out.iterdir()):
        assert errors_of(path) <= errors_of(encoded / path.name)


@needs("dciodvfy", "dcentvfy")
def test_phantom_has_no_error_at_all(phantom_folder):
    paths = sorted(phantom_folder.iterdir())
    assert not errors_of(paths[0]) and "Warning" not in output_of("dciodvfy", paths[0])
    assert output_of("dcentvfy", *paths) == ""


@needs("dcentvfy")
def test_dcentvfy_finds_nothing_over_the_series(converted):
    assert output_of("dcentvfy", *sorted(converted[1].iterdir())) == ""


@needs("dcentvfy")
def test_dcentvfy_finds_nothing_over_source_and_result(phantom_folder, tmp_path):
    paths = sorted(phantom_folder.iterdir())
    image = dicom.read(paths[0])
    DerivedSeries(image.header, model_name="m", description="d").write(tmp_path / "o.dcm", image, image.hu)
    assert output_of("dcentvfy", *paths, tmp_path / "o.dcm") == ""


@needs("dcmdump", "gdcminfo")
def test_dcmdump_and_gdcm_read_it(converted):
    for path in sorted(converted[1].iterdir())[:2]:
        dump = output_of("dcmdump", path)
        assert "E: " not in dump and "W: " not in dump and "DERIVED\\SECONDARY\\AXIAL" in dump
        info = output_of("gdcminfo", path)
        assert (
            "CT Image Storage" in info and "Rescale Intercept/Slope" in info.replace("  ", " ") or "Intercept" in info
        )


@needs("dcm2niix")
def test_dcm2niix_gives_the_geometry_and_hu_of_the_source(converted, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    encoded, out, series = converted
    images = []
    for name, folder in (("source", encoded), ("out", out)):
        (tmp_path / name).mkdir()
        said = output_of("dcm2niix", "-b", "n", "-f", name, "-o", tmp_path / name, folder)
        files = list((tmp_path / name).glob("*.nii"))
        if not files and name == "source":
            pytest.skip("dcm2niix cannot read this transfer syntax")
        assert len(files) == 1 and "rror" not in said, said
        images.append(nibabel.load(files[0]))
    np.testing.assert_allclose(images[0].affine, images[1].affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(images[1].dataobj), np.asarray(images[0].dataobj) + 1)
    # and it is what we read: nifti is (x, y, z) with y towards the front
    volume = dicom.read_volume(series)
    np.testing.assert_array_equal(np.asarray(images[0].dataobj), volume.transpose(2, 1, 0)[:, ::-1])
