"""Chainer's ``FunctionNode.apply`` without what it does for graphs, where no graph is made.

A gradient is computed by function nodes, too, three for each convolution. Unless it is to be differentiated itself,
nothing of their bookkeeping is ever looked at: for small images that took more time than the arithmetic.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from medi2i.common.compat import ArrayOrVariable, chainer

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


def replacement(original: Callable) -> Callable:
    """What takes the place of ``FunctionNode.apply``; goes to ``original`` for all but NumPy arrays without a graph.

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
