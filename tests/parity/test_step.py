"""Training steps against golden arrays of the released codes: what they reported, and the weights they ended with."""

import dataclasses
import json
import re

import numpy as np
import pytest

from medi2i.common.compat import chainer
from medi2i.common.networks.from_options import decoder_spec, discriminator_spec, encoder_spec
from medi2i.common.options import PairedOptions, load_args, parse
from medi2i.common.options.paired import PairedLossOptions
from medi2i.common.options.shared import RegularisationOptions
from medi2i.common.options.unpaired import UnpairedLossOptions
from medi2i.common.training.optimizers import make_optimizer
from medi2i.common.training.randomness import RandomState
from medi2i.cyclegan import net as cyclegan_net
from medi2i.cyclegan import updater as cyclegan_updater
from medi2i.pix2pix import net as pix2pix_net
from medi2i.pix2pix import updater as pix2pix_updater

pytestmark = pytest.mark.parity

FIRST_LOSSES, LATER_LOSSES = 1e-5, 1e-3
SAME_PART, SAME_WITHIN = 0.95, 1e-4
# Intended: here Eve follows its paper. There its rate never came to count, so that it was Adam.
OPTIMIZER_THERE = {"Eve": "Adam"}


class Batches(chainer.dataset.Iterator):
    """Batches of the golden file, one an update."""

    epoch, epoch_detail, is_new_epoch = 0, 0.0, False

    def __init__(self, batches):
        self.batches = iter(batches)

    def next(self):
        return next(self.batches)


def trained_links(networks, options):
    """Name -> link for every network with an optimizer of its own."""
    links = networks.as_dict()
    if getattr(options, "single_encoder", False):
        links.pop("enc_y")
    return links


def updater_of(options, networks, io):
    """The updater of either application for the batches of the golden file."""
    generator_rate, discriminator_rate = options.rates
    optimizers = {
        name: make_optimizer(
            OPTIMIZER_THERE.get(options.optimizer, options.optimizer),
            link,
            discriminator_rate if name.startswith("dis") else generator_rate,
            options.weight_decay,
            getattr(options, "weight_decay_norm", "l2"),
        )
        for name, link in trained_links(networks, options).items()
    }
    random = RandomState(0)
    if isinstance(options, PairedOptions):
        pairs = Batches([list(zip(x, t, strict=True)) for x, t in zip(io["x"], io["t"], strict=True)])
        return pix2pix_updater.Pix2pixUpdater(pairs, optimizers, networks, options, random)
    iterators = {"main": Batches([list(x) for x in io["x"]]), "second": Batches([list(t) for t in io["t"]])}
    return cyclegan_updater.CycleganUpdater(iterators, optimizers, networks, options, random)


def update(updater):
    """One update; what it reported, as Python floats."""
    reporter, observed = chainer.Reporter(), {}
    with reporter.scope(observed):
        updater.update()
    return {name: float(chainer.as_array(value)) for name, value in observed.items()}


def rounding_noise(name, stored):
    """Whether the gradient of this parameter is only rounding: a bias that a normalisation takes away again."""
    parts = name.split("/")
    if parts[-1] != "b":
        return False
    for i, part in enumerate(parts):
        number = re.fullmatch(r"c(\d)", part)
        if number and any("/".join([*parts[:i], norm + number[1], "avg_mean"]) in stored for norm in ("n", "norm")):
            return True
    return False


def kinds_of_arrays(name, norm):
    """weight (compared strictly), statistic (running, in use) or unused."""
    last = name.rpartition("/")[2]
    if last in ("avg_mean", "avg_var"):
        return "unused" if norm in ("instance", "group") else "statistic"
    return "unused" if last in ("N", "u") else "weight"


def check_weights(link, stored, norm, largest_step, what):
    """Compare all parameters and used statistics of ``link`` with the golden arrays; the number that was compared."""
    serializer = chainer.serializers.DictionarySerializer()
    serializer.save(link)
    assert set(serializer.target) == set(stored), what
    compared = 0
    for name, array in serializer.target.items():
        kind = kinds_of_arrays(name, norm)
        if kind == "unused" or rounding_noise(name, stored):
            continue
        compared += 1
        difference = np.abs(array - stored[name])
        scale = np.abs(stored[name]).max()
        if kind == "statistic":
            assert difference.max() <= 1e-3 * scale + largest_step, f"{what}/{name}"
            continue
        assert difference.max() <= largest_step, f"{what}/{name}"
        # Adam makes a step of a gradient that is all but rounding: of few elements, one may have had it the other way.
        apart = np.sum(difference > SAME_WITHIN * scale)
        allowed = max(1, int((1 - SAME_PART) * difference.size)) if difference.size >= 8 else 0
        assert apart <= allowed, f"{what}/{name}: {apart} of {difference.size} not within {SAME_WITHIN} of {scale:.3g}"
    return compared


def test_parity_step(step_case):
    options = load_args(step_case / "args")
    paired = isinstance(options, PairedOptions)
    networks = (pix2pix_net if paired else cyclegan_net).build(options)
    links = trained_links(networks, options)
    for name, link in links.items():
        chainer.serializers.load_npz(str(step_case / f"{name}_before.npz"), link)
    with np.load(step_case / "io.npz") as file:
        io = dict(file)
    expected = json.loads((step_case / "losses.json").read_text())
    assert len(expected) == len(io["x"]) > 0

    updater = updater_of(options, networks, io)
    for i, wanted in enumerate(expected):
        observed = update(updater)
        unexpected = set(observed) - set(wanted)
        if getattr(options, "single_encoder", False):
            # There both names were one link to the reporter; here the two are told apart.
            unexpected = {name for name in unexpected if not name.startswith("enc_")}
        assert not unexpected
        for name, value in wanted.items():
            relative = LATER_LOSSES if i else FIRST_LOSSES
            assert observed[name] == pytest.approx(value, rel=relative, abs=1e-7), f"update {i}, {name}"

    for name, link in links.items():
        dis = name.startswith("dis")
        with np.load(step_case / f"{name}_after.npz") as file:
            stored = dict(file)
        largest_step = 2 * options.rates[dis] * len(expected)
        norm = options.dis_norm if dis else options.gen_norm
        assert check_weights(link, stored, norm, largest_step, name) >= 4


def test_parity_of_command_line(step_case):
    """argv.json, the old command line, means the same networks, losses and optimizers as the released args file."""
    saved = load_args(step_case / "args")
    argv = json.loads((step_case / "argv.json").read_text())
    # These the released code finds from the data, or has from the script that made the golden arrays.
    found = ("ch", "out_ch", "crop_height", "crop_width", "imgtype")
    parsed = dataclasses.replace(parse(type(saved), argv), **{name: getattr(saved, name) for name in found})
    assert described(parsed) == described(saved)


def described(options):
    """What decides an update: networks, losses, learning rates, optimizer."""
    paired = isinstance(options, PairedOptions)
    groups = (PairedLossOptions if paired else UnpairedLossOptions, RegularisationOptions)
    names = {field.name for group in groups for field in dataclasses.fields(group)}
    names |= {"batch_size", "stack", "noise"} | (
        {"class_num", "class_weight"} if paired else {"noise_x", "learning_freq_d"}
    )
    return {
        "encoder": encoder_spec(options, options.ch),
        "decoder": decoder_spec(options, options.out_ch),
        "discriminator": discriminator_spec(options, options.ch + options.out_ch if paired else options.out_ch),
        "losses": {name: getattr(options, name) for name in names},
        "rates": options.rates,
        "weight_decay": options.weight_decay,
    }
