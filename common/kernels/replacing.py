"""Methods of Chainer's classes, replaced and put back.

A replacement is a triple: class, name of a method (or attribute), and function original -> what takes its place.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from medi2i.common.compat import Array
from medi2i.common.kernels.cpu.onednn import OnednnError

Replacement: TypeAlias = tuple[type, str, Callable[[Any], Any]]


def forward_by(compute: Callable[..., Array | None]) -> Callable[[Callable], Callable]:
    """A replacement for a function node's ``forward`` with one output.

    compute: (node, *inputs) -> the output; None, or an OnednnError, where the original is to compute it.
    """

    def replacement(original: Callable) -> Callable:
        @functools.wraps(original)
        def forward(self: Any, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
            try:
                y = compute(self, *inputs)
            except OnednnError:
                y = None
            return original(self, inputs) if y is None else (y,)

        return forward

    return replacement


class Replaced:
    """What is replaced at the moment."""

    def __init__(self) -> None:
        self._originals: list[tuple[type, str, Any]] = []

    def replace(self, replacements: Iterable[Replacement]) -> None:
        """Put all in place, after what was replaced before has been put back."""
        self.put_back()
        for owner, name, make in replacements:
            original = vars(owner)[name]
            setattr(owner, name, make(original))
            self._originals.append((owner, name, original))

    def put_back(self) -> None:
        """The originals again, everywhere."""
        while self._originals:
            owner, name, original = self._originals.pop()
            setattr(owner, name, original)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """What is replaced now is so again after the block, whatever happens in it."""
        before = [(owner, name, original, vars(owner)[name]) for owner, name, original in self._originals]
        try:
            yield
        finally:
            self.put_back()
            for owner, name, original, replacement in before:
                setattr(owner, name, replacement)
                self._originals.append((owner, name, original))
