"""Which device networks run on: ``--gpu``."""

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError, one_line
from medi2i.common.kernels import cpu_engine, gpu_engine, nodes
from medi2i.common.kernels.cpu.onednn import OnednnError
from medi2i.common.kernels.gpu import loss_kernels, normalisation_kernels
from medi2i.common.resources import keep_memory


def choose_device(gpu: int | None = None, tf32: bool = False, local: int = 0) -> chainer.backend.Device:
    """A ``chainer.backend.Device``: GPU number ``gpu``, the CPU for -1, and for None the first GPU if there is one.

    local: number of this process among those of one training on this machine; each takes a GPU of its own, from the
    one that ``gpu`` says.

    tf32: whether a GPU may round the factors of float32 products (``--tf32``); on the CPU it has no effect.

    Raises UserError when a GPU is asked for that is not there.
    """
    count, why = gpu_count()
    if gpu is None:
        gpu = 0 if count else -1
    if gpu < 0:
        if tf32:
            print("--tf32: no effect on the CPU")
        return chainer.get_device("@numpy")
    gpu += local
    if gpu >= count and local:
        raise UserError(
            f"--gpu: process {local} on this machine needs GPU {gpu} (both counted from 0) and there are "
            f"{count}; mpiexec -n should start one process for each GPU"
        )
    if gpu >= count:
        raise UserError(f"--gpu {gpu}: {why or f'there are {count} GPUs, numbered from 0'}; -g -1 uses the CPU")
    gpu_engine.set_precision(tf32)  # before the GPU computes anything
    return chainer.get_device(f"@cupy:{gpu}")


def gpu_count() -> tuple[int, str]:
    """(number of usable GPUs, why there is none or "")."""
    try:
        import cupy
    except ImportError as error:
        return 0, f"CuPy cannot be imported ({error})"
    # chainer.cuda.available is true wherever CuPy can be imported, with or without a GPU.
    try:
        if not cupy.cuda.is_available():
            return 0, "there is no GPU that CUDA can use"
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        # What CuPy 13 answers on a machine without a driver.
        return 0, f"there is no GPU that CUDA can use ({error})"
    # CuPy 14 finds CUDA's libraries when they are first used, which is when Chainer asks for them.
    if not chainer.backends.cuda.available:
        return 0, f"CuPy lacks what Chainer needs of it ({one_line(chainer.backends.cuda._resolution_error)})"
    return count, ""


def use_cpu_engine(name: str) -> str:
    """Make ``--cpu_engine`` ``name`` ("auto", "onednn", "numpy" or "chainer") compute Chainer's functions on the CPU.

    Returns what is in use, for the log. Raises UserError where oneDNN is asked for and is not there.
    """
    keep_memory()
    try:
        return cpu_engine.enable(name)
    except OnednnError as error:
        raise UserError(f"--cpu_engine {name}: {error}; --cpu_engine auto would do without") from None


def use_gpu_engine(name: str, tf32: bool = False) -> str:
    """``--gpu_engine``: this project's kernels for CuPy's arrays ("auto"), or Chainer's own functions ("chainer").

    tf32: see ``choose_device``. Returns what convolutions on a GPU run on.
    """
    ours = name != "chainer"
    nodes.NORMALISATION.gpu = normalisation_kernels if ours else None
    nodes.LOSSES.gpu = loss_kernels if ours else None
    if ours:
        return gpu_engine.enable(tf32)
    gpu_engine.disable()
    return "Chainer"
