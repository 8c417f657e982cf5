"""On a GPU: whole trainings and conversions do what they do on the CPU, and go on after they were ended."""

import signal

import numpy as np
import pytest
from PIL import Image
from ranks import finish, no_mpi, start
from run_files import log_of, only_run, saved_arrays

from medi2i.common.device import choose_device, gpu_count
from medi2i.common.inference.generator import engine_of
from medi2i.common.networks.checkpoint import load_generator
from medi2i.common.registry import located
from medi2i.common.training.adversarial import AdversarialUpdater
from medi2i.cyclegan import convert as cyclegan_convert
from medi2i.cyclegan import train as cyclegan_train
from medi2i.datasets import dicom
from medi2i.pix2pix import convert as pix2pix_convert
from medi2i.pix2pix import train as pix2pix_train
from medi2i.tools import denoise, make_noisy, make_phantom

pytestmark = pytest.mark.gpu

SMALL = (
    "-cw 16 -ch 16 -gc 4 6 -gnb 1 -dc 4 6 -e 2 --snapshot_interval 1 --dis_jitter 0 --cpu_engine numpy -op SGD".split()
)
RESTLESS = "-gdo 0.3 -n 0.1 -nz 0.1 -rs 0.1 -rt 2 --ema 0.9 --bn_reestimate 2 --parameter_statistics".split()
NO_PICTURES = {"pix2pix": ["--nvis", "0"], "cyclegan": ["--nvis_A", "0", "--nvis_B", "0"]}
APPLICATIONS = {
    "pix2pix": (pix2pix_train, pix2pix_convert, ("enc_x", "dec_y", "dis", "opt_enc_x", "opt_dis"), []),
    "cyclegan": (cyclegan_train, cyclegan_convert, ("enc_x", "dec_x", "dis_y", "opt_enc_y"), ["-it", "png"]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    random = np.random.default_rng(5)
    for phase, count in (("train", 3), ("test", 2)):
        for domain in "AB":
            (root / f"{phase}{domain}").mkdir()
        for i in range(count):
            clean = np.kron(random.integers(0, 255, (3, 4)), np.ones((6, 6)))[:, :22]
            noisy = np.clip(clean + random.normal(0, 20, clean.shape), 0, 255)
            for domain, image in (("A", noisy), ("B", clean)):
                Image.fromarray(image.astype(np.uint8)).save(root / f"{phase}{domain}" / f"{i}.png")
    return root


def train(application, data, out, *argv, status=0):
    module, _, _, more = APPLICATIONS[application]
    assert module.main(["-R", str(data), "-o", str(out), *SMALL, *more, *argv]) == status
    return only_run(out)


@pytest.mark.parametrize("application", APPLICATIONS)
def test_a_training_and_a_conversion(application, data, tmp_path):
    """With validation and pictures; the log has the same numbers, the converted pictures the same grey levels."""
    runs = {gpu: train(application, data, tmp_path / gpu, "-g", gpu) for gpu in ("-1", "0")}
    logs = {gpu: log_of(run) for gpu, run in runs.items()}
    assert [entry.keys() for entry in logs["0"]] == [entry.keys() for entry in logs["-1"]]
    for entry, expected in zip(logs["0"], logs["-1"], strict=True):
        assert entry == pytest.approx(expected, rel=2e-3, abs=1e-4)
    assert any("validation" in name for name in logs["0"][-1])
    assert [p.name for p in sorted(runs["0"].rglob("*.png"))] == [p.name for p in sorted(runs["-1"].rglob("*.png"))]
    assert_converted_alike(application, runs["0"], data, tmp_path)


@pytest.mark.parametrize(
    "application, more, maps",
    [("pix2pix", ["--tile", "20", "--tile_overlap", "1", "--uncertainty", "tta"], 2), ("cyclegan", ["--ensemble"], 0)],
)
def test_tiles_and_uncertainty(application, more, maps, data, tmp_path):
    run = train(application, data, tmp_path / "run", "-g", "0", "-e", "1", *NO_PICTURES[application])
    assert_converted_alike(application, run, data, tmp_path, *more, maps=maps)


def test_uncertainty_by_dropout(data, tmp_path):
    """Whose draws are others there: the mean of the deviations is about the same."""
    run = train("pix2pix", data, tmp_path / "run", "-g", "0", "-e", "1", "-gdo", "0.5", "--nvis", "0")
    argv = ["--uncertainty", "dropout", "--uncertainty_samples", "30"]
    _, maps = zip(*(converted("pix2pix", run, data, tmp_path / gpu, gpu, *argv) for gpu in ("-1", "0")), strict=True)
    assert np.mean(maps[1]) == pytest.approx(np.mean(maps[0]), rel=0.1) and np.mean(maps[1]) > 1


def converted(application, run, data, out, gpu, *more):
    """Pictures and maps of a conversion of two images, in the order of their names."""
    argv = [str(run), str(data / "testA"), "-o", str(out), "-g", gpu, "--engine", "chainer", *more]
    assert APPLICATIONS[application][1].main(argv) == 0
    pictures = [np.asarray(Image.open(path), float) for path in sorted(out.glob("*.png"))]
    assert len(pictures) == 2
    return pictures, [np.load(path) for path in sorted(out.glob("uncertainty/*.npy"))]


def assert_converted_alike(application, run, data, out, *more, maps=0):
    """A conversion on the GPU writes the pictures, and so many maps, of one on the CPU."""
    expected, found = (converted(application, run, data, out / f"out{gpu}", gpu, *more) for gpu in ("-1", "0"))
    assert len(expected[1]) == len(found[1]) == maps
    for image, other in zip(found[0] + found[1], expected[0] + expected[1], strict=True):
        np.testing.assert_allclose(image, other, atol=1)


@pytest.mark.parametrize(
    "application, more",
    [("pix2pix", ["-dt", "mixed16"]), ("cyclegan", [])],
)
def test_what_is_ended_goes_on(application, more, data, tmp_path, monkeypatch):
    """By a signal within the fourth update, with all that draws random numbers: the same bytes in the end."""
    argv = ["-g", "0", *RESTLESS, *more, *NO_PICTURES[application]]
    whole = train(application, data, tmp_path / "whole", *argv)
    update = AdversarialUpdater.update

    def ended(self):
        update(self)
        if self.iteration == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(AdversarialUpdater, "update", ended)
        run = train(application, data, tmp_path / "ended", *argv, status=128 + signal.SIGTERM)
    assert APPLICATIONS[application][0].main(["--resume", str(run)]) == 0
    names = APPLICATIONS[application][2]
    assert saved_arrays(run, 2, names) == saved_arrays(whole, 2, names)
    assert log_of(run) == log_of(whole)


def test_whole_images_are_augmented_there(data, tmp_path):
    run = train("pix2pix", data, tmp_path, "-g", "0", "--augment_on", "device", "-rt", "2", "-rr", "10", "-e", "1")
    assert len(log_of(run)) == 1


TWICE = """
import sys
from medi2i.common.training import pictures
from medi2i.pix2pix.train import main

pictures.draw_all = lambda *given: []
out, *argv = sys.argv[1:]
for gpu, communicator in (("-1", "naive"), ("0", "pure_nccl")):
    status = main([*argv, "-o", f"{out}/{gpu}", "-g", gpu, "--communicator", communicator])
    if status:
        sys.exit(status)
"""


def test_two_ranks_normalise_together(data, tmp_path):
    """On two GPUs by pure_nccl what two processes do on the CPU."""
    if gpu_count()[0] < 2 or no_mpi():
        pytest.skip(f"it takes two GPUs and MPI: {no_mpi() or 'there is one GPU'}")
    argv = ["-R", data, *SMALL, "-e", "1", "--nvis", "0", "--sync_bn"]
    status, _, errors = finish(start("-c", TWICE, tmp_path, *argv))
    assert status == 0, errors
    expected, found = (
        {name: dict(np.load(only_run(tmp_path / gpu) / f"{name}1.npz")) for name in ("enc_x", "dec_y", "dis")}
        for gpu in ("-1", "0")
    )
    for name, arrays in expected.items():
        for key, array in arrays.items():
            np.testing.assert_allclose(found[name][key], array, atol=1e-5, err_msg=f"{name}/{key}")


def test_a_packaged_model():
    generator = load_generator(located("ct-denoise"))
    x = np.random.default_rng(0).uniform(-1, 1, (1, generator.encoder.spec.in_ch, 32, 48)).astype(np.float32)
    on_cpu = engine_of(generator, choose_device(-1)).run(x)
    on_gpu = engine_of(load_generator(located("ct-denoise")), choose_device(0)).run(x)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=2e-5 * np.abs(on_cpu).max())


def test_denoising_without_a_training(tmp_path):
    """``medi2i denoise``: the same HU, to what is rounded when written."""
    clean, noisy = tmp_path / "clean", tmp_path / "noisy"
    assert make_phantom.main(["-o", str(clean), "--size", "256", "--slices", "1"]) == 0
    assert make_noisy.main(["-i", str(clean), "-o", str(noisy), "--model", "gaussian", "--sd", "20", "-j", "1"]) == 0
    for gpu in ("-1", "0"):
        argv = [str(noisy / "trainA"), "-o", str(tmp_path / gpu), "-g", gpu, "--engine", "chainer"]
        assert denoise.main([*argv, "--precision", "fp32", "--no-report"]) == 0
    folders = (clean, noisy / "trainA", tmp_path / "-1", tmp_path / "0")
    truth, before, expected, found = (dicom.read(next(folder.rglob("*.dcm"))).hu for folder in folders)
    np.testing.assert_allclose(found, expected, atol=1)
    assert np.std(found - truth) < 0.5 * np.std(before - truth)
