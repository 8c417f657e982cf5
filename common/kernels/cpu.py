"""Quick CPU code behind Chainer's own functions: ``enable()`` puts it there, ``disable()`` takes it away.

Chainer's function nodes stay what they are, with their backward and double backward; only what their ``forward``
computes with float32 NumPy arrays is replaced. What a replacement does not take goes to Chainer's code as before.
"""
import contextlib

from medi2i.common.kernels import onednn
from medi2i.common.kernels.cpu_nodes import replacements

ENGINES = ("auto", "onednn", "chainer")

_originals = []


def enable(engine="auto"):
    """Use the quick code. Doing so twice is the same as once.

    Args:
        engine: "onednn" or "auto": oneDNN where its wheel is installed, plain Chainer elsewhere;
            "chainer": plain Chainer.

    Returns: what is in use now, for the log: "oneDNN 3.2.0" or "Chainer". Raises ValueError for another ``engine``,
    and OnednnError where "onednn" is asked for and is not there.
    """
    if engine not in ENGINES:
        raise ValueError(f"CPU engine {engine!r} is unknown; it can be {', '.join(ENGINES)}")
    disable()
    if engine == "chainer":
        return "Chainer"
    dnnl = onednn.library()
    if dnnl is None:
        if engine == "onednn":
            raise onednn.OnednnError(f"oneDNN is not installed: pip install {onednn.DISTRIBUTION}==2023.2.0 "
                                     "(Linux x86-64)")
        return "Chainer"
    for owner, name, make in replacements():
        original = vars(owner)[name]
        setattr(owner, name, make(original))
        _originals.append((owner, name, original))
    return "oneDNN " + ".".join(map(str, dnnl.version))


def disable():
    """Chainer's own code again, everywhere."""
    while _originals:
        owner, name, original = _originals.pop()
        setattr(owner, name, original)


@contextlib.contextmanager
def using(engine):
    """``enable(engine)`` for a block, and what was before afterwards; for tests and benchmarks."""
    before = bool(_originals)
    yield enable(engine)
    disable()
    if before:
        enable()
