"""CT and MR images translated by networks: trained, used and measured, from Python and by the command ``medi2i``.

What is here is loaded when it is first asked for, so that ``medi2i --help`` waits for neither Chainer nor NumPy.
"""

from importlib import import_module

_INTERFACE = "Translator cyclegan_options evaluate load pix2pix_options train".split()
_PLACES = {
    "__version__": ("medi2i.common", "VERSION"),
    "Series": ("medi2i.series", "Series"),
    "UserError": ("medi2i.common.errors", "UserError"),
    "read_series": ("medi2i.series", "read_series"),
    **{name: ("medi2i.interface", name) for name in _INTERFACE},
    "denoise": ("medi2i.tools.denoise", "denoise"),
}
"""Public name -> where it is defined."""


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
