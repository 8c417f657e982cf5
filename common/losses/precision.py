"""The number format in which losses are computed."""
import numpy as np

from medi2i.common.compat import F, chainer


def in_float32(*values):
    """Variables of ``values`` in float32 where they are float16; wider ones stay (float64 is for gradient checks)."""
    variables = [chainer.as_variable(value) for value in values]
    cast = [F.cast(v, np.float32) if v.dtype == np.float16 else v for v in variables]
    return cast[0] if len(cast) == 1 else cast
