"""What a trained network makes: the same images of the same seed, in every form, DICOM of nobody, and wrong words."""

import json

import numpy as np
import pydicom
import pytest
from PIL import Image
from run_files import only_run

from medi2i.datasets.dicom.new_series import SECONDARY_CAPTURE
from medi2i.synthesis import generate, net, train
from medi2i.tools import evaluate

SMALL = "--size", 16, "--channels", 4, "--latent", 6, "--clipA", -1000, 1000, "-b", 4, "--nvis", 0
PLACES = "ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID PixelSpacing SliceThickness".split()


def run(main, *arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """The run folder of a PGGAN that has come to 8² of 16² pixels."""
    out = tmp_path_factory.mktemp("runs")
    growing = "--network", "pggan", "--phase_images", 8
    assert run(train.main, "-i", images, "-o", out, *SMALL, *growing, "-e", 1) == 0
    return only_run(out)


def test_images_in_every_form_are_the_same(trained, tmp_path, capsys):
    made = {}
    for kind in generate.KINDS:
        assert run(generate.main, trained, "-n", 5, "--seed", 3, "-o", tmp_path / kind, "--imgtype", kind) == 0
        made[kind] = sorted((tmp_path / kind).iterdir())
        assert [path.name for path in made[kind]] == [f"{number:05d}.{kind}" for number in range(1, 6)]
        report = tmp_path / f"{kind}.report"
        assert {path.name for path in report.iterdir()} == {"grid.png", "interpolation.png", "report.json"}
    told = json.loads((tmp_path / "npy.report" / "report.json").read_text())
    assert told["pixels"] == 8 and told["clip"] == [-1000, 1000] and told["seed"] == 3
    networks, *_ = net.load(trained)
    z = np.random.default_rng(3).standard_normal((5, 6), dtype=np.float32)
    expected = 1000 * networks.generate(z)
    for number in range(5):
        assert np.allclose(np.load(made["npy"][number]), expected[number], atol=1e-3)
        grey = np.asarray(Image.open(made["png"][number]), np.float32)
        assert np.allclose(grey * 2000 / 255 - 1000, expected[number, 0], atol=4)
        dataset = pydicom.dcmread(made["dcm"][number])
        values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        assert np.allclose(values, expected[number, 0], atol=0.51)


def test_dicom_is_of_nobody_at_no_place(trained, tmp_path):
    assert run(generate.main, trained, "-n", 2, "-o", tmp_path / "out", "--imgtype", "dcm") == 0
    first, second = (pydicom.dcmread(path) for path in sorted((tmp_path / "out").iterdir()))
    assert first.SOPClassUID == first.file_meta.MediaStorageSOPClassUID == SECONDARY_CAPTURE
    assert (first.Modality, first.ConversionType, list(first.ImageType)) == ("OT", "WSD", ["DERIVED", "SECONDARY"])
    assert not [place for place in PLACES if place in first]
    texts = "SeriesDescription StudyDescription DerivationDescription ImageComments PatientName PatientID".split()
    assert all("SYNTHETIC" in str(first[text].value) for text in texts)
    assert first.SeriesInstanceUID == second.SeriesInstanceUID and first.SOPInstanceUID != second.SOPInstanceUID
    assert run(generate.main, trained, "-n", 1, "--seed", 1, "-o", tmp_path / "other", "--imgtype", "dcm") == 0
    other = pydicom.dcmread(tmp_path / "other" / "00001.dcm")
    assert other.SOPInstanceUID != first.SOPInstanceUID and other.StudyInstanceUID != first.StudyInstanceUID


def test_more_images_begin_alike(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "BATCH", 4)
    for count in (3, 6):
        assert run(generate.main, trained, "-n", count, "-o", tmp_path / str(count), "--imgtype", "npy") == 0
    assert all(
        np.array_equal(np.load(path), np.load(tmp_path / "6" / path.name)) for path in (tmp_path / "3").iterdir()
    )


def test_the_way_between_two_vectors_goes_along_the_sphere():
    begin, end = np.float32([3, 0, 0]), np.float32([0, 0, 5])
    way = generate.way(begin, end, 5)
    assert np.allclose(way[[0, -1]], [begin, end], atol=1e-6)
    assert np.allclose(way[2], (begin + end) / np.sqrt(2), atol=1e-6)
    assert np.allclose(generate.way(begin, 2 * begin, 3)[1], 1.5 * begin)


def test_real_images_come_as_the_network_saw_them(trained, images, tmp_path):
    assert run(generate.main, trained, "--real", "-o", tmp_path / "real", "--imgtype", "npy") == 0
    found = np.load(tmp_path / "real" / "00002.npy")
    whole = np.clip(np.load(images / "1.npy"), -1000, 1000)
    networks, *_ = net.load(trained)
    halves = whole.reshape(8, 2, 8, 2).mean((1, 3))
    quarters = halves.reshape(4, 2, 4, 2).mean((1, 3)).repeat(2, 0).repeat(2, 1)
    alpha = networks.growth.stage[1]
    assert alpha == 0.5 and np.allclose(found, (halves + quarters) / 2, atol=0.1)


def test_what_is_wrong_is_one_line(trained, images, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "00001.png").write_bytes(b"")
    for words, error in (
        ((), "RUN: which training?"),
        ((tmp_path / "nothing",), "no such file or folder"),
        ((trained, "--epoch", 7), "no weights of epoch 7"),
        ((trained, "-o", tmp_path / "there"), "00001.png: exists; --force would overwrite it"),
        ((trained, "--real", "--imgtype", "dcm"), "--imgtype: real images are somebody's"),
        ((trained, "--imgtype", "jpg"), "--imgtype: jpg is unknown"),
    ):
        capsys.readouterr()
        assert run(generate.main, *(("-o", tmp_path / "no") if "-o" not in words else ()), *words) == 1
        told = capsys.readouterr().err.replace("'", "")
        assert error.replace("'", "") in told and told.count("\n") == 1, told
        assert not list((tmp_path / "no").glob("*.*"))


def test_sets_are_compared_by_evaluate(images, tmp_path, capsys):
    made, rng = tmp_path / "made", np.random.default_rng(1)
    made.mkdir()
    for number in range(10):
        image = np.load(images / f"{number}.npy") if number < 3 else rng.normal(0, 300, (16, 16))
        np.save(made / f"{number}.npy", image.astype(np.float32))
    words = "--sets", "-t", images, "-c", f"some={made}", "-o", tmp_path / "out"
    assert run(evaluate.main, *words) == 0
    said = capsys.readouterr()
    assert "warning: some: 3 of 10 images are as near to a real image as copies" in said.err
    assert [line.split()[0] for line in said.out.splitlines()[:4]] == ["set", "real,", "noise", "some"]
    told = json.loads((tmp_path / "out" / "sets.json").read_text())
    assert [row["copies"] for row in told["rows"]] == [0, 0, 3] and told["rows"][2]["nearest_least"] == 0
    assert (tmp_path / "out" / "nearest_some.png").is_file()
    assert run(evaluate.main, "--sets", "-c", f"some={made}", "-o", tmp_path / "no") == 1
    assert "--sets: takes --truth" in capsys.readouterr().err
    np.save(made / "10.npy", np.zeros((8, 8), np.float32))
    assert run(evaluate.main, *words[:-1], tmp_path / "no") == 1
    assert "a set to compare has one size" in capsys.readouterr().err and not list((tmp_path / "no").glob("*"))
