"""Every option once: dataclasses from which the parser, ``--help``, the saved JSON and the networks are made.

A new option is one field in one group (``shared.py`` for both applications, ``paired.py`` for pix2pix, ``unpaired.py``
for CycleGAN, ``conversion.py`` for both convert.py); nothing else names its default, nor lists it.
"""

from medi2i.common.options.machinery import Checked, build_parser, option
from medi2i.common.options.paired import PairedOptions
from medi2i.common.options.reading import load_args, options_from_dict, parse, save_args
from medi2i.common.options.unpaired import UnpairedOptions

__all__ = [
    "Checked",
    "PairedOptions",
    "UnpairedOptions",
    "build_parser",
    "load_args",
    "option",
    "options_from_dict",
    "parse",
    "save_args",
]
