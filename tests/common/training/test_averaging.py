"""Averaged weights and re-estimated batch statistics: exact values, what they leave alone, exact resume."""

import shutil
import types

import numpy as np
import pytest
from cuda_harness import by_gcc
from PIL import Image

from medi2i.common.compat import L, chainer
from medi2i.common.kernels import steps
from medi2i.common.kernels.steps import PIECE, step_towards
from medi2i.common.networks.network import using_dtype
from medi2i.common.options import PairedOptions, UnpairedOptions
from medi2i.common.training.averaging import Reestimation, WeightAverage, decay_at, has_batch_statistics
from medi2i.common.training.ending import Ending
from medi2i.common.training.optimizers import make_optimizer
from medi2i.common.training.snapshot import Reader, Writer
from medi2i.common.training.validation import inference_mode
from medi2i.cyclegan import net as unpaired_net
from medi2i.cyclegan.train import main as cyclegan
from medi2i.pix2pix import net as paired_net
from medi2i.pix2pix.train import main as pix2pix

CPU = chainer.get_device("@numpy")


def options_of(cls, **given):
    options = cls(**{"gen_chs": [4, 6], "gen_nblock": 1, "dis_chs": [4, 6], **given})
    options.ch = options.out_ch = 1
    return options


def paired(**given):
    np.random.seed(0)
    return paired_net.build(options_of(PairedOptions, **given))


def unpaired(**given):
    np.random.seed(0)
    return unpaired_net.build(options_of(UnpairedOptions, **given))


@pytest.mark.parametrize("shape", [(3, 5), (PIECE * 2 + 17,), ()])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_step(shape, order):
    random = np.random.default_rng(0)
    average, value = (np.asarray(random.normal(size=shape).astype(np.float32), order=order) for _ in range(2))
    expected = average + np.float32(0.25) * (value - average)
    address = average.ctypes.data
    step_towards(average, value, 0.25)
    np.testing.assert_allclose(average, expected, rtol=1e-6)
    assert average.ctypes.data == address and average.dtype == np.float32
    step_towards(average, value, 1.0)
    np.testing.assert_allclose(average, value, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(by_gcc.compiler() is None, reason="g++ is not installed")
def test_the_kernel_for_gpus_does_the_same():
    random = np.random.default_rng(0)
    average, value = (random.normal(size=(7, 301)).astype(np.float32) for _ in range(2))
    expected = average.copy()
    step_towards(expected, value, 0.125)
    steps._STEP(value, np.float32(0.125), average)
    np.testing.assert_allclose(average, expected, rtol=1e-6, atol=1e-7)


def test_decay_warms_up():
    found = [decay_at(0.9, n) for n in (0, 1, 8, 79, 80, 81, 1000)]
    assert found == pytest.approx([0.1, 2 / 11, 0.5, 80 / 89, 0.9, 0.9, 0.9])


def arrays(link):
    return {path: param.array.copy() for path, param in link.namedparams()}


def test_the_average_follows_the_formula_and_the_weights_stay():
    networks = paired()
    average = WeightAverage(networks, 0.5)
    random, seen = np.random.default_rng(1), []
    for _ in range(12):
        for param in networks.enc_x.params():
            param.array += random.normal(size=param.shape).astype(np.float32)
        seen.append(arrays(networks.enc_x))
        average(None)
    for path, param in average.averaged.enc_x.namedparams():
        expected = seen[0][path].astype(np.float64)
        for count, now in enumerate(seen[1:], 1):
            d = min(0.5, (1 + count) / (10 + count))
            expected = d * expected + (1 - d) * now[path]
        np.testing.assert_allclose(param.array, expected, rtol=1e-4, atol=1e-5)
    after = arrays(networks.enc_x)
    assert all((after[path] == seen[-1][path]).all() for path in after)
    assert average.averaged.dis is networks.dis


def test_the_averaged_network_is_one_of_its_own_with_averaged_statistics():
    networks = paired(gen_norm="batch_aff")
    average = WeightAverage(networks, 0.9)
    norms = [
        (a, b)
        for a, b in zip(networks.dec_y.links(), average.averaged.dec_y.links(), strict=True)
        if isinstance(a, L.BatchNormalization)
    ]
    average(None)
    for a, b in norms:
        a.avg_mean[...] = 1
        assert a is not b
    average(None)
    assert norms and all((b.avg_mean == np.float32(1 - 2 / 11)).all() for _, b in norms)
    x = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
    with inference_mode():
        before = average.averaged.translate(x).array
        for param in networks.enc_x.params():
            param.array[...] = 7
        assert (average.averaged.translate(x).array == before).all()
        assert not np.allclose(networks.translate(x).array, before)


def test_a_shared_encoder_stays_shared_and_is_averaged_once():
    networks = unpaired(single_encoder=True)
    average = WeightAverage(networks, 0.9)
    assert average.averaged.enc_x is average.averaged.enc_y is not networks.enc_x
    average(None)
    for param in networks.enc_x.params():
        param.array += 1
    was = arrays(average.averaged.enc_x)
    average(None)
    for path, param in average.averaged.enc_x.namedparams():
        np.testing.assert_allclose(param.array, was[path] + (1 - 2 / 11), rtol=1e-5, atol=1e-6)


def test_half_precision_weights_have_averages_finer_than_themselves():
    with using_dtype("fp16"):
        networks = paired(dtype="fp16", lambda_dis=0)
    average = WeightAverage(networks, 0.999999)
    optimizers = [make_optimizer("Adam", link, 1e-3, 0) for link in networks.as_dict().values()]
    average(None)
    average.count = 10**9
    shown = next(p for p in average.averaged.enc_x.params() if p.array.ndim == 4)
    raw = dict(networks.enc_x.namedparams())[next(k for k, v in average.averaged.enc_x.namedparams() if v is shown)]
    assert raw.dtype == shown.dtype == np.float16 and optimizers
    start = raw.array.copy()
    raw.array[...] = start + np.float16(100)
    for _ in range(1000):
        average(None)  # each step of 1e-4 is below what float16 can hold
    moved = shown.array.astype(np.float32) - start
    assert 0.08 < np.median(moved) < 0.12
    state, again = {}, WeightAverage(networks, 0.999999)
    average.serialize(Writer(state))
    again.serialize(Reader(state))
    assert again.count == average.count
    average(None), again(None)
    for a, b in zip(average.averaged.enc_x.params(), again.averaged.enc_x.params(), strict=True):
        assert (a.array == b.array).all()


def crops(count=6, seed=0, height=8, width=12):
    return np.random.default_rng(seed).normal(0.3, 0.5, (count, 1, height, width)).astype(np.float32)


@pytest.mark.parametrize("norm", ["batch", "batch_aff", "rbatch"])
def test_statistics_are_exactly_those_of_the_crops_at_each_layer(norm):
    networks = paired(gen_norm=norm, gen_dropout=0.5)
    x = crops()
    seen = []

    class Look(chainer.LinkHook):
        def forward_preprocess(self, args):
            if isinstance(args.link, (L.BatchNormalization, L.BatchRenormalization)):
                seen.append((args.link, chainer.as_array(args.args[0]).astype(np.float64)))

    before = arrays(networks.enc_x)
    Reestimation(networks.translate, lambda: [x], CPU).run(1)
    with inference_mode(), Look():
        networks.translate(x)
    assert len(seen) > 4
    for link, inputs in seen:
        np.testing.assert_allclose(link.avg_mean, inputs.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            link.avg_var,
            inputs.transpose(1, 0, 2, 3).reshape(inputs.shape[1], -1).var(axis=1, ddof=1),
            rtol=1e-4,
            atol=1e-6,
        )
    assert all((before[path] == param.array).all() for path, param in networks.enc_x.namedparams())


def test_test_mode_then_equals_training_mode():
    """On these very crops, but for the unbiased variance."""
    networks = paired(gen_norm="batch_aff")
    x = crops(8, height=32, width=40)
    Reestimation(networks.translate, lambda: [x], CPU).run(1)
    with inference_mode():
        converted = networks.translate(x).array
    with chainer.using_config("train", True), chainer.no_backprop_mode():
        trained = networks.translate(x).array
    np.testing.assert_allclose(converted, trained, atol=2e-2)
    assert np.abs(converted).max() > 0.1


def test_a_shared_encoder_has_the_statistics_of_both_domains():
    networks = unpaired(single_encoder=True, gen_norm="batch_aff")
    x, y = crops(5), crops(5, seed=1) + np.float32(2)
    Reestimation(networks.translate_both, lambda: [x, y], CPU).run(1)
    first = next(part for part in networks.enc_x.links() if isinstance(part, L.BatchNormalization))
    mean = first.avg_mean.copy()
    Reestimation(networks.translate, lambda: [np.concatenate([x, y])], CPU).run(1)
    np.testing.assert_allclose(first.avg_mean, mean, rtol=1e-5, atol=1e-6)
    x_y, y_x = (v.array for v in networks.translate_both(x, y))
    assert x_y.shape == x.shape and y_x.shape == y.shape


def test_once_an_iteration_at_the_end_of_epochs_and_of_the_training():
    runs, ending = [], Ending(None, 9)
    reestimation = Reestimation(lambda x: runs.append(len(x)), lambda: [crops(3)], CPU)
    for iteration, new in ((4, False), (5, True), (8, False), (9, False)):
        updater = types.SimpleNamespace(iteration=iteration, is_new_epoch=new)
        reestimation(types.SimpleNamespace(updater=updater, stop_trigger=ending))
        reestimation.run(iteration) if new else None
    assert runs == [3, 3]


def test_who_has_batch_statistics():
    assert has_batch_statistics([paired(gen_norm="batch").enc_x])
    assert not has_batch_statistics([paired(gen_norm="instance").enc_x, L.Linear(2, 2)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    random = np.random.default_rng(3)
    for folder in ("trainA", "trainB", "testA", "testB"):
        (root / folder).mkdir()
        for number in range(5):
            Image.fromarray(random.integers(0, 256, (20, 24)).astype(np.uint8)).save(root / folder / f"{number}.png")
    return root


SMALL = [
    "-cw",
    "16",
    "-ch",
    "16",
    "-gc",
    "4",
    "6",
    "-gnb",
    "1",
    "-dc",
    "4",
    "6",
    "-gn",
    "batch_aff",
    "-g",
    "-1",
    "--ema",
    "0.8",
    "--bn_reestimate",
    "4",
    "-e",
    "3",
    "--snapshot_interval",
    "4",
    "--snapshot_keep",
    "9",
]
CASES = {
    "pix2pix": (pix2pix, ["--nvis", "0", "-dt", "mixed16"]),
    "cyclegan": (cyclegan, ["--nvis_A", "0", "--nvis_B", "0", "-senc"]),
}


def saved(run):
    found = {}
    for path in sorted(run.glob("*3.npz")):
        with np.load(path, allow_pickle=False) as file:
            found.update({f"{path.name}/{key}": file[key].tobytes() for key in file.files})
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_saves_the_same_averages(name, data, tmp_path, capsys):
    command, more = CASES[name]
    assert command(["-R", str(data), "-o", str(tmp_path / "out"), *SMALL, *more]) == 0
    (run,) = (tmp_path / "out").iterdir()
    whole = saved(run)
    again = tmp_path / "again"
    shutil.copytree(run, again)
    snapshots = sorted((again / "snapshots").iterdir())
    for path in (*snapshots[1:], *again.glob("*3.npz")):
        path.unlink()
    with np.load(snapshots[0], allow_pickle=False) as file:
        assert len([key for key in file.files if "weight_average/" in key]) > 10
    assert command(["--resume", str(again)]) == 0
    assert saved(again) == whole
    assert "bn_reestimate" not in capsys.readouterr().err


def test_what_is_saved_is_the_average_and_training_goes_on_without_it(data, tmp_path, capsys):
    """The same run without --ema trains to other saved weights but the same raw ones: the optimizers agree."""
    runs = []
    for number, ema in enumerate((["--ema", "0.9"], [])):
        out = tmp_path / str(number)
        assert pix2pix(["-R", str(data), "-o", str(out), *SMALL[:-10], "--nvis", "0", "-e", "3", *ema]) == 0
        runs.append(next(out.iterdir()))
    first, second = (saved(run) for run in runs)
    different = {key.split("/")[0] for key in first if first[key] != second[key]}
    assert different == {"enc_x3.npz", "dec_y3.npz"}
    assert pix2pix(["-R", str(data), *SMALL, "-gn", "none", "--nvis", "0", "--check"]) == 0


def test_without_batch_normalisation_there_is_a_warning(data, tmp_path, caplog):
    assert pix2pix(["-R", str(data), "-o", str(tmp_path), *SMALL, "-gn", "none", "--nvis", "0", "-e", "1"]) == 0
    assert "--bn_reestimate: the generator has no batch normalisation (--gen_norm none)" in caplog.text


def test_an_eager_average_is_the_weights():
    networks = paired()
    average = WeightAverage(networks, 0)
    for _ in range(3):
        for param in networks.dec_y.params():
            param.array += 1
        average(None)
    for a, b in zip(networks.dec_y.params(), average.averaged.dec_y.params(), strict=True):
        np.testing.assert_allclose(a.array, b.array, rtol=1e-6)
