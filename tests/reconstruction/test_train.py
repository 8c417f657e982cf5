"""What learns to reconstruct: its networks, its training, killed and resumed, and reconstructions by it."""

import json
import os
import signal

import numpy as np
import pytest
from run_files import arrays_of

from medi2i.common.compat import chainer
from medi2i.common.options.learned import CRITIC, PRIMAL_DUAL
from medi2i.reconstruction import net, reconstruct, train, updater
from medi2i.reconstruction.geometry import regular
from medi2i.reconstruction.operator import Operator
from medi2i.reconstruction.scans import Scans
from medi2i.tools import make_phantom, make_sinograms

SMALL = "--unrolled", 2, "--memory", 2, "--channels", 4


def run(main, *arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Six ellipse phantoms of 32² pixels, 12 views."""
    folder = tmp_path_factory.mktemp("scans") / "scan"
    arguments = "--of", "ellipses", "--num", 6, "--size", 32, "--views", 12, "--noise", 0.025
    assert run(make_sinograms.main, *arguments, "-o", folder) == 0
    return folder


def trained(scans, out, *arguments):
    assert run(train.main, "-i", scans, "-o", out, *SMALL, *arguments) in (0, 128 + signal.SIGTERM)
    (folder,) = out.iterdir()
    return folder


def test_a_fresh_network_changes_little_and_an_empty_update_nothing():
    operator = Operator(regular((16, 20), (2.0, 2.0), 7))
    network = net.PrimalDual(operator, 3, 2, 4)
    rng = np.random.default_rng(0)
    start = rng.random((2, 1, 16, 20), dtype=np.float32)
    rays = rng.random((2, 1, *operator.geometry.sinogram_shape), dtype=np.float32)
    for link in (*network.of_rays, *network.of_image):
        link[4].W.array[...] = 0
    assert np.array_equal(network(rays, start).array, start)
    for link in network.of_image:
        link[4].b.array[1] = 0.5  # the second image goes to the projection, the first is the result
        link[4].b.array[0] = 0.25
    assert np.allclose(network(rays, start).array, start + 0.75, atol=1e-6)


def test_a_network_of_another_layout_is_refused(scans, tmp_path, capsys):
    """Before their parameters had these names, networks with the same shapes computed something else."""
    folder = trained(scans, tmp_path / "run", "-e", 1)
    (weights,) = folder.glob("net*.npz")
    with np.load(weights) as arrays:
        old = {name.replace("of_rays", "dual").replace("of_image", "primal"): arrays[name] for name in arrays.files}
    np.savez(weights, **old)
    capsys.readouterr()
    arguments = "-i", scans, "--method", "learned", "--prior", folder, "-o", tmp_path / "out"
    assert run(reconstruct.main, *arguments) == 1
    error = capsys.readouterr().err
    assert "does not fit PrimalDual" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_network_sees_the_scan_in_units_of_its_images():
    """Line integrals of an image in 1/mm, scaled, are what the network's own projection says of the image in water."""
    geometry = regular((16, 16), (3.0, 3.0), 9)
    operator = Operator(geometry)
    network = net.PrimalDual(operator, 1, 1, 2)
    water = np.random.default_rng(1).random((16, 16), dtype=np.float32)
    seen = []
    network.of_rays[0] = lambda stacked: seen.append(stacked.array) or 0 * stacked[:, :1]
    network(operator(water * geometry.mu_water)[None, None].astype(np.float32), water[None, None])
    _, own, measured = seen[0][0]
    assert np.allclose(own, measured, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(own) <= np.linalg.norm(water) * 1.01  # the projection has norm 1


def test_the_slope_of_the_critic_is_that_of_its_answer():
    np.random.seed(0)  # Chainer's initial weights
    networks = net.Networks(critic=net.Critic(2))
    rng = np.random.default_rng(2)
    image = rng.random((16, 16), dtype=np.float32)
    slope = networks.slope(image)
    for _ in range(3):
        way = rng.standard_normal(image.shape).astype(np.float32)
        ends = [networks.critic((image + step * way)[None, None]).array[0] for step in (1e-4, -1e-4)]
        assert np.isclose((ends[0] - ends[1]) / 2e-4, np.sum(slope * way), rtol=1e-2, atol=5e-4)


def test_the_critic_learns_by_the_formula(scans, monkeypatch):
    """Its three terms, for a critic that is linear in the image: |∇Ψ| = slope, everywhere."""
    data = Scans(scans)
    batch = [data.load(0), data.load(1)]

    class Linear(chainer.Chain):
        def __init__(self):
            super().__init__()
            with self.init_scope():
                self.slope = chainer.Parameter(np.float32(3.0 / 32), (1,))

        def forward(self, x):
            return chainer.functions.sum(
                x * chainer.functions.broadcast_to(self.slope.reshape(1, 1, 1, 1), x.shape), axis=(1, 2, 3)
            )

    critic = Linear()
    terms = []
    one = updater.CriticUpdater.__new__(updater.CriticUpdater)
    one.networks, one.options = net.Networks(critic=critic), type("Options", (), {"lambda_gp": 10.0})()
    one.random = type("Random", (), {"uniform_array": staticmethod(lambda count: np.full(count, 0.5, np.float32))})()
    one.next_batch = lambda: tuple(np.stack(arrays) for arrays in zip(*batch, strict=True))
    one.minimise = lambda names, found: terms.extend(found)
    one.update_core()
    slope = 3.0 / 32
    _, starts, truths = one.next_batch()
    assert np.isclose(terms[0].value.array, slope * truths.sum() / 2, rtol=1e-5)
    assert np.isclose(terms[1].value.array, -slope * starts.sum() / 2, rtol=1e-5)
    assert np.isclose(terms[2].value.array, 10 * (3.0 - 1) ** 2, rtol=1e-3)  # 1024 pixels of 3/32: length 3


@pytest.mark.parametrize("learns", [PRIMAL_DUAL, CRITIC])
def test_a_killed_training_resumes_bit_for_bit(scans, tmp_path, learns, monkeypatch, capsys):
    more = "--learns", learns, "-e", 3, "--val", scans, "--snapshot_interval", 1, "--seed", 4, "--ema", 0.9
    whole = trained(scans, tmp_path / "whole", *more)
    kind = updater.PrimalDualUpdater if learns == PRIMAL_DUAL else updater.CriticUpdater
    update = kind.update_core

    def ended(self):
        update(self)
        if self.iteration == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(kind, "update_core", ended)
    killed = trained(scans, tmp_path / "killed", *more)
    monkeypatch.setattr(kind, "update_core", update)
    assert run(train.main, "--resume", killed) == 0
    expected, found = arrays_of(whole), arrays_of(killed)
    assert set(expected) <= set(found) and len(expected) > 10
    assert all(np.array_equal(array, found[name]) for name, array in expected.items())


def test_it_learns_and_reconstructs_what_it_was_trained_for(scans, tmp_path, capsys):
    folder = trained(scans, tmp_path / "run", "-e", 20, "-lr", 0.01, "--val", scans, "--vis_freq", 60)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert log[-1]["validation/RMSE"] < 0.85 * log[-1]["validation/RMSE_fbp"]
    assert len(list((folder / "vis").glob("*.png"))) > 0
    arguments = "-i", scans, "--method", "learned", "--prior", folder
    assert run(reconstruct.main, *arguments, "-o", tmp_path / "out") == 0
    off = [np.load(tmp_path / "out" / path.name) - np.load(path) for path in sorted((scans / "truth").glob("*.npy"))]
    best = json.loads((folder / "best.json").read_text())
    assert np.isclose(np.sqrt(np.mean(np.square(off))), best["value"], rtol=0.01)
    # Of another geometry, of another kind
    other = "--of", "ellipses", "--num", 1, "--size", 32, "--views", 13
    assert run(make_sinograms.main, *other, "-o", tmp_path / "other") == 0
    capsys.readouterr()
    for folder_of_scan, method, words in (
        (tmp_path / "other", "learned", "12 views of"),
        (scans, "adversarial", "--learns critic would be right"),
    ):
        arguments = "-i", folder_of_scan, "--method", method, "--prior", folder
        assert run(reconstruct.main, *arguments, "-o", tmp_path / "no") == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and not (tmp_path / "no").exists()


def test_a_run_that_was_over_stays_as_it_was_when_it_is_resumed(scans, tmp_path):
    folder = trained(scans, tmp_path / "run", "-e", 50, "--val", scans, "-lr", 0.01, "--minutes", 0.05)
    best = json.loads((folder / "best.json").read_text())
    before = arrays_of(folder)
    assert run(train.main, "--resume", folder) == 0
    assert json.loads((folder / "best.json").read_text()) == best
    after = arrays_of(folder)
    assert before.keys() == after.keys() and all(np.array_equal(after[name], before[name]) for name in before)
    assert f"net{best['epoch']}.npz" in {name.split("/")[0] for name in before}


def test_a_critic_is_told_true_images_from_those_that_it_is_given(scans, tmp_path, capsys):
    assert run(reconstruct.main, "-i", scans, "--strength", 0.2, "--iterations", 30, "-o", tmp_path / "tv") == 0
    of_tv, of_fbp = Scans(scans, tmp_path / "tv"), Scans(scans)
    for index in range(len(of_tv)):
        image = np.load(tmp_path / "tv" / f"{of_tv.name(index)}.npy")
        assert np.array_equal(of_tv.load(index)[1][0], np.maximum(1 + image / 1000, 0).astype(np.float32))
        assert np.array_equal(of_tv.load(index)[2], of_fbp.load(index)[2])
    folder = trained(scans, tmp_path / "run", "-e", 2, "--learns", "critic", "--against", tmp_path / "tv")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert np.isfinite(log[-1]["critic/loss_fake"])
    (tmp_path / "tv" / "00003.npy").unlink()
    capsys.readouterr()
    for words, arguments in (
        ("00003.npy: no such file", ("--learns", "critic", "--against", tmp_path / "tv")),
        ("--learns critic goes with it", ("--against", tmp_path / "tv")),
    ):
        assert run(train.main, "-i", scans, "-o", tmp_path / "no", *SMALL, *arguments) == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_a_critic_as_regulariser(scans, tmp_path, capsys):
    folder = trained(scans, tmp_path / "run", "-e", 2, "--learns", "critic")
    arguments = "-i", scans, "--method", "adversarial", "--prior", folder, "--iterations", 30
    found = {}
    for weight in (0, 3):
        out = tmp_path / f"out{weight}"
        assert run(reconstruct.main, *arguments, "--weight", weight, "-o", out) == 0
        found[weight] = np.load(out / "00001.npy")
    assert run(reconstruct.main, "-i", scans, "--strength", 0.2, "--iterations", 30, "-o", tmp_path / "tv") == 0
    assert np.array_equal(found[0], np.load(tmp_path / "tv" / "00001.npy"))  # beside total variation
    critic = net.load(folder, CRITIC)[0].critic
    judged = [critic((1 + found[weight] / 1000)[None, None]).array[0] for weight in (0, 3)]
    assert judged[1] < judged[0]  # likelier to be true, by its judgement
    wide = "--of", "ellipses", "--num", 1, "--size", 16, "--views", 12
    assert run(make_sinograms.main, *wide, "-o", tmp_path / "wide") == 0
    capsys.readouterr()
    assert run(reconstruct.main, *arguments[2:], "-i", tmp_path / "wide", "-o", tmp_path / "no") == 1
    assert "was trained on pixels of 6.25 x 6.25 mm, and these are of 12.5 x 12.5" in capsys.readouterr().err


def test_a_ct_to_learn_from(tmp_path):
    assert run(make_phantom.main, "-o", tmp_path / "ct", "--size", 32, "--slices", 2) == 0
    arguments = "--of", "ct", "--ct", tmp_path / "ct", "--views", 8
    assert run(make_sinograms.main, *arguments, "-o", tmp_path / "scan") == 0
    data = Scans(tmp_path / "scan")
    rays, start, truth = data.load(1)
    assert len(data) == 2 and start.shape == truth.shape == (1, 32, 32) and rays.shape[:2] == (1, 8)
    assert truth.min() == 0 and 1.0 < truth.max() < 4 and abs(start.mean() - truth.mean()) < 0.05


def test_scans_without_truth(scans, tmp_path, capsys):
    (tmp_path / "scan").mkdir()
    for name in ("00001.npy", "geometry.json"):
        (tmp_path / "scan" / name).write_bytes((scans / name).read_bytes())
    assert run(train.main, "-i", tmp_path / "scan", "-o", tmp_path / "run") == 1
    assert "00001.npy: no truth is known" in capsys.readouterr().err and not (tmp_path / "run").exists()
