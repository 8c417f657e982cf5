"""Which engine runs, what the check on the first image does, and tiles through an exported graph."""

import logging
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from medi2i.common import choices
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.inference import engines, graph_engines, tiling
from medi2i.common.inference.engines import ChainerEngine, CheckedEngine, IdentityEngine, choose
from medi2i.common.inference.inputs import find_inputs
from medi2i.common.inference.slices import Preparation
from medi2i.common.networks.from_options import decoder_spec, encoder_spec, size_multiple
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.networks.receptive import Fitting, generator_reach
from medi2i.common.options import PairedOptions
from medi2i.datasets.scaling import Clip

CPU = chainer.get_device("@numpy")


def links(**options):
    options = PairedOptions(gen_chs=[4, 8], gen_nblock=1, **options)
    np.random.seed(1)
    specs = encoder_spec(options, 1), decoder_spec(options, 1)
    return Encoder(specs[0]), Decoder(specs[1]), options


def picked(name="auto", precision="fp32", **options):
    encoder, decoder, _ = links(**options)
    return choose(encoder, decoder, CPU, name, precision, 750, "HU")


def needs(name):
    """Skip without the library. Not by importing it: OpenVINO is to be imported in one way only."""
    if name not in graph_engines.installed():
        pytest.skip(f"{name} is not installed")


def image(height, width, seed=2):
    return np.random.default_rng(seed).uniform(-1, 1, (1, 1, height, width)).astype(np.float32)


def test_the_names_of_the_options_are_those_of_the_engines():
    assert set(choices.ENGINES) == {"auto", "chainer", *graph_engines.ENGINES}


@pytest.mark.parametrize("name", graph_engines.ENGINES)
def test_every_engine_is_chainers_equal(name, caplog):
    needs(name)
    engine = picked(name)
    x = np.concatenate([image(22, 36), image(22, 36, 3)])
    y = engine.run(x)
    assert engine.chosen is engine.quick and engine.quick.name == name and y.dtype == np.float32
    np.testing.assert_allclose(y, engine.plain.run(x), atol=1e-5)
    np.testing.assert_array_equal(engine.run(x[1:]), y[1:])
    assert f"{name} differs from Chainer on the first image by at most" in caplog.text and "HU" in caplog.text
    assert len(caplog.records) == 1


def test_auto_takes_what_is_installed(monkeypatch):
    class Stub(IdentityEngine):
        def __init__(self, *arguments):
            self.arguments = arguments

    monkeypatch.setattr(graph_engines, "ENGINES", {"openvino": Stub, "onnxruntime": Stub})
    for there, expected in (
        (["openvino", "onnxruntime"], CheckedEngine),
        (["onnxruntime"], CheckedEngine),
        ([], ChainerEngine),
    ):
        monkeypatch.setattr(engines, "installed", lambda there=there: there)
        assert type(picked("auto")) is expected
    assert type(picked("chainer")) is ChainerEngine


@pytest.mark.parametrize(
    "name, precision, message",
    [
        ("openvino", "fp32", "--engine openvino: it is not installed; pip install openvino"),
        ("auto", "bf16", "--precision bf16: it needs OpenVINO"),
        ("chainer", "bf16", "--precision bf16: not with Chainer; --engine openvino on the CPU could do it"),
        ("auto", "int8", "--precision int8: it needs ONNX Runtime; pip install onnxruntime"),
        ("chainer", "int8", "--precision int8: not with Chainer; --engine onnxruntime on the CPU could do it"),
    ],
)
def test_what_is_not_there_is_said(monkeypatch, name, precision, message):
    monkeypatch.setattr(engines, "installed", lambda: [])
    with pytest.raises(UserError, match=message):
        picked(name, precision)


def test_onnxruntime_has_no_bf16():
    needs("onnxruntime")
    with pytest.raises(UserError, match="--precision bf16: ONNX Runtime computes in fp32"):
        picked("onnxruntime", "bf16")


def test_openvino_has_no_int8():
    needs("openvino")
    with pytest.raises(UserError, match="--precision int8: not with OpenVINO; --engine onnxruntime"):
        picked("openvino", "int8")


def test_bf16_keeps_the_digits_of_an_image_that_is_changed_a_little():
    """Near 0.5 a number of 8 binary digits is up to 0.002 off, and what the first layer sees here is half of that."""
    needs("openvino")
    if not graph_engines.bf16_here():
        pytest.skip("this CPU has no bf16")
    encoder, decoder, _ = links(gen_residual=1e-3, gen_norm="none", gen_out_activation="none")
    first = encoder.c0.c1.c
    first.W.array[...] = 256 * np.sign(first.W.array)  # no digit of these gets lost
    first.b.array[...] = -0.5 * first.W.array.sum((1, 2, 3))
    x = 0.5 + 0.001 * image(96, 96)
    plain = ChainerEngine(encoder, decoder, CPU)
    expected, engine = plain.run(x), graph_engines.OpenVinoEngine(encoder, decoder, plain, "bf16")
    inside = np.s_[..., 32:-32, 32:-32]  # zeros around the image are 0.5 away from it
    off = np.abs(engine.run(x) - expected)[inside].max()
    assert 0 < off < 0.03 * np.abs(expected - x)[inside].max()


def test_int8_is_near_and_its_deviation_is_told(caplog):
    needs("onnxruntime")
    encoder, decoder, _ = links(gen_residual=0.1, gen_norm="none", gen_out_activation="none", unet="concat")
    engine = choose(encoder, decoder, CPU, "auto", "int8", 750, "HU", lambda: [image(32, 32, seed) for seed in (3, 4)])
    x = image(24, 40)
    y, expected = engine.run(x), ChainerEngine(encoder, decoder, CPU).run(x)
    assert engine.quick.name == "onnxruntime" and "onnxruntime differs from Chainer on the first image" in caplog.text
    step = 0.1 * np.abs(expected - x).max()  # what the layers say, and so their rounding, is a tenth of what is added
    assert 0 < np.abs(y - expected).max() < step
    assert f"by at most {750 * np.abs(y - expected).max():.2g} HU" in caplog.text


def test_examples_are_spread_over_the_images_and_bad_ones_left_out(tmp_path):
    for number in range(20):
        np.save(tmp_path / f"{number:02d}.npy", np.full((1, 6, 7), number, np.float32))
    (tmp_path / "00.npy").write_bytes(b"nothing")
    inputs = find_inputs([tmp_path])
    found = graph_engines.examples_of(inputs, Preparation(Clip(0, 20), Clip(0, 20), 1), 3, Fitting(4))
    assert [one.shape for one in found] == [(1, 3, 8, 8)] * 7
    values = [round(float(one[0, 1, 3, 3] + 1) * 10) for one in found]
    assert values == sorted(values) and values[0] == 3 and values[-1] == 19
    for path in tmp_path.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="--precision int8: none of the images"):
        graph_engines.examples_of(inputs, Preparation(Clip(0, 20), Clip(0, 20), 1), 1, 4)


class Off(IdentityEngine):
    name = "off"

    def __init__(self, error):
        self.error = error

    def run(self, x, frame=None):
        return x + np.float32(self.error)


@pytest.mark.parametrize(
    "error, tolerance, chosen",
    [
        (5e-5, (1e-4, 1e-4), "off"),
        (1e-3, (1e-4, 1), "identity"),
        (1e-3, (1, 1e-4), "identity"),
        (np.nan, (1e-4, 1e-4), "identity"),
        (1e-2, None, "off"),
    ],
)
def test_the_check_decides(error, tolerance, chosen, caplog):
    engine = CheckedEngine(Off(error), IdentityEngine(), tolerance, 750, "HU")
    y = engine.run(np.zeros((2, 1, 3, 4), np.float32))
    assert engine.chosen is (engine.quick if chosen == "off" else engine.plain)
    assert ("too much, so Chainer runs" in caplog.text) == (chosen == "identity")
    np.testing.assert_array_equal(y, np.full((2, 1, 3, 4), np.float32(error) if chosen == "off" else 0))
    if not np.isnan(error):
        assert f"by at most {750 * error:.2g} HU, {750 * error:.2g} on average" in caplog.text
    assert caplog.records[0].levelno == (logging.INFO if chosen == "off" else logging.WARNING)


@pytest.mark.parametrize("error, chosen", [(0.0, "off"), (1.0, "identity")])
def test_threads_wait_for_the_one_that_checks(error, chosen, caplog):
    checked = []

    class Slow(IdentityEngine):
        def run(self, x, frame=None):
            checked.append(float(x.mean()))
            time.sleep(0.1)
            return super().run(x)

    engine = CheckedEngine(Off(error), Slow(), (1e-4, 1e-4), 750, "HU")
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda i: engine.run(np.full((1, 1, 3, 4), i, np.float32)), range(3)))
    assert engine.chosen is (engine.quick if chosen == "off" else engine.plain) and len(caplog.records) == 1
    assert len(checked) == (1 if chosen == "off" else 1 + 3)
    for i, y in enumerate(results):
        np.testing.assert_array_equal(y, np.full((1, 1, 3, 4), i, np.float32))


@pytest.mark.parametrize(
    "shape, piece, seen",
    [((13, 20), 8, (8, 8)), ((13, 20), None, (13, 20)), ((8, 20), 8, (8, 20)), ((5, 20), 8, (5, 20))],
)
def test_engines_are_compared_on_the_middle(shape, piece, seen):
    shapes = []

    class Watched(IdentityEngine):
        def run(self, x, frame=None):
            shapes.append((x.shape, frame, float(x[0, 0, 0, 0])))
            return x

    x = np.arange(np.prod((2, 1, *shape)), dtype=np.float32).reshape(2, 1, *shape)
    engine = CheckedEngine(Off(0), Watched(), (1e-4, 1e-4), 750, "HU", piece)
    np.testing.assert_array_equal(engine.run(x, "frame"), x)
    cut = seen != shape
    top, left = ((a - b) // 2 for a, b in zip(shape, seen, strict=True))
    assert shapes == [((1, 1, *seen), None if cut else "frame", x[0, 0, top, left])]


def test_nothing_is_converted_unchecked():
    class Broken(IdentityEngine):
        def run(self, x, frame=None):
            raise MemoryError("none left")

    engine = CheckedEngine(Off(0), Broken(), (1e-4, 1e-4), 750, "HU")
    for _ in range(2):
        with pytest.raises(MemoryError):
            engine.run(np.zeros((1, 1, 2, 2), np.float32))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_large_images_have_a_session_of_their_own_and_the_same_result(monkeypatch, precision):
    needs("onnxruntime")
    encoder, decoder, _ = links()
    engine = graph_engines.OnnxRuntimeEngine(encoder, decoder, None, precision, lambda: [image(32, 32)])
    expected = engine.run(image(40, 48))
    monkeypatch.setattr(graph_engines, "LARGE", 4 * 4 * 40 * 48)  # four channels, four bytes each
    assert engine.run(image(40, 48)).tobytes() == expected.tobytes()
    engine.run(image(40, 44))
    assert engine._sessions.keys() == {False, True}


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_two_images_at_a_time_where_there_are_several(name, monkeypatch):
    needs(name)
    encoder, decoder, _ = links()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    one, two = (choose(encoder, decoder, CPU, name, "fp32", 1, "", images=images) for images in (7, 8))
    assert (one.at_once, two.at_once) == (1, 2)
    images = [image(32, 40, seed) for seed in range(6)]
    expected = [one.run(x) for x in images]
    with ThreadPoolExecutor(2) as pool:
        for a, b in zip(expected, pool.map(two.run, images), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert choose(encoder, decoder, CPU, name, "fp32", 1, "", images=8).at_once == 1


@pytest.mark.parametrize("up", ["resize", "unpool"])
def test_tiles_equal_the_whole_image(up):
    needs("onnxruntime")
    encoder, decoder, options = links(gen_up=up)
    engine = choose(encoder, decoder, CPU, "onnxruntime", "fp32", 1, "")
    seen, fit = generator_reach(encoder.spec, decoder.spec), Fitting(size_multiple(options))
    x = image(90, 38)
    whole = tiling.run_whole(engine.run, x, fit)
    tiled = tiling.run_tiled(engine.run, x, tiling.smallest_tile(seen.radius, fit, 8), seen.radius, fit, 8)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_tiles_of_two_threads_keep_their_places():
    """Corner-aligned upsampling takes a tile's place in the image from the thread that it runs in."""
    needs("onnxruntime")
    encoder, decoder, options = links(gen_up="resize")
    engine = choose(encoder, decoder, CPU, "onnxruntime", "fp32", 1, "", images=8)
    seen, fit = generator_reach(encoder.spec, decoder.spec), Fitting(size_multiple(options))
    images = [image(90, 38, seed) for seed in range(6)]

    def tiled(x):
        return tiling.run_tiled(engine.run, x, tiling.smallest_tile(seen.radius, fit, 8), seen.radius, fit, 8)

    expected = [tiled(x) for x in images]
    np.testing.assert_allclose(expected[0], tiling.run_whole(engine.run, images[0], fit), atol=1e-5)
    with ThreadPoolExecutor(3) as pool:
        for a, b in zip(expected, pool.map(tiled, images), strict=True):
            np.testing.assert_array_equal(a, b)


def test_openvino_sends_nothing_home(tmp_path):
    """A process of its own, for the module is imported once; sending it would fork."""
    needs("openvino")
    program = """
import multiprocessing.process, socket, sys
def refuse(*arguments, **options):
    print("sent something", file=sys.stderr)
    raise SystemExit(7)
multiprocessing.process.BaseProcess.start = refuse
socket.socket.connect = refuse
from medi2i.common.inference.graph_engines import quiet_openvino
core = quiet_openvino().Core()
import openvino.frontend
assert sys.modules["openvino_telemetry"] is None
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_sends_nothing_home(tmp_path):
    """Where it means to, it keeps an identifier in the user's cache folder: none is there after a session."""
    needs("onnxruntime")
    program = """
import numpy
from medi2i.common.inference.graph_engines import OnnxRuntimeEngine
from medi2i.common.networks.from_options import decoder_spec, encoder_spec
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.options.paired import PairedOptions
options = PairedOptions(gen_chs=[4, 8], gen_nblock=1)
engine = OnnxRuntimeEngine(Encoder(encoder_spec(options, 1)), Decoder(decoder_spec(options, 1)), None)
assert engine.run(numpy.zeros((1, 1, 16, 16), numpy.float32)).shape == (1, 1, 16, 16)
"""
    left_out = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "GITHUB_ACTIONS", "XDG_CACHE_HOME")
    surroundings = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**surroundings, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_engines_are_imported_in_one_place_only():
    root = Path(graph_engines.__file__).parents[2]
    names = re.compile(r"^ *import (onnxruntime|openvino)\b", re.M)
    found = {
        path.relative_to(root).as_posix()
        for folder in ("common", "datasets", "pix2pix", "cyclegan", "reconstruction", "synthesis", "tools")
        for path in (root / folder).rglob("*.py")
        if names.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"common/inference/graph_engines.py"}
