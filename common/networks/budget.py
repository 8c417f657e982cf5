"""How many parameters a network may have, counted before memory is taken for them.

Each option alone is bounded; together they can still ask for a network that no machine holds.
"""

import math
import threading

import numpy

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError

MOST_PARAMETERS = 2**30
"""Of one network: 4 GiB in float32. Those of the released codes have some 10⁷, AUTOMAP for 128² pixels 2.7·10⁸."""

_one_at_a_time = threading.RLock()


def within_budget(make):
    """``make()``, a network. Raises UserError, before anything large is allocated, where it is too large."""
    with _one_at_a_time:
        counted = _Counted()
        before = chainer.initializers.generate_array
        chainer.initializers.generate_array = counted
        try:
            make()
        finally:
            chainer.initializers.generate_array = before
        return make()


class _Counted:
    """In place of ``chainer.initializers.generate_array``: arrays without elements, and the sum of those wanted."""

    def __init__(self):
        self.parameters = 0

    def __call__(self, initializer, shape, xp, dtype=None, device=None):
        shape = tuple(int(n) for n in numpy.atleast_1d(shape)) if shape != () else ()
        self.parameters += math.prod(shape)
        if self.parameters > MOST_PARAMETERS:
            raise UserError(
                f"--gen_chs, --gen_nblock, --dis_chs …: a network of over {MOST_PARAMETERS} parameters "
                f"({MOST_PARAMETERS >> 28} GiB); fewer or smaller levels, blocks and layers would do"
            )
        dtype = dtype or getattr(initializer, "dtype", None) or chainer.get_dtype()
        return numpy.zeros((0, *shape[1:]) if shape else (), dtype)
