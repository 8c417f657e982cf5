"""The update of pix2pix: its terms, what it leaves alone, and that it resumes exactly."""

import numpy as np
import pytest

from medi2i.common import losses
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.options import PairedOptions
from medi2i.common.training.optimizers import make_optimizer
from medi2i.common.training.randomness import RandomState
from medi2i.common.training.snapshot import Reader, Writer
from medi2i.pix2pix import net
from medi2i.pix2pix.updater import Pix2pixUpdater, check_terms

HEIGHT, WIDTH = 8, 12


def options_of(**given):
    given = {"gen_chs": [4, 6], "gen_nblock": 1, "dis_chs": [4, 6], "dis_jitter": 0.0, "ch": 1, "out_ch": 1, **given}
    ch, out_ch = given.pop("ch"), given.pop("out_ch")
    options = PairedOptions(**given)
    options.ch, options.out_ch = ch, out_ch
    return options


def examples(options, count=6):
    random = np.random.RandomState(7)
    x = random.uniform(-1, 1, (count, options.ch, HEIGHT, WIDTH)).astype(np.float32)
    t = random.uniform(-1, 1, (count, options.out_ch, HEIGHT, WIDTH)).astype(np.float32)
    return list(zip(x, t, strict=True))


def updater_of(options, seed=0):
    np.random.seed(seed)
    networks = net.build(options)
    generator_rate, discriminator_rate = options.rates
    optimizers = {
        name: make_optimizer(
            options.optimizer,
            link,
            discriminator_rate if name == "dis" else generator_rate,
            options.weight_decay,
            options.weight_decay_norm,
        )
        for name, link in networks.as_dict().items()
    }
    random = RandomState(seed)
    random.seed_global()
    iterator = chainer.iterators.SerialIterator(examples(options), options.batch_size, shuffle=False)
    return Pix2pixUpdater(iterator, optimizers, networks, options, random)


def update(updater):
    reporter, observed = chainer.Reporter(), {}
    with reporter.scope(observed):
        updater.update()
    return {name: float(chainer.as_array(value)) for name, value in observed.items()}


def weights(updater):
    return {
        name: np.concatenate([p.array.ravel().astype(np.float32) for p in o.target.params()])
        for name, o in updater.get_all_optimizers().items()
    }


def moved(before, after):
    return {name for name in before if (before[name] != after[name]).any()}


def test_without_adversary_there_is_no_discriminator():
    updater = updater_of(options_of(lambda_dis=0.0))
    assert set(update(updater)) == {"dec_y/loss_L1"}
    assert set(updater.get_all_optimizers()) == {"enc_x", "dec_y"}


def test_every_term_has_its_name():
    observed = update(updater_of(options_of(lambda_rec_l2=1, lambda_tv=1, lambda_reg=0.5, batch_size=2)))
    assert set(observed) == {
        "enc_x/loss_reg",
        "dec_y/loss_L1",
        "dec_y/loss_L2",
        "dec_y/loss_tv",
        "dec_y/loss_dis",
        "dis/loss_fake",
        "dis/loss_real",
    }
    assert all(np.isfinite(list(observed.values())))


def test_structural_terms_have_names_and_need_images_that_are_large_enough():
    options = options_of(lambda_ssim=0.5, lambda_msssim=2, lambda_rec_l1=0, lambda_dis=0)
    random = np.random.default_rng(0)
    y, t = (random.uniform(-1, 1, (2, 1, 24, 25)).astype(np.float32) for _ in range(2))
    terms = updater_of(options).generator_terms(None, y, t)
    assert [(term.name, term.weight) for term in terms] == [("dec_y/loss_SSIM", 0.5), ("dec_y/loss_MSSSIM", 2)]
    with pytest.raises(UserError, match="--lambda_msssim: a crop of 8 pixels is too small"):
        check_terms(options_of(lambda_msssim=1, crop_height=8, crop_width=12))
    with pytest.raises(UserError, match="--lambda_ssim: classes have no structure"):
        check_terms(options_of(lambda_ssim=1, class_num=2))


def test_regularisation_alone_moves_the_encoder_only():
    updater = updater_of(options_of(lambda_rec_l1=0, lambda_dis=0, lambda_reg=1, weight_decay=0))
    before = weights(updater)
    updater.update()
    assert moved(before, weights(updater)) == {"enc_x"}


def test_the_adversary_waits_for_its_warmup():
    updater = updater_of(options_of(dis_warmup=2))
    names = []
    for i in range(3):
        before = weights(updater)
        names.append({name for name in update(updater) if "dis" in name})
        assert moved(before, weights(updater)) == ({"enc_x", "dec_y", "dis"} if i == 2 else {"enc_x", "dec_y"})
    assert names == [set(), set(), {"dec_y/loss_dis", "dis/loss_fake", "dis/loss_real"}]


@pytest.mark.parametrize("batch_size, updates", [(1, 41), (2, 21)])
def test_wrong_pairs_once_the_pool_holds_more_than_forty(batch_size, updates):
    updater = updater_of(options_of(lambda_mispair=1, batch_size=batch_size, gen_nblock=0))
    found = ["dis/loss_mispair" in update(updater) for _ in range(updates)]
    assert found == [False] * (updates - 1) + [True]


def test_wrong_pairs_are_an_old_input_with_the_truth_of_today():
    updater = updater_of(options_of(lambda_mispair=1, ch=2, out_ch=3))
    x, t = (np.full((1, channels, HEIGHT, WIDTH), 0.5, np.float32) for channels in (2, 3))
    old = np.zeros((41, 5, HEIGHT, WIDTH), np.float32)
    old[:, :2], old[:, 2:] = -1, 9
    updater.pools["xy"].query(old)
    asked = []
    dis = updater.networks.dis
    updater.networks.dis = lambda pair: asked.append(chainer.as_array(pair)) or dis(pair)
    updater.discriminator_terms(x, t, np.full((1, 5, HEIGHT, WIDTH), 0.25, np.float32))
    assert [sorted({float(v) for v in pair.ravel()}) for pair in asked] == [[0.5], [0.25], [-1.0, 0.5]]
    assert (asked[2][:, :2] == -1).all() and (asked[2][:, 2:] == 0.5).all()


def test_classes_of_a_stack_are_compared_slice_by_slice():
    options = options_of(
        class_num=3,
        stack=2,
        out_ch=6,
        ch=2,
        lambda_rec_l1=1,
        lambda_rec_ce=1,
        lambda_dice=1,
        class_weight=[1.0, 2.0, 0.5],
        batch_size=2,
    )
    updater = updater_of(options)
    batch = examples(options)[:2]
    x, t = (np.stack(arrays) for arrays in zip(*batch, strict=True))
    with chainer.no_backprop_mode():
        scores = updater.networks.translate(x).array.reshape(2, 2, 3, HEIGHT, WIDTH)
    p = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    weight = np.array([1, 2, 0.5]).reshape(1, 1, 3, 1, 1)
    expected = (abs(p - t.reshape(p.shape)) * weight).mean()
    assert update(updater)["dec_y/loss_L1"] == pytest.approx(expected, rel=1e-5)


def test_generator_and_discriminator_get_the_same_jitter_and_it_is_drawn():
    without = update(updater_of(options_of()))
    with_jitter = update(updater_of(options_of(dis_jitter=0.5)))
    for name in ("dec_y/loss_dis", "dis/loss_fake", "dis/loss_real"):
        assert abs(with_jitter[name] - without[name]) > 1e-3
    assert with_jitter["dec_y/loss_L1"] == without["dec_y/loss_L1"]


def test_wgan_takes_the_gradient_between_real_and_fake(monkeypatch):
    updater = updater_of(options_of(dis_wgan=True, lambda_wgan_gp=7, batch_size=2))
    seen = []
    original = losses.gradient_penalty

    def spy(dis, real, fake, mix):
        seen.append((real, fake, mix))
        return original(dis, real, fake, mix)

    monkeypatch.setattr(losses, "gradient_penalty", spy)
    before = weights_after_first(updater)
    observed = update(updater)
    assert set(observed) == {"dec_y/loss_L1", "dec_y/loss_dis", "dis/loss_fake", "dis/loss_real", "dis/loss_gp"}
    assert all(np.isfinite(list(observed.values())))
    assert moved(before, weights(updater)) == {"enc_x", "dec_y", "dis"}
    ((real, fake, mix),) = seen[-1:]
    x, t = (np.stack(a) for a in zip(*examples(options_of())[2:4], strict=True))
    assert (real == np.concatenate([x, t], axis=1)).all()
    assert (fake[:, :1] == x).all() and (fake[:, 1:] != t).any()
    assert mix.shape == (2,)


def weights_after_first(updater):
    updater.update()  # the critic's first linear layer learns its size from the first image
    return weights(updater)


def test_the_weighted_discriminator_is_asked_for():
    observed = update(updater_of(options_of(dis_reg_weighting=0.1)))
    assert {"dec_y/loss_dis", "dis/loss_fake", "dis/loss_real"} <= set(observed)


STOCHASTIC = dict(dis_jitter=0.2, noise=0.1, noise_z=0.1, gen_dropout=0.3, dis_dropout=0.3, lambda_mispair=0.5)


def resumed_equals_whole(options, stop, more):
    whole = updater_of(options)
    for _ in range(stop):
        whole.update()
    arrays = {}
    whole.serialize(Writer(arrays))
    arrays = {name: array.copy() for name, array in arrays.items()}
    expected = [update(whole) for _ in range(more)]

    resumed = updater_of(options, seed=99)
    resumed.serialize(Reader(arrays))
    assert resumed.iteration == stop
    assert [update(resumed) for _ in range(more)] == expected
    for name, array in weights(whole).items():
        assert (weights(resumed)[name] == array).all(), name
    return arrays


def test_resume_is_bit_identical():
    arrays = resumed_equals_whole(options_of(**STOCHASTIC, batch_size=2), stop=3, more=3)
    assert all(array.dtype != object for array in arrays.values())
    assert arrays["pool:xy/images"].shape == (6, 2, HEIGHT, WIDTH)


def test_resume_with_a_full_pool():
    options = options_of(gen_nblock=0, gen_chs=[2], dis_chs=[2], dis_jitter=0.1)
    resumed_equals_whole(options, stop=53, more=6)


def test_resume_during_the_warmup():
    resumed_equals_whole(options_of(dis_warmup=3), stop=2, more=3)


@pytest.mark.parametrize("dtype", ["fp16", "mixed16"])
def test_half_precision_updates_and_resumes(dtype):
    options = options_of(dtype=dtype, batch_size=2, learning_rate_gen=1e-3)
    updater = updater_of(options)
    assert any(p.dtype == np.float16 for p in updater.networks.enc_x.params())
    first = update(updater)
    for _ in range(5):
        last = update(updater)
    assert all(np.isfinite(list(last.values())))
    assert last["dec_y/loss_L1"] < first["dec_y/loss_L1"]
    resumed_equals_whole(options, stop=2, more=2)


def test_nothing_to_learn_is_no_error():
    updater = updater_of(options_of(lambda_rec_l1=0, lambda_dis=0))
    before = weights(updater)
    updater.update()
    assert moved(before, weights(updater)) == set()


def test_half_precision_leaves_an_overflowing_update_out_and_saves_the_scale():
    updater = updater_of(options_of(dtype="mixed16", batch_size=2))
    update(updater)
    before = weights(updater)
    scales = updater.loss_scales
    assert set(scales) == {"enc_x", "dis"}
    scales["enc_x"].value = 2.0**100
    count = updater.get_optimizer("enc_x").t
    with np.errstate(over="ignore", invalid="ignore"):
        reported = update(updater)
    assert all(np.isfinite(list(reported.values())))
    assert moved(before, weights(updater)) == {"dis"}
    assert scales["enc_x"].value == 2.0**99 and updater.get_optimizer("enc_x").t == count
    arrays = {}
    updater.serialize(Writer(arrays))
    assert arrays["loss_scale:enc_x/value"] == 2.0**99 and arrays["loss_scale:dis/good"] == 2


def test_what_is_nan_in_a_target_counts_for_nothing():
    updater = updater_of(options_of(targets="neighbours", lambda_dis=0.0, lambda_rec_l1=0.0, lambda_rec_l2=1.0))
    y = chainer.Variable(np.array([[[[1.0, 2.0, 3.0, 5.0]]]], np.float32))
    t = np.array([[[[0.0, np.nan, 1.0, np.nan]]]], np.float32)
    (term,) = updater.generator_terms(y, y, t)
    term.value.backward()
    assert float(term.value.array) == pytest.approx((1 + 4) / 4)
    np.testing.assert_allclose(y.grad, [[[[0.5, 0, 1.0, 0]]]])
