"""Which engine runs, what the check on the first image does, and tiles through an exported graph."""
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.inference import engine_choice, graph_engines, tiling
from medi2i.common.inference.engine_choice import CheckedEngine, choose
from medi2i.common.inference.engines import ChainerEngine, IdentityEngine
from medi2i.common.inference.receptive import reach
from medi2i.common.networks.from_options import decoder_spec, encoder_spec
from medi2i.common.networks.sizes import size_multiple
from medi2i.common.options import PairedOptions, kinds

CPU = chainer.get_device("@numpy")


def links(**options):
    options = PairedOptions(gen_chs=[4, 8], gen_nblock=1, **options)
    np.random.seed(1)
    specs = encoder_spec(options, 1), decoder_spec(options, 1)
    return specs[0].build(), specs[1].build(), options


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
    assert set(kinds.ENGINES) == set(engine_choice.NAMES)
    assert kinds.PRECISIONS == graph_engines.PRECISIONS


@pytest.mark.parametrize("name", graph_engines.ENGINES)
def test_every_engine_is_chainers_equal(name, caplog):
    needs(name)
    engine = picked(name)
    x = np.concatenate([image(22, 36), image(22, 36, 3)])
    y = engine.run(x)
    assert engine.name == name and y.dtype == np.float32
    np.testing.assert_allclose(y, engine.plain.run(x), atol=1e-5)
    np.testing.assert_array_equal(engine.run(x[1:]), y[1:])
    assert f"{name} differs from Chainer on the first image by at most" in caplog.text and "HU" in caplog.text
    assert len(caplog.records) == 1


def test_auto_takes_what_is_installed(monkeypatch):
    class Stub(IdentityEngine):
        def __init__(self, *arguments):
            self.arguments = arguments

    monkeypatch.setattr(engine_choice, "ENGINES", {"openvino": Stub, "onnxruntime": Stub})
    for there, expected in ((["openvino", "onnxruntime"], CheckedEngine), (["onnxruntime"], CheckedEngine),
                            ([], ChainerEngine)):
        monkeypatch.setattr(engine_choice, "installed", lambda there=there: there)
        assert type(picked("auto")) is expected
    assert type(picked("chainer")) is ChainerEngine


@pytest.mark.parametrize("name, precision, message", [
    ("openvino", "fp32", "--engine openvino: it is not installed; pip install openvino"),
    ("auto", "bf16", "--precision bf16: it needs OpenVINO"),
    ("chainer", "bf16", "--precision bf16: not with Chainer"),
])
def test_what_is_not_there_is_said(monkeypatch, name, precision, message):
    monkeypatch.setattr(engine_choice, "installed", lambda: [])
    with pytest.raises(UserError, match=message):
        picked(name, precision)


def test_onnxruntime_has_no_bf16():
    needs("onnxruntime")
    with pytest.raises(UserError, match="--precision bf16: ONNX Runtime computes in fp32"):
        picked("onnxruntime", "bf16")


class Off(IdentityEngine):
    name = "off"

    def __init__(self, error):
        self.error = error

    def run(self, x, frame=None):
        return x + np.float32(self.error)


@pytest.mark.parametrize("error, tolerance, chosen", [
    (5e-5, (1e-4, 1e-4), "off"), (1e-3, (1e-4, 1), "identity"), (1e-3, (1, 1e-4), "identity"),
    (np.nan, (1e-4, 1e-4), "identity"), (1e-2, None, "off")])
def test_the_check_decides(error, tolerance, chosen, caplog):
    engine = CheckedEngine(Off(error), IdentityEngine(), tolerance, 750, "HU")
    y = engine.run(np.zeros((2, 1, 3, 4), np.float32))
    assert engine.name == chosen
    assert ("too much, so Chainer runs" in caplog.text) == (chosen == "identity")
    np.testing.assert_array_equal(y, np.full((2, 1, 3, 4), np.float32(error) if chosen == "off" else 0))
    if not np.isnan(error):
        np.testing.assert_allclose(engine.deviation, 750 * error, rtol=1e-5)
    assert caplog.records[0].levelno == (logging.INFO if chosen == "off" else logging.WARNING)


@pytest.mark.parametrize("up", ["resize", "unpool"])
def test_tiles_equal_the_whole_image(up):
    needs("onnxruntime")
    encoder, decoder, options = links(gen_up=up)
    engine = choose(encoder, decoder, CPU, "onnxruntime", "fp32", 1, "")
    seen, multiple = reach(encoder.spec, decoder.spec), size_multiple(options)
    x = image(90, 38)
    whole = tiling.run_whole(engine.run, x, multiple)
    tiled = tiling.run_tiled(engine.run, x, tiling.smallest_tile(seen.radius, multiple, 8), seen.radius, multiple, 8)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


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
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          env={**os.environ, "HOME": str(tmp_path)})
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []
