"""The Python interface: arrays come out as conversion writes them, folders as the commands leave them."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

import medi2i
from medi2i import interface
from medi2i.common.inference.conversion import open_networks
from medi2i.common.networks.files import save_networks
from medi2i.common.options import PairedOptions, UnpairedOptions, save_args
from medi2i.cyclegan import net as cyclegan_net
from medi2i.pix2pix import net as pix2pix_net
from medi2i.tools import make_noisy, make_phantom, nifti

SMALL = dict(gen_chs=[4, 6], gen_nblock=1, gen_norm="instance", clipA=[-1024, 2000], clipB=[-1024, 2000])
CASES = {
    "values beyond the clip kept": dict(gen_residual=0.3, clipA=[-200, 300], clipB=[-200, 300]),
    "slices in the channels": dict(stack=3, ch=3, out_ch=3),
    "twice the rows": dict(scale=2),
    "two results": dict(out_ch=2, to_col=[1, 2]),
}


@pytest.fixture
def scan(tmp_path):
    """A CT of five slices of 40×48 pixels, whose corner is padding."""
    out = tmp_path / "ct"
    assert make_phantom.main(["-o", str(out), "--size", "40", "48", "--slices", "5"]) == 0
    for path in out.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        stored = dataset.pixel_array.copy()
        stored[:5, :7] = 0
        dataset.add_new("PixelPaddingValue", "US", 0)
        dataset.PixelData = stored.tobytes()
        dataset.save_as(path)
    return out


def trained(folder, cls=PairedOptions, **options):
    """A run folder of a network whose weights are drawn."""
    folder.mkdir()
    chosen = cls(**{**SMALL, "ch": 1, "out_ch": 1, **options})
    np.random.seed(0)
    networks = (pix2pix_net if cls is PairedOptions else cyclegan_net).build(chosen).as_dict()
    for link in networks.values():  # what was only initialised changes next to nothing
        for parameter in link.params():
            if parameter.array is not None and parameter.array.ndim == 4:
                parameter.array *= 2
    save_args(chosen, folder / "args")
    save_networks(folder, networks, 1)
    return folder


def written(folder, kind="npy"):
    return [np.load(path) for path in sorted(folder.rglob(f"*.{kind}"))]


@pytest.mark.parametrize("engine", ["chainer", "auto"])
@pytest.mark.parametrize("case", CASES)
def test_an_array_is_translated_as_convert_writes_its_series(scan, tmp_path, case, engine):
    network = medi2i.load(trained(tmp_path / "run", **CASES[case]), engine=engine)
    series = medi2i.read_series(scan)
    found = network.translate(series)
    network.convert(scan, tmp_path / "out", imgtype_out="npy")
    expected = np.stack(written(tmp_path / "out"))
    if "out_ch" in CASES[case] and "stack" not in CASES[case]:
        expected = expected.reshape(5, 2, 40, 48)
    assert found.dtype == np.float32 and found.shape == expected.shape
    below = (..., slice(12, None), slice(None))  # as npy, padding is what the network makes of it
    assert np.array_equal(found[below], expected[below]) and np.ptp(found[below]) > 100


@pytest.mark.parametrize("weights", ["run", "run/enc_y1.npz"])
def test_cyclegan_translates_there_and_back_at_a_pixel_size_of_its_own(scan, tmp_path, weights):
    trained(tmp_path / "run", UnpairedOptions, stack=3, ch=3, out_ch=3, forceSpacing=9.0, dis_chs=[2, 4])
    network = medi2i.load(tmp_path / weights, batch_size=2)
    series = medi2i.read_series(scan)
    found = network.translate(series)
    network.convert(scan, tmp_path / "out")
    again = medi2i.read_series(tmp_path / "out")
    assert np.array_equal(np.rint(found), again.hu)  # padding included
    assert np.array_equal(again.position, series.position) and again.spacing == series.spacing
    with pytest.raises(medi2i.UserError, match="says no pixel size"):
        network.translate(series.hu)


def test_the_mean_over_flips_and_one_slice(scan, tmp_path):
    network = medi2i.load(trained(tmp_path / "run"), ensemble=True)
    series = medi2i.read_series(scan)
    network.convert(scan, tmp_path / "out")
    found = medi2i.read_series(tmp_path / "out").hu
    assert np.array_equal(np.rint(network.translate(series)), found)
    one = network.translate(series.hu[2])
    assert one.shape == (40, 48) and np.array_equal(one, network.translate(series.hu[2:3])[0])


def test_the_level_of_noise_is_measured_in_an_array_as_in_files(tmp_path):
    make_phantom.main(["-o", str(tmp_path / "ct"), "--size", "128", "--slices", "3"])
    network = medi2i.load(trained(tmp_path / "run", noise_level=20.0))
    series = medi2i.read_series(tmp_path / "ct")
    network.convert(tmp_path / "ct", tmp_path / "out", imgtype_out="npy")
    expected = np.stack(written(tmp_path / "out"))
    assert np.array_equal(network.translate(series), expected)
    assert np.array_equal(network.translate(series.hu), expected)
    with pytest.raises(medi2i.UserError, match="no DICOM CT it cannot be measured"):
        network.translate(dataclasses.replace(series, modality="MR"))


def test_classes_come_as_numbers(scan, tmp_path):
    network = medi2i.load(trained(tmp_path / "run", class_num=3, out_ch=3))
    found = network.translate(medi2i.read_series(scan))
    network.convert(scan, tmp_path / "out")
    expected = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").rglob("*.png"))])
    assert found.dtype.kind == "i" and np.array_equal(found, expected) and len(np.unique(found)) > 1


def test_values_go_in_as_they_are(scan, tmp_path):
    """An array is not rounded on its way, as a file would be."""
    hu = medi2i.read_series(scan).hu + np.float32(0.25)
    assert np.array_equal(medi2i.load("identity").translate(hu), hu)


def test_a_series_says_where_it_lies(scan):
    series = medi2i.read_series(scan)
    files = sorted(scan.rglob("*.dcm"), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))
    first = pydicom.dcmread(files[0])
    assert series.hu.shape == (5, 40, 48) and series.hu.dtype == np.float32 and list(series.files) == files
    assert np.array_equal(series.hu[0], first.pixel_array * first.RescaleSlope + first.RescaleIntercept)
    assert series.padding[:, :5, :7].all() and series.padding.sum() == 5 * 5 * 7
    heights = series.position[:, 2]
    assert series.spacing == (pytest.approx(heights[1] - heights[0]), *map(float, first.PixelSpacing))
    assert series.orientation == (1, 0, 0, 0, 1, 0) and series.modality == "CT"
    assert list(series.position[0]) == [float(mm) for mm in first.ImagePositionPatient]


def test_of_several_series_one_is_chosen(tmp_path):
    assert make_phantom.main(["-o", str(tmp_path), "--size", "16", "--slices", "2", "-n", "2"]) == 0
    with pytest.raises(medi2i.UserError, match="holds 2 series, number says which: 1: Phantom .2 slices.; 2: "):
        medi2i.read_series(tmp_path)
    assert medi2i.read_series(tmp_path, 2).hu.shape == (2, 16, 16)
    with pytest.raises(medi2i.UserError, match="holds 2 series"):
        medi2i.read_series(tmp_path, 3)


def test_training_and_measuring(tmp_path):
    make_phantom.main(["-o", str(tmp_path / "ct"), "--size", "32", "--slices", "2"])
    make_noisy.main(["-i", str(tmp_path / "ct"), "-o", str(tmp_path / "data")])
    options = medi2i.pix2pix_options(
        preset="denoise",
        root=tmp_path / "data",
        out=tmp_path / "runs",
        epoch=1,
        crops_per_image=1,
        crop_width=16,
        crop_height=16,
        gen_chs=[4],
        gpu=-1,
    )
    assert options.gen_residual == 0.02 and options.gen_chs == [4]  # of the preset, and given
    run = medi2i.train(options)
    assert run.parent == tmp_path / "runs" and (run / "enc_x1.npz").is_file()
    out = medi2i.load(run).convert(tmp_path / "data" / "trainA", tmp_path / "converted")
    found = medi2i.evaluate(
        {"mine": out},
        input=tmp_path / "data" / "trainA",
        truth=tmp_path / "data" / "trainB",
        out=tmp_path / "evaluation",
        report=False,
    )
    assert [row.name for row in found.rows] == ["identity", "mine"]
    assert found.summary["mine", "all", "rmse"].count == 2 and (tmp_path / "evaluation" / "summary.csv").is_file()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: medi2i.load("nowhere"), "nowhere: no such file or folder"),
        (lambda: medi2i.load("identity", engin="auto"), "engin: is no option here; did you mean engine?"),
        (lambda: medi2i.load("identity", engine="warp"), "--engine: 'warp' is unknown; it can be auto, chainer"),
        (lambda: medi2i.load("identity").translate(np.zeros((1, 2, 3, 4))), r"volume: has shape \(1, 2, 3, 4\)"),
        (lambda: medi2i.load("identity").translate(np.full((2, 3), np.nan)), "volume: 6 of 6 values are not finite"),
        (lambda: medi2i.load("identity").translate(np.zeros((2, 3)), spacing=[0, 1]), "spacing: .* is no pixel size"),
        (lambda: medi2i.load("identity").convert("nowhere", "out"), "nowhere: no such file or folder"),
        (lambda: medi2i.read_series("nowhere"), "nowhere: no such"),
        (lambda: medi2i.pix2pix_options(presett="denoise"), "presett: is no option here; did you mean preset?"),
        (lambda: medi2i.cyclegan_options(epoch="many"), "--epoch: 'many' is not a whole number"),
        (lambda: medi2i.train(medi2i.pix2pix_options(root="nowhere")), "nowhere"),
        (lambda: medi2i.train(medi2i.pix2pix_options(resume="run")), "resume: medi2i train pix2pix --resume run"),
        (lambda: medi2i.evaluate(input="nowhere"), "--truth: give --input and --truth"),
    ],
)
def test_what_cannot_be_is_one_line(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(medi2i.UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and list(Path().iterdir()) == []


def test_what_is_exported_has_docstrings_and_is_loaded_when_asked_for():
    assert {"load", "train", "evaluate", "read_series", "UserError", "Series", "Translator"} <= set(dir(medi2i))
    assert all(getattr(medi2i, name).__doc__ for name in dir(medi2i) if not name.startswith("_"))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        medi2i.lode  # noqa: B018


def test_an_archive_and_a_volume_are_series_too(scan, tmp_path):
    series = medi2i.read_series(scan)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        for path in series.files:
            out.write(path, f"ct/{path.name}")
    assert nifti.main([str(scan), "-o", str(tmp_path / "nii")]) == 0
    for place in (tmp_path / "a.zip", tmp_path / "nii"):
        again = medi2i.read_series(place)
        assert np.array_equal(again.hu, series.hu) and again.spacing == pytest.approx(series.spacing)


LONG = "x" * 300  # what no file system takes
CALLS = {
    "load": lambda: medi2i.load(LONG),
    "read_series": lambda: medi2i.read_series(LONG),
    "convert": lambda: medi2i.load("identity").convert(LONG, "out"),
    "train": lambda: medi2i.train(medi2i.pix2pix_options(root=LONG)),
    "evaluate": lambda: medi2i.evaluate({"a": LONG}, input=LONG, truth=LONG),
    "denoise": lambda: medi2i.denoise(LONG, "out"),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_the_system_says_of_files_is_a_user_error(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(medi2i.UserError, match=f"^{LONG}.*: File name too long$") as caught:
        CALLS[name]()
    assert isinstance(caught.value.__cause__, OSError)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("volume", ["ct", None, [[1, 2], [3]], {"a": 1}])
def test_what_is_no_array_of_numbers_is_refused(volume):
    with pytest.raises(medi2i.UserError, match="^volume: is no array of numbers|^volume: has shape|not finite"):
        medi2i.load("identity").translate(volume)


@pytest.mark.parametrize(("options", "opened"), [({}, [1, 9]), ({"ensemble": True}, [1, 1, 9, 9, 9])])
def test_what_runs_the_network_is_opened_once(tmp_path, monkeypatch, options, opened):
    """Anew only for so many slices that they run two at a time, and where answers are drawn."""
    seen = []

    def counting(plan):
        seen.append(len(plan.images.sources))
        return open_networks(plan)

    monkeypatch.setattr(interface, "open_networks", counting)
    network = medi2i.load(trained(tmp_path / "run"), **options)
    hu = np.random.default_rng(0).normal(0, 300, (9, 24, 32)).astype(np.float32)
    assert np.array_equal(network.translate(hu[0]), network.translate(hu[:1])[0])
    first = network.translate(hu)
    assert np.array_equal(network.translate(hu), first) and not np.array_equal(network.translate(hu + 1), first)
    assert seen == opened
