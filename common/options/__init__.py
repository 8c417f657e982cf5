"""Every option once: dataclasses from which the parser, ``--help``, the saved JSON and the networks are made.

A new option is one field in one group (``shared.py``, ``paired.py``, ``unpaired.py``); nothing else names its default.
"""

from medi2i.common.options.files import load_args, options_from_dict, options_to_dict, save_args
from medi2i.common.options.machinery import build_parser, option, parse
from medi2i.common.options.paired import PairedOptions
from medi2i.common.options.unpaired import UnpairedOptions

__all__ = [
    "PairedOptions",
    "UnpairedOptions",
    "build_parser",
    "load_args",
    "option",
    "options_from_dict",
    "options_to_dict",
    "parse",
    "save_args",
]
