"""The golden cases hold for Chainer's own CPU code and for everything switched on."""

import pytest

from medi2i.common.kernels import cpu_engine as cpu


@pytest.fixture(autouse=True, params=["chainer", "auto"])
def cpu_engine(request):
    """The name of what computes Chainer's functions."""
    with cpu.using(request.param):
        yield request.param
