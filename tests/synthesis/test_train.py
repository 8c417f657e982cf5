"""Trainings of what makes images: losses, DiffAugment, growth, killed and resumed, on two ranks, and wrong options."""

import json
import os
import signal

import numpy as np
import pytest
import ranks
from run_files import arrays_of, log_of, only_run

from medi2i.common.compat import F, chainer, gradient_check
from medi2i.common.options.learned import SynthesisOptions
from medi2i.common.training.randomness import RandomState
from medi2i.common.training.setup import make_optimizers
from medi2i.synthesis import net, train, updater

SMALL = "--size", 16, "--channels", 4, "--latent", 6, "--clipA", -1000, 1000, "-b", 4, "--nvis", 2
GROWING = "--network", "pggan", "--phase_images", 16


def run(images, out, *arguments):
    return train.main([str(word) for word in ("-i", images, "-o", out, *SMALL, *arguments)])


def updater_of(network, **options):
    np.random.seed(0)
    given = dict(size=16, channels=4, latent=6, ch=1, phase_images=16, batch_size=4)
    options = SynthesisOptions(network=network, **{**given, **options})
    networks = net.build(options)
    optimizers, _ = make_optimizers(networks.as_dict(), options)
    images = np.random.default_rng(1).uniform(-1, 1, (4, 1, 16, 16)).astype(np.float32)
    iterator = chainer.iterators.SerialIterator(images, 4, shuffle=False)
    return updater.SynthesisUpdater(iterator, optimizers, networks, options, RandomState(0))


def test_terms_are_their_formulas():
    def dis(x):
        return F.reshape(F.sum(x, axis=(1, 2, 3)), (-1, 1)) / 64.0  # its slope is 1/64 everywhere

    real, fake = (np.random.default_rng(n).normal(0, 10, (4, 1, 16, 16)).astype(np.float32) for n in (1, 2))
    d, e = (x.sum((1, 2, 3)) / 64 for x in (real, fake))
    expected = {
        "logistic": (np.log1p(np.exp(-d)).mean(), np.log1p(np.exp(e)).mean()),
        "hinge": (np.maximum(0, 1 - d).mean(), np.maximum(0, 1 + e).mean()),
        "wgan-gp": (-d.mean(), e.mean(), 10 * (16 / 64 - 1) ** 2, 0.001 * (d**2).mean()),
    }
    for loss, values in expected.items():
        one = updater_of("dcgan", loss=loss, lambda_r1=2.0)
        one.networks.dis = dis
        terms = one.discriminator_terms(real, fake, chainer.as_variable)
        found = [float(term.value.array) for term in terms]
        assert np.allclose(found, [*values, 256 / 64**2], rtol=1e-3), loss
    answers = chainer.Variable(np.float32([[2.0], [-1.0]]))
    costs = {loss: float(updater.COSTS[loss][1](answers, True).array) for loss in updater.COSTS}
    assert costs["hinge"] == costs["wgan-gp"] == -0.5
    assert costs["logistic"] == pytest.approx(np.log1p(np.exp([-2.0, 1.0])).mean(), rel=1e-5)


def test_shifts_holes_and_brightness_are_the_same_for_all_that_is_changed():
    changes = updater.Changes.draw(RandomState(5), 50, 16)
    assert set(changes.down) == set(changes.right) == set(range(-2, 3))
    assert abs(changes.brightness).max() <= 0.5 and changes.brightness.std() == pytest.approx(0.29, abs=0.05)
    holes = (1 - changes.kept).reshape(50, 16, 16)
    assert holes.sum((1, 2)).max() == 64 and holes.sum((1, 2)).min() >= 16  # of 8x8 pixels, cut by the border
    x = np.random.default_rng(0).uniform(-1, 1, (50, 1, 16, 16)).astype(np.float32)
    y = changes(x).array
    for number in range(50):
        down, right = changes.down[number], changes.right[number]
        moved = np.full((20, 20), -1.0)
        moved[2 + down : 18 + down, 2 + right : 18 + right] = x[number, 0]
        kept = changes.kept[number, 0] == 1
        expected = np.where(kept, moved[2:18, 2:18], -1) + changes.brightness[number, 0, 0, 0]
        assert np.allclose(y[number, 0], expected, atol=1e-6)


def test_gradients_flow_through_diffaugment_twice():
    drawn = updater.Changes.draw(RandomState(5), 3, 8)
    changes = updater.Changes(
        drawn.down, drawn.right, drawn.kept.astype(np.float64), drawn.brightness.astype(np.float64)
    )
    x, y = (np.random.default_rng(n).normal(0, 1, (3, 2, 8, 8)) for n in (0, 1))
    gradient_check.check_backward(changes, x, y, atol=1e-4, rtol=1e-4, dtype=np.float64)
    gradient_check.check_double_backward(
        lambda x: changes(x) ** 2, x, y, x[::-1].copy(), atol=1e-4, rtol=1e-4, dtype=np.float64
    )


def test_the_generator_learns_through_diffaugment():
    one = updater_of("dcgan", spectral=True, diffaugment=True)
    one.update()
    assert all(abs(param.grad).max() > 0 for param in one.networks.gen.params())


def test_a_new_resolution_begins_with_fresh_optimizers():
    one = updater_of("pggan")
    rule = one.networks.gen.first[0].c.W.update_rule
    found = []
    for _ in range(9):
        one.update()
        found.append((one.networks.growth.stage, rule.t))
    levels = [level for (level, _), _ in found]
    assert levels == [0, 0, 0, 1, 1, 1, 1, 1, 1]  # 4 images an update, 16 a phase
    assert [count for _, count in found] == [1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert one.networks.dis.growth is one.networks.gen.growth and one.networks.growth.shown == 36


@pytest.mark.parametrize(
    "more", [("--spectral", "--diffaugment", "--lambda_r1", 1), GROWING], ids=["dcgan", "pggan in a fade"]
)
def test_a_killed_training_resumes_bit_for_bit(images, tmp_path, more, monkeypatch, capsys):
    more = *more, "-e", 4, "--seed", 4, "--ema", 0.9, "--vis_freq", 5
    assert run(images, tmp_path / "whole", *more) == 0
    update = updater.SynthesisUpdater.update_core

    def ended(self):
        update(self)
        if self.iteration == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(updater.SynthesisUpdater, "update_core", ended)
    assert run(images, tmp_path / "killed", *more) == 128 + signal.SIGTERM
    monkeypatch.setattr(updater.SynthesisUpdater, "update_core", update)
    whole, killed = only_run(tmp_path / "whole"), only_run(tmp_path / "killed")
    if more[0] == "--network":
        (snapshot,) = (killed / "snapshots").glob("*.npz")
        with np.load(snapshot) as arrays:
            (shown,) = {int(arrays[name]) for name in arrays.files if name.endswith("/shown")}
        assert net.Growth(3, 16, shown).stage == (1, 0.5)
    assert train.main(["--resume", str(killed)]) == 0
    expected, found = arrays_of(whole), arrays_of(killed)
    assert set(expected) <= set(found) and len(expected) > 10
    assert all(np.array_equal(array, found[name]) for name, array in expected.items())
    assert log_of(whole)[-1] == log_of(killed)[-1]
    pictures = sorted(path.name for path in (whole / "vis").iterdir())
    assert pictures == ["samples_0000005.png", "samples_0000010.png"]
    for name in pictures:
        assert (whole / "vis" / name).read_bytes() == (killed / "vis" / name).read_bytes()
    networks, options, _ = net.load(killed)
    assert options.ch == 1 and networks.generate(np.ones((1, 6), np.float32)).shape[2:] == (
        (16, 16) if networks.growth is None else (networks.growth.side,) * 2
    )


def test_two_ranks_grow_together(images, tmp_path):
    reason = ranks.no_mpi()
    if reason is not None:
        pytest.skip(reason)
    argv = "-i", images, "-o", tmp_path, *SMALL, *GROWING, "-e", 2, "--communicator", "naive", "-g", -1, "--nvis", 0
    status, out, err = ranks.finish(ranks.start("-m", "medi2i", "train", "synthesis", *argv))
    assert status == 0, out + err
    folder = only_run(tmp_path)
    (last,) = log_of(folder)[-1:]
    with np.load(folder / "gen2.npz") as arrays:
        assert arrays["shown"] == 8 * last["iteration"] and last["iteration"] >= 2


def test_wrong_options_are_one_line(images, tmp_path, capsys):
    for words, error in (
        (("--size", 48), "--size: 48 is no power of 2"),
        ((*GROWING, "--spectral"), "--spectral: pggan has no batch normalisation"),
        (("--network", "stylegan"), "--network: stylegan is unknown"),
        (("--forceSpacing", 2), "--forceSpacing: "),
    ):
        assert run(images, tmp_path / "no", *words) == 1
        told = capsys.readouterr().err.replace("'", "")
        assert error in told and told.count("\n") == 1 and not (tmp_path / "no").exists()


def test_the_args_say_what_was_decided(images, tmp_path, capsys):
    assert run(images, tmp_path, *GROWING, "-e", 1) == 0
    args = json.loads((only_run(tmp_path) / "args").read_text())
    assert args["application"] == "synthesis" and args["loss"] == "wgan-gp" and args["learning_rate"] == 1e-3
    assert args["ch"] == 1 and args["clipA"] == [-1000, 1000] and args["adam_beta1"] == 0


def test_a_training_begins_with_the_weights_of_another(images, tmp_path, capsys):
    assert run(images, tmp_path / "first", *GROWING, "-e", 1) == 0
    first = only_run(tmp_path / "first")
    words = "-i", images, "-o", tmp_path / "second", "-m", first, "-e", 1, "-lr", 1e-9, "-b", 4, "--nvis", 0
    assert train.main([str(word) for word in words]) == 0
    (one, _, _), (two, options, _) = net.load(first), net.load(only_run(tmp_path / "second"))
    assert options.network == "pggan" and options.size == 16 and options.clipA == [-1000, 1000]
    assert two.growth.shown == 2 * one.growth.shown == 24  # it goes on to grow
    for (name, a), (_, b) in zip(one.gen.namedparams(), two.gen.namedparams(), strict=True):
        assert np.allclose(a.array, b.array, atol=1e-6), name
    assert run(images, tmp_path / "no", "-m", first, "--size", 32) == 1
    assert "--size: 32 is not what" in capsys.readouterr().err


def test_images_without_a_unit_come_to_one_scale_that_the_args_keep(tmp_path):
    for folder, gain in (("one", 1), ("two", 5)):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number in range(4):
            np.save(tmp_path / "images" / folder / f"{number}.npy", gain * np.arange(256.0).reshape(16, 16))
    words = "--normaliseA", "percentiles", "-ca", 0, 1000
    assert run(tmp_path / "images", tmp_path / "runs", *GROWING, "-e", 1, *words) == 0
    _, options, _ = net.load(only_run(tmp_path / "runs"))
    assert options.landmarksA == [1000] and options.clipA == [0, 1000]
    first, *_, last = (train.dataset(options).load(number) for number in range(8))
    np.testing.assert_allclose(first, last, atol=1e-5)
    assert first.max() == 1
