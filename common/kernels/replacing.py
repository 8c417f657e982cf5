"""Methods of Chainer's classes, replaced and put back.

A replacement is a triple: class (or module, or object), name of a method (or attribute), and function original -> what
takes its place.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from medi2i.common.compat import Array, ArrayOrVariable, chainer
from medi2i.common.kernels.cpu.onednn import OnednnError

Replacement: TypeAlias = tuple[Any, str, Callable[[Any], Any]]


def instead(compute: Callable[..., Any]) -> Callable[[Callable], Callable]:
    """A replacement for a method.

    compute: what the method is given -> its result; None, or an OnednnError, where the original is to compute it.
    """

    def replacement(original: Callable) -> Callable:
        @functools.wraps(original)
        def method(*given: Any, **named: Any) -> Any:
            try:
                result = compute(*given, **named)
            except OnednnError:
                result = None
            return original(*given, **named) if result is None else result

        return method

    return replacement


def forward_by(compute: Callable[..., Array | None]) -> Callable[[Callable], Callable]:
    """The same for a function node's ``forward`` with one output. compute: (node, *inputs) -> the output, or None."""

    def forward(node: Any, inputs: tuple[Array, ...]) -> tuple[Array, ...] | None:
        y = compute(node, *inputs)
        return None if y is None else (y,)

    return instead(forward)


class Replaced:
    """What is replaced at the moment."""

    def __init__(self) -> None:
        self._originals: list[tuple[Any, str, Any]] = []

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


Variable = chainer.Variable


def no_graph(node: Any) -> bool:
    """Whether ``node`` is only to compute: no graph is made, and neither debugging nor hooks look at it."""
    config = chainer.config
    return not (
        config.enable_backprop
        or config.debug
        or config.schedule_func is not None
        or node._n_local_function_hooks
        or chainer.get_function_hooks()
    )


def quick_apply(original: Callable) -> Callable:
    """What takes the place of ``FunctionNode.apply``; goes to ``original`` for all but NumPy arrays without a graph.

    A gradient is computed by function nodes, too, three for each convolution. Unless it is to be differentiated itself,
    nothing of their bookkeeping is ever looked at: for small images that took more time than the arithmetic.
    Chainer's checks (``type_check``, ``debug``), hooks and other array libraries also go there.
    """

    @functools.wraps(original)
    def apply(self: Any, inputs: tuple[ArrayOrVariable, ...]) -> tuple[chainer.Variable, ...]:
        if chainer.config.type_check or not no_graph(self):
            return original(self, inputs)
        arrays = []
        for x in inputs:
            if type(x) is not np.ndarray:
                x = _plain(x)
                if x is None:
                    return original(self, inputs)
            arrays.append(x)
        self._input_layouts = (None,) * len(arrays)
        outputs = self.forward(tuple(arrays))
        requires_grad = any([isinstance(x, Variable) and x.requires_grad for x in inputs])
        return tuple([Variable(y, requires_grad=requires_grad) for y in outputs])

    return apply


def _plain(x: ArrayOrVariable) -> np.ndarray | None:
    """The NumPy array of a Variable (or Parameter) in Chainer's standard layout, else None."""
    if not isinstance(x, Variable) or x.layout is not None:
        return None
    array = x.array
    return array if type(array) is np.ndarray else None
