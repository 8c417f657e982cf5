"""Corner-aligned upsampling of a tile as if the whole image were there.

``resize`` maps row o of 2H to row o·(H-1)/(2H-1) of H: by its place in the image, not among its neighbours. A tile run
on its own would be stretched by up to half a pixel of that level. While ``framed_upsampling`` lasts, the blocks of kind
``resize`` compute the rows of the tile by their place in the whole image.
"""
import contextlib

from medi2i.common.compat import chainer
from medi2i.common.networks.blocks import CBR
from medi2i.common.networks.spec import SampleKind


@contextlib.contextmanager
def framed_upsampling(links, shape, frame):
    """``links``: encoder and decoder; ``shape``: (N, C, H, W) of the tile; ``frame``: its Frame, None for no change."""
    blocks = [] if frame is None else [block for link in links for block in link.links()
                                       if isinstance(block, CBR) and block.sample.kind is SampleKind.RESIZE]
    before = [block.upsample for block in blocks]
    for block in blocks:
        block.upsample = lambda x: double_in_frame(x, shape, frame)
    try:
        yield
    finally:
        for block, upsample in zip(blocks, before, strict=True):
            block.upsample = upsample


def double_in_frame(x, shape, frame):
    """(N, C, h, w) of a tile -> (N, C, 2h, 2w): the part of the doubled whole image that lies there.

    Next to the tile's inner edges, where the neighbour's pixels are missing, the last row or column is repeated.
    """
    xp = chainer.backend.get_array_module(x)
    scale = shape[2] / x.shape[2]
    rows = _weights(xp, x.shape[2], round(frame.top / scale), round(frame.height / scale), x.dtype)
    columns = _weights(xp, x.shape[3], round(frame.left / scale), round(frame.width / scale), x.dtype)
    return chainer.as_variable(_along(xp, _along(xp, x.array, rows, 2), columns, 3))


def _weights(xp, size, offset, whole, dtype):
    place = (xp.arange(2 * size) + 2 * offset) * ((whole - 1) / max(2 * whole - 1, 1)) - offset
    place = place.clip(0, size - 1)
    low = xp.floor(place).astype(int)
    high = xp.minimum(low + 1, size - 1)
    return low, high, (place - low).astype(dtype)


def _along(xp, x, weights, axis):
    low, high, share = weights
    share = share.reshape((-1, 1) if axis == 2 else (1, -1))
    return xp.take(x, low, axis=axis) * (1 - share) + xp.take(x, high, axis=axis) * share
