"""UNIT: the latent is sampled and kept near N(0, 1), and the blocks beside it are one for both domains."""

import dataclasses
import logging

import numpy as np
import pytest
from run_files import translation

from medi2i.common import losses
from medi2i.common.compat import chainer, gradient_check
from medi2i.common.errors import UserError
from medi2i.common.networks.checkpoint import load_generator
from medi2i.common.networks.files import save_networks
from medi2i.common.options import UnpairedOptions, save_args
from medi2i.common.training.averaging import WeightAverage
from medi2i.common.training.optimizers import make_optimizer
from medi2i.common.training.randomness import RandomState
from medi2i.common.training.snapshot import Writer
from medi2i.cyclegan import convert, net
from medi2i.cyclegan.updater import CycleganUpdater, latent_statistics
from medi2i.tools import export_onnx

ONLY = dict(lambda_A=0, lambda_B=0, lambda_Az=0, lambda_Bz=0, lambda_dis_x=0, lambda_dis_y=0, lambda_domain=0)


def options_of(**given):
    given = {"gen_chs": [3, 4], "gen_nblock": 4, "dis_chs": [4], "lambda_kl": 0.1, "share_latent_blocks": 1, **given}
    options = UnpairedOptions(clipA=[-1, 1], clipB=[-1, 1], weight_decay=0, **given)
    options.ch = options.out_ch = 1
    return options


def images(seed, count=2):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 1, 8, 12)).astype(np.float32)


def updater_of(options):
    np.random.seed(0)
    networks = net.build(options)
    optimizers = {n: make_optimizer("SGD", link, 1.0, 0.0) for n, link in networks.trained().items()}
    iterators = {
        name: chainer.iterators.SerialIterator(list(images(seed)), 2, shuffle=False)
        for name, seed in (("main", 1), ("second", 2))
    }
    return CycleganUpdater(iterators, optimizers, networks, options, RandomState(0))


def observed(updater):
    reporter, found = chainer.Reporter(), {}
    with reporter.scope(found):
        updater.update()
    return {name: float(chainer.as_array(value)) for name, value in found.items()}


def test_the_divergence_is_that_of_the_two_gaussians():
    mean = np.random.default_rng(0).normal(0.3, 2, (2, 3, 4)).astype(np.float32)
    z = mean[..., None] + np.random.default_rng(1).normal(size=(*mean.shape, 20000))
    sampled = (z**2 - (z - mean[..., None]) ** 2).mean() / 2  # E[log N(z; mean, 1) - log N(z; 0, 1)]
    assert float(losses.gaussian_divergence(mean).array) == pytest.approx(sampled, abs=0.02)
    assert float(losses.gaussian_divergence(mean).array) == pytest.approx(
        (mean.astype(float) ** 2).mean() / 2, rel=1e-6
    )
    gradient_check.check_backward(losses.gaussian_divergence, mean, None, eps=1e-2, atol=1e-3, rtol=1e-3)


def test_the_latent_is_sampled_once_for_both_decoders_in_training_and_never_at_conversion():
    updater = updater_of(options_of())
    made = updater.translate(images(1, 60), images(2, 60))
    drawn = made.z_x.array - made.features_x[-1].array
    assert abs(drawn.mean()) < 0.02 and drawn.std() == pytest.approx(1, abs=0.02)
    n = updater.networks
    np.testing.assert_array_equal(made.x_y.array, n.dec_y([made.z_x]).array)
    np.testing.assert_array_equal(made.x_x.array, n.dec_x([made.z_x]).array)
    with chainer.using_config("train", False):
        np.testing.assert_array_equal(n.translate(images(1)).array, n.dec_y(n.enc_x(images(1))).array)
    plain = updater_of(options_of(lambda_kl=0)).translate(images(1), images(2))
    np.testing.assert_array_equal(plain.z_x.array, plain.features_x[-1].array)


def test_the_terms_are_those_of_images_and_of_translations():
    updater = updater_of(options_of())
    made = updater.translate(images(1), images(2))
    terms = {term.name: term for term in updater.generator_terms(made) if "kl" in term.name}
    n = updater.networks
    of = {
        "enc_x/loss_kl": n.enc_x(made.x),
        "enc_y/loss_kl": n.enc_y(made.y),
        "enc_y/loss_kl_cycle": n.enc_y(made.x_y),
        "enc_x/loss_kl_cycle": n.enc_x(made.y_x),
    }
    assert set(terms) == set(of)
    for name, features in of.items():
        expected = float((features[-1].array.astype(float) ** 2).mean() / 2)
        assert terms[name].weight == 0.1 and float(terms[name].value.array) == pytest.approx(expected, rel=1e-5)


def test_shared_blocks_are_one_parameter_and_get_the_gradients_of_both_domains():
    updater = updater_of(options_of())
    n, optimizers = updater.networks, updater.get_all_optimizers()
    assert n.enc_y.r1 is n.enc_x.r1 and n.dec_y.r0 is n.dec_x.r0
    assert n.enc_y.r0 is not n.enc_x.r0 and n.dec_y.r1 is not n.dec_x.r1
    owned = [id(p) for optimizer in optimizers.values() for p in optimizer.target.params()]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for link in n.as_dict().values() for p in link.params()}

    weight, gradients = n.enc_x.r1.c0.c.W, []
    made = updater.translate(images(1), images(2))
    terms = [term for term in updater.generator_terms(made) if term.name.endswith("loss_kl")]
    for term in terms:  # one of each domain
        weight.cleargrad()
        term.value.backward()
        gradients.append(weight.grad.copy())
    assert len(terms) == 2 and all(abs(gradient).max() > 0 for gradient in gradients)
    before = weight.array.copy()
    updater.minimise(["enc_x", "enc_y"], [dataclasses.replace(term, weight=1.0) for term in terms])
    np.testing.assert_allclose(before - weight.array, sum(gradients), rtol=1e-3, atol=1e-5)


def test_a_snapshot_has_shared_blocks_once_and_each_file_of_weights_has_them(tmp_path):
    updater, arrays = updater_of(options_of()), {}
    updater.update()
    updater.serialize(Writer(arrays))
    shared = updater.networks.enc_x.r1.c0.c.W.array
    assert sum(a.shape == shared.shape and (a == shared).all() for a in arrays.values()) == 1
    save_networks(tmp_path, updater.networks.as_dict(), 3)
    for first, second, block in (("enc_x3", "enc_y3", "r1"), ("dec_x3", "dec_y3", "r0")):
        one, other = (np.load(tmp_path / f"{name}.npz") for name in (first, second))
        assert one.files == other.files
        np.testing.assert_array_equal(one[f"{block}/c0/c/W"], other[f"{block}/c0/c/W"])
        assert (
            one["c0/c1/c/W" if "enc" in first else "ul/c1/c/W"] != other["c0/c1/c/W" if "enc" in first else "ul/c1/c/W"]
        ).any()


def test_the_average_moves_a_shared_block_once():
    updater = updater_of(options_of())
    average = WeightAverage(updater.networks, 0.5)
    assert average.averaged.enc_y.r1 is average.averaged.enc_x.r1
    average(None)
    first = updater.networks.enc_x.r1.c0.c.W.array.copy()
    updater.update()
    average(None)
    second = updater.networks.enc_x.r1.c0.c.W.array
    shown = average.averaged.enc_x.r1.c0.c.W.array
    np.testing.assert_allclose(shown, first + (1 - 2 / 11) * (second - first), rtol=1e-5, atol=1e-7)


def test_both_directions_are_converted_and_exported(tmp_path):
    pytest.importorskip("onnxruntime")
    run, options = tmp_path / "run", options_of()
    run.mkdir()
    np.random.seed(1)
    networks = net.build(options)
    save_args(options, run / "args")
    save_networks(run, networks.as_dict(), 3)
    (tmp_path / "in").mkdir()
    x = images(5, 1)
    np.save(tmp_path / "in/a.npy", x[0, 0])
    for name, encoder, decoder in (
        ("enc_x3", networks.enc_x, networks.dec_y),
        ("enc_y3", networks.enc_y, networks.dec_x),
    ):
        model, out = run / f"{name}.npz", tmp_path / name
        with chainer.using_config("train", False):
            expected = decoder(encoder(x)).array
        np.testing.assert_allclose(translation(load_generator(model), x), expected, atol=1e-6)
        assert convert.main(["-m", str(model), "-R", str(tmp_path / "in"), "-o", str(out)]) == 0
        np.testing.assert_allclose(np.load(out / "a.npy"), expected[0, 0], atol=1e-4)
        assert export_onnx.main(["-m", str(model), "-o", str(tmp_path / f"{name}.onnx")]) == 0


def test_statistics_of_the_latent_and_the_warning_at_its_collapse(caplog):
    latent = np.zeros((2, 4, 3, 5), np.float32)
    latent[0, 1], latent[:, 2], latent[0, 3, 0, 0] = 1, 7, 0.5
    square, active = latent_statistics(latent)
    assert square == pytest.approx((latent**2).mean()) and active == 0.25  # a constant says nothing

    updater = updater_of(options_of(**ONLY))
    found = observed(updater)
    assert found["enc_x/latent_square"] == pytest.approx(2 * found["enc_x/loss_kl"], rel=1e-5)
    assert 0 <= found["enc_y/latent_active"] <= 1 and not caplog.messages
    for link in (updater.networks.enc_x, updater.networks.enc_y):
        for param in link.params():
            param.array[...] = 0
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            updater.update()
    assert len(caplog.messages) == 1 and "the latent has collapsed: mean square 0" in caplog.messages[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"share_latent_blocks": 3}, "--share_latent_blocks: 3 of the 2 residual blocks"),
        ({"unet": "concat"}, "--lambda_kl: what --unet"),
        ({"gen_residual": 0.1}, "--gen_residual 0 would do"),
    ],
)
def test_what_does_not_fit_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        updater_of(options_of(**given))
