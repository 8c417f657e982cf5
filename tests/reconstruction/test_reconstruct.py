"""From a CT or a phantom to sinograms and back, by the commands."""

import json
import os
import signal

import numpy as np
import pytest
import tifffile
from PIL import Image

from medi2i.common.inference import report
from medi2i.common.networks.files import save_networks
from medi2i.common.options import PairedOptions, save_args
from medi2i.datasets import dicom
from medi2i.pix2pix import net
from medi2i.reconstruction import reconstruct, solvers
from medi2i.reconstruction.scans import Scans
from medi2i.tools import evaluate, make_phantom, make_sinograms


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
    told = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert sorted(told["files"]) == ["00001", "00002"] and told["state"] == "complete"
    assert all(0 < one["residual"] < 0.5 for one in told["files"].values())


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


@pytest.mark.parametrize(("method", "solver"), [("tv", "total_variation"), ("sirt", "sirt")])
def test_an_iteration_that_a_signal_ends_is_no_result(scan, tmp_path, method, solver, monkeypatch):
    arguments = "-i", scan / "sinograms", "--method", method, "--iterations", 20
    assert run(reconstruct.main, *arguments, "-o", tmp_path / "whole") == 0
    solve = getattr(solvers, solver)

    def ended(*given, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return solve(*given, **more)

    monkeypatch.setattr(solvers, solver, ended)
    assert run(reconstruct.main, *arguments, "-o", tmp_path / "out") == 143
    assert not list((tmp_path / "out").glob("*.dcm"))
    monkeypatch.setattr(solvers, solver, solve)
    assert run(reconstruct.main, *arguments, "-o", tmp_path / "out", "--resume") == 0
    volumes = [dicom.read_volume(dicom.scan(tmp_path / place).series[0]) for place in ("whole", "out")]
    assert np.array_equal(*volumes)


def test_several_slices_in_one_file(tmp_path):
    assert run(make_sinograms.main, "-o", tmp_path / "scan", "--of", "shepp-logan", "--size", 32, "--views", 20) == 0
    one = np.load(tmp_path / "scan/00001.npy")
    np.save(tmp_path / "scan/00001.npy", np.stack([one, 0 * one, one]))
    assert run(reconstruct.main, "-i", tmp_path / "scan/00001.npy", "-o", tmp_path / "out", "--method", "fbp") == 0
    first, second, third = (np.load(tmp_path / f"out/00001_000{number}.npy") for number in (1, 2, 3))
    assert np.array_equal(first, third) and (second == -1000).all() and first.max() > -600


@pytest.mark.parametrize("kind", ["npz", "tif"])
def test_sinograms_of_other_kinds(tmp_path, kind):
    assert run(make_sinograms.main, "-o", tmp_path / "scan", "--of", "shepp-logan", "--size", 32, "--views", 20) == 0
    assert run(reconstruct.main, "-i", tmp_path / "scan", "-o", tmp_path / "npy", "--method", "fbp") == 0
    array = np.load(tmp_path / "scan/00001.npy")
    (tmp_path / "scan/00001.npy").unlink()
    if kind == "npz":
        np.savez_compressed(tmp_path / "scan/00001.npz", sinogram=array)
    else:
        tifffile.imwrite(tmp_path / "scan/00001.tif", array)
    assert run(reconstruct.main, "-i", tmp_path / "scan", "-o", tmp_path / kind, "--method", "fbp") == 0
    assert np.array_equal(np.load(tmp_path / kind / "00001.npy"), np.load(tmp_path / "npy/00001.npy"))
    data = Scans(tmp_path / "scan")
    assert np.array_equal(data.load(0)[0][0], array)


def test_a_fan_of_too_few_angles_is_for_what_iterates(tmp_path, capsys):
    arguments = "--of", "shepp-logan", "--size", 32, "--views", 20, "--beam", "flat", "--turn", 120
    assert run(make_sinograms.main, "-o", tmp_path / "scan", *arguments) == 0
    assert run(reconstruct.main, "-i", tmp_path / "scan", "-o", tmp_path / "fbp", "--method", "fbp") == 1
    error = capsys.readouterr().err
    assert "the views cover 120" in error and error.count("\n") == 1 and not (tmp_path / "fbp").exists()
    assert run(reconstruct.main, "-i", tmp_path / "scan", "-o", tmp_path / "tv", "--strength", 0.02) == 0
    off = np.load(tmp_path / "tv/00001.npy") - np.load(tmp_path / "scan/truth/00001.npy")
    assert np.sqrt(np.mean(off**2)) < 150


def test_pictures_of_the_iterates_and_a_report(scan, tmp_path):
    arguments = "-i", scan / "sinograms", "--method", "tv", "--iterations", 4, "--vis_freq", 2
    assert run(reconstruct.main, *arguments, "-o", tmp_path / "tv") == 0
    pictures = sorted(path.name for path in (tmp_path / "tv.report").iterdir())
    assert pictures == [f"0000{number}_i{step}.png" for number in (1, 2) for step in (2, 4)]
    assert np.asarray(Image.open(tmp_path / "tv.report/00001_i4.png")).shape == (64, 64)
    assert run(reconstruct.main, "-i", scan / "sinograms", "-o", tmp_path / "fbp", "--method", "fbp") == 0
    pairs = "-R", tmp_path / "fbp", "--pairs", scan / "sinograms/pairs.txt"
    assert run(evaluate.main, *pairs, "-c", f"by_tv={tmp_path / 'tv'}", "-o", tmp_path / "report") == 0
    assert (tmp_path / "report/report.html").is_file()


def test_what_is_resumed_is_the_same_run(scan, tmp_path, capsys):
    arguments = "-i", scan / "sinograms", "-o", tmp_path / "out", "--iterations", 2
    path = tmp_path / "out/reconstruction.json"
    assert run(reconstruct.main, *arguments) == 0
    told = path.read_text()
    capsys.readouterr()
    for more, text, words in (
        (["--method", "sirt", "--resume"], told, "is of a run with another method (tv; now sirt)"),
        (["--strength", 3, "--resume"], told, "is of a run with another strength (None; now 3"),
        (["-i", scan / "sinograms/00001.npy", "--resume"], told, "is of a run with another given ("),
        ([], told, "exists already; --force overwrites it"),
        (["--resume"], "{}", "not a readable report"),
        (["--resume"], "[1]", "not a readable report"),
        (["--resume"], "{", "not a readable report (Expecting property name"),
        (["--resume"], None, "exists already; --force overwrites it"),
    ):
        path.write_text(text) if text is not None else path.unlink()
        assert run(reconstruct.main, *arguments, *more) == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
        assert text is None or path.read_text() == text
    path.write_text(told)
    (tmp_path / "out/00002.dcm").unlink()
    before = (tmp_path / "out/00001.dcm").stat().st_mtime_ns
    assert run(reconstruct.main, *arguments, "--resume") == 0
    assert (tmp_path / "out/00002.dcm").exists() and (tmp_path / "out/00001.dcm").stat().st_mtime_ns == before


def test_the_report_of_many_images_is_not_written_anew_for_each(tmp_path, monkeypatch):
    assert run(make_sinograms.main, "-o", tmp_path / "scan", "--of", "shepp-logan", "--size", 16, "--views", 8) == 0
    np.save(tmp_path / "scan/00001.npy", np.stack([np.load(tmp_path / "scan/00001.npy")] * 9))
    arguments = "-i", tmp_path / "scan", "-o", tmp_path / "out", "--method", "fbp"
    wholes, images, write, write_npy = [], [], report.Report._write, reconstruct.write_npy

    def killed(path, *rest):
        if len(images) == 5:
            raise ArithmeticError
        images.append(path)
        write_npy(path, *rest)

    monkeypatch.setattr(report.Report, "_write", lambda self: (wholes.append(len(self.files)), write(self)))
    monkeypatch.setattr(reconstruct, "write_npy", killed)
    with pytest.raises(ArithmeticError):
        run(reconstruct.main, *arguments)
    assert wholes == [1]  # the other five are in the journal beside it, and of the last there is no image
    monkeypatch.setattr(reconstruct, "write_npy", write_npy)
    before = [path.stat().st_mtime_ns for path in images]
    assert run(reconstruct.main, *arguments, "--resume") == 0
    assert [path.stat().st_mtime_ns for path in images] == before and len(images) == 5
    assert wholes == [1, 6, 9] and len(list((tmp_path / "out").glob("*.npy"))) == 9
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".npy") == [
        "reconstruction.json"
    ]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (lambda y: np.where(y == y.max(), np.nan, y), "1 values are no numbers"),
        (lambda y: -y, "says that more came through than was sent"),
        (lambda y: 1e5 * np.exp(-y), "says that nothing came through"),
        (lambda y: y[:, 1:], "holds 90 x 92 values of type float32; the geometry has 90 views x 93 bins"),
    ],
)
def test_sinograms_that_are_none(scan, tmp_path, array, words, capsys):
    (tmp_path / "scan").mkdir()
    y = np.load(scan / "sinograms/00001.npy")
    np.save(tmp_path / "scan/a.npy", array(y).astype(np.float32))
    (tmp_path / "scan/geometry.json").write_text((scan / "sinograms/geometry.json").read_text())
    for method in ("fbp", "sirt"):
        assert run(reconstruct.main, "-i", tmp_path / "scan", "-o", tmp_path / "out", "--method", method) == 1
        error = capsys.readouterr().err
        assert words in error and "a.npy: " in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(beam="arc", source_distance=20.0), "the source would lie within the image"),
        (dict(bins=0), "bins 0: from 1 to 16384 would be right"),
        (dict(angles=["a"]), "a value is not of its kind"),
    ],
)
def test_geometries_that_are_none(scan, tmp_path, change, words, capsys):
    values = json.loads((scan / "sinograms/geometry.json").read_text()) | change
    (tmp_path / "geometry.json").write_text(json.dumps(values))
    arguments = "-i", scan / "sinograms", "-g", tmp_path / "geometry.json", "-o", tmp_path / "out"
    assert run(reconstruct.main, *arguments) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["[1]", '{"00001": "a.dcm"}', '{"00001": ["a.dcm", "0"]}'])
def test_sources_that_are_none(scan, tmp_path, text, capsys):
    (tmp_path / "scan").mkdir()
    for name in ("00001.npy", "geometry.json"):
        (tmp_path / "scan" / name).write_bytes((scan / "sinograms" / name).read_bytes())
    (tmp_path / "scan/sources.json").write_text(text)
    assert run(reconstruct.main, "-i", tmp_path / "scan", "-o", tmp_path / "out", "--method", "fbp") == 1
    error = capsys.readouterr().err
    assert "sources.json: " in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-i", "nowhere"], "--root: nowhere: no such file or folder"),
        (["-i", "{empty}"], "holds no sinogram, which would be an npy, npz or tif file"),
        (["-i", "{scan}", "--prior", "run"], "--prior: --method tv takes none"),
        (["-i", "{scan}", "--method", "pnp"], "--prior: --method pnp needs a denoiser of pix2pix"),
        (["-i", "{scan}", "--method", "fbp", "--iterations", "3"], "--iterations: --method fbp has none of its own"),
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


@pytest.fixture
def prior(tmp_path):
    """make(**options) -> run folder of a pix2pix with random weights."""

    def make(**options):
        folder = tmp_path / "run"
        folder.mkdir()
        plain = dict(
            gen_chs=[4, 8], gen_nblock=1, gen_norm="none", gen_out_activation="none", lambda_dis=0, ch=1, out_ch=1
        )
        chosen = PairedOptions(**plain | options)
        save_args(chosen, folder / "args")
        save_networks(folder, net.build(chosen).as_dict(), 1)
        return folder

    return make


def test_a_network_of_ours_as_prior(scan, prior, tmp_path):
    run_folder = prior(clipA=[-1000, 500], clipB=[-1000, 500], gen_residual=0.02)
    denoise = reconstruct.denoiser_of(str(run_folder))
    hu = np.random.default_rng(0).uniform(-1200, 900, (33, 41)).astype(np.float32)  # of no size that it likes
    found = denoise(hu)
    outside = (hu < -1000) | (hu > 500)
    assert np.array_equal(found[outside], hu[outside]) and found.shape == hu.shape
    assert 0 < np.abs(found - hu)[~outside].max() < 750  # 0.02 of [-1, 1] times what the layers say
    arguments = "-i", scan / "sinograms", "-o", tmp_path / "out", "--method", "pnp", "--prior", run_folder
    assert run(reconstruct.main, *arguments, "--photons", 1e5, "--pull", 0.001, "--iterations", 10) == 0
    (series,) = dicom.scan(tmp_path / "out").series
    (truth,) = dicom.scan(scan / "ct").series
    off = dicom.read_volume(series) - np.maximum(dicom.read_volume(truth), -1000)
    assert np.sqrt(np.mean(off**2)) < 160


def test_a_denoiser_is_told_how_much_and_is_for_its_pixels(prior, scan, tmp_path, capsys):
    folder = prior(clipA=[-1000, 2000], clipB=[-1000, 2000], gen_residual=0.02, noise_level=20.0)
    hu = np.random.default_rng(0).uniform(-900, 900, (32, 32)).astype(np.float32)
    taken = {level: hu - reconstruct.denoiser_of(str(folder), level)(hu) for level in (20, 40)}
    twice = 2 * hu - reconstruct.denoiser_of(str(folder), 40)(2 * hu)
    assert np.allclose(twice, 2 * taken[20], rtol=1e-4, atol=0.05) and not np.allclose(taken[40], taken[20], atol=1)
    (folder / "card.json").write_text('{"summary": "of a test", "modality": "CT", "pixel_mm": [0.1, 0.2]}')
    arguments = "-i", scan / "sinograms", "-o", tmp_path / "out", "--method", "pnp", "--prior", folder
    assert run(reconstruct.main, *arguments) == 1
    error = capsys.readouterr().err
    assert "is for pixels of 0.1 to 0.2 mm, and these are of" in error and error.count("\n") == 1


def test_a_prior_of_another_clip(prior, scan, tmp_path, capsys):
    folder = prior(clipA=[-1000, 500], clipB=[0, 4000])
    arguments = "-i", scan / "sinograms", "-o", tmp_path / "out", "--method", "pnp", "--prior", folder
    assert run(reconstruct.main, *arguments) == 1
    error = capsys.readouterr().err
    assert "was trained to bring -1000 to 500 to 0 to 4000 HU" in error and error.count("\n") == 1
    assert run(reconstruct.main, *arguments, "--noise_level", 20) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [dict(class_num=3, out_ch=3), dict(clipA=None, imgtype="npy", ch=3, out_ch=3)])
def test_priors_of_another_kind(prior, scan, tmp_path, options, capsys):
    arguments = "-i", scan / "sinograms", "-o", tmp_path / "out", "--method", "pnp", "--prior", prior(**options)
    assert run(reconstruct.main, *arguments) == 1
    assert "--prior: " in capsys.readouterr().err and not (tmp_path / "out").exists()
