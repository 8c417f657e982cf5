"""What runs a generator. An engine takes and gives NumPy arrays; which library computes is its own matter.

Another engine (ONNX Runtime, OpenVINO) is one class with the same members, and one entry in ``graph_engines.ENGINES``.
"""

import threading
from typing import Protocol

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.inference.tiling import Frame, framed_upsampling


class Engine(Protocol):
    """Runs one generator."""

    name: str
    places_tiles: bool  # whether ``frame`` makes a tile's corner-aligned layers those of the whole image
    at_once: int  # how many threads may, and for speed should, call ``run`` together

    def run(self, x: np.ndarray, frame: Frame | None = None) -> np.ndarray:
        """(N, C, H, W) float32 in [-1, 1] -> (N, C', H, W) float32. ``frame``: where in a larger image ``x`` lies."""


# Of all instances: several may have the same links, which change for tiles, and together they would be no quicker.
_one_at_a_time = threading.RLock()


class ChainerEngine:
    """The encoder and decoder as they were trained, in test mode, without a graph.

    encoder, decoder: links; they are moved to ``device`` (of ``chainer.get_device``). On the CPU, images of a batch run
    one by one: that is no slower, and a result then has the same bytes in whatever company its image came.
    """

    name = "chainer"
    places_tiles = True
    at_once = 1

    def __init__(self, encoder, decoder, device):
        self.encoder, self.decoder, self.device = encoder, decoder, device
        for link in (encoder, decoder):
            link.to_device(device)

    def run(self, x, frame=None):
        if self.device.xp is np and len(x) > 1:
            return np.concatenate([self.run(x[i : i + 1], frame) for i in range(len(x))])
        with (
            _one_at_a_time,
            chainer.using_config("train", False),
            chainer.using_config("enable_backprop", False),
            chainer.using_device(self.device),
            framed_upsampling((self.encoder, self.decoder), x.shape, frame),
        ):
            y = self.decoder(self.encoder(self.device.send(np.ascontiguousarray(x, np.float32))))
        return chainer.get_device("@numpy").send(y.array).astype(np.float32, copy=False)


class IdentityEngine:
    """``-m identity``: what goes in comes out. Shows what reading, scaling and writing do on their own."""

    name = "identity"
    places_tiles = True
    at_once = 1

    def run(self, x, frame=None):
        return x.copy()
