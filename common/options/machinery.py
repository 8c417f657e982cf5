"""From a dataclass of options to a command line: parser, help and checked values.

What there is to know of an option stands in its field: whether a resumed run may change it, whether it decides what
the network is, which others it stands for. Nothing else lists options by name.
"""

import argparse
import dataclasses
import difflib
import itertools
import logging
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, NoReturn

from medi2i.common import limits
from medi2i.common.errors import UserError
from medi2i.common.options.presets import Preset, listing

log = logging.getLogger(__name__)

BOUNDS: dict[type, tuple[float, float]] = {int: (-(10**9), 10**9), float: (-1e12, 1e12)}
"""Where an option says nothing else. Values come from files of strangers, too: none may hang a program."""
MOST_VALUES = 4096  # of one option, where these are numbers
_SHOWN = 60  # characters of a value in an error


@dataclasses.dataclass(frozen=True)
class BaseAndWidth:
    """``--HU_baseA -1024 --HU_rangeA 1200`` of the released CycleGAN: a lower end and a width instead of two ends.

    One of the two given alone takes the other's released default.
    """

    base: str
    width: str
    base_flag: str
    width_flag: str
    default_base: int
    default_width: int

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        """Add both spellings to an argparse parser, out of sight in its help."""
        parser.add_argument(self.base_flag, "--" + self.base, dest=self.base, help=argparse.SUPPRESS)
        parser.add_argument(self.width_flag, "--" + self.width, dest=self.width, help=argparse.SUPPRESS)

    def fold(self, target: str, values: dict[str, Any]) -> None:
        """Replace both in the dict ``values`` by the option ``target``: [lower, upper]. A width of 0: not set."""
        if self.base not in values and self.width not in values:
            return
        base, width = values.pop(self.base, None), values.pop(self.width, None)
        if values.get(target) is not None:
            raise UserError(f"--{target}: given together with --{self.base}/--{self.width}; one of them is enough")
        try:
            lower = float(self.default_base if base is None else base)
            extent = float(self.default_width if width is None else width)
        except (TypeError, ValueError):
            raise UserError(f"--{self.base}/--{self.width}: {base!r} {width!r} are not numbers") from None
        if extent < 0:
            raise UserError(f"--{self.width}: {width} is negative; it is the width of the range in HU")
        values[target] = [lower, lower + extent] if extent else None
        if target.startswith("clip"):
            values["clips_in_hu"] = True


def option(
    default: Any,
    *flags: str,
    type: type = str,
    nargs: int | str | None = None,
    choices: Sequence[str] | None = None,
    choices_text: str | None = None,
    help: str = "",
    metavar: str | tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    spelled: Callable[[str], str] | None = None,
    most: int | None = None,
    old: BaseAndWidth | None = None,
    network: bool = False,
    same_channels: bool = False,
    changeable: bool = False,
    momentary: bool = False,
    instead_of: tuple[str, ...] = (),
    first: bool = False,
    bare: bool = False,
) -> Any:
    """A dataclass field that is also a command-line option.

    The long option is ``--<field name>``; ``flags`` are further spellings. ``type=bool`` makes a switch
    (``--name`` and ``--no-name``). ``nargs`` as in argparse, values then are lists. ``choices`` and the range
    ``low <= value <= high`` are checked for the command line, for the JSON file and for Python callers alike, and so is
    that a list has ``most`` values at most. A list of texts (folders, names) grows where the option is given again; of
    other options the last one counts.
    ``choices_text`` is what ``--help`` says in place of a long list of choices. ``spelled``: text -> text, the choice
    that is meant by another spelling. ``old``: how the released CycleGAN spelt it.

    network: decides what the network is; a conversion may repeat it, not change it.
    same_channels: the weight of a loss term that compares images of both domains, which must have as many channels.
    changeable: a resumed run stays the same training with another value: where it runs, how far, what it shows.
    momentary: concerns the one command and not the run; it is not saved.
    instead_of: the options in whose place this one counts; a preset's value for it gives way where one is given.
    first: ``--help`` shows it; what is not first is left to ``--help-all``. Where none of a class is, all are shown.
    bare: words of the command line that follow no option are values of this one.
    """
    lowest, highest = BOUNDS.get(type, (None, None))
    metadata = dict(
        flags=flags,
        type=type,
        nargs=nargs,
        choices=choices,
        choices_text=choices_text,
        help=help,
        metavar=metavar,
        low=lowest if low is None else low,
        high=highest if high is None else high,
        spelled=spelled,
        most=most or (MOST_VALUES if type in BOUNDS else None),
        old=old,
        network=network,
        same_channels=same_channels,
        changeable=changeable,
        momentary=momentary,
        instead_of=instead_of,
        first=first,
        bare=bare,
    )
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def redefault(group: Any, name: str, default: Any) -> Any:
    """The option ``name`` of another group with another default: applications differ in these."""
    return dataclasses.field(default=default, metadata=group.__dataclass_fields__[name].metadata)


def derived(
    help: str = "", type: type = str, low: float | None = None, high: float | None = None, nargs: str | None = None
) -> Any:
    """A field that the program fills in and saves; it has no command-line option. Checked like an option."""
    made = option(None, type=type, help=help, low=low, high=high, nargs=nargs)
    return dataclasses.field(default=None, metadata={**made.metadata, "flags": None})


def values_of(choices: type[Enum]) -> tuple[str, ...]:
    """The names that the members of an enumeration have on the command line."""
    return tuple(choice.value for choice in choices)


@dataclasses.dataclass
class Checked:
    """Base of all option groups: values are checked when the object is made. Raises UserError."""

    APPLICATION: ClassVar[str] = ""
    PRESETS: ClassVar[Mapping[str, Preset]] = {}
    RELEASED: ClassVar[tuple[str, ...]] = ()  # the long options of the released code: a beginning of these will do

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, checked(field, getattr(self, field.name)))

    def fill_in(self, **values: Any) -> None:
        """Set what is None."""
        for name, value in values.items():
            if getattr(self, name) is None:
                setattr(self, name, value)


def checked(field: dataclasses.Field, value: Any) -> Any:
    """``value`` with the field's type, or UserError with the option's name and what is allowed."""
    rule = field.metadata
    name = "--" + field.name if rule["flags"] is not None else field.name
    if rule["nargs"] is not None and value is not None:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{name}: {_short(value)} is one value where a list is needed")
        if isinstance(rule["nargs"], int) and len(value) != rule["nargs"]:
            raise UserError(f"{name}: {len(value)} values {_short(list(value))}; it takes {rule['nargs']}")
        if rule["most"] is not None and len(value) > rule["most"]:
            raise UserError(f"{name}: {len(value)} values; it takes {rule['most']} at most")
        return [_checked_one(name, rule, item) for item in value]
    return _checked_one(name, rule, value)


def _checked_one(name: str, rule: Mapping[str, Any], value: Any) -> Any:
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


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_KIND_NAMES = {int: "a whole number", float: "a number", str: "text"}


class Parser(argparse.ArgumentParser):
    """argparse, with errors in this project's one line and numbers like -1e-3 taken as values.

    Old command lines abbreviate: ``abbreviated`` are the options of which a beginning will do, as in argparse.
    ``rules``: what the fields say of the options, in the order of the page of help.
    """

    abbreviated: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
        self.rules: dict[str, Mapping[str, Any]] = {}

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; what is left over is given to the options that take bare words, or refused."""
        values, left = self.parse_known_args(args, namespace)
        for word in left:
            if word.startswith("-"):
                self.error(self._no_option(word.partition("=")[0]))
        for name, rule in self.rules.items():
            if left and rule["bare"] and not hasattr(values, name):
                one = rule["nargs"] is None
                setattr(values, name, left[0] if one else left)
                left = left[1:] if one else []
        if left:
            self.error(f"{left[0]}: nothing is expected here that follows no option")
        return values

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, with abbreviations of old options written out and only the first of several GPUs."""
        args = [self._whole(arg) for arg in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(first_gpu(args), namespace)

    def _whole(self, arg: str) -> str:
        name, equals, value = arg.partition("=")
        if not name.startswith("--") or name == "--" or name in self._option_string_actions:
            return arg
        meant = ["--" + whole for whole in self.abbreviated if ("--" + whole).startswith(name)]
        if len(meant) > 1:
            self.error(f"{name} is short for {' and for '.join(sorted(meant))}; which one is meant?")
        return meant[0] + equals + value if meant else arg

    def _no_option(self, name: str) -> str:
        shown = (action for action in self._actions if action.help != argparse.SUPPRESS)
        known = [text for action in shown for text in action.option_strings if text.startswith("--")]
        close = difflib.get_close_matches("--" + name.lstrip("-"), known, 1)
        return f"{name}: no such option" + (f"; did you mean {close[0]}?" if close else "")

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (see --help)", file=sys.stderr)
        sys.exit(2)


class _FirstOptions(argparse.RawDescriptionHelpFormatter):
    """The page of ``--help``: without what is left to ``--help-all``."""

    def add_argument(self, action: argparse.Action) -> None:
        if getattr(action, "first", True):
            super().add_argument(action)


class _HelpAll(argparse.Action):
    """``--help-all``: what ``--help`` shows, and the options that it leaves out."""

    def __call__(self, parser: argparse.ArgumentParser, *parsed: object) -> None:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.print_help()
        parser.exit()


def first_gpu(args: Sequence[str]) -> list[str]:
    """Arguments with ``-g 0`` for ``-g 0 1``: the released CycleGAN took a list; here a process has one GPU."""
    left = list(args)
    for place in [place for place, arg in enumerate(args) if arg in ("-g", "--gpu")][::-1]:
        numbers = list(itertools.takewhile(str.isdigit, args[place + 1 :]))
        if len(numbers) > 1:
            log.warning(
                "--gpu: %s: one process uses one GPU, %s; several together are --communicator's",
                " ".join(numbers),
                numbers[0],
            )
            del left[place + 2 : place + 1 + len(numbers)]
    return left


def build_parser(cls: type[Checked], about: str | None = None) -> Parser:
    """An argparse parser for the options dataclass ``cls``; options not given are absent from its result.

    about: the docstring of the command; its first line, and those that are command lines, are shown.
    """
    first, *more = (about or "").splitlines() or [""]
    examples = [line.strip() for line in more if line.strip().startswith("python ")]
    parser = Parser(
        description=textwrap.fill(first, 78),
        epilog="\n  ".join(["Examples:", *examples]) if examples else None,
        formatter_class=_FirstOptions,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    bases = [base for base in cls.__mro__ if issubclass(base, Checked) and base is not Checked]
    titles = dict.fromkeys(_title(base) for base in [*bases[1:], cls])
    groups = {title: parser.add_argument_group(title) for title in [*titles, "Help and limits"]}
    fields = [field for field in dataclasses.fields(cls) if field.metadata["flags"] is not None]
    some_first = any(field.metadata["first"] for field in fields)
    for field in sorted(fields, key=lambda field: list(titles).index(_group_title(cls, field.name))):
        action = add_option(groups[_group_title(cls, field.name)], field)
        action.first = field.metadata["first"] or not some_first  # type: ignore[attr-defined]  # of _FirstOptions
        parser.rules[field.name] = field.metadata
    words = [f"[{rule['metavar']}]" for rule in parser.rules.values() if rule["bare"]]
    parser.usage = " ".join(["%(prog)s", *words, "[options]"])
    if cls.PRESETS:
        groups[_group_title(cls, "preset")].add_argument(
            "--list_presets",
            action="version",  # which is to print a text and end
            version=listing(cls.PRESETS),
            help="print all presets, with reasons, and end",
        )
    last = groups["Help and limits"]
    last.add_argument("-h", "--help", action="help", help="show this and end")
    pixels = last.add_argument(
        "--max-pixels",
        "--max_pixels",
        metavar="N",
        help="largest image to read, in pixels; no file "
        f"may unpack to more than {limits.BYTES_PER_PIXEL} bytes for each [{limits.MAX_PIXELS}]",
    )
    parser.abbreviated = cls.RELEASED
    debug = last.add_argument("--debug", action="store_true", help="show the traceback of an error")
    pixels.first = debug.first = not some_first  # type: ignore[attr-defined]  # the same
    later = sum(not getattr(action, "first", True) for action in parser._actions)
    others = f"show {later} more options and end" if some_first else argparse.SUPPRESS
    last.add_argument("--help-all", nargs=0, action=_HelpAll, help=others)
    return parser


def given_values(parser: Parser, argv: Sequence[str] | None, *classes: type[Checked]) -> dict[str, Any]:
    """{option: value} of what a command line says itself, under the names of ``classes``; values are not yet checked.

    What every program has and no run saves is acted on, and left out.
    """
    given = vars(parser.parse_args(argv))
    given.pop("debug", None)
    limits.set_max_pixels(given.pop("max_pixels", None))
    for cls in classes:
        fold(cls, given)
    return given


def _title(group: type) -> str:
    return (group.__doc__ or "").strip().splitlines()[0].rstrip(".")


def _group_title(cls: type, name: str) -> str:
    """The title of the group that defines ``name`` first: a default changed further down does not move an option."""
    return next(_title(base) for base in reversed(cls.__mro__) if name in base.__dict__.get("__annotations__", {}))


def add_option(group: argparse._ActionsContainer, field: dataclasses.Field, hidden: bool = False) -> argparse.Action:
    """Add the option of ``field`` to a parser, or a group of one; ``hidden``: no page of help shows it."""
    rule = field.metadata
    names = [
        *(f for f in rule["flags"] if not f.startswith("--")),
        "--" + field.name,
        *(f for f in rule["flags"] if f.startswith("--")),
    ]
    text = rule["help"].replace("%", "%%")
    if rule["choices"] is not None:
        text += ": " + (rule["choices_text"] or ", ".join(str(c) or "''" for c in rule["choices"]))
    text = argparse.SUPPRESS if hidden else f"{text} [{_shown(field)}]"
    if rule["old"] is not None:
        rule["old"].add_to(group)
    if rule["type"] is bool:
        group.add_argument("--no-" + field.name, dest=field.name, action="store_false", help=argparse.SUPPRESS)
        return group.add_argument(*names, dest=field.name, action="store_true", help=text)
    metavar = rule["metavar"] or {int: "N", float: "X", str: "TEXT"}.get(rule["type"], "VALUE")
    listed = rule["type"] is str and rule["nargs"] in ("+", "*")
    action = "extend" if listed else "store"
    return group.add_argument(*names, dest=field.name, action=action, nargs=rule["nargs"], metavar=metavar, help=text)


def _shown(field: dataclasses.Field) -> str:
    value = default_of(field)
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value == "":
        return "none"
    shown = " ".join(str(v) for v in value) if isinstance(value, list) else str(value)
    return shown.replace("%", "%%")


def default_of(field: dataclasses.Field) -> Any:
    """The default of a dataclass field."""
    return field.default_factory() if callable(field.default_factory) else field.default


def fold(cls: type[Checked], values: dict[str, Any]) -> None:
    """Replace the spellings of the released CycleGAN in ``values`` by the options of ``cls``. Raises UserError."""
    for field in dataclasses.fields(cls):
        if field.metadata["old"] is not None:
            field.metadata["old"].fold(field.name, values)
