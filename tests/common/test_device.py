"""Which GPUs there are, with every answer that CuPy gives."""
import sys
import types

import pytest

from medi2i.common import device
from medi2i.common.errors import UserError
from medi2i.common.kernels import loss_nodes, normalisation


class CUDARuntimeError(RuntimeError):
    pass


def cupy_that(available, count=0):
    """A stand-in for CuPy; ``available`` is a function."""
    runtime = types.SimpleNamespace(CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: count)
    return types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=available, runtime=runtime))


def no_driver():
    raise CUDARuntimeError("cudaErrorInsufficientDriver")


@pytest.mark.parametrize("cupy, why", [
    (None, "CuPy cannot be imported"),
    (cupy_that(lambda: False), "there is no GPU that CUDA can use"),
    (cupy_that(no_driver), "cudaErrorInsufficientDriver"),
], ids=["no CuPy", "CuPy 14", "CuPy 13"])
def test_without_a_gpu_the_cpu_is_taken(monkeypatch, cupy, why):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert device.gpu_count()[0] == 0 and why in device.gpu_count()[1]
    assert device.choose_device(None).name == "@numpy"
    with pytest.raises(UserError, match="--gpu 0: "):
        device.choose_device(0)


def test_gpus_are_counted(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy_that(lambda: True, 2))
    assert device.gpu_count() == (2, "")
    with pytest.raises(UserError, match="there are 2 GPUs, numbered from 0"):
        device.choose_device(2)


def test_kernels_can_be_switched_off():
    kernels = normalisation.Engines.gpu, loss_nodes.Engines.gpu
    try:
        device.use_gpu_engine("chainer")
        assert normalisation.Engines.gpu is loss_nodes.Engines.gpu is None
    finally:
        device.use_gpu_engine("auto")
    assert (normalisation.Engines.gpu, loss_nodes.Engines.gpu) == kernels and None not in kernels
