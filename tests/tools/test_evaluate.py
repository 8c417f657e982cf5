"""The evaluate command on images whose errors are known."""

import csv
import json
import math

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medi2i.tools import evaluate

SIZE = (21, 33)


def write_ct(path, hu, series="1", z=0.0, padding=None):
    """A plain CT slice, signed, slope 1, intercept -1024."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", f"1.2.3.{series}"
    dataset.Modality, dataset.ImageType, dataset.PatientID = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "p"
    dataset.SeriesDescription = f"head {series}"
    dataset.Rows, dataset.Columns = hu.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.5], 2
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, z], [1, 0, 0, 0, 1, 0]
    if padding is not None:
        dataset.PixelPaddingValue = padding
    dataset.PixelData = (hu + 1024).astype("<i2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


@pytest.fixture
def ct(tmp_path):
    """Two series of three and two slices: truth, input = truth + 100 ± 10, output = truth + 7 (worst slice + 30)."""
    generator = np.random.default_rng(0)
    for series, count in (("1", 3), ("2", 2)):
        for number in range(count):
            truth = np.rint(generator.uniform(0, 200, SIZE))
            noise = np.where(generator.random(SIZE) < 0.5, 10, -10)
            name = f"s{series}/{number}"  # no suffix
            write_ct(tmp_path / "clean" / name, truth, series, 2.0 * number)
            write_ct(tmp_path / "noisy" / name, truth + 100 + noise, series, 2.0 * number)
            write_ct(tmp_path / "out" / name, truth + (30 if (series, number) == ("2", 1) else 7), series, 2.0 * number)
    return tmp_path


def evaluated(folder):
    return json.loads((folder / "evaluation.json").read_text())


def mean(result, row, metric, series="all"):
    found = [
        one["mean"] for one in result["summary"] if (one["row"], one["series"], one["metric"]) == (row, series, metric)
    ]
    assert len(found) == 1
    return found[0]


def arguments(folder, *more):
    return [
        "-i",
        str(folder / "noisy"),
        "-t",
        str(folder / "clean"),
        "-o",
        str(folder / "evaluation"),
        "--no-report",
        *more,
    ]


def test_rows_of_a_ct(ct, capsys):
    assert evaluate.main(arguments(ct, "-c", f"mine={ct / 'out'}", "--bias", "100")) == 0
    result = evaluated(ct / "evaluation")
    assert list(result["rows"]) == ["identity", "identity - 100", "mine"]
    assert result["windows"] == {"full": [-1024, 2000], "soft": [-160, 240]} and result["unit"] == "HU"
    assert mean(result, "identity", "bias") == pytest.approx(100, abs=1)
    assert mean(result, "identity", "rmse") == pytest.approx(math.sqrt(100**2 + 10**2), abs=1)
    assert mean(result, "identity - 100", "rmse") == pytest.approx(10)
    assert mean(result, "identity - 100", "mae") == pytest.approx(10)
    assert mean(result, "mine", "rmse") == mean(result, "mine", "bias") == pytest.approx((4 * 7 + 30) / 5)
    assert mean(result, "mine", "rmse", "head 2") == pytest.approx(18.5)
    psnr = [20 * math.log10(3024 / error) for error in (7, 7, 7, 7, 30)]
    assert mean(result, "mine", "psnr full") == pytest.approx(np.mean(psnr))
    told = capsys.readouterr().out
    assert "5 slices of 2 series" in told and "series head 2:" in told
    assert "full = -1024…2000 HU (data range 3024), soft = -160…240 HU (data range 400)" in told


def test_files_written_hold_every_slice(ct):
    assert evaluate.main(arguments(ct, "-c", f"mine={ct / 'out'}", "--report")) == 0
    with open(ct / "evaluation" / "slices.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["row"], line["series"], line["slice"]) for line in lines[:4]] == [
        ("identity", "head 1", "s1/0"),
        ("mine", "head 1", "s1/0"),
        ("identity", "head 1", "s1/1"),
        ("mine", "head 1", "s1/1"),
    ]
    assert len(lines) == 10 and float(lines[-1]["rmse"]) == 30
    with open(ct / "evaluation" / "summary.csv", newline="", encoding="utf-8") as file:
        soft = [line for line in csv.DictReader(file) if line["metric"] == "ssim soft"]
    assert {(line["window_lower"], line["window_upper"]) for line in soft} == {("-160", "240")}
    with Image.open(ct / "evaluation" / "worst.png") as picture:
        assert picture.width > 600
    assert sorted(path.name for path in (ct / "evaluation").iterdir()) == [
        "evaluation.json",
        "middling.png",
        "report.html",
        "slices.csv",
        "summary.csv",
        "worst.png",
    ]


def test_missing_partners_are_told_and_every_row_is_over_the_same_slices(ct, capsys):
    (ct / "out" / "s1" / "0").unlink()
    (ct / "clean" / "s2" / "1").unlink()
    argv = arguments(ct, "-c", f"mine={ct / 'out'}")
    assert evaluate.main(argv) == 0
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "warning: s1/0 not in mine",
        "warning: s2/1 in identity, without truth",
        "warning: s2/1 in mine, without truth",
    ]
    result = evaluated(ct / "evaluation")
    assert result["left_out"]["not in mine"] == ["s1/0"] and result["left_out"]["not in identity"] == []
    assert {one["slice"] for one in result["slices"]} == {"s1/1", "s1/2", "s2/0"}
    assert {one["count"] for one in result["summary"] if one["series"] == "all"} == {3}
    assert evaluate.main([*argv, "--strict"]) == 1


def test_padding_counts_in_no_row(tmp_path):
    truth = np.full(SIZE, 50.0)
    truth[:, :11] = -1024
    write_ct(tmp_path / "clean" / "a", truth, padding=0)
    write_ct(tmp_path / "noisy" / "a", truth + 5)
    assert evaluate.main(arguments(tmp_path)) == 0
    result = evaluated(tmp_path / "evaluation")
    assert mean(result, "identity", "rmse") == 5
    broken = np.where(truth < 0, 900, truth + 5)
    write_ct(tmp_path / "noisy" / "a", broken)
    assert evaluate.main(arguments(tmp_path)) == 0
    assert mean(evaluated(tmp_path / "evaluation"), "identity", "rmse") == 5


def test_a_bias_does_not_go_below_what_an_image_can_hold(tmp_path):
    write_ct(tmp_path / "clean" / "a", np.full(SIZE, -1024.0))
    write_ct(tmp_path / "noisy" / "a", np.full(SIZE, -1020.0))
    assert evaluate.main(arguments(tmp_path, "--bias", "100")) == 0
    assert mean(evaluated(tmp_path / "evaluation"), "identity - 100", "rmse") == 0


def test_list_of_pairs_and_a_converted_folder_with_other_suffixes(tmp_path):
    truth = np.arange(693, dtype=np.float32).reshape(SIZE)
    for name in "ab":
        for folder, values in (("trainA", truth + 2), ("trainB", truth), ("result", truth - 1)):
            (tmp_path / folder).mkdir(exist_ok=True)
            np.save(tmp_path / folder / f"{name}.npy", values)
    np.savetxt(tmp_path / "result" / "a.csv", truth - 3, delimiter=",")
    (tmp_path / "val.txt").write_text("trainA/a.npy\ttrainB/a.npy\n")
    argv = [
        "--pairs",
        str(tmp_path / "val.txt"),
        "-R",
        str(tmp_path),
        "-o",
        str(tmp_path / "evaluation"),
        "-c",
        str(tmp_path / "result"),
    ]
    assert evaluate.main([*argv, "--strict"]) == 0  # a list may name a part of what was converted
    result = evaluated(tmp_path / "evaluation")
    assert (mean(result, "identity", "bias"), mean(result, "result", "bias")) == (2, -1)
    assert result["windows"] == {"full": [0, 692]} and result["unit"] == ""
    (tmp_path / "result" / "a.npy").unlink(), (tmp_path / "result" / "b.npy").unlink()
    assert evaluate.main(argv) == 0
    assert mean(evaluated(tmp_path / "evaluation"), "result", "bias") == -3


@pytest.mark.parametrize(("dtype", "upper"), [(np.uint8, 255), (np.uint16, 65535)])
def test_full_range_of_pictures_is_that_of_their_bits(tmp_path, dtype, upper):
    for folder, value in (("clean", 100), ("noisy", 110)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full(SIZE, value, dtype=dtype)).save(tmp_path / folder / "a.png")
    assert evaluate.main(arguments(tmp_path)) == 0
    result = evaluated(tmp_path / "evaluation")
    assert result["windows"] == {"full": [0, upper]}
    assert mean(result, "identity", "psnr full") == pytest.approx(20 * math.log10(upper / 10))


def test_equal_images_have_infinite_psnr_in_table_and_json(tmp_path, capsys):
    for folder in ("clean", "noisy"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", np.arange(693.0).reshape(SIZE))
    assert evaluate.main(arguments(tmp_path, "--clip", "0", "500")) == 0
    assert mean(evaluated(tmp_path / "evaluation"), "identity", "psnr full") == "inf"
    assert " inf " in capsys.readouterr().out


def test_classes_are_measured_by_overlap(tmp_path):
    truth = np.zeros(SIZE, dtype=np.uint8)
    truth[:10], truth[10:15] = 1, 2
    output = truth.copy()
    output[:5] = 0
    for folder, labels in (("clean", truth), ("noisy", np.zeros_like(truth)), ("out", output)):
        (tmp_path / folder).mkdir()
        Image.fromarray(labels).save(tmp_path / folder / "a.png")
    np.save(tmp_path / "out" / "a.npy", np.zeros((4, *SIZE), dtype=np.float32))  # the probabilities beside
    assert evaluate.main(arguments(tmp_path, "-c", str(tmp_path / "out"), "-cn", "4", "--report")) == 0
    assert "Dice 3" in (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    result = evaluated(tmp_path / "evaluation")
    assert mean(result, "out", "dice 1") == pytest.approx(2 * 5 / 15)
    assert mean(result, "out", "iou 1") == pytest.approx(0.5)
    assert mean(result, "out", "dice 2") == 1 and mean(result, "out", "dice 3") == "nan"
    assert mean(result, "out", "dice mean") == pytest.approx((2 / 3 + 1) / 2)
    assert list(result["rows"]) == ["out"]  # the input holds no classes
    assert result["pooled"]["out"]["dice"] == [pytest.approx(2 / 3), 1, "nan"]
    assert result["pooled"]["out"]["iou"] == [0.5, 1, "nan"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-w", "liver"], "--window: 'liver' is unknown; it can be full, soft, brain, lung, bone"),
        (["-w", "liver=150:-50"], "--window: 'liver=150:-50' is not a window"),
        (["-w", "liver=1:2:3"], "--window: 'liver=1:2:3' is not a window"),
        (["--clip", "5", "5"], "--clip: 5 5: the first must be below the second"),
        (["-c", "identity=x"], "the name identity is taken"),
        (["--pairs", "x"], "--pairs: names inputs and truth already"),
        (["-c", "nowhere"], "nowhere: no such folder"),
        (["-c", "mine="], "--converted: 'mine=' is not NAME=FOLDER"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(ct, capsys, more, message):
    assert evaluate.main(arguments(ct, *more)) == 1
    told = capsys.readouterr().err
    assert message in told and told.startswith("error: ") and told.count("\n") == 1
    assert not (ct / "evaluation").exists()


@pytest.mark.parametrize("place", ["noisy", "clean", "out", "out/evaluation"])
def test_nothing_is_written_among_the_images(ct, capsys, place):
    before = sorted(ct.rglob("*"))
    assert evaluate.main(arguments(ct, "-c", f"mine={ct / 'out'}", "-o", str(ct / place))) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: --out: {ct / place} is ") and told.count("\n") == 1
    assert sorted(ct.rglob("*")) == before


def test_folders_without_a_name_in_common(ct, capsys):
    (ct / "noisy").rename(ct / "elsewhere")
    for number, path in enumerate(sorted((ct / "elsewhere").glob("*/*"))):
        (ct / "noisy").mkdir(exist_ok=True)
        path.rename(ct / "noisy" / f"x{number}")
    assert evaluate.main(arguments(ct)) == 1
    assert "identity: no name in common with the truth (s1/0 there, x0 here)" in capsys.readouterr().err


def test_images_of_another_size_are_refused_with_both_sizes(ct, capsys):
    write_ct(ct / "noisy" / "s1" / "0", np.zeros((21, 32)))
    assert evaluate.main(arguments(ct)) == 1
    assert "identity has shape (21, 32), the truth" in capsys.readouterr().err


def test_images_too_small_for_ssim_have_none(tmp_path):
    for folder in ("clean", "noisy"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", np.arange(70.0).reshape(7, 10))
    assert evaluate.main(arguments(tmp_path)) == 0
    result = evaluated(tmp_path / "evaluation")
    assert mean(result, "identity", "ssim full") == "nan" and mean(result, "identity", "rmse") == 0


def noisy_list(folder, name, numbers):
    lines = []
    for number in numbers:
        generator = np.random.default_rng(number)
        truth = np.zeros((48, 40))
        truth[10:38, 8:32] = 300
        truth[:, 20:] += 40
        write_ct(folder / "clean" / f"{number}", truth, z=float(number))
        write_ct(folder / "noisy" / f"{number}", np.rint(truth + 100 + generator.normal(0, 20, truth.shape)), z=number)
        lines.append(f"noisy/{number}\tclean/{number}\n")
    (folder / name).write_text("".join(lines))


def test_classical_rows_are_chosen_on_validation_pairs_only(tmp_path, capsys):
    noisy_list(tmp_path, "test.txt", range(2))
    noisy_list(tmp_path, "val.txt", range(5, 8))
    argv = [
        "--pairs",
        "test.txt",
        "-R",
        str(tmp_path),
        "-o",
        str(tmp_path / "evaluation"),
        "--bias",
        "100",
        "--classical",
        "tv",
        "nlm",
    ]
    assert evaluate.main(argv) == 1
    assert "--classical: needs --val_pairs" in capsys.readouterr().err
    assert evaluate.main([*argv, "--val_pairs", "test.txt"]) == 1
    assert "noisy/0 is measured too (2 are)" in capsys.readouterr().err
    assert evaluate.main([*argv, "--val_pairs", "val.txt", "--maps"]) == 0
    result = evaluated(tmp_path / "evaluation")
    assert list(result["rows"]) == ["identity", "identity - 100", "tv", "nlm"]
    for name in ("tv", "nlm"):
        assert abs(mean(result, name, "bias")) < 3  # of the input minus its bias
        assert mean(result, name, "rmse") < 12 < 18 < mean(result, "identity - 100", "rmse")
        assert result["tuned"][name]["sigma"] == pytest.approx(20, rel=0.05)
        tried = result["tuned"][name]["tried"]
        assert tried[str(result["tuned"][name]["strength"])] == min(tried.values())
    error = np.load(tmp_path / "evaluation" / "maps" / "tv" / "noisy" / "1.npy")
    assert error.shape == (48, 40) and error.dtype == np.float32
    own = [one["values"]["rmse"] for one in result["slices"] if (one["row"], one["slice"]) == ("tv", "noisy/1")]
    assert np.sqrt(np.mean(error.astype(float) ** 2)) == pytest.approx(own[0])


def test_a_row_that_lost_against_doing_nothing_says_so(ct, capsys):
    for path in (ct / "out").glob("*/*"):
        write_ct(path, np.full(SIZE, 900.0), path.parent.name[1:], 2.0 * int(path.name))
    assert evaluate.main(arguments(ct, "-c", f"mine={ct / 'out'}", "--bias", "100")) == 0
    told = capsys.readouterr().out
    assert "WORSE than identity - 100 (10 HU); better on 0 of 5 slices" in told
    assert not (ct / "evaluation" / "report.html").exists()


def test_report_tells_of_the_model(ct):
    (ct / "out" / "conversion.json").write_text(
        json.dumps(
            {"model": {"file": "enc_x50.npz", "sha256": {"enc_x": "abc123"}}, "settings": {"clip": [-1024, 2000]}}
        )
    )
    assert evaluate.main(arguments(ct, "-c", f"mine={ct / 'out'}", "--title", "Head & neck", "--report")) == 0
    page = (ct / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "<title>Head &amp; neck</title>" in page and "Model of mine" in page
    assert "<dt>sha256 enc_x</dt><dd>abc123</dd>" in page and "<dt>clip</dt><dd>-1024, 2000</dd>" in page
    assert evaluated(ct / "evaluation")["left_out"]["skipped"] == []  # conversion.json is no image


def test_a_slice_in_which_a_row_equals_the_truth_does_not_make_the_mean_infinite(tmp_path, capsys):
    for name, error in (("a", 10.0), ("b", 0.0), ("c", 30.0)):
        truth = np.arange(693.0).reshape(SIZE)
        for folder, values in (("clean", truth), ("noisy", truth + 10), ("out", truth + error)):
            (tmp_path / folder).mkdir(exist_ok=True)
            np.save(tmp_path / folder / f"{name}.npy", values)
    assert evaluate.main(arguments(tmp_path, "--clip", "0", "1000", "-c", str(tmp_path / "out"))) == 0
    result = evaluated(tmp_path / "evaluation")
    assert mean(result, "out", "psnr full") == pytest.approx(20 * math.log10(1000) - 10 * math.log10(10 * 30))
    assert mean(result, "out", "rmse") == pytest.approx(40 / 3)
    assert {one["count"] for one in result["summary"] if one["metric"] == "psnr full"} == {2}
    assert "mean PSNR full without 1 slices in which a row equals the truth" in capsys.readouterr().out


def test_a_synthetic_ct_is_measured_in_the_body_beside_water_and_a_look_up_table(tmp_path, capsys):
    """The body is 40x40 of soft tissue at 40 HU with bone at 400; outside of it everything may be wrong."""
    truth = np.full((60, 64), -1000.0)
    truth[10:50, 12:52] = 40
    truth[20:30, 20:32] = 400
    found = truth + 10
    found[truth < -500] = 77  # what lies outside counts nowhere
    found[20:25, 20:32] = 100  # half of the bone is lost
    mr = np.select([truth > 300, truth > 0], [1200.0, 800.0], 3.0)  # a table can undo that, for ranks are as in CT
    for name in ("a", "b"):
        write_ct(tmp_path / f"ct/{name}", truth)
        write_ct(tmp_path / f"mr/{name}", mr)
        write_ct(tmp_path / f"out/{name}", found)
    (tmp_path / "val.txt").write_text("mr/b\tct/b\n")
    (tmp_path / "test.txt").write_text("mr/a\tct/a\n")
    words = ["-R", tmp_path, "--pairs", tmp_path / "test.txt", "--val_pairs", tmp_path / "val.txt", "--body"]
    (tmp_path / "converted/mr").mkdir(parents=True)
    (tmp_path / "out/a").rename(tmp_path / "converted/mr/a")
    words += ["-c", f"net={tmp_path / 'converted'}", "-o", tmp_path / "seen"]
    assert evaluate.main([str(word) for word in words]) == 0
    result = evaluated(tmp_path / "seen")
    body, bone = 40 * 40, 10 * 12
    of_net = (60 * 300 + (body - 60) * 10) / body
    assert mean(result, "net", "mae") == pytest.approx(of_net, rel=0.01)  # the body's rim may be rounded off
    assert mean(result, "water", "mae") == pytest.approx((bone * 400 + (body - bone) * 40) / body, rel=0.01)
    assert mean(result, "histogram", "mae") < 5
    assert mean(result, "net", "dice bone") == pytest.approx(2 * 60 / (60 + bone))
    assert mean(result, "water", "dice bone") == 0 and mean(result, "histogram", "dice bone") == 1
    assert result["windows"]["full"] == [-1024, 3000]
    assert "net: RMSE" in capsys.readouterr().out.split("WORSE than histogram")[0]


def test_the_body_is_that_of_a_ct(tmp_path, capsys):
    for name in ("in", "truth"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", np.zeros((20, 20), np.float32))
    words = ["-i", tmp_path / "in", "-t", tmp_path / "truth", "--body", "-o", tmp_path / "out"]
    assert evaluate.main([str(word) for word in words]) == 1
    assert "is no CT, in which it could be found" in capsys.readouterr().err
