"""From a CT or a phantom to sinograms and back, by the commands."""

import json

import numpy as np
import pytest

from medi2i.datasets import dicom
from medi2i.reconstruction import reconstruct
from medi2i.tools import make_phantom, make_sinograms


def run(main, *arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Two slices of a phantom in DICOM, and their scan."""
    folder = tmp_path_factory.mktemp("scan")
    assert run(make_phantom.main, "-o", folder / "ct", "--size", 64, "--slices", 2) == 0
    common = "--of", "ct", "--ct", folder / "ct", "--photons", 1e5
    assert run(make_sinograms.main, "-o", folder / "sinograms", *common, "--views", 90) == 0
    return folder


@pytest.mark.parametrize("method", [["fbp"], ["sirt"], ["tv", "--photons", 1e5], ["tv", "--strength", 0.1]])
def test_a_ct_comes_back_in_hu_at_its_place(scan, tmp_path, method):
    arguments = "-i", scan / "sinograms", "-o", tmp_path / "out", "--method", *method
    assert run(reconstruct.main, *arguments) == 0
    (truth,), (found,) = (dicom.scan(place).series for place in (scan / "ct", tmp_path / "out"))
    assert found.shape == truth.shape and found.spacing == truth.spacing
    assert [item.position for item in found.slices] == [item.position for item in truth.slices]
    off = dicom.read_volume(found) - np.maximum(dicom.read_volume(truth), -1000)
    assert abs(off.mean()) < 15 and np.sqrt(np.mean(off**2)) < {"fbp": 160, "sirt": 160, "tv": 110}[method[0]]
    report = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert sorted(report["images"]) == ["00001", "00002"]
    assert all(0 < told["residual"] < 0.5 for told in report["images"].values())


@pytest.mark.parametrize("beam", ["parallel", "arc", "flat"])
def test_phantoms_come_back(tmp_path, beam, capsys):
    arguments = "--of", "ellipses", "--num", 2, "--size", 48, "--views", 60, "--beam", beam
    assert run(make_sinograms.main, "-o", tmp_path / "scan", *arguments) == 0
    assert "2 sinograms of 60 views" in capsys.readouterr().out
    assert run(reconstruct.main, "-i", tmp_path / "scan", "-o", tmp_path / "out", "--strength", 0.02) == 0
    for name in ("00001.npy", "00002.npy"):
        truth, found = np.load(tmp_path / "scan/truth" / name), np.load(tmp_path / "out" / name)
        assert found.shape == (48, 48) and found.dtype == np.float32
        assert np.sqrt(np.mean((found - truth) ** 2)) < 60


def test_several_slices_in_one_file(tmp_path):
    assert run(make_sinograms.main, "-o", tmp_path / "scan", "--of", "shepp-logan", "--size", 32, "--views", 20) == 0
    one = np.load(tmp_path / "scan/00001.npy")
    np.save(tmp_path / "scan/00001.npy", np.stack([one, 0 * one, one]))
    assert run(reconstruct.main, "-i", tmp_path / "scan/00001.npy", "-o", tmp_path / "out", "--method", "fbp") == 0
    first, second, third = (np.load(tmp_path / f"out/00001_000{number}.npy") for number in (1, 2, 3))
    assert np.array_equal(first, third) and (second == -1000).all() and first.max() > -600


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-i", "nowhere"], "--root: nowhere: no such file or folder"),
        (["-i", "{empty}"], "holds no sinogram, which would be an npy file"),
        (["-i", "{scan}", "--prior", "run"], "--prior: goes with --method pnp"),
        (["-i", "{scan}", "--method", "pnp"], "--prior: goes with --method pnp"),
        (["-i", "{scan}", "--method", "fbp", "--iterations", "3"], "--iterations: filtered back-projection has none"),
        (["-i", "{scan}", "--method", "sirt", "--strength", "1"], "--strength: is of total variation"),
        (["-i", "{other}"], "holds 3 x 4 values of type float64; the geometry has 90 views x"),
        (["-i", "{text}"], "cannot be read as npy"),
    ],
)
def test_wrong_inputs_are_one_line(scan, tmp_path, arguments, words, capsys):
    places = dict(scan=scan / "sinograms")
    for name in ("empty", "other", "text"):
        places[name] = tmp_path / name
        places[name].mkdir()
        if name != "empty":
            (places[name] / "geometry.json").write_text((scan / "sinograms/geometry.json").read_text())
    np.save(places["other"] / "a.npy", np.zeros((3, 4)))
    (places["text"] / "a.npy").write_text("no array")
    status = run(reconstruct.main, *(word.format(**places) for word in arguments), "-o", tmp_path / "out")
    assert status == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
