"""From a dataclass of options to a command line: parser, help and checked values."""

import argparse
import dataclasses
import difflib
import itertools
import logging
import re
import sys

from medi2i.common import limits
from medi2i.common.errors import UserError
from medi2i.common.options.old_spellings import RELEASED
from medi2i.common.options.presets import ListPresets, preset_values

log = logging.getLogger(__name__)

BOUNDS = {int: (-(10**9), 10**9), float: (-1e12, 1e12)}
"""Where an option says nothing else. Values come from files of strangers, too: none may hang a program."""
MOST_VALUES = 4096  # of one option, where these are numbers
_SHOWN = 60  # characters of a value in an error


def option(
    default,
    *flags,
    type=str,
    nargs=None,
    choices=None,
    choices_text=None,
    help="",
    metavar=None,
    low=None,
    high=None,
    spelled=None,
    most=None,
):
    """A dataclass field that is also a command-line option.

    The long option is ``--<field name>``; ``flags`` are further spellings. ``type=bool`` makes a switch
    (``--name`` and ``--no-name``). ``nargs`` as in argparse, values then are lists. ``choices`` and the range
    ``low <= value <= high`` are checked for the command line, for the JSON file and for Python callers alike, and so is
    that a list has ``most`` values at most.
    ``choices_text`` is what ``--help`` says in place of a long list of choices. ``spelled``: text -> text, the choice
    that is meant by another spelling.
    """
    low, high = _bounds(type, low, high)
    metadata = dict(
        flags=flags,
        type=type,
        nargs=nargs,
        choices=choices,
        choices_text=choices_text,
        help=help,
        metavar=metavar,
        low=low,
        high=high,
        spelled=spelled,
        most=most,
    )
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def redefault(group, name, default):
    """The option ``name`` of another group with another default: applications differ in these."""
    return dataclasses.field(default=default, metadata=group.__dataclass_fields__[name].metadata)


def _bounds(kind, low, high):
    lowest, highest = BOUNDS.get(kind, (None, None))
    return lowest if low is None else low, highest if high is None else high


def derived(help="", type=str, low=None, high=None):
    """A field that the program fills in and saves; it has no command-line option. Checked like an option."""
    low, high = _bounds(type, low, high)
    return dataclasses.field(
        default=None,
        metadata=dict(flags=None, help=help, type=type, nargs=None, choices=None, low=low, high=high, spelled=None),
    )


class Checked:
    """Base of all option groups: values are checked when the object is made. Raises UserError."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            setattr(self, field.name, checked(field, getattr(self, field.name)))


def checked(field, value):
    """``value`` with the field's type, or UserError with the option's name and what is allowed."""
    rule = field.metadata
    if value is None:
        return value
    name = "--" + field.name if rule["flags"] is not None else field.name
    if rule["nargs"] is not None:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{name}: {_short(value)} is one value where a list is needed")
        if isinstance(rule["nargs"], int) and len(value) != rule["nargs"]:
            raise UserError(f"{name}: {len(value)} values {_short(list(value))}; it takes {rule['nargs']}")
        most = rule["most"] or (MOST_VALUES if rule["type"] in BOUNDS else None)
        if most is not None and len(value) > most:
            raise UserError(f"{name}: {len(value)} values; it takes {most} at most")
        return [_checked_one(name, rule, item) for item in value]
    return _checked_one(name, rule, value)


def _checked_one(name, rule, value):
    if value is None:
        return None
    kind = rule["type"]
    if kind is bool:
        if not isinstance(value, bool):
            raise UserError(f"{name}: {_short(value)} is not true or false")
        return value
    try:
        if isinstance(value, (list, tuple, dict)):  # of which str() would make a text
            raise TypeError
        converted = kind(value)
        if kind is int and converted != float(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name}: {_short(value)} is not {_KIND_NAMES.get(kind, kind.__name__)}") from None
    if rule["spelled"] is not None:
        converted = rule["spelled"](converted)
    if rule["choices"] is not None and converted not in rule["choices"]:
        close = difflib.get_close_matches(str(converted), [str(c) for c in rule["choices"]], 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(
            f"{name}: {_short(converted)} is unknown{hint}; it can be "
            + ", ".join(str(c) or "''" for c in rule["choices"])
        )
    if rule["low"] is not None and not converted >= rule["low"]:
        raise UserError(f"{name}: {_short(converted)} is out of range; it must be at least {rule['low']}")
    if rule["high"] is not None and not converted <= rule["high"]:
        raise UserError(f"{name}: {_short(converted)} is out of range; it must be at most {rule['high']}")
    return converted


def _short(value):
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_KIND_NAMES = {int: "a whole number", float: "a number", str: "text"}


class _Parser(argparse.ArgumentParser):
    """argparse, with errors in this project's one line and numbers like -1e-3 taken as values.

    Old command lines abbreviate: ``abbreviated`` are the options of which a beginning will do, as in argparse.
    """

    abbreviated: tuple = ()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse, with abbreviations of old options written out and only the first of several GPUs."""
        args = [self._whole(arg) for arg in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(first_gpu(args), namespace)

    def _whole(self, arg):
        name, equals, value = arg.partition("=")
        if not name.startswith("--") or name == "--" or name in self._option_string_actions:
            return arg
        meant = ["--" + whole for whole in self.abbreviated if ("--" + whole).startswith(name)]
        if len(meant) > 1:
            self.error(f"{name} is short for {' and for '.join(sorted(meant))}; which one is meant?")
        return meant[0] + equals + value if meant else arg

    def error(self, message):
        print(f"error: {message} (see --help)", file=sys.stderr)
        sys.exit(2)


def first_gpu(args):
    """Arguments with ``-g 0`` for ``-g 0 1``: the released CycleGAN took a list; here a process has one GPU."""
    left = list(args)
    for place, arg in enumerate(args):
        if arg in ("-g", "--gpu"):
            numbers = list(itertools.takewhile(str.isdigit, args[place + 1 :]))
            if len(numbers) > 1:
                log.warning(
                    "--gpu: %s: one process uses one GPU, %s; several together are --communicator's",
                    " ".join(numbers),
                    numbers[0],
                )
                left = [*args[: place + 2], *first_gpu(args[place + 1 + len(numbers) :])]
            break
    return left


def build_parser(cls, prog=None, description=None):
    """An argparse parser for the options dataclass ``cls``; options not given are absent from its result."""
    parser = _Parser(
        prog=prog,
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        usage="%(prog)s [options]",
    )
    bases = [base for base in cls.__mro__ if dataclasses.is_dataclass(base)]
    groups = {_title(base): None for base in [*bases[1:], cls]}
    for title in groups:
        groups[title] = parser.add_argument_group(title)
    for field in dataclasses.fields(cls):
        if field.metadata["flags"] is not None:
            _add_option(groups[_group_title(cls, field.name)], field)
    if hasattr(cls, "PRESETS"):
        groups[_group_title(cls, "preset")].add_argument(
            "--list_presets", action=ListPresets, presets=cls.PRESETS, help="print all presets, with reasons, and end"
        )
    for alias in getattr(cls, "OLD_SPELLINGS", ()):
        alias.add_to(parser)
    parser.add_argument(
        "--max-pixels",
        "--max_pixels",
        metavar="N",
        help="largest image to read, in pixels; no file "
        f"may unpack to more than {limits.BYTES_PER_PIXEL} bytes for each [{limits.MAX_PIXELS}]",
    )
    parser.abbreviated = RELEASED.get(getattr(cls, "APPLICATION", None), ())
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def take_common(given):
    """Take out of the values of a command line, and act on, what every program has and no run saves."""
    given.pop("debug", None)
    limits.set_max_pixels(given.pop("max_pixels", None))


def _title(group):
    return group.__doc__.strip().splitlines()[0].rstrip(".")


def _group_title(cls, name):
    """The title of the group that defines ``name`` first: a default changed further down does not move an option."""
    return next(_title(base) for base in reversed(cls.__mro__) if name in base.__dict__.get("__annotations__", {}))


def _add_option(group, field):
    rule = field.metadata
    names = [
        *(f for f in rule["flags"] if not f.startswith("--")),
        "--" + field.name,
        *(f for f in rule["flags"] if f.startswith("--")),
    ]
    text = rule["help"].replace("%", "%%")
    if rule["type"] is bool:
        group.add_argument(*names, dest=field.name, action="store_true", help=f"{text} [{_shown(field)}]")
        group.add_argument("--no-" + field.name, dest=field.name, action="store_false", help=argparse.SUPPRESS)
        return
    if rule["choices"] is not None:
        text += ": " + (rule["choices_text"] or ", ".join(str(c) or "''" for c in rule["choices"]))
    metavar = rule["metavar"] or {int: "N", float: "X", str: "TEXT"}.get(rule["type"], "VALUE")
    group.add_argument(*names, dest=field.name, nargs=rule["nargs"], metavar=metavar, help=f"{text} [{_shown(field)}]")


def _shown(field):
    value = default_of(field)
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value == "":
        return "none"
    shown = " ".join(str(v) for v in value) if isinstance(value, list) else str(value)
    return shown.replace("%", "%%")


def default_of(field):
    """The default of a dataclass field."""
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def parse(cls, argv, prog=None, description=None):
    """The options of a command line: given there, else in its preset, else in the file of ``-a``, else the default.

    Raises UserError for a value that is not allowed; argparse ends the process with status 2 for an unknown option.
    """
    from medi2i.common.options.files import load_args

    given = given_values(cls, argv, prog, description)
    base = None
    if given.get("argfile"):
        base = load_args(given["argfile"])
        if not isinstance(base, cls):
            raise UserError(
                f"--argfile: {given['argfile']} is of another application; "
                f"{cls.APPLICATION} needs one that {cls.APPLICATION} wrote"
            )
    given = {**preset_values(getattr(cls, "PRESETS", {}), given, base), **given}
    return cls(**given) if base is None else dataclasses.replace(base, **given)


def given_values(cls, argv, prog=None, description=None):
    """{option: value} of what a command line says itself, under the names used here; values are not yet checked."""
    given = vars(build_parser(cls, prog, description).parse_args(argv))
    take_common(given)
    for alias in getattr(cls, "OLD_SPELLINGS", ()):
        alias.fold(given)
    return given
