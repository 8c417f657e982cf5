"""The binding: found, absent, broken; layouts kept apart."""

import os

import numpy as np
import pytest

from medi2i.common import device
from medi2i.common.compat import F, chainer
from medi2i.common.errors import UserError
from medi2i.common.kernels import cpu_engine
from medi2i.common.kernels.cpu import arrays, convolution, onednn

needs_onednn = pytest.mark.skipif(onednn.find() is None, reason="the wheel onednn-cpu-gomp is not installed")


@pytest.fixture
def absent(monkeypatch):
    """As on a machine without the wheel."""
    onednn.library.cache_clear()
    monkeypatch.setattr(onednn.metadata, "files", lambda name: None)
    yield
    onednn.library.cache_clear()


@pytest.fixture(autouse=True)
def as_before():
    was_on = hasattr(chainer.functions.connection.convolution_2d.Convolution2DFunction.forward_cpu, "__wrapped__")
    yield
    if was_on:
        cpu_engine.enable()
    else:
        cpu_engine.disable()


def test_without_the_wheel_numpy_computes(absent, monkeypatch):
    assert cpu_engine.enable("auto") == "NumPy"
    assert not hasattr(F.activation.relu.ReLU.forward_cpu, "__wrapped__")
    monkeypatch.setattr(chainer.utils.conv, "im2col_cpu", None)
    y = F.convolution_2d(np.ones((1, 1, 3, 5), np.float32), np.ones((1, 1, 3, 3), np.float32))
    np.testing.assert_array_equal(y.array, np.full((1, 1, 1, 3), 9))


def test_asking_for_onednn_without_the_wheel_says_what_to_do(absent):
    with pytest.raises(UserError, match="--cpu_engine onednn: oneDNN is not installed: pip install onednn-cpu-gomp"):
        device.use_cpu_engine("onednn")


def test_a_wheel_without_the_package_is_absent(monkeypatch):
    def files(name):
        raise onednn.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(onednn.metadata, "files", files)
    assert onednn.find() is None


def test_a_library_that_does_not_load_is_absent(monkeypatch, tmp_path):
    broken = tmp_path / "libdnnl.so.3"
    broken.write_bytes(b"not a library")
    onednn.library.cache_clear()
    monkeypatch.setattr(onednn, "find", lambda: broken)
    try:
        assert onednn.library() is None
    finally:
        onednn.library.cache_clear()


def test_unknown_engine():
    with pytest.raises(ValueError, match="'fast' is unknown; it can be auto, onednn, numpy, chainer"):
        cpu_engine.enable("fast")


@needs_onednn
def test_enable_and_disable_put_back_what_was_there():
    cpu_engine.disable()
    node = chainer.functions.connection.convolution_2d.Convolution2DFunction
    original = node.forward_cpu
    assert cpu_engine.enable() == cpu_engine.enable() == "oneDNN 3.2.0"
    assert node.forward_cpu.__wrapped__ is original
    cpu_engine.disable()
    assert node.forward_cpu is original


@needs_onednn
def test_what_onednn_refuses_chainer_computes(monkeypatch):
    def refuse(*args):
        raise onednn.OnednnError("no")

    for name in ("forward", "backward_data", "backward_weights"):
        monkeypatch.setattr(convolution, name, refuse)
    x, w = chainer.Variable(np.ones((1, 2, 4, 5), np.float32)), chainer.Variable(np.ones((3, 2, 3, 3), np.float32))
    with cpu_engine.using("onednn"):
        y = F.convolution_2d(x, w, pad=1)
        F.sum(y).backward()
    assert y.array[0, 0, 1, 1] == 18 and x.grad[0, 0, 1, 1] == 27 and w.grad[0, 0, 1, 1] == 20


@needs_onednn
def test_a_status_is_an_error():
    with pytest.raises(onednn.OnednnError, match="dnnl_memory_desc_create_with_tag: status"):
        onednn.library().create("dnnl_memory_desc_create_with_tag", 4, onednn.Dims(1, 1, 1, 1), 99, 1)


@needs_onednn
def test_channels_last_copies_only_what_is_not():
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    y = arrays.channels_last(x)
    assert arrays.channels_last(y) is y and y.strides == (240, 4, 60, 12)
    np.testing.assert_array_equal(y, x)
    part = y[:, 1:]
    np.testing.assert_array_equal(arrays.channels_last(part), part)
    assert arrays.channels_last(part).strides == (160, 4, 40, 8)
    one = np.zeros((1, 1, 4, 5), np.float32)
    assert arrays.channels_last(one) is one


def test_libgomp_gets_its_settings_and_the_environment_is_left_as_it_was(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(onednn, "available_cores", lambda: 3)
    with onednn._settings_of_libgomp():
        assert (os.environ["GOMP_SPINCOUNT"], os.environ["OMP_NUM_THREADS"]) == ("4000", "3")
    assert not {"GOMP_SPINCOUNT", "OMP_NUM_THREADS"} & set(os.environ)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with onednn._settings_of_libgomp():
        assert "GOMP_SPINCOUNT" not in os.environ and os.environ["OMP_NUM_THREADS"] == "7"
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize("before, inside", [("chainer", "numpy"), ("numpy", "chainer"), ("numpy", "numpy")])
def test_using_leaves_what_was_there(before, inside):
    cpu_engine.enable(before)
    node = chainer.functions.connection.convolution_2d.Convolution2DFunction
    there = node.forward_cpu
    with pytest.raises(KeyError), cpu_engine.using(inside) as name:
        assert name.lower() == inside and node.forward_cpu is not there
        raise KeyError
    assert node.forward_cpu is there
    cpu_engine.disable()
    assert not hasattr(node.forward_cpu, "__wrapped__")
