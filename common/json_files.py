"""JSON that may come from anybody: read with bounds, and refused in one line where it says what no program here writes.

Python's reader takes numbers that become infinite, NaN, keys given twice, of which it drops one, and depth without end.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from medi2i.common.errors import UserError
from medi2i.common.limits import check_regular, in_words

MOST_BYTES = 1 << 20  # of args, best.json and the like
MOST_DIGITS = 40  # of a whole number


def read_json(path: Path | str, right: str, most: int = MOST_BYTES, what: str = "JSON") -> Any:
    """The value in a JSON file of at most ``most`` bytes, which is ``what``. ``right``: what would be right, in words.

    Raises UserError, and what the operating system says of a file that cannot be read.
    """
    path = Path(path)
    size = check_regular(path)
    if size > most:
        raise UserError(f"{path}: has {in_words(size)}, more than {in_words(most)}; {right}")
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not {what} ({error}); {right}") from None


def parse_json(text: str | bytes, constant: Callable[[str], object] | None = None) -> Any:
    """The value of a JSON text. Raises ValueError for what is none, and for numbers or depth beyond any use.

    constant: of the name of a number that JSON has not (NaN, Infinity) → its value; None refuses them.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(
            text, parse_int=_whole, parse_float=_number, parse_constant=constant or _refuse, object_pairs_hook=_object
        )
    except RecursionError:
        raise ValueError(f"lists or objects in each other, more than {sys.getrecursionlimit()} deep") from None


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:MOST_DIGITS]} is too large")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice[:MOST_DIGITS]!r} is given twice")
    return found
