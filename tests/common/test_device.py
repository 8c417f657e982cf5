"""Which GPUs there are, with every answer that CuPy gives."""

import os
import sys
import types

import pytest

from medi2i.common import device
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.kernels import nodes


class CUDARuntimeError(RuntimeError):
    pass


def cupy_that(available, count=0):
    """A stand-in for CuPy; ``available`` is a function."""
    runtime = types.SimpleNamespace(CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: count)
    return types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=available, runtime=runtime))


def no_driver():
    raise CUDARuntimeError("cudaErrorInsufficientDriver")


@pytest.mark.parametrize(
    "cupy, why",
    [
        (None, "CuPy cannot be imported"),
        (cupy_that(lambda: False), "there is no GPU that CUDA can use"),
        (cupy_that(no_driver), "cudaErrorInsufficientDriver"),
    ],
    ids=["no CuPy", "CuPy 14", "CuPy 13"],
)
def test_without_a_gpu_the_cpu_is_taken(monkeypatch, cupy, why):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert device.gpu_count()[0] == 0 and why in device.gpu_count()[1]
    assert device.choose_device(None).name == "@numpy"
    with pytest.raises(UserError, match="--gpu 0: "):
        device.choose_device(0)


def test_each_process_of_a_training_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy_that(lambda: True, 4))
    monkeypatch.setattr(chainer.backends.cuda, "available", True)
    monkeypatch.setattr(device.chainer, "get_device", lambda name: name)
    monkeypatch.setattr(device.gpu_engine, "set_precision", lambda tf32: None)
    assert [device.choose_device(None, local=local) for local in range(4)] == [f"@cupy:{n}" for n in range(4)]
    assert device.choose_device(2, local=1) == "@cupy:3"
    assert device.choose_device(-1, local=3) == "@numpy"
    with pytest.raises(UserError, match="process 2 on this machine needs GPU 4 .* there are 4"):
        device.choose_device(2, local=2)


def test_a_gpu_is_none_where_chainer_cannot_use_it(monkeypatch):
    """CuPy 14 without CUDA's libraries: the driver sees the GPU, and Chainer's import of cublas fails."""
    monkeypatch.setitem(sys.modules, "cupy", cupy_that(lambda: True, 1))
    monkeypatch.setattr(chainer.backends.cuda, "available", False)
    monkeypatch.setattr(chainer.backends.cuda, "_resolution_error", ImportError("no libcublas"), raising=False)
    with pytest.raises(UserError, match=r"--gpu 0: CuPy lacks what Chainer needs of it \(no libcublas\); -g -1"):
        device.choose_device(0)


def test_gpus_are_counted(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy_that(lambda: True, 2))
    monkeypatch.setattr(chainer.backends.cuda, "available", True)
    assert device.gpu_count() == (2, "")
    with pytest.raises(UserError, match="there are 2 GPUs, numbered from 0"):
        device.choose_device(2)


def test_kernels_can_be_switched_off():
    kernels = nodes.NORMALISATION.gpu, nodes.LOSSES.gpu
    try:
        device.use_gpu_engine("chainer")
        assert nodes.NORMALISATION.gpu is nodes.LOSSES.gpu is None
    finally:
        device.use_gpu_engine("auto")
    assert (nodes.NORMALISATION.gpu, nodes.LOSSES.gpu) == kernels and None not in kernels


def test_tf32_is_accepted_on_the_cpu_and_said_to_do_nothing(capsys, monkeypatch):
    monkeypatch.delenv("CUPY_TF32", raising=False)
    device.choose_device(-1, tf32=True)
    assert capsys.readouterr().out == "--tf32: no effect on the CPU\n" and "CUPY_TF32" not in os.environ
    device.choose_device(-1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("tf32", [False, True])
def test_precision_is_set_before_a_gpu_is_used(monkeypatch, tf32):
    steps = []
    monkeypatch.setattr(device, "gpu_count", lambda: (1, ""))
    monkeypatch.setattr(device.gpu_engine, "set_precision", lambda tf32: steps.append(("precision", tf32)))
    monkeypatch.setattr(device.chainer, "get_device", lambda name: steps.append(name))
    device.choose_device(None, tf32)
    assert steps == [("precision", tf32), "@cupy:0"]


def test_the_engine_of_convolutions_follows_the_option(monkeypatch):
    calls = []
    monkeypatch.setattr(device.gpu_engine, "enable", lambda tf32: calls.append(tf32) or "some")
    monkeypatch.setattr(device.gpu_engine, "disable", lambda: calls.append("off"))
    try:
        assert device.use_gpu_engine("chainer") == "Chainer" and calls == ["off"]
    finally:
        assert device.use_gpu_engine("auto", tf32=True) == "some" and calls == ["off", True]
