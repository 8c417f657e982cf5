"""Quick CPU code behind Chainer's own functions: ``enable()`` puts it there, ``disable()`` takes it away.

Chainer's function nodes stay what they are, with their backward and double backward; only what their ``forward``
computes with float32 NumPy arrays is replaced. What a replacement does not take goes to Chainer's code as before.
"""

import contextlib
from collections.abc import Iterator

from medi2i.common.kernels.cpu import onednn
from medi2i.common.kernels.cpu.replacements import replacements
from medi2i.common.kernels.replacing import Replaced

ENGINES = ("auto", "onednn", "numpy", "chainer")

_replaced = Replaced()


def enable(engine: str = "auto") -> str:
    """Use the quick code. Doing so twice is the same as once.

    Args:
        engine: "onednn" or "auto": oneDNN where its wheel is installed, else NumPy in bands of rows; "numpy": that
            anyway; "chainer": Chainer's own code.

    Returns: what is in use now, for the log: "oneDNN 3.2.0", "NumPy" or "Chainer". Raises ValueError for
    another ``engine``, and OnednnError where "onednn" is asked for and is not there.
    """
    if engine not in ENGINES:
        raise ValueError(f"CPU engine {engine!r} is unknown; it can be {', '.join(ENGINES)}")
    disable()
    if engine == "chainer":
        return "Chainer"
    dnnl = None if engine == "numpy" else onednn.loaded() if engine == "onednn" else onednn.library()
    _replaced.replace(replacements(with_onednn=dnnl is not None))
    return "NumPy" if dnnl is None else "oneDNN " + ".".join(map(str, dnnl.version))


def disable() -> None:
    """Chainer's own code again, everywhere."""
    _replaced.put_back()


@contextlib.contextmanager
def using(engine: str) -> Iterator[str]:
    """``enable(engine)`` for a block, and what was before afterwards; for tests and benchmarks."""
    with _replaced.kept():
        yield enable(engine)
