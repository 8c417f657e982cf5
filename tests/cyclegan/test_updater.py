"""The update of CycleGAN: its terms, what it leaves alone, and that it resumes exactly."""

import dataclasses

import numpy as np
import pytest

from medi2i.common import losses
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.pretrained import PerceptualFeatures
from medi2i.common.options import UnpairedOptions
from medi2i.common.training.optimizers import make_optimizer
from medi2i.common.training.randomness import RandomState
from medi2i.common.training.snapshot import Reader, Writer
from medi2i.cyclegan import net
from medi2i.cyclegan.updater import CycleganUpdater, check_terms, deepest_map

HEIGHT, WIDTH = 8, 12
ALWAYS = {"enc_x/loss_cycle", "enc_y/loss_cycle", "dec_x/loss_cycle", "dec_y/loss_cycle"}
ADVERSARIAL = {
    "dec_x/loss_adv",
    "dec_y/loss_adv",
    *(f"dis_{d}/loss_{part}" for d in "xy" for part in ("fake", "real", "reg")),
}
ONLY_CYCLES = dict(lambda_dis_x=0, lambda_dis_y=0, lambda_domain=0, weight_decay=0)
NO_TERM = dict(ONLY_CYCLES, lambda_A=0, lambda_B=0, lambda_Az=0, lambda_Bz=0)


def options_of(**given):
    given = {"gen_chs": [4, 6], "gen_nblock": 1, "dis_chs": [4, 6], "dis_jitter": 0.0, "ch": 1, "out_ch": 1, **given}
    ch, out_ch = given.pop("ch"), given.pop("out_ch")
    options = UnpairedOptions(**given)
    options.ch, options.out_ch = ch, out_ch
    return options


def images(channels, seed, count):
    return np.random.RandomState(seed).uniform(-1, 1, (count, channels, HEIGHT, WIDTH)).astype(np.float32)


def updater_of(options, seed=0, features=None):
    np.random.seed(seed)
    networks = net.build(options)
    links = networks.as_dict()
    if options.single_encoder:
        links.pop("enc_y")
    generator_rate, discriminator_rate = options.rates
    optimizers = {
        name: make_optimizer(
            options.optimizer,
            link,
            discriminator_rate if name.startswith("dis") else generator_rate,
            options.weight_decay,
        )
        for name, link in links.items()
    }
    random = RandomState(seed)
    random.seed_global()
    iterators = {
        name: chainer.iterators.SerialIterator(list(data), options.batch_size, shuffle=False)
        for name, data in (("main", images(options.ch, 7, 5)), ("second", images(options.out_ch, 8, 3)))
    }
    return CycleganUpdater(iterators, optimizers, networks, options, random, features=features)


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


def moved_by_one_update(updater):
    before = weights(updater)
    updater.update()
    return moved(before, weights(updater))


def test_default_terms():
    updater = updater_of(options_of())
    assert set(update(updater)) == ALWAYS | ADVERSARIAL | {"dec_x/loss_dom", "dec_y/loss_dom"}


def test_every_term_has_its_name():
    options = options_of(
        lambda_reg=1,
        lambda_dis_z=1,
        lambda_idempotence=1,
        lambda_air=1,
        lambda_grad=1,
        lambda_tv=1,
        lambda_gc_x=1,
        lambda_gc_y=1,
        batch_size=2,
    )
    observed = update(updater_of(options))
    both = {f"{link}/loss_{name}" for name in ("idem", "dom", "air", "grad", "gc") for link in ("dec_x", "dec_y")}
    both |= {f"enc_{d}/loss_{name}" for d in "xy" for name in ("reg", "adv")}
    assert set(observed) == ALWAYS | ADVERSARIAL | both | {
        "dec_y/loss_tv",
        "dis_z/loss_x",
        "dis_z/loss_y",
        "dis_z/loss_reg",
    }
    assert np.isfinite(list(observed.values())).all()


def test_translations_are_drawn_to_the_tables_in_the_first_part_of_the_training():
    updater = updater_of(options_of(iteration=20))
    made = []
    updater.tables = {name: lambda image: made.append(image.shape) or 0 * image + 0.25 for name in "xy"}
    levels = {"dec_x/loss_level", "dec_y/loss_level"}
    assert [levels <= set(update(updater)) for _ in range(5)] == [True] * 3 + [False] * 2
    assert len(made) == 6
    updater.iteration = 0
    images = updater.translate(*(updater.next_batch(name) for name in ("main", "second")))
    terms = {term.name: term for term in updater.generator_terms(images)}
    for name, translated in (("dec_y/loss_level", images.x_y), ("dec_x/loss_level", images.y_x)):
        assert terms[name].weight == 10
        assert float(terms[name].value.array) == pytest.approx(abs(translated.array - 0.25).mean(), rel=1e-5)


@pytest.mark.parametrize(
    "term, expected",
    [
        ("lambda_Az", {"enc_x", "dec_x"}),
        ("lambda_Bz", {"enc_y", "dec_y"}),
        ("lambda_A", {"enc_x", "dec_y", "enc_y", "dec_x"}),
        ("lambda_B", {"enc_x", "dec_y", "enc_y", "dec_x"}),
        ("lambda_tv", {"enc_x", "dec_y"}),
        ("lambda_gc_x", {"enc_x", "dec_y"}),
        ("lambda_gc_y", {"enc_y", "dec_x"}),
        ("lambda_grad_y", {"enc_y", "dec_x"}),
        ("lambda_dis_y", {"enc_x", "dec_y", "dis_y"}),
        ("lambda_dis_x", {"enc_y", "dec_x", "dis_x"}),
        ("lambda_dis_z", {"enc_x", "enc_y", "dis_z"}),
        ("lambda_reg", {"enc_x", "enc_y"}),
        ("lambda_domain", {"enc_x", "dec_x", "enc_y", "dec_y"}),
        ("lambda_grad", {"enc_x", "dec_x", "enc_y", "dec_y"}),
        ("lambda_identity_x", {"enc_x", "dec_y"}),
        ("lambda_identity_y", {"enc_y", "dec_x"}),
    ],
)
def test_each_term_moves_the_networks_it_is_about(term, expected):
    """lambda_identity: the released code reported it without a gradient, so it moved nothing."""
    features = PerceptualFeatures("conv1_2", widths=(3,)) if "identity" in term else None
    assert moved_by_one_update(updater_of(options_of(**{**NO_TERM, term: 1}), features=features)) == expected


def test_without_any_term_nothing_moves():
    assert moved_by_one_update(updater_of(options_of(**NO_TERM))) == set()


class Recorded:
    """A network that notes each call by ``name`` and what it was called with: the name of what made that."""

    def __init__(self, name, link, calls, made):
        self.name, self.link, self.calls, self.made = name, link, calls, made

    def __call__(self, given):
        key = given[-1] if isinstance(given, list) else given
        self.calls.append(f"{self.name}({self.made.get(id(chainer.as_array(key)), '?')})")
        result = self.link(given)
        last = result[-1] if isinstance(result, list) else result
        self.made[id(last.array)] = self.calls[-1]
        self.calls_kept = [*getattr(self, "calls_kept", ()), result]  # so that no id is used twice
        return result

    def __getattr__(self, name):
        return getattr(self.link, name)


def test_networks_are_called_in_the_released_order():
    # Running statistics show the order: each decoder first its own domain's features, then the other one's.
    updater = updater_of(options_of(lambda_idempotence=1, lambda_dis_z=1))
    calls, x, y = [], images(1, 7, 2), images(1, 8, 2)
    made = {id(x): "x", id(y): "y"}
    for name, link in updater.networks.as_dict().items():
        setattr(updater.networks, name, Recorded(name, link, calls, made))
    list(updater.generator_terms(updater.translate(x, y)))
    assert [call for call in calls if not call.startswith("dis")] == [
        "enc_x(x)",
        "enc_y(y)",
        "dec_x(enc_x(x))",
        "dec_y(enc_y(y))",
        "dec_y(enc_x(x))",
        "dec_x(enc_y(y))",
        "enc_y(dec_y(enc_x(x)))",
        "dec_x(enc_y(dec_y(enc_x(x))))",
        "enc_x(dec_x(enc_y(y)))",
        "dec_y(enc_x(dec_x(enc_y(y))))",
        "enc_y(dec_x(enc_y(y)))",
        "dec_x(enc_y(dec_x(enc_y(y))))",
        "enc_x(dec_y(enc_x(x)))",
        "dec_y(enc_x(dec_y(enc_x(x))))",
        "enc_y(x)",
        "dec_x(enc_y(x))",
        "enc_x(y)",
        "dec_y(enc_x(y))",
    ]
    assert [call for call in calls if call.startswith("dis")] == [
        "dis_z(enc_x(x))",
        "dis_z(enc_y(y))",
        "dis_y(dec_y(enc_x(x)))",
        "dis_x(dec_x(enc_y(y)))",
    ]


@pytest.mark.parametrize("wgan", [False, True])
def test_critics_learn_at_every_update_whatever_learning_freq_d_says(wgan):
    updater = updater_of(options_of(dis_wgan=wgan, lambda_wgan_gp=0, learning_freq_d=3))
    for dis in (updater.networks.dis_x, updater.networks.dis_y):
        dis(images(1, 7, 1))  # a critic's last weights are made with its first input
    learned = ["dis_x" in moved_by_one_update(updater) for _ in range(4)]
    assert learned == ([True] * 4 if wgan else [True, False, False, True])


def test_the_latent_terms_see_the_features_before_the_noise_of_the_decoders():
    updater = updater_of(options_of(noise_z=5.0, lambda_reg=1))
    made = updater.translate(images(1, 7, 2), images(1, 8, 2))
    reg = updater.generator_terms(made)[0]
    plain = updater.networks.enc_x(images(1, 7, 2))[-1]
    assert float(reg.value.array) == pytest.approx(float((plain.array**2).mean()), rel=1e-5)


def test_translations_into_x_get_their_noise_and_nothing_else_does():
    plain, noisy = updater_of(options_of()), updater_of(options_of(noise_x=0.5))
    x, y = images(1, 7, 4), images(1, 8, 4)
    one, other = plain.translate(x, y), noisy.translate(x, y)
    np.testing.assert_array_equal(one.x_y.array, other.x_y.array)
    added = other.y_x.array - one.y_x.array
    assert added.dtype == np.float32 and abs(added.mean()) < 0.1 and 0.4 < added.std() < 0.6
    # What comes back was made of the noisy translation: that is the lesson.
    back = noisy.networks.dec_y(noisy.networks.enc_x(other.y_x)).array
    term = next(term for term in noisy.generator_terms(other) if term.name == "dec_y/loss_cycle")
    assert float(term.value.array) == pytest.approx(float(abs(back - y).mean()), rel=1e-5)


def test_a_constant_costs_nothing_from_y_to_x_and_noise_there_does_not_count():
    updater = updater_of(options_of(noise_x=0.5, lambda_grad_y=2))
    x, y = images(1, 7, 4), images(1, 8, 4)
    made = dataclasses.replace(updater.translate(x, y), plain_y_x=chainer.Variable(y + np.float32(0.25)))
    term = next(term for term in updater.generator_terms(made) if term.name == "dec_x/loss_grad_y")
    assert term.weight == 2 and float(term.value.array) == pytest.approx(0, abs=1e-6)
    made = dataclasses.replace(made, plain_y_x=chainer.Variable(y * np.float32(1.5)))
    term = next(term for term in updater.generator_terms(made) if term.name == "dec_x/loss_grad_y")
    gradients = abs(np.diff(y, axis=2)).mean() + abs(np.diff(y, axis=3)).mean()
    assert float(term.value.array) == pytest.approx(0.5 * gradients, rel=1e-4)


def test_types_are_checked_in_the_first_update_only(monkeypatch):
    updater, seen = updater_of(options_of()), []
    inner = type(updater.networks.enc_x).forward
    monkeypatch.setattr(
        type(updater.networks.enc_x),
        "forward",
        lambda self, x: seen.append(chainer.config.type_check) or inner(self, x),
    )
    update(updater)
    first = len(seen)
    update(updater)
    assert seen == [True] * first + [False] * first and chainer.config.type_check


def test_one_encoder_for_both_domains():
    updater = updater_of(options_of(single_encoder=True))
    assert updater.networks.enc_x is updater.networks.enc_y
    assert "enc_y" not in updater.get_all_optimizers()
    assert moved_by_one_update(updater) == {"enc_x", "dec_x", "dec_y", "dis_x", "dis_y"}


def test_discriminators_learn_every_few_iterations():
    updater = updater_of(options_of(learning_freq_d=3))
    found = [{"dis_x", "dis_y"} & moved_by_one_update(updater) for _ in range(5)]
    assert found == [{"dis_x", "dis_y"}, set(), set(), {"dis_x", "dis_y"}, set()]
    assert len(updater.pools["x"]) == len(updater.pools["y"]) == 5


def test_stacks_of_slices_also_vary_along_channels():
    def tv(imgtype):
        return update(updater_of(options_of(lambda_tv=1, stack=3, ch=3, out_ch=3, imgtype=imgtype)))["dec_y/loss_tv"]

    assert tv("dcm") > tv("jpg") > 0


def test_wgan_takes_the_gradient_between_real_and_fake(monkeypatch):
    updater = updater_of(options_of(dis_wgan=True, lambda_dis_z=1, batch_size=2))
    seen = []
    original = losses.gradient_penalty

    def spy(dis, real, fake, mix):
        seen.append((dis, real, fake))
        return original(dis, real, fake, mix)

    monkeypatch.setattr(losses, "gradient_penalty", spy)
    observed = update(updater)
    critics = {f"dis_{d}/loss_{part}" for d in "xyz" for part in ("dis", "gp")}
    assert {name for name in observed if name.startswith("dis")} == critics
    assert np.isfinite(list(observed.values())).all()
    assert [dis for dis, _, _ in seen] == [updater.networks.dis_y, updater.networks.dis_x, updater.networks.dis_z]
    x, y = images(1, 7, 2), images(1, 8, 2)
    assert (seen[0][1] == y).all() and (seen[0][2] != x).any() and (seen[1][1] == x).all()
    assert moved_by_one_update(updater) == set(updater.get_all_optimizers())


def test_weighted_discriminators_are_kept_honest():
    observed = update(updater_of(options_of(dis_reg_weighting=0.1, lambda_dis_z=1)))
    assert all(observed[f"dis_{d}/loss_reg"] > 0 for d in "xyz")


def test_generator_targets_are_exact_and_discriminator_targets_are_not():
    without, jittered = (update(updater_of(options_of(dis_jitter=sd))) for sd in (0.0, 0.5))
    for name, value in without.items():
        assert (jittered[name] != value) == (name.startswith("dis") and "reg" not in name), name


def test_the_deepest_map_is_not_the_latent_vector():
    updater = updater_of(options_of(latent_dim=5, crop_height=HEIGHT, crop_width=WIDTH, lambda_dis_z=1, lambda_reg=1))
    features = updater.networks.enc_x(images(1, 7, 1))
    assert features[-1].shape == (1, 5) and deepest_map(features).shape == (1, 6, HEIGHT // 2, WIDTH // 2)
    assert {"enc_x/loss_reg", "dis_z/loss_x"} <= set(update(updater))


@pytest.mark.parametrize("layer, block, pooled", [("conv1_1", 1, 1), ("conv2_2", 2, 2), ("conv3_1", 3, 4)])
def test_features_of_a_layer(layer, block, pooled, tmp_path):
    widths = (3, 4, 5, 6, 7)
    features = PerceptualFeatures(layer, widths)
    chainer.serializers.save_npz(str(tmp_path / "vgg.npz"), features.link)
    loaded = PerceptualFeatures.load(tmp_path / "vgg.npz", layer, widths)
    x = images(3, 1, 2)
    answer = loaded(x)
    assert answer.shape == (2, widths[block - 1], HEIGHT // pooled, WIDTH // pooled)
    assert (answer.array == features(x).array).all() and answer.array.min() == 0 < answer.array.max()
    assert (PerceptualFeatures(layer, widths)(x).array != answer.array).any()


def test_missing_perceptual_weights_are_named():
    with pytest.raises(UserError, match="--perceptual_weights"):
        PerceptualFeatures.load(None, "conv1_2")


def test_domains_of_different_channels():
    options = options_of(ch=1, out_ch=3, lambda_domain=0)
    assert moved_by_one_update(updater_of(options)) == set(net.build(options).as_dict())
    with pytest.raises(UserError, match="--look_up auto: .*1 and 3"):
        updater_of(options_of(ch=1, out_ch=3, lambda_domain=0, look_up="auto"))
    with pytest.raises(UserError, match="lambda_domain.*1 and 3 channels"):
        check_terms(options_of(ch=1, out_ch=3))


STOCHASTIC = dict(dis_jitter=0.2, noise=0.1, noise_z=0.1, gen_dropout=0.3, dis_dropout=0.3, lambda_dis_z=0.5)


@pytest.mark.parametrize(
    "given, stop",
    [
        (dict(**STOCHASTIC, batch_size=2), 3),
        (dict(single_encoder=True, gen_norm="batch_aff", learning_freq_d=2), 3),
        (dict(dis_wgan=True, optimizer="Eve"), 2),
        (dict(gen_nblock=0, gen_chs=[2], dis_chs=[2], dis_jitter=0.1), 52),
    ],
)
def test_resume_is_bit_identical(given, stop):
    options = options_of(**given)
    whole = updater_of(options)
    for _ in range(stop):
        whole.update()
    arrays = {}
    whole.serialize(Writer(arrays))
    arrays = {name: array.copy() for name, array in arrays.items()}
    expected = [update(whole) for _ in range(3)]
    resumed = updater_of(options, seed=99)
    resumed.serialize(Reader(arrays))
    assert [update(resumed) for _ in range(3)] == expected
    assert moved(weights(whole), weights(resumed)) == set()
    assert len(resumed.pools["x"]) == min(50 * options.batch_size, (stop + 3) * options.batch_size)


def test_mixed_precision():
    updater = updater_of(options_of(dtype="mixed16", batch_size=2, gen_up="resize", lambda_dis_z=1))
    assert any(p.dtype == np.float16 for p in updater.networks.enc_x.params())
    before = weights(updater)
    observed = [update(updater) for _ in range(3)]
    assert all(np.isfinite(list(values.values())).all() for values in observed)
    assert moved(before, weights(updater)) == set(updater.get_all_optimizers())
    assert all(np.isfinite(array).all() for array in weights(updater).values())
    assert set(updater.loss_scales) == {"enc_x", "dis_y", "dis_x", "dis_z"}
