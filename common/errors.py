"""One way to tell a user what is wrong: raise UserError anywhere, and ``run`` turns it into one line and a status."""

import contextlib
import functools
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

# Control characters (C0, DEL, C1) and those that turn the direction of writing. Line breaks, tabs and the carriage
# return of a progress bar are ours.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class UserError(ValueError):
    """Something the user can put right. The text names the file or option, what is wrong and what would be right."""


class Unreadable(UserError):
    """A file that cannot be used. ``reason`` is the text without the file's name."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return Unreadable, (self.path, self.reason)


def printable(text: str) -> str:
    r"""``text`` with characters that a terminal would obey written out (``\x1b``)."""
    return _UNPRINTABLE.sub(lambda found: ascii(found.group())[1:-1], text)


NAMES: dict[str, str] = {}
"""For what messages call a command (``tools/nifti.py``) what the user calls it (``medi2i nifti``); none in a script."""


PLACES: dict[str, str] = {}
"""For a folder of this process with what an archive holds, what the user calls it: the archive."""


def named(text: str) -> str:
    """``text`` with commands (``python tools/nifti.py``, or without python) as the user of this process calls them, and
    ``PLACES``."""
    for command, name in NAMES.items():
        text = re.sub(rf"(?<![\w./-])(python )?{re.escape(command)}(?![\w/])", name, text)
    for folder, place in PLACES.items():
        text = re.sub(rf"{re.escape(folder)}(?![\w-]|\.\w)", place.replace("\\", r"\\"), text)
    return text


class _Printable:
    """A text stream that writes names and header values of files as they look, whoever prints them, and ``NAMES``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(named(text)))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _printable_streams() -> Iterator[None]:
    old = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        stream if stream is None or isinstance(stream, _Printable) else _Printable(stream) for stream in old
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = old


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: locks and unfinished files go before the process does, as with Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def _signals_end_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Terminated where nothing else was arranged for them."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = [(number, signal.signal(number, end)) for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def quiet_while_starting() -> None:
    """Ctrl-C before ``run`` ends a command without a word, where Python would show how far its imports were.

    Other programs that import this package keep what Python does, and so do the processes that load images.
    """
    if (
        _is_command()
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, _leave)


def _is_command() -> bool:
    words, place = sys.orig_argv, Path(__file__).resolve().parents[1]
    if "--multiprocessing-fork" in words:
        return False
    script = Path(sys.argv[0]) if sys.argv else Path()
    if str(script) == "-m":  # the module is being looked for
        return "-m" in words[:-1] and words[words.index("-m") + 1].partition(".")[0] == "medi2i"
    folders = [place / folder for folder in ("api", "pix2pix", "cyclegan", "reconstruction", "synthesis", "tools")]
    named = script.name.partition("-")[0] == "medi2i" or script.parts[-2:] == ("medi2i", "__main__.py")
    return named or script.resolve().parent in folders


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


@contextlib.contextmanager
def as_user_errors() -> Iterator[None]:
    """What ``run`` would print of a UserError or an OSError is raised as a UserError, for who calls from Python."""
    try:
        yield
    except OSError as error:
        raise UserError(named(one_line(error))) from error
    except UserError as error:
        if (text := named(str(error))) == str(error):
            raise
        raise UserError(text) from error


def show_messages() -> None:
    """Warnings and errors that modules log, as lines on stderr, for whatever the command is."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        logging.addLevelName(level, logging.getLevelName(level).lower())


@_printable_streams()
def run(command: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Call ``command(argv)`` and return the status of the process: 0, or 1 after one line on stderr.

    With ``--debug`` among the arguments (or MEDI2I_DEBUG=1) the traceback is shown instead.
    Only what a user can cause is caught: UserError, and what the operating system says of files. What is printed holds
    no characters that a terminal would obey (``printable``), from whatever file they come.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    show_messages()
    if hasattr(sys.stdout, "reconfigure"):  # names of files hold any bytes, and not every terminal has every letter
        sys.stdout.reconfigure(errors="backslashreplace")
    debug = "--debug" in words or os.environ.get("MEDI2I_DEBUG") == "1"
    try:
        if signal.getsignal(signal.SIGINT) is _leave:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with _signals_end_in_order():
            status = command(words) or 0
        _flush()
        return status
    except BrokenPipeError:
        _discard_output()
        return 128 + signal.SIGPIPE
    except Terminated as error:
        print(f"ended by {error}", file=sys.stderr)
        return 128 + error.number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (UserError, OSError, MemoryError) as error:
        if debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1


def as_main(command: Callable[[list[str]], int | None]) -> Callable[..., int]:
    """The ``main(argv)`` of a script: ``run`` of its ``command``; without ``argv`` with what was typed."""
    return functools.partial(run, command)


def _flush() -> None:
    try:
        sys.stdout.flush()  # now, while a full disk behind it can still be told, and the status say so
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise OSError(error.errno, error.strerror, "standard output") from error


def _discard_output() -> None:
    """What is still to be printed goes nowhere: Python tries once more at its end, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(error: BaseException) -> str:
    """The message of an exception in one line, with the file first where the operating system names one."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}{hint(error)}"
    elif isinstance(error, MemoryError):
        text = f"out of memory ({error}); a smaller --batch_size or crop would help"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


_HINTS: dict[type[OSError], str] = {
    NotADirectoryError: "; a file is where a folder should be, another place would be right",
    FileExistsError: "; a file is where a folder should be, another place would be right",
    IsADirectoryError: "; a folder is where a file should be",
    PermissionError: "; another place, or the right to use this one, is needed",
}


def hint(error: BaseException) -> str:
    """What would be right, where the operating system's own words do not say it; "" elsewhere."""
    return next((text for kind, text in _HINTS.items() if isinstance(error, kind)), "")


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 slice`, `2 slices`; `many` where it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"
