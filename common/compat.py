"""The only module that imports chainer and chainercv; everything else imports them from here.

``from medi2i.common.compat import chainer, F, L``

Chainer 7.8.1 (2022) and ChainerCV 0.13.1 predate NumPy 2 and Python 3.12. Each patch below is one function that says
what it mends and for which versions; ``tests/common/test_compat.py`` has a test for each that fails without it.
"""

import contextlib
import functools
import importlib
import sys
import threading
import types
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

CHAINER_VERSIONS = ("7.8.1",)
CHAINERCV_VERSIONS = ("0.13.1",)


def check_version(name: str, known: Sequence[str]) -> None:
    """Refuse a version of ``name`` for which the patches below were never tried. Raises ImportError."""
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        raise ImportError(f"{name} is not installed; medi2i needs {name}=={known[-1]} (see README, Install)") from None
    if found not in known:
        raise ImportError(
            f"{name} {found} is installed; medi2i knows {name} {', '.join(known)}: "
            f"pip install --no-build-isolation {name}=={known[-1]}"
        )


def restore_numpy_names() -> None:
    """NumPy >= 1.24 has no ``float``, NumPy >= 2 no ``sctypes``.

    ``chainer.functions.resize_images`` and ``as_strided`` use them when they run, not only when imported.
    """
    vars(np).setdefault("float", float)
    vars(np).setdefault(
        "sctypes",
        {
            "int": [np.int8, np.int16, np.int32, np.int64],
            "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
            "float": [np.float16, np.float32, np.float64, np.longdouble],
            "complex": [np.complex64, np.complex128, np.clongdouble],
            "others": [bool, object, bytes, str, np.void],
        },
    )


@contextlib.contextmanager
def _entry(mapping: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    """While the block runs, ``mapping`` has ``value`` as ``name``; then what it had."""
    before = {name: mapping[name]} if name in mapping else {}
    mapping[name] = value
    try:
        yield
    finally:
        del mapping[name]
        mapping.update(before)


# One thread at a time: else the second finds the first one's stand-in and puts it back for good.
_STANDING_IN = threading.RLock()


@contextlib.contextmanager
def stand_in(name: str, **content: object) -> Iterator[types.ModuleType]:
    """While the block runs, ``import name`` gives an empty module with ``content``, and nothing is left behind."""
    module = types.ModuleType(name)
    vars(module).update(content)
    with _STANDING_IN, _entry(sys.modules, name, module):
        yield module


@contextlib.contextmanager
def numpy_distutils() -> Iterator[None]:
    """``numpy.distutils`` is gone on Python >= 3.12; Chainer imports it to look at macOS's BLAS.

    It looks ``numpy.distutils.system_info`` up again only on macOS, at import.
    """
    with (
        stand_in("numpy.distutils.system_info", get_info=lambda name: {}) as system_info,
        stand_in("numpy.distutils", system_info=system_info) as parent,
        _entry(vars(np), "distutils", parent),
    ):
        yield


def pkg_resources() -> contextlib.AbstractContextManager[types.ModuleType]:
    """``pkg_resources`` is gone from setuptools >= 81; Chainer and ChainerCV import it.

    Chainer asks it which CuPy is installed, to warn of new ones: the stand-in knows none, because which CuPy fits is
    for this project to say. ChainerCV asks it for its own version.
    """

    def require(*requirements: str) -> None:
        raise LookupError(*requirements)

    def get_distribution(name: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(version=metadata.version(name))

    return stand_in(
        "pkg_resources", DistributionNotFound=LookupError, require=require, get_distribution=get_distribution
    )


def _import_chainer() -> types.ModuleType:
    with warnings.catch_warnings(), numpy_distutils(), pkg_resources():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", SyntaxWarning)
        # It advises to install CuPy again where that has no cuDNN, which CuPy >= 14 never has; training says what
        # convolutions run on.
        warnings.filterwarnings("ignore", "cuDNN is not enabled", UserWarning)
        import chainer
        import chainer.functions
        import chainer.links
        import chainer.training.extensions
    return chainer


def mend_deconvolution_backward(function_class: Any) -> None:
    """``Deconvolution2DFunction.backward`` gives arrays where shapes are due when its input needs no gradient.

    Chainer 7.8.1, NumPy path: the first layer of a decoder fails, and so does WGAN-GP's second order.
    """
    original = function_class._set_cover_all

    @functools.wraps(original)
    def _set_cover_all(self: Any, x_shape: Any, w_shape: Any) -> None:
        original(self, getattr(x_shape, "shape", x_shape), getattr(w_shape, "shape", w_shape))

    function_class._set_cover_all = _set_cover_all


def stub_chainercv_extension() -> None:
    """ChainerCV's one C extension (box suppression on a GPU) does not compile on Python >= 3.11; nothing here uses it.

    Without a stand-in not even ``import chainercv`` works.
    """
    name = "chainercv.utils.bbox._nms_gpu_post"
    module = types.ModuleType(name)

    def _nms_gpu_post(*args: object, **kwargs: object) -> None:
        raise RuntimeError("chainercv was installed without its C extension _nms_gpu_post")

    vars(module).update(_nms_gpu_post=_nms_gpu_post)
    sys.modules.setdefault(name, module)


def mend_multi_node_iterator(module: types.ModuleType) -> None:
    """ChainerMN takes ``int()`` of an array of one element, which NumPy >= 2.4 refuses (and 1.25 began to warn of)."""
    vars(module)["int"] = lambda value: int(value.item() if isinstance(value, np.ndarray) else value)


def mend_multi_node_mean(communicator_class: Any) -> None:
    """ChainerMN loses the mean of an array that is not contiguous: MPI writes it to a copy that nobody looks at.

    Such gradients exist (a transposed product), and the ranks would then part without a word.
    """
    original = communicator_class._multi_node_mean
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def _multi_node_mean(self: Any, sendbuf: Any, recvbuf: Any) -> None:
        if recvbuf.flags.c_contiguous:
            original(self, sendbuf, recvbuf)
            return
        whole = recvbuf.copy(order="C")
        original(self, sendbuf, whole)
        recvbuf[...] = whole

    communicator_class._multi_node_mean = _multi_node_mean


def copy_gradients_one_by_one(communicator: Any) -> None:
    """ChainerMN's kernel that packs all gradients at once needs ``cuda_fp16.h``, which CuPy >= 14 does not bring.

    Its own ``set_config("batched_copy", False)`` switches it on: the value is lost on the way to the base class.
    """
    with communicator.config_scope():
        communicator.batched_copy = False


def communicator(name: str) -> Any:
    """ChainerMN's communicator ``name`` over all processes that mpiexec started; starts MPI.

    Raises ImportError without mpi4py, RuntimeError where mpi4py finds no MPI, or where CuPy or NCCL is missing.
    """
    chainermn = sys.modules[__name__].chainermn
    made = chainermn.create_communicator(name)
    mend_multi_node_mean(chainermn.communicators.mpi_communicator_base.MpiCommunicatorBase)
    cupy = sys.modules.get("cupy")
    if cupy is not None and int(cupy.__version__.split(".")[0]) >= 14:
        copy_gradients_one_by_one(made)
    return made


def __getattr__(name: str) -> types.ModuleType:
    """``from medi2i.common.compat import chainercv`` imports it on first use: most commands never need it.

    So with ``chainermn``, which the import does not make start MPI.

    ``gradient_check`` (for tests) likewise: it comes with ``chainer.testing``, which asks for ``pkg_resources`` again.
    """
    modules = {"chainercv": "chainercv", "chainermn": "chainermn", "gradient_check": "chainer.gradient_check"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "chainercv":
        check_version("chainercv", CHAINERCV_VERSIONS)
        stub_chainercv_extension()
    with warnings.catch_warnings(), pkg_resources():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", SyntaxWarning)
        module = importlib.import_module(modules[name])
    if name == "chainermn":
        mend_multi_node_iterator(importlib.import_module("chainermn.iterators.multi_node_iterator"))
    globals()[name] = module
    return module


check_version("chainer", CHAINER_VERSIONS)
restore_numpy_names()
if TYPE_CHECKING:
    import chainer
else:
    chainer = _import_chainer()
mend_deconvolution_backward(chainer.functions.connection.deconvolution_2d.Deconvolution2DFunction)

F = chainer.functions
L = chainer.links

Array: TypeAlias = np.ndarray  # or CuPy's, which answers to the same names
ArrayOrVariable: TypeAlias = Array | chainer.Variable
