"""On a GPU: an update of each application gives and learns what it does on the CPU, and nothing makes the CPU wait.

Without a GPU ``tests/test_without_a_gpu.py`` runs this on the stand-in for CuPy, where copies and waits are counted.
"""

import contextlib
import copy

import numpy as np
import pytest

from medi2i.common.compat import chainer
from medi2i.common.device import choose_device, use_gpu_engine
from medi2i.common.kernels import cpu_engine
from medi2i.common.networks.checkpoint import Generator, Segmentor
from medi2i.common.networks.pretrained import PerceptualFeatures
from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.common.options.learned import CRITIC, PRIMAL_DUAL, LearnedOptions, SynthesisOptions
from medi2i.common.training.distributed import Ranks
from medi2i.common.training.optimizers import make_optimizer
from medi2i.common.training.randomness import RandomState
from medi2i.cyclegan import net as cyclegan_net
from medi2i.cyclegan import updater as cyclegan_updater
from medi2i.datasets.augment import Draw, Uncut
from medi2i.datasets.scaling import Clip
from medi2i.pix2pix import net as pix2pix_net
from medi2i.pix2pix import updater as pix2pix_updater
from medi2i.reconstruction import net as reconstruction_net
from medi2i.reconstruction.geometry import regular
from medi2i.reconstruction.operator import Operator
from medi2i.reconstruction.updater import CriticUpdater, PrimalDualUpdater
from medi2i.synthesis import net as synthesis_net
from medi2i.synthesis.updater import SynthesisUpdater

pytestmark = pytest.mark.gpu

SIZE = 16, 24
SMALL = dict(
    gen_chs=[4, 6], gen_nblock=1, dis_chs=[4, 6], dis_jitter=0.0, noise=0.0, batch_size=2, ch=1, out_ch=1,
    crop_height=SIZE[0], crop_width=SIZE[1],
)  # fmt: skip
CASES = {
    "pix2pix": (PairedOptions, dict(lambda_tv=0.1, lambda_reg=0.1, lambda_ssim=1.0, lambda_rec_l2=1.0)),
    "pix2pix, critic": (PairedOptions, dict(dis_wgan=True, lambda_wgan_gp=1.0, lambda_msssim=1.0)),
    "pix2pix, classes": (PairedOptions, dict(class_num=3, out_ch=3, lambda_rec_ce=1.0, lambda_dice=1.0)),
    "pix2pix, none missing": (PairedOptions, dict(targets="neighbours", gen_norm="none", lambda_dis=0.0)),
    "pix2pix, other blocks": (
        PairedOptions,
        dict(gen_chs=[4, 8], gen_down="maxpool_res", gen_up="deconv", unet="concat", gen_norm="group", dis_norm="fnorm",
             gen_attention=True, eqconv=True, dis_down="avgpool", dis_reg_weighting=0.1),
    ),
    "pix2pix, separable": (
        PairedOptions, dict(spconv=True, gen_up="pixsh", gen_norm="rbatch", dis_norm="none", gen_sample="half")
    ),
    "cyclegan": (UnpairedOptions, dict(lambda_tv=0.1, lambda_grad=0.1, lambda_dis_z=1.0, lambda_air=1.0)),
    "cyclegan, instance": (
        UnpairedOptions,
        dict(gen_norm="instance", dis_norm="instance", lambda_gc_x=1.0, lambda_idempotence=1.0, gen_up="unpool"),
    ),
    "pix2pix, anatomy": (PairedOptions, dict(lambda_anatomy=1.0)),
    "cyclegan, anatomy": (UnpairedOptions, dict(lambda_anatomy=1.0, lambda_shape=1.0)),
    "cyclegan, shape": (UnpairedOptions, dict(lambda_shape=1.0, shape_classes=3, gen_norm="instance")),
    "cyclegan, perceptual": (UnpairedOptions, dict(lambda_identity_x=1.0, lambda_identity_y=1.0)),
    "cyclegan, unit": (
        UnpairedOptions, dict(lambda_kl=0.1, share_latent_blocks=1, gen_nblock=2, unet="none", gen_norm="instance")
    ),
    "cyclegan, critic": (UnpairedOptions, dict(dis_wgan=True, lambda_wgan_gp=1.0, gen_norm="batch", dis_norm="none")),
}  # fmt: skip

IN_FULL = "pix2pix", "pix2pix, anatomy", "cyclegan, instance", "cyclegan, anatomy", "cyclegan, perceptual"


class OneBatch(chainer.dataset.Iterator):
    epoch, epoch_detail, is_new_epoch = 25, 25.0, False  # what waits for a share of the training has begun

    def __init__(self, batch):
        self._batch = batch

    def next(self):
        return self._batch


def images(seed, options=None):
    rng = np.random.default_rng(seed)
    if getattr(options, "class_num", 0):
        return [np.eye(3, dtype=np.float32)[rng.integers(3, size=SIZE)].transpose(2, 0, 1).copy() for _ in range(2)]
    made = [rng.uniform(-1, 1, (1, *SIZE)).astype(np.float32) for _ in range(2)]
    if getattr(options, "targets", "files") != "files":
        for image in made:
            image[:, ::3] = np.nan
    return made


def uncut(seed):
    """Whole images, to be cut, turned, scaled and changed where they arrive."""
    rng = np.random.default_rng(seed)
    draw = Draw(down=1, right=2, flip=True, scale=1.1, degrees=5.0)
    return [
        Uncut(rng.integers(-200, 200, (1, 20, 30)).astype(np.int16), Clip(-200, 200), draw, SIZE, noise=0.1, key=5)
        for _ in range(2)
    ]


def networks_of(case, **more):
    kind, values = CASES[case]
    options = kind(**{**SMALL, **values, **more})
    np.random.seed(0)
    with chainer.using_config("dtype", chainer.get_dtype()):
        networks = (pix2pix_net if kind is PairedOptions else cyclegan_net).build(options)
    return options, networks


def grown(options, networks):
    """``networks`` with all weights, some of which have their size from the first batch."""
    sizes = {"x": SIZE, "y": SIZE}
    ranks = Ranks()
    ranks.communicator = object()
    ranks.initialise(networks.as_dict(), sizes)
    return networks


def judges_of(options):
    """Frozen networks that the losses of ``options`` look through, always the same ones, of float32 as in trainings."""
    with chainer.using_config("dtype", np.float32):
        return _judges(options)


def _judges(options):
    if getattr(options, "lambda_anatomy", 0):
        trained = PairedOptions(**{**SMALL, "class_num": 3, "out_ch": 3, "lambda_dis": 0.0, "clipA": [-200.0, 600.0]})
        np.random.seed(1)
        networks = pix2pix_net.build(trained)
        generator = Generator(networks.enc_x, networks.dec_y, trained, "xy", (), "")
        segmentor = Segmentor(generator, (-1024.0, 2000.0), 1)
        paired = isinstance(options, PairedOptions)
        return {"segmentor": segmentor} if paired else {"segmentors": {"x": segmentor, "y": segmentor}}
    if getattr(options, "lambda_identity_x", 0):
        np.random.seed(1)
        return {"features": PerceptualFeatures("conv2_2", (3, 4))}
    return {}


def updater_of(options, networks, device, optimizer, batches=None):
    for link in networks.as_dict().values():
        link.to_device(device)
    rate = 1e-3 if optimizer == "Adam" else 0.01
    optimizers = {name: make_optimizer(optimizer, link, rate, 0.0) for name, link in networks.as_dict().items()}
    random = RandomState(0, device.xp)
    judges = judges_of(options)
    for judge in judges.get("segmentors", judges).values():
        judge.to_device(device)
    first, second = batches or (images(1), images(2, options))
    if getattr(options, "shape_classes", 0):
        labels = images(3, PairedOptions(class_num=3))
        first, second = (list(zip(batch, labels, strict=True)) for batch in (first, second))
    if isinstance(options, PairedOptions):
        pairs = list(zip(first, second, strict=True))
        return pix2pix_updater.Pix2pixUpdater(OneBatch(pairs), optimizers, networks, options, random, device, **judges)
    return cyclegan_updater.CycleganUpdater(
        {"main": OneBatch(first), "second": OneBatch(second)}, optimizers, networks, options, random, device, **judges
    )


def after_updates(options, networks, device, optimizer="SGD", count=1, batches=None):
    """What the last of ``count`` updates reported, (name, array) of all parameters, on the CPU; and what was counted
    in the last one, None where nothing is."""
    with chainer.using_device(device), cpu_engine.using("chainer"):
        updater = updater_of(options, networks, device, optimizer, batches)
        reporter, observed = chainer.Reporter(), {}
        for turn in range(count):
            last = turn == count - 1
            watching = getattr(device.xp, "watched", contextlib.nullcontext) if last else contextlib.nullcontext
            with reporter.scope(observed), watching() as counts:
                updater.update()
    numbers = {name: float(chainer.as_array(value)) for name, value in observed.items()}
    for link in networks.as_dict().values():
        link.to_device("@numpy")
    arrays = [
        (f"{name}{path}", param.array)
        for name, link in networks.as_dict().items()
        for path, param in link.namedparams()
        if param.array is not None
    ]
    return numbers, arrays, counts


def assert_same_numbers(found, expected, tolerance):
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name


def assert_same_arrays(found, expected, tolerance):
    for (name, a), (name_gpu, b) in zip(expected, found, strict=True):
        assert name == name_gpu and a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(b, a, atol=tolerance * max(1.0, np.abs(a).max()), rtol=0, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_one_update(case, monkeypatch):
    """What is sampled on the device is another draw than the CPU's: the same is put in its place."""

    def normal_array(self, shape):
        return self.xp.asarray(np.random.default_rng(3).standard_normal(shape), np.float32)

    monkeypatch.setattr(RandomState, "normal_array", normal_array)
    options, networks = networks_of(case)
    others = copy.deepcopy(grown(options, networks))
    numbers, arrays, _ = after_updates(options, networks, chainer.get_device("@numpy"))
    on_gpu, arrays_gpu, _ = after_updates(options, others, choose_device(0))
    assert_same_numbers(on_gpu, numbers, 2e-5)
    assert_same_arrays(arrays_gpu, arrays, 1e-5)


@pytest.mark.parametrize("case", ["pix2pix, classes", "cyclegan, instance"])
@pytest.mark.parametrize("tf32, engine", [(True, "auto"), (False, "chainer")])
def test_an_update_by_each_engine(case, tf32, engine, monkeypatch):
    """TF32 is what the GPU makes of it: with it nothing is said of the numbers but that they are near."""
    for name in ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE"):
        monkeypatch.setenv(name, "0")
    options, networks = networks_of(case)
    others = copy.deepcopy(grown(options, networks))
    numbers, arrays, _ = after_updates(options, networks, chainer.get_device("@numpy"))
    device = choose_device(0, tf32)
    try:
        use_gpu_engine(engine, tf32)
        on_gpu, arrays_gpu, _ = after_updates(options, others, device)
    finally:
        use_gpu_engine("auto")
    assert_same_numbers(on_gpu, numbers, 1e-2 if tf32 else 2e-5)
    assert_same_arrays(arrays_gpu, arrays, 1e-2 if tf32 else 1e-5)


@pytest.mark.parametrize("case", ["pix2pix, critic"])
def test_images_that_are_cut_on_the_device(case):
    options, networks = networks_of(case)
    others = copy.deepcopy(grown(options, networks))
    batches = uncut(1), uncut(2)
    numbers, arrays, _ = after_updates(options, networks, chainer.get_device("@numpy"), batches=batches)
    on_gpu, arrays_gpu, _ = after_updates(options, others, choose_device(0), batches=batches)
    assert_same_numbers(on_gpu, numbers, 1e-4)
    assert_same_arrays(arrays_gpu, arrays, 1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if case not in IN_FULL])
def test_half_precision(case):
    """mixed16: weights stay near those of float32, and everything reported is a finite number."""
    options, networks = networks_of(case)
    numbers, arrays, _ = after_updates(options, grown(options, networks), chainer.get_device("@numpy"), "Adam")
    with chainer.using_config("dtype", chainer.mixed16):
        options, networks = networks_of(case, dtype="mixed16")
        on_gpu, arrays_gpu, _ = after_updates(options, grown(options, networks), choose_device(0), "Adam", 2)
    assert numbers.keys() == on_gpu.keys()
    assert np.isfinite(list(on_gpu.values())).all()
    for (name, a), (_, b) in zip(arrays, arrays_gpu, strict=True):
        np.testing.assert_allclose(b, a, atol=5e-2, err_msg=name)


@pytest.mark.parametrize(
    "case, optimizer", [(case, "Adam") for case in CASES if case != "pix2pix, classes"] + [("pix2pix, classes", "Eve")]
)
def test_nothing_waits_within_an_update(case, optimizer):
    """Of the third update: the first two fill the buffers. What waits is the copy before last of each buffer, and what
    is copied are the two arrays of the batch, with labels four, and for a critic the places of its penalty.
    """
    device = choose_device(0)
    if not hasattr(device.xp, "watched"):
        pytest.skip("only the stand-in for CuPy counts")
    options, networks = networks_of(case)
    _, _, counts = after_updates(options, grown(options, networks), device, optimizer, 3)
    assert counts.to_host == []
    arrays = 4 if getattr(options, "shape_classes", 0) else 2
    assert [function_of(place) for place in counts.waits] == ["_copy"] * arrays
    critics = (len(networks.as_dict()) // 3 if options.dis_wgan else 0) * ["uniform_array"]
    assert sorted(function_of(place) for place in counts.to_device) == ["_copy"] * arrays + critics


LEARNS = {PRIMAL_DUAL: ("net", PrimalDualUpdater), CRITIC: ("critic", CriticUpdater)}


def learned(learns, device, count):
    """(weights, counts) after ``count`` updates of what learns to reconstruct; the counts are of the last."""
    options = LearnedOptions(learns=learns, unrolled=2, memory=2, channels=4, batch_size=2)
    geometry = regular((12, 16), (3.0, 3.0), 7)
    rng = np.random.default_rng(0)
    shapes = (1, *geometry.sinogram_shape), (1, 12, 16), (1, 12, 16)
    batch = [tuple(rng.random(shape, dtype=np.float32) for shape in shapes) for _ in range(2)]
    np.random.seed(0)
    name, kind = LEARNS[learns]
    with chainer.using_device(device), cpu_engine.using("chainer"):
        operator = Operator(geometry, xp=device.xp)
        networks = reconstruction_net.build(options, operator)
        link = networks.as_dict()[name]
        link.to_device(device)
        optimizers = {name: make_optimizer("SGD", link, 0.01, 0.0)}
        random = RandomState(0, device.xp)
        updater = kind(OneBatch(batch), optimizers, networks, options, random, device)
        for _ in range(count):
            watching = getattr(device.xp, "watched", contextlib.nullcontext)
            with watching() as counts:
                updater.update()
    link.to_device("@numpy")
    return [(path, param.array) for path, param in link.namedparams()], counts


@pytest.mark.parametrize("learns", LEARNS)
def test_an_update_of_what_reconstructs(learns):
    """Its matrix stays on the device; of the third update what is copied is the batch, and the mixture of a critic."""
    device = choose_device(0)
    expected, _ = learned(learns, chainer.get_device("@numpy"), 1)
    assert_same_arrays(learned(learns, device, 1)[0], expected, 1e-5)
    _, counts = learned(learns, device, 3)
    if counts is not None:
        assert counts.to_host == [] and {function_of(place) for place in counts.waits} == {"_copy"}
        mixture = ["uniform_array"] if learns == CRITIC else []
        assert [function_of(place) for place in counts.to_device] == ["_copy"] * 3 + mixture


def test_a_back_projection_that_comes_first_sorts_nothing_on_the_device():
    device = choose_device(0)
    if not hasattr(device.xp, "watched"):
        pytest.skip("only the stand-in for CuPy counts")
    geometry = regular((12, 16), (3.0, 3.0), 7)
    rays = np.random.default_rng(0).random(geometry.sinogram_shape, dtype=np.float32)
    with chainer.using_device(device):
        operator, there = Operator(geometry, xp=device.xp), device.send(rays)
        with device.xp.watched() as counts:
            operator.transposed(there)
            image = operator.transposed(there)
    assert counts.waits == [] and [function_of(place) for place in counts.to_host] == ["transposed"]  # a flag, once
    np.testing.assert_allclose(image.get(), Operator(geometry).transposed(rays), rtol=1e-5, atol=1e-5)


def test_half_precision_looks_at_its_gradients_once_for_each_loss():
    device = choose_device(0)
    if not hasattr(device.xp, "watched"):
        pytest.skip("only the stand-in for CuPy counts")
    with chainer.using_config("dtype", chainer.mixed16):
        options, networks = networks_of("pix2pix, classes", dtype="mixed16")
        _, _, counts = after_updates(options, grown(options, networks), device, "Adam", 3)
    assert [function_of(place) for place in counts.to_host] == ["everywhere"] * 2


def function_of(place):
    """The function that a place is in, "adversarial.py:300 _copy"."""
    return place.split()[1]


SYNTHESIS = {
    "dcgan": dict(),
    "dcgan, spectral": dict(spectral=True, diffaugment=True, lambda_r1=1.0),
    "pggan": dict(network="pggan", phase_images=4),
}


def synthesised(case, device):
    """All weights after an update of what makes images; PGGAN is within a fade."""
    options = SynthesisOptions(size=8, channels=2, latent=3, ch=1, batch_size=2, **SYNTHESIS[case])
    np.random.seed(0)
    random = RandomState(0, device.xp)
    random.normal_array = lambda shape: device.xp.asarray(random.generator.standard_normal(shape, dtype=np.float32))
    batch = list(np.random.default_rng(1).uniform(-1, 1, (2, 1, 8, 8)).astype(np.float32))
    with chainer.using_device(device), cpu_engine.using("chainer"):
        networks = synthesis_net.build(options)
        if networks.growth is not None:
            networks.growth.shown = 6
        links = networks.as_dict()
        for link in links.values():
            link.to_device(device)
        optimizers = {name: make_optimizer("SGD", link, 0.01, 0.0) for name, link in links.items()}
        SynthesisUpdater(OneBatch(batch), optimizers, networks, options, random, device).update()
    for link in links.values():
        link.to_device("@numpy")
    return [(name + path, param.array) for name, link in links.items() for path, param in link.namedparams()]


@pytest.mark.parametrize("case", SYNTHESIS)
def test_an_update_of_what_makes_images(case):
    """Also of penalties, with their second derivatives."""
    expected = synthesised(case, chainer.get_device("@numpy"))
    for (name, array), (_, found) in zip(expected, synthesised(case, choose_device(0)), strict=True):
        assert np.allclose(found, array, rtol=1e-3, atol=1e-5), name
