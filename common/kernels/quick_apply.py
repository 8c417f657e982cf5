"""Chainer's ``FunctionNode.apply`` without what it does for graphs, where no graph is made.

A gradient is computed by function nodes, too, three for each convolution. Unless it is to be differentiated itself,
nothing of their bookkeeping is ever looked at: for small images that took more time than the arithmetic.
"""
import functools

import numpy

from medi2i.common.compat import chainer

Variable = chainer.Variable


def replacement(original):
    """What takes the place of ``FunctionNode.apply``; goes to ``original`` for all but NumPy arrays without a graph.

    Chainer's checks (``type_check``, ``debug``), hooks and other array libraries also go there.
    """
    config = chainer.config

    @functools.wraps(original)
    def apply(self, inputs):
        if config.enable_backprop or config.type_check or config.debug or config.schedule_func is not None or (
                self._n_local_function_hooks or chainer.get_function_hooks()):
            return original(self, inputs)
        arrays = []
        for x in inputs:
            if type(x) is not numpy.ndarray:
                x = _plain(x)
                if x is None:
                    return original(self, inputs)
            arrays.append(x)
        self._input_layouts = (None,) * len(arrays)
        outputs = self.forward(tuple(arrays))
        return tuple([Variable(y, requires_grad=False) for y in outputs])

    return apply


def _plain(x):
    """The NumPy array of a Variable (or Parameter) in Chainer's standard layout, else None."""
    if not isinstance(x, Variable) or x.layout is not None:
        return None
    array = x.array
    return array if type(array) is numpy.ndarray else None
