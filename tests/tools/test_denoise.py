"""medi2i denoise on phantoms with noise, by a network that is a known filter."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

import medi2i
from medi2i.common import registry
from medi2i.common.networks.files import save_networks
from medi2i.common.options import PairedOptions, save_args
from medi2i.datasets import dicom
from medi2i.pix2pix import convert
from medi2i.pix2pix.net import build
from medi2i.tools import denoise, evaluate, make_noisy, make_phantom

PLAIN = dict(gen_chs=[1], gen_nblock=0, gen_norm="none", gen_activation="none", gen_out_activation="none", unet="none")
KERNEL = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25]).astype(np.float32)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Folder of a phantom of five slices with 20 HU of white noise."""
    folder = tmp_path_factory.mktemp("phantom")
    assert make_phantom.main(["-o", str(folder / "clean"), "--size", "256", "--slices", "4"]) == 0
    words = ["-i", folder / "clean", "-o", folder / "pairs", "--model", "gaussian", "--sd", "20", "-j", "1"]
    assert make_noisy.main([str(word) for word in words]) == 0
    return folder / "pairs/trainA"


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The name of a model that convolves with KERNEL."""
    place = tmp_path / "models"
    folder = place / "ct-smooth"
    folder.mkdir(parents=True)
    monkeypatch.setenv(registry.VARIABLE, str(place))
    clips = {"clipA": [-1024, 2000], "clipB": [-1024, 2000]}
    options = PairedOptions(**PLAIN, **clips, lambda_dis=0, ch=1, out_ch=1)
    networks = build(options).as_dict()
    for link in (networks["enc_x"].c0, networks["dec_y"].ua1, networks["dec_y"].ul):
        weights = link.c1.c.W.array
        weights[...] = 0
        middle = weights.shape[2] // 2
        weights[:, 0, middle, middle] = 1
        link.c1.c.b.array[...] = 0
    weights = networks["enc_x"].c0.c1.c.W.array
    weights[...] = 0
    weights[:, 0, 2:5, 2:5] = KERNEL
    save_args(options, folder / "args")
    save_networks(folder, networks, 1)
    card = {"summary": "a filter", "modality": "CT", "noise_hu": [3, 60], "pixel_mm": [0.4, 5]}
    (folder / registry.CARD).write_text(json.dumps(card))
    return "ct-smooth"


def run(*words):
    return denoise.main([str(word) for word in words])


def images(folder):
    """Name -> HU of the DICOM files below a folder."""
    return {path.relative_to(folder).as_posix(): dicom.read(path).hu for path in sorted(folder.rglob("*.dcm"))}


def test_a_folder_is_denoised_with_a_report_beside_it(tmp_path, noisy, model, capsys):
    assert run(noisy, "-o", tmp_path / "out", "-m", model) == 0
    said = capsys.readouterr()
    told = re.search(r"noise (\S+) HU, white", said.err)
    assert told and float(told[1]) == pytest.approx(20, rel=0.1) and "LOOK: edges" in said.out
    before, after = images(noisy), images(tmp_path / "out")
    assert list(before) == list(after) and all((before[name] != after[name]).any() for name in before)
    found = json.loads((tmp_path / "out.report/safety.json").read_text())["series"][0]
    assert found["noise"]["before"]["level"] == pytest.approx(20, rel=0.1)
    assert found["noise"]["after"]["level"] == pytest.approx(20 * (KERNEL**2).sum() ** 0.5, rel=0.15)
    assert [one["kept"] for one in found["inserts"]] == pytest.approx([0.6] * 6, abs=0.4)
    assert (tmp_path / "out.report/safety.html").read_text().count("data:image/png") == 4
    header = pydicom.dcmread(next((tmp_path / "out").rglob("*.dcm")))
    assert header.ImageType[0] == "DERIVED" and "medi2i" in str(header.ContributingEquipmentSequence[0])


def test_results_are_valid_dicom(tmp_path, noisy, model):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not here")
    assert run(noisy, "-o", tmp_path / "out", "-m", model, "--no-report") == 0
    path = next((tmp_path / "out").rglob("*.dcm"))
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    assert "Error" not in done.stderr + done.stdout


def test_no_strength_gives_the_input(tmp_path, noisy, model):
    assert run(noisy, "-o", tmp_path / "out", "-m", model, "--strength", "0", "--no-report") == 0
    before, after = images(noisy), images(tmp_path / "out")
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    assert not (tmp_path / "out.report/safety.html").exists()


def test_evaluate_on_input_and_result_alone_says_the_same(tmp_path, noisy, model):
    assert run(noisy, "-o", tmp_path / "out", "-m", model) == 0
    assert evaluate.main(["-i", str(noisy), "-c", str(tmp_path / "out"), "-o", str(tmp_path / "again")]) == 0
    first, again = (
        json.loads((tmp_path / folder / "safety.json").read_text())["series"][0] for folder in ("out.report", "again")
    )
    for key in ("noise", "mean_change", "edge", "anatomy"):
        assert first[key] == again[key]
    assert [one["structure"] for one in first["slices"]] == [one["structure"] for one in again["slices"]]


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ({"noise_hu": [25, 60]}, "less than the 25 HU that the model begins at"),
        ({"noise_hu": [3, 10]}, "more than the 10 HU that the model has seen"),
        ({"pixel_mm": [0.4, 1.0]}, "the model has seen 0.4 to 1 mm"),
        ({"modality": "MR"}, "is CT, and the model is made for MR"),
    ],
)
def test_a_series_that_the_model_was_not_made_for_is_named_and_left_alone(tmp_path, noisy, model, card, reason, capsys):
    path = tmp_path / "models/ct-smooth" / registry.CARD
    path.write_text(json.dumps({**json.loads(path.read_text()), **card}))
    assert run(noisy, "-o", tmp_path / "out", "-m", model) == 1
    assert reason in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_is_left_alone_is_denoised_anyway_with_the_reason_in_the_report(tmp_path, noisy, model, capsys):
    path = tmp_path / "models/ct-smooth" / registry.CARD
    path.write_text(json.dumps({**json.loads(path.read_text()), "noise_hu": [3, 10]}))
    assert run(noisy, "-o", tmp_path / "out", "-m", model, "--anyway") == 0
    assert "LOOK: outside of what the model has seen: has 2" in capsys.readouterr().out


def test_an_array_is_denoised_as_the_files_are(tmp_path, noisy, model):
    assert medi2i.denoise(noisy, tmp_path / "out", model=model, report=False) == tmp_path / "out"
    before, after = images(noisy), images(tmp_path / "out")
    volume = np.stack(list(before.values()))
    found = medi2i.denoise(volume, model=model)
    np.testing.assert_allclose(found, np.stack(list(after.values())), atol=0.51)
    np.testing.assert_allclose(
        medi2i.denoise(volume[1], model=model, strength=0.5), (volume[1] + found[1]) / 2, atol=1e-3
    )
    np.testing.assert_array_equal(medi2i.denoise(volume, model=model, strength=0), volume)


def test_less_is_taken_from_an_array_than_is_there_as_from_files(tmp_path, noisy):
    words = ["-m", "ct-denoise-fast", "-R", noisy, "-o", tmp_path / "out", "--noise_level", 10, "--precision", "fp32"]
    assert convert.main([str(word) for word in words]) == 0
    volume, expected = (np.stack(list(images(folder).values())) for folder in (noisy, tmp_path / "out"))
    found = medi2i.denoise(volume, model="ct-denoise-fast", noise_level=10, precision="fp32")
    np.testing.assert_allclose(found, expected, atol=0.6)
    assert 1 < np.std(found - volume) < 10 < np.std(volume - medi2i.denoise(volume, model="ct-denoise-fast"))


@pytest.mark.parametrize("array", [np.zeros(5, np.float32), np.full((20, 20), np.nan, np.float32)])
def test_an_array_that_is_no_image_is_refused(model, array):
    with pytest.raises(denoise.UserError, match="images: shape"):
        medi2i.denoise(array, model=model)


def test_series_of_unlike_noise_are_not_told_one_level():
    of = [denoise.Chosen(level, Level(level) if level else None, []) for level in (30, 4, 5, 31, 0)]
    groups = denoise.alike(of)
    assert [[one.volume for one in group] for group in groups] == [[0], [4, 5], [30, 31]]
    assert [denoise.level_of(group) for group in groups] == pytest.approx([0.5, 20**0.5, 930**0.5])


class Level:
    """Stands for a Noise of which ``to_remove`` HU are to be taken away."""

    def __init__(self, to_remove):
        self.to_remove = to_remove


def header(**elements):
    found = Dataset()
    for name, value in elements.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize(
    "elements",
    [
        {"SeriesDescription": "STD BRAIN 1MM, iDose"},
        {"ConvolutionKernel": ["I30f", "3"]},
        {"ReconstructionAlgorithm": "ITERATIVE"},
        {"ImageComments": "ASiR-V 40%"},
    ],
)
def test_iterative_reconstruction_is_read_from_headers(elements):
    assert denoise.iterative(header(**elements)) is not None


def test_iterative_reconstruction_is_found_in_private_elements():
    found = header(SeriesDescription="HEAD")
    found.add_new(0x01F70010, "LO", "ELSCINT1")
    found.add_new(0x01F71095, "OB", b"\x00\x00IdoseAlgParams.tbl\x00")
    assert denoise.iterative(found) == "Idose"


@pytest.mark.parametrize(
    "elements",
    [
        {"SeriesDescription": "Abdomen multidose", "ConvolutionKernel": "STANDARD"},
        {"PatientName": "Asir^Veo", "ConvolutionKernel": "B30f"},
    ],
)
def test_other_words_and_names_of_people_are_none(elements):
    assert denoise.iterative(header(**elements)) is None


def test_adapting_trains_on_the_very_images_and_takes_what_came_of_it(tmp_path, noisy, model, monkeypatch):
    told = {}

    def train(words):
        told.update(zip(words[::2], words[1::2], strict=True))
        names = Path(told["-t"]).read_text().split()
        told["files"] = sorted(Path(told["-R"], name) for name in names)
        shutil.copytree(tmp_path / "models/ct-smooth", Path(told["-o"]) / "20260101_120000")
        return 0

    monkeypatch.setattr("medi2i.pix2pix.train.command", train)
    assert run(noisy, "-o", tmp_path / "out", "-m", model, "--adapt", "3", "--no-report") == 0
    assert told["files"] == sorted(path.resolve() for path in noisy.rglob("*.dcm"))
    assert (told["-m"], told["--preset"], told["--minutes"]) == (model, "denoise_self", "3.0")
    assert len(images(tmp_path / "out")) == 4
