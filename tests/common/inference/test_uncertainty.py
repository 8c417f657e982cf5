"""Self-ensembles and maps of the standard deviation: exact numbers, DICOM of their own, what is refused."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from PIL import Image
from scipy import ndimage

from medi2i.common.inference.uncertainty import Samples, moments, step_for, symmetries, turned, turned_back
from medi2i.common.inference.values import deviation
from medi2i.common.networks.blocks import drop_out, sampled_dropout
from medi2i.common.training.validation import inference_mode
from medi2i.cyclegan import convert as cyclegan
from medi2i.datasets.scaling import Clip
from medi2i.pix2pix import convert
from medi2i.tools import make_phantom

KERNEL = np.array([[0, 0.1, 0], [0.2, 0.4, 0.05], [0, 0.25, 0]], np.float32)
LOPSIDED = np.array([[0, 0, 0], [0, 0.6, 0.4], [0, 0, 0]], np.float32)


def run(*arguments, command=convert):
    return command.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("size,count", [((5, 5), 8), ((4, 7), 4)])
def test_turning_and_turning_back(size, count):
    x = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)
    ways = symmetries(*size)
    for way in ways:
        np.testing.assert_array_equal(turned_back(turned(x, *way), *way), x)
        assert turned(x, *way).shape == x.shape
    assert len({turned(x, *way).tobytes() for way in ways}) == count == len(ways)


def test_moments_are_those_of_numpy():
    samples = np.random.default_rng(1).normal(50, 2, (7, 3, 5)).astype(np.float32)
    mean, spread = moments(iter(samples))
    np.testing.assert_allclose(mean, samples.mean(0), rtol=1e-5)
    np.testing.assert_allclose(spread, samples.std(0, ddof=1), rtol=1e-4)
    assert moments([samples[0]])[1].max() == 0


def lopsided(x):
    """A network that answers otherwise when it sees an image turned: with a ramp of its own."""
    return x + np.linspace(0, 1, x.shape[-1], dtype=np.float32)


def test_samples_of_a_stack_come_slice_by_slice():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype(np.float32)
    samples = Samples(lopsided, "tta", True, stack=3)
    y = samples.run(x)
    assert y.shape == (2, 6, 4, 6)
    ramp = np.linspace(0, 1, 6)
    for part, given in zip(np.split(y[0], 3), x[0], strict=True):
        result, deviation = samples.split(part)
        np.testing.assert_allclose(result[0], given + 0.5, atol=1e-6)
        expected = np.stack([ramp, ramp, ramp[::-1], ramp[::-1]]).std(0, ddof=1)
        np.testing.assert_allclose(deviation[0], np.broadcast_to(expected, (4, 6)), atol=1e-6)
    alone = Samples(lopsided, "tta", False, stack=3)
    np.testing.assert_array_equal(alone.run(x), y[:, ::2])
    assert alone.split(y[0])[1] is None


def test_of_classes_it_is_the_probabilities_that_are_averaged():
    scores = np.array([5.0, 0.0, -1.0], np.float32)[None, :, None, None]

    def network(x):
        return np.where(x[:, :1, :1, :1] > 0, scores, -scores) + np.zeros((len(x), 3, *x.shape[-2:]), np.float32)

    x = np.ones((1, 1, 2, 3), np.float32)
    x[0, 0, 0, 0] = -1  # at the corner that decides in one of the four
    y = Samples(network, "tta", True, classes=3).run(x)
    p = np.exp([[5, 0, -1], [-5, 0, 1]])
    p /= p.sum(1, keepdims=True)
    answers = np.stack([p[1], p[0], p[0], p[0]])
    probabilities = np.exp(y[0, :3])
    np.testing.assert_allclose(probabilities, np.broadcast_to(answers.mean(0)[:, None, None], (3, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(y[0, 3:, 0, 0], answers.std(0, ddof=1), rtol=1e-4)


def test_dropout_is_drawn_only_where_it_is_asked_for():
    x = np.ones((1, 4, 8, 8), np.float32)
    with inference_mode():
        assert (drop_out(x, 0.5).array == 1).all()
        with sampled_dropout():
            assert set(np.unique(drop_out(x, 0.5).array)) == {0, 2}
        assert (drop_out(x, 0.5).array == 1).all()


@pytest.mark.parametrize("clip,step", [((-1024, 2000), 0.05), ((-1024, 176), 0.02), ((0, 1), 1e-5), ((0, 65535), 1.0)])
def test_steps_are_round_and_hold_every_deviation(clip, step):
    assert step_for(Clip(*clip)) == step
    assert step * 65535 >= 0.58 * (clip[1] - clip[0])


def test_the_numbers_of_a_map():
    assert deviation(np.arange(101.0), "HU") == {"mean": 50.0, "p95": 95.0, "unit": "HU"}


def test_the_ensemble_of_a_symmetric_network_is_its_answer(tmp_path, paired_run, files, caplog):
    folder = files.write_series(tmp_path / "in", 2)
    run_folder = paired_run(np.full((3, 3), 1 / 9, np.float32))
    assert run(run_folder, "-R", folder, "-o", tmp_path / "one") == 0
    assert run(run_folder, "-R", folder, "-o", tmp_path / "more", "--uncertainty", "tta") == 0
    for name in files.tree(folder):
        np.testing.assert_allclose(files.hu_of(tmp_path / "more" / name), files.hu_of(tmp_path / "one" / name), atol=1)
        assert files.hu_of(tmp_path / "more/uncertainty" / name).max() == 0
    assert caplog.text.count("without --random_rot90") == 1


def expected_hu(hu, kernel):
    """(mean, standard deviation) over flips and half turns of an oblong image, in HU."""
    unit = (hu + 1024) / 1512 - 1
    kernels = [kernel, kernel[::-1], kernel[:, ::-1], kernel[::-1, ::-1]]
    samples = np.stack([ndimage.correlate(unit, k, mode="constant") for k in kernels]) * 1512
    return samples.mean(0) + 1512 - 1024, samples.std(0, ddof=1)


@pytest.mark.parametrize("engine", ["chainer", "auto"])
def test_mean_and_deviation_in_hu_and_what_is_told(tmp_path, paired_run, files, capsys, caplog, engine):
    stored = files.stored_image(0)
    stored[:5, :7] = 0
    files.write_slice(tmp_path / "in/x", stored, padding=0)
    model = paired_run(KERNEL, random_rot90=True)
    arguments = (model, "-R", tmp_path / "in", "--engine", engine, "--uncertainty", "tta")
    assert run(*arguments, "-o", tmp_path / "out") == 0
    hu = files.hu_of(tmp_path / "in/x")
    mean, deviation = expected_hu(np.where(stored == 0, -1024, hu), KERNEL)
    tissue = stored != 0
    np.testing.assert_allclose(files.hu_of(tmp_path / "out/x")[tissue], mean[tissue], atol=0.51)
    found = files.hu_of(tmp_path / "out/uncertainty/x")
    np.testing.assert_allclose(found[tissue], deviation[tissue], atol=0.03)
    assert deviation[tissue].mean() > 20
    report = files.report_of(tmp_path / "out")
    told = report["files"]["x"]["deviation"]
    assert told["mean"] == pytest.approx(deviation[tissue].mean(), abs=0.05) and told["unit"] == "HU"
    assert told["p95"] == pytest.approx(np.percentile(deviation[tissue], 95), abs=0.05)
    assert report["deviation"]["mean"] == told["mean"] and report["settings"]["uncertainty"] == "tta"
    err = capsys.readouterr().err
    assert "random_rot90" not in caplog.text
    assert "standard deviation of flips and turns: mean " in err and "HU, 95 % of pixels below" in err
    assert run(*arguments[:3], "--engine", engine, "--ensemble", "-o", tmp_path / "alone") == 0
    np.testing.assert_array_equal(files.hu_of(tmp_path / "alone/x"), files.hu_of(tmp_path / "out/x"))
    assert not (tmp_path / "alone/uncertainty").exists()


def test_the_map_is_a_derived_series_of_its_own(tmp_path, paired_run, files):
    folder = files.write_series(tmp_path / "in", 3)
    assert run(paired_run(KERNEL, random_rot90=True), "-R", folder, "-o", tmp_path / "out", "--uncertainty", "tta") == 0
    series, uids = set(), set()
    for name in files.tree(folder):
        source, result, deviation = (
            pydicom.dcmread(tmp_path / where / name) for where in ("in", "out", "out/uncertainty")
        )
        assert list(deviation.ImageType) == ["DERIVED", "SECONDARY", "AXIAL", "STD_DEVIATION"]
        assert list(result.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert deviation.SeriesDescription.startswith("Standard deviation (flips and turns): axial")
        assert "not an acquired image" in deviation.DerivationDescription
        assert (deviation.PixelRepresentation, deviation.BitsStored, deviation.RescaleIntercept) == (0, 16, 0)
        assert deviation.RescaleSlope == 0.05 and deviation.RescaleType == "HU"
        assert deviation.ImagePositionPatient == source.ImagePositionPatient
        assert deviation.SeriesNumber != result.SeriesNumber and result.SeriesNumber // 10000 == 3
        assert [item.ReferencedSOPInstanceUID for item in deviation.SourceImageSequence] == [source.SOPInstanceUID]
        assert "WindowCenter" not in deviation
        series.add(deviation.SeriesInstanceUID)
        uids |= {deviation.SOPInstanceUID, result.SOPInstanceUID, source.SOPInstanceUID}
        assert deviation.SeriesInstanceUID not in (result.SeriesInstanceUID, source.SeriesInstanceUID)
    assert len(series) == 1 and len(uids) == 9


@pytest.mark.skipif(None in (shutil.which("dciodvfy"), shutil.which("dcentvfy")), reason="dicom3tools is missing")
def test_dciodvfy_and_dcentvfy_find_nothing(tmp_path, paired_run):
    make_phantom.main(["-o", str(tmp_path / "in"), "--size", "64", "50", "--slices", "2"])
    folder = tmp_path / "in/phantom_001"
    assert run(paired_run(KERNEL, random_rot90=True), "-R", folder, "-o", tmp_path / "out", "--uncertainty", "tta") == 0
    maps, results = (
        sorted(p for p in (tmp_path / where).iterdir() if p.is_file() and p.suffix != ".json")
        for where in ("out/uncertainty", "out")
    )
    assert len(maps) == len(results) == 2
    for path in maps:
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, errors="replace", timeout=60)
        lines = (done.stdout + done.stderr).splitlines()
        # It knows no fourth value of a plain CT's; the standard leaves it to implementations (PS3.3 C.7.6.1.1.2).
        assert [line for line in lines if line.startswith(("Error", "Warning"))] == [
            "Warning - Unrecognized defined term <STD_DEVIATION> for value 4 of attribute <Image Type>"
        ]
    done = subprocess.run(
        ["dcentvfy", *map(str, [*maps, *results, *sorted(folder.iterdir())])],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )
    assert done.stdout + done.stderr == ""


def test_around_a_crop_and_with_stacks_and_tiles(tmp_path, paired_run, files):
    folder = files.write_series(tmp_path / "in", 3, height=101, width=90)
    model = paired_run(KERNEL, stack=3, ch=3, out_ch=3, random_rot90=True)
    common = (model, "-R", folder, "--uncertainty", "tta", "-ch", 80, "-cw", 64)
    assert run(*common, "-o", tmp_path / "whole") == 0
    assert run(*common, "-o", tmp_path / "tiled", "--tile", 40) == 0
    for name in files.tree(folder):
        whole = files.hu_of(tmp_path / "whole/uncertainty" / name)
        inside = np.zeros(whole.shape, bool)
        inside[10:90, 13:77] = True
        assert whole[~inside].max() == 0 and whole[inside].mean() > 20
        np.testing.assert_allclose(files.hu_of(tmp_path / "tiled/uncertainty" / name), whole, atol=0.11)
        results = [files.hu_of(tmp_path / where / name) for where in ("tiled", "whole")]
        np.testing.assert_allclose(*results, atol=1)


def test_cyclegan_and_its_mean_over_stacks(tmp_path, unpaired_run, files):
    folder = files.write_series(tmp_path / "in", 4)
    model = unpaired_run(LOPSIDED, stack=2, ch=2, out_ch=2)
    assert run(model, "-R", folder, "-o", tmp_path / "out", "--uncertainty", "tta", command=cyclegan) == 0
    order = [f"IM{(i * 7) % 10}" for i in range(4)]
    for place, name in enumerate(order):
        # channel 0 of each stack becomes both of its slices; stacks are (0, 1), (1, 2), (2, 3)
        below = [n for n in order[max(place - 1, 0) : min(place, 2) + 1]]
        both = [expected_hu(files.hu_of(folder / n), LOPSIDED) for n in below]
        np.testing.assert_allclose(files.hu_of(tmp_path / "out" / name), np.mean([m for m, _ in both], 0), atol=0.51)
        np.testing.assert_allclose(
            files.hu_of(tmp_path / "out/uncertainty" / name), np.mean([s for _, s in both], 0), atol=0.03
        )


def test_pictures_get_npy_in_their_own_unit(tmp_path, paired_run):
    (tmp_path / "in/sub").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in/sub/a.png")
    model = paired_run(LOPSIDED, clipA=None, clipB=None, imgtype="png", random_rot90=True)
    assert run(model, "-R", tmp_path / "in", "-o", tmp_path / "out", "--uncertainty", "tta") == 0
    found = np.load(tmp_path / "out/uncertainty/sub/a.npy")
    assert found.shape == (1, 20, 31) and found.dtype == np.float32
    padded = np.pad(pixels.astype(float), ((0, 0), (1, 1)), constant_values=127.5)
    one, two = (0.6 * pixels + 0.4 * side for side in (padded[:, 2:], padded[:, :-2]))
    np.testing.assert_allclose(found[0], np.abs(one - two) / np.sqrt(3), atol=1e-3)


def test_classes(tmp_path, paired_run):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20)).astype(np.uint8)).save(tmp_path / "in/a.png")
    model = paired_run(gen_chs=[2, 3], class_num=3, out_ch=3, clipA=None, clipB=None, imgtype="png", random_rot90=True)
    assert run(model, "-R", tmp_path / "in", "-o", tmp_path / "out", "--uncertainty", "tta") == 0
    probabilities, deviation = np.load(tmp_path / "out/a.npy"), np.load(tmp_path / "out/uncertainty/a.npy")
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    assert deviation.shape == (3, 20, 20) and 0 < deviation.max() < 0.54


def test_dropout_samples(tmp_path, paired_run, files):
    folder = files.write_series(tmp_path / "in", 2)
    model = paired_run(gen_chs=[3, 4], gen_dropout=0.5, gen_norm="batch_aff")
    common = (model, "-R", folder)
    assert run(*common, "-o", tmp_path / "plain", "--engine", "chainer") == 0
    sampling = (*common, "--uncertainty", "dropout", "--uncertainty_samples", 3, "--engine", "chainer")
    assert run(*sampling, "-o", tmp_path / "one", "-b", 1) == 0
    assert run(*sampling, "-o", tmp_path / "two", "-b", 2, "--workers", 1) == 0
    for name in files.tree(folder):
        np.testing.assert_array_equal(files.hu_of(tmp_path / "one" / name), files.hu_of(tmp_path / "plain" / name))
        deviation = files.hu_of(tmp_path / "one/uncertainty" / name)
        assert deviation.mean() > 0.1
        np.testing.assert_array_equal(deviation, files.hu_of(tmp_path / "two/uncertainty" / name))
    report = files.report_of(tmp_path / "one")
    assert report["settings"]["samples"] == 3 and report["deviation"]["samples"] == "3 samples of dropout"


def test_resume_makes_missing_maps_and_leaves_the_rest(tmp_path, paired_run, files):
    folder = files.write_series(tmp_path / "in", 2)
    common = (paired_run(KERNEL, random_rot90=True), "-R", folder, "-o", tmp_path / "out", "--uncertainty", "tta")
    assert run(*common) == 0
    assert run(*common) == 1  # both kinds of results are in the way
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files.tree(tmp_path / "out")}
    (tmp_path / "out/uncertainty/IM7").unlink()
    stat = (tmp_path / "out/IM0").stat().st_mtime_ns
    assert run(*common, "--resume") == 0
    after = {name: (tmp_path / "out" / name).read_bytes() for name in files.tree(tmp_path / "out")}
    assert after == before and (tmp_path / "out/IM0").stat().st_mtime_ns == stat
    assert run(*common[:-2], "--resume") == 1  # other settings


@pytest.mark.parametrize(
    "arguments,trained,words",
    [
        (["--uncertainty", "dropout"], {}, "--uncertainty dropout: the network was trained without --gen_dropout"),
        (["--uncertainty", "dropout", "--ensemble"], {"gen_dropout": 0.5}, "--ensemble: it is the mean over flips"),
        (["--uncertainty", "tt"], {}, "--uncertainty: 'tt' is unknown (did you mean tta?)"),
        (
            ["--uncertainty", "tta"],
            {"gen_fc": 1, "crop_height": 37, "crop_width": 50},
            "--uncertainty tta: what a network with --gen_fc gets",
        ),
        (
            ["--ensemble"],
            {"gen_fc": 1, "crop_height": 37, "crop_width": 50},
            "--ensemble: what a network with --gen_fc",
        ),
    ],
)
def test_refusals_in_one_line(tmp_path, paired_run, files, capsys, arguments, trained, words):
    files.write_slice(tmp_path / "in/x", files.stored_image(0))
    model = paired_run(**trained) if "gen_fc" not in trained else paired_run(gen_chs=[1, 2], **trained)
    assert run(model, "-R", tmp_path / "in", "-o", tmp_path / "out", *arguments) == 1
    err = capsys.readouterr().err.strip()
    assert err.startswith(f"error: {words}") and "\n" not in err


def test_without_it_nothing_is_different(tmp_path, paired_run, files):
    """The settings, which enter the UIDs, are those of before."""
    folder = files.write_series(tmp_path / "in", 1)
    assert run(paired_run(KERNEL), "-R", folder, "-o", tmp_path / "out") == 0
    report = files.report_of(tmp_path / "out")
    assert not {"uncertainty", "ensemble", "samples"} & set(report["settings"]) and "deviation" not in report
