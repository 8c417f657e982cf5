"""make_phantom -> make_noisy -> split_pairs: layout, names, seeds, refusals, valid DICOM."""

import os
import re
import time
from pathlib import Path

import commands
import numpy as np
import pydicom
import pytest
from PIL import Image

from medi2i.datasets import dicom
from medi2i.datasets.dicom import scanning
from medi2i.datasets.pairs import find_pairs
from medi2i.tools import make_noisy, make_phantom, split_pairs
from medi2i.tools.evaluation.files import list_pairs
from medi2i.tools.making.phantom import phantom


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two small phantom series beside a licence and a table, as a download from TCIA has them."""
    root = tmp_path_factory.mktemp("tcia")
    assert (
        make_phantom.main(["-o", str(root / "CPTAC-SAR"), "--size", "40", "48", "--slices", "5", "--series", "2"]) == 0
    )
    (root / "LICENSE").write_text("text")
    (root / "CPTAC-SAR" / "metadata.csv").write_text("a,b\n1,2\n")
    return root


def noisy(made, out, *options):
    return make_noisy.main(["-i", str(made), "-o", str(out), "-j", "1", *options])


def volumes(folder):
    return {s.patient: dicom.read_volume(s) for s in dicom.scan(folder, workers=1).series}


# --- phantom --------------------------------------------------------------------------------------------------------


def test_phantom_is_a_ct_series(made):
    scan = dicom.scan(made, workers=1)
    assert [len(s.slices) for s in scan.series] == [5, 5] and scan.series[0].shape == (40, 48)
    assert len({s.patient for s in scan.series}) == 2 and not any(s.warnings for s in scan.series)
    assert scan.series[0].slice_distance == 10 and scan.series[0].spacing == pytest.approx((400 / 48, 400 / 48))
    one, two = (dicom.read_volume(s) for s in scan.series)
    assert not np.array_equal(one, two)


def test_phantom_has_the_tissues_of_a_trunk():
    hu = phantom((128, 128), 20, seed=3).hu
    share = {
        name: np.mean((hu >= low) & (hu < high))
        for name, (low, high) in {
            "air": (-1024, -950),
            "lung": (-900, -750),
            "fat": (-140, -60),
            "soft": (0, 90),
            "bone": (150, 1500),
        }.items()
    }
    assert share["air"] > 0.4 and 0.03 < share["lung"] < 0.3 and 0.03 < share["fat"] < 0.3
    assert 0.1 < share["soft"] < 0.4 and 0.005 < share["bone"] < 0.06
    assert np.all(hu == np.rint(hu)) and hu.min() >= -1024 and hu.max() <= 3071


def test_phantom_depends_on_seed_and_series_only():
    one, again, other, patient = (
        phantom((32, 37), 3, seed, series).hu for seed, series in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other) and not np.array_equal(one, patient)


def test_phantom_files_are_the_same_on_any_day(made, tmp_path):
    make_phantom.main(["-o", str(tmp_path / "p"), "--size", "40", "48", "--slices", "5", "--series", "1"])
    for path in (tmp_path / "p").rglob("*.dcm"):
        assert path.read_bytes() == (made / "CPTAC-SAR" / path.relative_to(tmp_path / "p")).read_bytes()


def test_phantom_refuses_to_overwrite(made, capsys):
    assert make_phantom.main(["-o", str(made / "CPTAC-SAR")]) == 1
    assert "exists" in capsys.readouterr().err


# --- noise ----------------------------------------------------------------------------------------------------------


def test_layout_pairs_and_released_noise(made, tmp_path, capsys):
    assert noisy(made, tmp_path / "o") == 0
    out = capsys.readouterr().out
    assert "10 pairs" in out and "raises the mean by n = 100" in out and "2 files skipped" in out
    pairs = [line.split("\t") for line in (tmp_path / "o" / "pairs.txt").read_text().splitlines()]
    assert pairs[0] == ["trainA/CPTAC-SAR/phantom_001/CT0001.dcm", "trainB/CPTAC-SAR/phantom_001/CT0001.dcm"]
    added = []
    for a, b in pairs:
        source = made / b.removeprefix("trainB/")
        assert (tmp_path / "o" / b).read_bytes() == source.read_bytes()
        x, t = dicom.read(tmp_path / "o" / a), dicom.read(source)
        added.append(x.hu - t.hu)
        assert x.header.ImageType[0] == "DERIVED" and x.header.SeriesInstanceUID != t.header.SeriesInstanceUID
        assert x.header.PatientID == t.header.PatientID
    assert np.mean(added) == pytest.approx(100, abs=0.5) and np.std(added) == pytest.approx(10, rel=0.03)


@pytest.mark.parametrize(
    ("options", "mean", "deviation"),
    [
        (["-m", "poisson", "-n", "25"], 25, 5),
        (["-m", "gaussian", "--sd", "30"], 0, 30),
        (["-m", "dose", "--photons", "1e5", "--views", "60", "-g", "-1"], 0, None),
    ],
)
def test_models(made, tmp_path, options, mean, deviation):
    assert noisy(made, tmp_path / "o", *options) == 0
    added = np.concatenate(
        [v - volumes(tmp_path / "o" / "trainB")[p] for p, v in volumes(tmp_path / "o" / "trainA").items()]
    )
    assert added.mean() == pytest.approx(mean, abs=1)
    if deviation:
        assert added.std() == pytest.approx(deviation, rel=0.03)


def test_dose_is_that_of_the_series_itself(tmp_path, capsys):
    """A phantom with 30 HU of noise gets as much by the full dose; the flux is told."""
    make_phantom.main(["-o", str(tmp_path / "clean"), "--size", "256", "256", "--slices", "2", "--series", "1"])
    noisy(tmp_path / "clean", tmp_path / "own", "-m", "gaussian", "--sd", "30")
    (x,), (t,) = (volumes(tmp_path / "own" / part).values() for part in ("trainA", "trainB"))
    capsys.readouterr()
    assert noisy(tmp_path / "own/trainA", tmp_path / "o", "-m", "dose", "--dose", "1", "--views", "90", "-g", "-1") == 0
    told = re.search(
        r"photons a ray make the (\S+) HU of noise that it has; (\S+) HU are added", capsys.readouterr().out
    )
    assert float(told[1]) == float(told[2]) == pytest.approx(30, rel=0.15)
    (again,) = volumes(tmp_path / "o" / "trainA").values()
    assert (again - x)[np.abs(t) < 150].std() == pytest.approx(30, rel=0.25)  # stronger in the middle than all over


@pytest.mark.parametrize("photons", ["none", "0", "inf", "-1"])
def test_photons_that_are_none_are_refused(made, tmp_path, capsys, photons):
    assert noisy(made, tmp_path / "o", "-m", "dose", f"--photons={photons}") == 1
    assert f"--photons: '{photons}'; it is a number of at least 1, or auto" in capsys.readouterr().err


def test_same_image_same_noise_in_any_order_by_any_number_of_workers(made, tmp_path, monkeypatch):
    noisy(made, tmp_path / "all")
    alone = tmp_path / "alone"
    alone.mkdir()
    name = "CPTAC-SAR/phantom_002/CT0004.dcm"
    (alone / "renamed").write_bytes((made / name).read_bytes())
    noisy(alone, tmp_path / "one")
    monkeypatch.setattr(scanning, "PARALLEL_FROM_SECONDS", 0)
    make_noisy.main(["-i", str(made), "-o", str(tmp_path / "two"), "-j", "2"])
    first = dicom.read(tmp_path / "all" / "trainA" / name).hu
    np.testing.assert_array_equal(first, dicom.read(tmp_path / "one" / "trainA" / "renamed.dcm").hu)
    np.testing.assert_array_equal(first, dicom.read(tmp_path / "two" / "trainA" / name).hu)
    assert (tmp_path / "all" / "pairs.txt").read_text() == (tmp_path / "two" / "pairs.txt").read_text()
    noisy(alone, tmp_path / "seed", "--seed", "1")
    assert not np.array_equal(first, dicom.read(tmp_path / "seed" / "trainA" / "renamed.dcm").hu)


def test_realisations_differ_and_stay_together(made, tmp_path):
    assert noisy(made, tmp_path / "o", "--repeat", "2") == 0
    name = "CPTAC-SAR/phantom_001/CT0003.dcm"
    one, two = (dicom.read(tmp_path / "o" / "trainA" / f"noise0{r}" / name) for r in (1, 2))
    assert not np.array_equal(one.hu, two.hu) and one.header.SeriesInstanceUID != two.header.SeriesInstanceUID
    assert split_pairs.main([str(tmp_path / "o" / "pairs.txt"), "--ratio", "0.5", "--by", "image"]) == 0
    train, val = (
        {line.split("/", 2)[2] for line in (tmp_path / "o" / f"pairs_{part}.txt").read_text().splitlines()}
        for part in ("train", "val")
    )
    assert train and val and not {t.split("\t")[0] for t in train} & {v.split("\t")[0] for v in val}


@pytest.mark.parametrize("place", ["pairs.txt", "__train__"])
def test_every_realisation_is_a_pair(made, tmp_path, caplog, place):
    """Their clean images are the same, in files of their own: no file among a pair's is left out as a copy."""
    noisy(made, tmp_path / "o", "--repeat", "2")
    caplog.clear()
    pairs = find_pairs(tmp_path / "o", place)
    assert len({pair.inputs[0].path for pair in pairs}) == 20 and not caplog.records
    for pair in pairs:
        assert pair.inputs[0].name.split("noise")[1] == pair.outputs[0].name.split("noise")[1]
    windows = {(pair.outputs[0].group, pair.outputs[0].place) for pair in pairs}
    assert windows == {(group, number) for group in range(4) for number in range(5)}
    inputs, truths = list_pairs("pairs.txt", tmp_path / "o")
    assert len(truths.files) == 20 and truths.files.keys() == inputs.files.keys() and not truths.skipped


def test_names_cannot_collide(made, tmp_path):
    files = sorted((made / "CPTAC-SAR" / "phantom_001").iterdir())
    for name, source in zip(("IM1", "IM1.dcm", "im1.DCM", "sub/IM1", "tab\tname"), files, strict=True):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(source.read_bytes())
    assert noisy(tmp_path / "in", tmp_path / "o") == 0
    names = [line.split("\t")[0].casefold() for line in (tmp_path / "o" / "pairs.txt").read_text().splitlines()]
    assert len(set(names)) == 5 and "traina/tab_name.dcm" in names
    ids = {
        pydicom.dcmread(p).SourceImageSequence[0].ReferencedSOPInstanceUID
        for p in (tmp_path / "o" / "trainA").rglob("*.dcm")
    }
    assert len(ids) == 5


def test_an_unreadable_file_is_skipped_and_counted(made, tmp_path, capsys):
    for path in (made / "CPTAC-SAR" / "phantom_001").iterdir():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    bad = tmp_path / "in" / "CT0002.dcm"
    bad.write_bytes(bad.read_bytes()[:-100])
    assert noisy(tmp_path / "in", tmp_path / "o") == 0
    out = capsys.readouterr().out
    assert "4 pairs" in out and "1 file skipped" in out and "CT0002.dcm" in out and "cut off" in out


@pytest.mark.parametrize("case", ["empty", "text", "missing", "same", "inside", "exists", "mr"])
def test_refusals_are_one_line_and_leave_nothing(made, tmp_path, capsys, case, ct_like):
    root, out, expected = tmp_path / "in", tmp_path / "out", ""
    root.mkdir()
    if case == "empty":
        expected = "empty"
    elif case == "text":
        (root / "a.md").write_text("x")
        expected = "no images"
    elif case == "missing":
        root, expected = tmp_path / "nowhere", "no such folder"
    elif case == "same":
        out, expected = root, "is the input folder"
    elif case == "inside":
        out, expected = root / "noisy", "lies in it"
    elif case == "exists":
        (out / "trainA").mkdir(parents=True)
        (out / "trainA" / "x").write_text("")
        root, expected = made, "--force"
    elif case == "mr":
        ct_like(root / "x", "MR")
        expected = "modality MR"
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    assert noisy(root, out) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and expected in error
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_a_kill_leaves_no_half_file(made, tmp_path):
    out = tmp_path / "o"
    process = commands.start("medi2i.tools.make_noisy", "-i", made, "-o", out, "-r", "40", "-j", "1")
    deadline = time.monotonic() + 60
    while len(list(out.rglob("*.dcm"))) < 7 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9, "it was too quick to be killed"
    written = list(out.rglob("*.dcm"))
    assert len(written) >= 7 and not (out / "pairs.txt").exists()
    for path in written:
        assert dicom.read(path).hu.shape == (40, 48)


@pytest.fixture
def ct_like(made):
    """Write a phantom slice with another modality."""

    def write(path: Path, modality: str) -> None:
        dataset = pydicom.dcmread(next((made / "CPTAC-SAR" / "phantom_001").iterdir()))
        dataset.Modality = modality
        dataset.save_as(path)

    return write


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(made, tmp_path, capsys):
    (tmp_path / "ro").mkdir(mode=0o555)
    assert noisy(made, tmp_path / "ro" / "o") == 1
    assert "Permission denied" in capsys.readouterr().err


def test_other_images(tmp_path, capsys):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    grey = np.full((37, 41), 100, np.uint8)
    Image.fromarray(grey).save(tmp_path / "in" / "a.png")
    Image.fromarray(np.full((37, 41), 30000, np.uint16)).save(tmp_path / "in" / "sub" / "b.png")
    assert noisy(tmp_path / "in", tmp_path / "o", "-n", "49") == 0
    x = np.asarray(Image.open(tmp_path / "o" / "trainA" / "a.png")).astype(int)
    assert abs((x - 100).mean() - 49) < 1 and abs((x - 100).std() - 7) < 0.5
    assert (tmp_path / "o" / "trainB" / "a.png").read_bytes() == (tmp_path / "in" / "a.png").read_bytes()
    deep = np.asarray(Image.open(tmp_path / "o" / "trainA" / "sub" / "b.png"))
    assert deep.dtype == np.uint16 and abs(deep.mean() - 30049) < 2
    assert noisy(tmp_path / "in", tmp_path / "p", "-m", "dose") == 1
    assert "needs HU" in capsys.readouterr().err


# --- split ----------------------------------------------------------------------------------------------------------


def split(folder, *options):
    status = split_pairs.main([str(folder / "pairs.txt"), *options])
    return status, {
        part: (folder / f"pairs_{part}.txt").read_text().splitlines()
        for part in ("train", "val", "test")
        if (folder / f"pairs_{part}.txt").exists()
    }


@pytest.fixture
def listed(made, tmp_path):
    assert noisy(made, tmp_path / "o") == 0
    return tmp_path / "o"


def test_split_keeps_patients_apart(listed, capsys):
    status, parts = split(listed)
    assert status == 0 and "by patient: 2 patients" in capsys.readouterr().out
    assert [len(parts[p]) for p in ("train", "val")] == [5, 5] and "test" not in parts
    assert len({line.split("/")[2] for line in parts["val"]}) == 1
    assert sorted(parts["train"] + parts["val"]) == sorted((listed / "pairs.txt").read_text().splitlines())


def test_split_is_seeded(listed):
    found = {seed: split(listed, "--seed", str(seed), "--by", "image", "--force")[1]["val"] for seed in (0, 1, 2)}
    assert found[0] == split(listed, "--seed", "0", "--by", "image", "--force")[1]["val"]
    assert len({tuple(v) for v in found.values()}) > 1


def test_one_series_is_cut_into_blocks(listed, capsys):
    lines = (listed / "pairs.txt").read_text().splitlines()
    (listed / "pairs.txt").write_text("\n".join(lines[:5]))
    status, parts = split(listed, "--ratio", "0.6", "--test", "0.2")
    assert status == 0 and "contiguous blocks" in capsys.readouterr().out
    assert parts == {"train": lines[:3], "val": lines[3:4], "test": lines[4:5]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--by", "patient", "--test", "0.1"], "2 patients cannot fill 3 lists"),
        (["--ratio", "0.9", "--test", "0.2"], "more than 1 together"),
        (["--by", "fruit"], "--by"),
        (["--root", "/nowhere"], "no such file"),
    ],
)
def test_split_refusals(listed, capsys, options, expected):
    status, parts = split(listed, *options)
    assert status == 1 and not parts and expected in capsys.readouterr().err


def test_split_by_series_of_one_patient_is_a_leak(listed, capsys):
    for path in (listed / "trainB" / "CPTAC-SAR" / "phantom_002").iterdir():
        d = pydicom.dcmread(path)
        if d.InstanceNumber > 2:
            d.SeriesInstanceUID = "1.2.3"
            d.save_as(path)
    assert split(listed, "--by", "series", "--seed", "0")[0] == 1
    assert "--by patient keeps patients apart" in capsys.readouterr().err
    assert split(listed, "--by", "image")[0] == 0


def test_split_does_not_overwrite(listed, capsys):
    assert split(listed)[0] == 0 and split(listed)[0] == 1
    assert "--force" in capsys.readouterr().err
