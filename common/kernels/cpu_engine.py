"""Quick CPU code behind Chainer's own functions: ``enable()`` puts it there, ``disable()`` takes it away.

Chainer's function nodes stay what they are, with their backward and double backward; only what their ``forward``
computes with float32 NumPy arrays is replaced. What a replacement does not take goes to Chainer's code as before.
"""
import contextlib

from medi2i.common.kernels.cpu import onednn
from medi2i.common.kernels.cpu.replacements import replacements

ENGINES = ("auto", "onednn", "numpy", "chainer")

_originals = []


def enable(engine="auto"):
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
    dnnl = None if engine == "numpy" else onednn.library()
    if dnnl is None and engine == "onednn":
        raise onednn.OnednnError(f"oneDNN is not installed: pip install {onednn.DISTRIBUTION}==2023.2.0 "
                                 "(Linux x86-64)")
    for owner, name, make in replacements(with_onednn=dnnl is not None):
        original = vars(owner)[name]
        setattr(owner, name, make(original))
        _originals.append((owner, name, original))
    return "NumPy" if dnnl is None else "oneDNN " + ".".join(map(str, dnnl.version))


def disable():
    """Chainer's own code again, everywhere."""
    while _originals:
        owner, name, original = _originals.pop()
        setattr(owner, name, original)


@contextlib.contextmanager
def using(engine):
    """``enable(engine)`` for a block, and what was before afterwards; for tests and benchmarks."""
    before = list(_originals), [vars(owner)[name] for owner, name, _ in _originals]
    try:
        yield enable(engine)
    finally:
        disable()
        _originals.extend(before[0])
        for (owner, name, _), replacement in zip(*before, strict=True):
            setattr(owner, name, replacement)
