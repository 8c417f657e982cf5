"""Number formats of networks: fp32, fp16, and mixed16 (fp16 weights with fp32 statistics and fp32 copies to update)."""

import numpy

from medi2i.common.compat import chainer

DTYPES = {"fp32": numpy.float32, "fp16": numpy.float16, "mixed16": chainer.mixed16}


def using_dtype(name: str):
    """Context in which networks are built with the number format ``name`` of ``--dtype``."""
    return chainer.using_config("dtype", DTYPES[name])
