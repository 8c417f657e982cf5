"""A network held constant answers as ever, passes gradients on, and computes none for its weights."""

import contextlib

import numpy as np
import pytest

from medi2i.common.compat import F, chainer
from medi2i.common.kernels import cpu_engine
from medi2i.common.networks.network import constant_weights
from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.common.training.optimizers import make_optimizer
from medi2i.common.training.randomness import RandomState
from medi2i.cyclegan import net as unpaired_net
from medi2i.cyclegan import updater as unpaired
from medi2i.pix2pix import net as paired_net
from medi2i.pix2pix import updater as paired

GradW = chainer.functions.connection.convolution_2d.Convolution2DGradW
KINDS = [
    {},
    {"eqconv": True},
    {"spconv": True},
    {"senet": True, "dis_chs": [4, 16]},
    {"dis_attention": True},
    {"dis_norm": "instance"},
    {"dis_norm": "rbatch"},
    {"dis_norm": "group"},
    {"dis_wgan": True},
    {"dis_reg_weighting": 0.1},
]


def options_of(cls, **given):
    options = cls(**{"gen_chs": [4, 6], "gen_nblock": 1, "dis_chs": [8, 16], **given})
    options.ch = options.out_ch = 1
    return options


def images(seed, channels=1, count=2):
    return np.random.default_rng(seed).uniform(-1, 1, (count, channels, 16, 24)).astype(np.float32)


def discriminator(given):
    np.random.seed(0)
    return paired_net.build(options_of(PairedOptions, **given)).dis


def state(link):
    arrays = {}
    chainer.serializers.DictionarySerializer(arrays).save(link)
    return arrays


@pytest.mark.parametrize("given", KINDS, ids=str)
def test_answer_and_gradient_by_the_input_are_the_same(given):
    found = []
    for held in (constant_weights, contextlib.nullcontext):
        dis = discriminator(given)
        dis(images(1, 2))  # parameters that the first call makes are there
        dis.cleargrads()
        parameters = dict(dis.namedparams())
        x = chainer.Variable(images(2, 2))
        with held(dis):
            answer = dis(x)
        F.sum(answer * answer).backward()  # outside of the block, as in an update
        assert dict(dis.namedparams()) == parameters
        found.append((answer.array, x.grad, state(dis), [p.grad is None for p in dis.params()]))
    (answer, gradient, kept, without), (expected, by_input, changed, others) = found
    np.testing.assert_array_equal(answer, expected)
    np.testing.assert_array_equal(gradient, by_input)
    assert all(without) and not all(others)
    assert kept.keys() == changed.keys()
    for name in kept:
        np.testing.assert_array_equal(kept[name], changed[name])


def test_gradients_by_weights_are_not_computed(monkeypatch):
    calls = []
    original = GradW.forward
    monkeypatch.setattr(GradW, "forward", lambda self, inputs: calls.append(1) or original(self, inputs))
    dis = discriminator({})
    for held, expected in ((constant_weights, 0), (contextlib.nullcontext, 4)):
        calls.clear()
        x = chainer.Variable(images(2, 2))
        with cpu_engine.using("chainer"):  # others make no function node of it
            with held(dis):
                answer = dis(x)
            F.sum(answer).backward()
        assert len(calls) == expected and x.grad is not None


def test_parameters_come_back_after_an_error():
    dis = discriminator({})
    parameters = dict(dis.namedparams())
    with pytest.raises(ZeroDivisionError), constant_weights(dis):
        raise ZeroDivisionError
    assert dict(dis.namedparams()) == parameters


def test_parameters_not_initialised_yet_are_made_in_the_block():
    dis = discriminator({"dis_wgan": True})
    assert dis.fc1.l0.W.array is None
    with constant_weights(dis):
        dis(images(1, 2))
    assert isinstance(dis.fc1.l0.W, chainer.Parameter) and dis.fc1.l0.W.array is not None


def updates(module, updater_class, network, cls, given, iterators):
    options = options_of(cls, dis_jitter=0.2, **given)
    np.random.seed(0)
    networks = network.build(options)
    optimizers = {name: make_optimizer("Adam", link, 2e-4, 1e-7) for name, link in networks.as_dict().items()}
    random = RandomState(0)
    random.seed_global()
    updater = updater_class(iterators(), optimizers, networks, options, random)
    for _ in range(3):
        updater.update()
    return {name: state(link) for name, link in networks.as_dict().items()}


def pairs():
    return chainer.iterators.SerialIterator(
        list(zip(images(3, count=4), images(4, count=4), strict=True)), 1, shuffle=False
    )


def domains():
    return {
        name: chainer.iterators.SerialIterator(list(images(seed, count=4)), 1, shuffle=False)
        for name, seed in (("main", 3), ("second", 4))
    }


@pytest.mark.parametrize("given", [{}, {"dis_wgan": True}, {"dis_attention": True}], ids=str)
@pytest.mark.parametrize("application", ["paired", "unpaired"])
def test_training_is_the_same_bit_for_bit(application, given, monkeypatch):
    module, *rest = {
        "paired": (paired, paired.Pix2pixUpdater, paired_net, PairedOptions, given, pairs),
        "unpaired": (
            unpaired,
            unpaired.CycleganUpdater,
            unpaired_net,
            UnpairedOptions,
            {**given, "lambda_dis_z": 1},
            domains,
        ),
    }[application]
    quick = updates(module, *rest)
    monkeypatch.setattr(module, "constant_weights", lambda dis: contextlib.nullcontext(dis))
    plain = updates(module, *rest)
    for name in plain:
        for path in plain[name]:
            np.testing.assert_array_equal(quick[name][path], plain[name][path], err_msg=f"{name} {path}")
