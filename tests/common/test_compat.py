"""Each patch of compat.py: what it mends works, and does not without it."""

import ast
import importlib.util
import subprocess
import sys
import threading
import types
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from medi2i.common import compat
from medi2i.common.compat import F, L, chainer, chainercv
from medi2i.common.kernels import cpu_engine

ROOT = Path(__file__).resolve().parents[2]


def python(code):
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)


def test_numpy_float_resize_images(monkeypatch):
    x = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    expected = [[0, 0.5, 1, 1.5, 2], [1.5, 2, 2.5, 3, 3.5], [3, 3.5, 4, 4.5, 5]]
    np.testing.assert_allclose(F.resize_images(x, (3, 5)).array[0, 0], expected, atol=1e-6)
    monkeypatch.delattr(np, "float")
    with cpu_engine.using("chainer"), pytest.raises(AttributeError):
        F.resize_images(x, (3, 5))
    compat.restore_numpy_names()
    assert F.resize_images(x, (3, 5)).shape == (1, 1, 3, 5)


def test_numpy_sctypes_as_strided_backward(monkeypatch):
    if "sctypes" not in vars(np):
        pytest.fail("restore_numpy_names did not run")
    x = chainer.Variable(np.arange(4, dtype=np.float32))

    def backward():
        x.cleargrad()
        F.sum(F.as_strided(x, (2, 2), (1, 1), 0)).backward()
        return x.grad.tolist()

    assert backward() == [1, 2, 1, 0]
    monkeypatch.delattr(np, "sctypes")
    with pytest.raises(AttributeError):
        backward()
    compat.restore_numpy_names()
    assert backward() == [1, 2, 1, 0]


@pytest.mark.skipif(importlib.util.find_spec("numpy.distutils") is not None, reason="NumPy still has it here")
def test_numpy_distutils():
    without = python("import sys; from medi2i.common import errors\nimport numpy.distutils.system_info")
    assert "ModuleNotFoundError" in without.stderr
    assert python("from medi2i.common import compat").returncode == 0


@pytest.mark.parametrize("module", ["chainer", "chainercv"])
def test_pkg_resources_may_be_absent(module):
    """As with setuptools >= 81. The stand-in is gone after the import."""
    result = python(
        "import sys; sys.modules['pkg_resources'] = None\n"
        f"from medi2i.common.compat import {module}\n"
        f"assert {module}.__version__ == '{metadata.version(module)}'\n"
        "assert sys.modules['pkg_resources'] is None"
    )
    assert result.returncode == 0, result.stderr
    blocked = python(
        "import sys, numpy; sys.modules['pkg_resources'] = None\n"
        "from medi2i.common import compat; import chainer._environment_check as c; import importlib\n"
        "import contextlib\nwith compat.numpy_distutils(): importlib.reload(c)"
    )
    assert "pkg_resources" in blocked.stderr


def test_deconvolution_backward_without_gradient_of_its_input(monkeypatch):
    link = L.Deconvolution2D(2, 3, 4, stride=2, pad=1)
    x = np.ones((1, 2, 3, 5), np.float32)  # a bare array: no gradient is asked for
    link.cleargrads()
    F.sum(link(x)).backward()
    # each weight meets every input pixel whose output place exists: 3 x 5 less what the padding cuts off
    np.testing.assert_array_equal(link.W.grad[0, 0], np.outer([2, 3, 3, 2], [4, 5, 5, 4]))
    function = type(link(x).creator)
    monkeypatch.setattr(function, "_set_cover_all", function._set_cover_all.__wrapped__)
    with pytest.raises(ValueError):
        F.sum(link(x)).backward()


def test_chainercv_works_without_its_extension():
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert chainercv.transforms.resize(image, (6, 8)).shape == (1, 6, 8)
    with pytest.raises(RuntimeError, match="C extension"):
        sys.modules["chainercv.utils.bbox._nms_gpu_post"]._nms_gpu_post()
    without = python("from medi2i.common import compat\nwith compat.pkg_resources():\n    import chainercv")
    assert "_nms_gpu_post" in without.stderr


def test_chainermn_is_there_without_mpi():
    done = python(
        "import sys; sys.modules['mpi4py'] = None\nfrom medi2i.common.compat import chainermn\n"
        "print(chainermn.__version__)"
    )
    assert done.stdout.strip() == chainer.__version__, done.stderr


def test_the_size_of_a_multi_node_iterator():
    from medi2i.common.compat import chainermn  # asked for here: it may not start MPI

    class Master:
        """The other process: a data set of four examples, not shuffled."""

        rank = 1
        sent = [np.array([4.0], np.float32), np.array([-1.0], np.float32)]

        def bcast(self, value, root):
            return self.sent.pop(0)

    module = chainermn.iterators.multi_node_iterator
    assert module._MultiNodeIteratorSlave(Master(), 0).dataset_size == 4
    assert module.int(2.9) == 2
    own = vars(module).pop("int")
    try:
        if tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4):
            with pytest.raises(TypeError):
                module._MultiNodeIteratorSlave(type("Again", (Master,), {"sent": [np.array([4.0])]})(), 0)
    finally:
        module.int = own


class MeanOfTwo:
    """A communicator whose other rank has zeros; as MPI does, it takes a contiguous copy where it gets none."""

    def _multi_node_mean(self, sent, array):
        buffer = np.ascontiguousarray(array)
        buffer *= 0.5


def test_the_mean_of_an_array_that_is_not_contiguous():
    class Mended(MeanOfTwo):
        pass

    compat.mend_multi_node_mean(Mended)
    compat.mend_multi_node_mean(Mended)  # twice is once
    for communicator, expected in ((MeanOfTwo(), [[2, 2], [4, 4]]), (Mended(), [[1, 1], [2, 2]])):
        turned = np.array([[2, 4], [2, 4]], np.float32).T
        communicator._multi_node_mean(None, turned)
        assert turned.tolist() == expected
    plain = np.array([[2, 4]], np.float32)
    Mended()._multi_node_mean(None, plain)
    assert plain.tolist() == [[1, 2]]


@pytest.mark.parametrize("cupy,batched", [(None, True), ("13.6.0", True), ("14.0.1", False)])
def test_gradients_one_by_one_where_cupy_lacks_a_header(monkeypatch, cupy, batched):
    """Set as ChainerMN sets it itself, for its ``set_config`` loses the value for NCCL."""
    from medi2i.common.compat import chainermn

    class Communicator(chainermn.CommunicatorBase):
        def __init__(self):
            super().__init__()
            self._configs = {}
            with self.config_scope():
                self.batched_copy = True

    Communicator.__abstractmethods__ = frozenset()
    base = types.SimpleNamespace(MpiCommunicatorBase=type("Base", (MeanOfTwo,), {}))
    fake = types.SimpleNamespace(
        create_communicator=lambda name: Communicator(), communicators=types.SimpleNamespace(mpi_communicator_base=base)
    )
    monkeypatch.setattr(compat, "chainermn", fake)
    monkeypatch.setitem(sys.modules, "cupy", cupy and types.SimpleNamespace(__version__=cupy))
    made = compat.communicator("pure_nccl")
    assert made.batched_copy is batched and made._configs["batched_copy"] is batched
    assert hasattr(base.MpiCommunicatorBase._multi_node_mean, "__wrapped__")


def test_unknown_versions_are_refused(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "8.0.0")
    with pytest.raises(ImportError, match=r"chainer 8\.0\.0 is installed; medi2i knows chainer 7\.8\.1"):
        compat.check_version("chainer", compat.CHAINER_VERSIONS)

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(ImportError, match=r"chainer is not installed; medi2i needs chainer==7\.8\.1"):
        compat.check_version("chainer", compat.CHAINER_VERSIONS)


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_nothing_else_imports_chainer():
    sources = [
        p
        for folder in (
            "common",
            "datasets",
            "pix2pix",
            "cyclegan",
            "reconstruction",
            "synthesis",
            "tools",
            "benchmarks",
            "tests",
        )
        for p in (ROOT / folder).rglob("*.py")
    ]
    assert ROOT / "common" / "compat.py" in sources
    offenders = [
        str(path.relative_to(ROOT))
        for path in sources
        if path != ROOT / "common" / "compat.py"
        and {name.split(".")[0] for name in imported_modules(path)} & {"chainer", "chainercv", "chainermn"}
    ]
    assert offenders == []


def test_stand_ins_of_two_threads_leave_nothing_behind():
    def stand(entered, leave):
        with compat.stand_in("stand_in_of_a_test"):
            entered.set()
            leave.wait(10)

    events = [(threading.Event(), threading.Event()) for _ in range(2)]
    threads = [threading.Thread(target=stand, args=pair) for pair in events]
    threads[0].start()
    assert events[0][0].wait(10)
    threads[1].start()
    events[1][0].wait(0.3)  # were both let in, the second would take the first one's module for what was there before
    for thread, (_, leave) in zip(threads, events, strict=True):
        leave.set()
        thread.join(10)
    assert "stand_in_of_a_test" not in sys.modules
