"""What runs a generator: Chainer, a graph engine checked against it, or nothing; and which, ``--engine --precision``.

An engine takes and gives NumPy arrays; which library computes is its own matter. Another one is a class with the
members of ``graph_engines.Engine``, an entry in ``graph_engines.ENGINES`` and its name in ``medi2i.common.choices``.
"""

import logging
import threading
from collections.abc import Callable

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.errors import UserError
from medi2i.common.inference import graph_engines
from medi2i.common.inference.graph_engines import Engine, Examples, installed
from medi2i.common.inference.tiling import Frame, framed_upsampling

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)  # how far the engine differs is told in every conversion

_ONLY_WITH = {"bf16": ("openvino", "OpenVINO"), "int8": ("onnxruntime", "ONNX Runtime")}
# Largest and mean difference in [-1, 1], where a 12-bit CT has steps of 5e-4. Libraries round differently: by some 1e-6
# on average; a network that was hardly trained blows that up to 3e-4 here and there (Chainer's own code does, too).
# A graph that is wrong differs by far more on average.
TOLERANCE = 1e-3, 2e-5
# Of all instances: together they would be no quicker.
_one_at_a_time = threading.RLock()


class ChainerEngine:
    """The encoder and decoder as they were trained, in test mode, without a graph.

    encoder, decoder: links; they are moved to ``device`` (of ``chainer.get_device``). On the CPU, images of a batch run
    one by one: that is no slower, and a result then has the same bytes in whatever company its image came.
    """

    at_once = 1

    def __init__(self, encoder: chainer.Chain, decoder: chainer.Chain, device: chainer.backend.Device) -> None:
        self.encoder, self.decoder, self.device = encoder, decoder, device
        for link in (encoder, decoder):
            link.to_device(device)

    def run(self, x: np.ndarray, frame: Frame | None = None) -> np.ndarray:
        if self.device.xp is np and len(x) > 1:
            return np.concatenate([self.run(x[i : i + 1], frame) for i in range(len(x))])
        with _one_at_a_time, framed_upsampling(x.shape, frame):
            return computed(lambda image: self.decoder(self.encoder(image)), x, self.device)


def computed(
    function: Callable[[Array], chainer.Variable], x: np.ndarray, device: chainer.backend.Device
) -> np.ndarray:
    """``function`` of ``x`` on ``device``, in test mode and without a graph; float32."""
    with (
        chainer.using_config("train", False),
        chainer.using_config("enable_backprop", False),
        chainer.using_device(device),
    ):
        y = function(device.send(np.ascontiguousarray(x, np.float32)))
    return chainer.get_device("@numpy").send(y.array).astype(np.float32, copy=False)


class IdentityEngine:
    """``-m identity``: what goes in comes out. Shows what reading, scaling and writing do on their own."""

    at_once = 1

    def run(self, x: np.ndarray, frame: Frame | None = None) -> np.ndarray:
        return x.copy()


def choose(
    encoder: chainer.Chain,
    decoder: chainer.Chain,
    device: chainer.backend.Device,
    name: str,
    precision: str,
    unit: float,
    unit_name: str,
    examples: Examples | None = None,
    images: int = 1,
    piece: int | None = None,
) -> Engine:
    """The Engine for a generator.

    Args:
        encoder, decoder: links of ``common.networks``. device: of ``chainer.get_device``; a GPU runs Chainer.
        name: "auto" takes OpenVINO, else ONNX Runtime, else Chainer, as installed; or one of them by name.
        precision: "fp32"; "bf16" with OpenVINO on a CPU that has it; "int8" with ONNX Runtime.
        examples: function that gives a list of inputs (1, C, H, W) that are like those to come, for "int8".
        images: how many are to be run, as far as is known.
        piece: as for CheckedEngine.
        unit, unit_name: what 1 of the network's [-1, 1] is, as 750 "HU", for the report of the check.

    Raises UserError for a combination that does not exist here.
    """
    plain = ChainerEngine(encoder, decoder, device)
    on_gpu = device.xp is not np
    if name == "chainer" or on_gpu:
        if name in graph_engines.ENGINES:
            raise UserError(f"--engine {name}: it runs on the CPU; -g -1, or --engine auto")
        if precision != "fp32":
            raise UserError(
                f"--precision {precision}: not {'on the GPU' if on_gpu else 'with Chainer'}; "
                f"--engine {_ONLY_WITH[precision][0]} on the CPU could do it"
            )
        return plain
    candidates = installed()
    if name != "auto":
        if name not in candidates:
            raise UserError(f"--engine {name}: it is not installed; pip install {name}, or --engine auto")
        candidates = [name]
    elif precision in _ONLY_WITH:
        only, package = _ONLY_WITH[precision]
        if only not in candidates:
            raise UserError(f"--precision {precision}: it needs {package}; pip install {only}, or --precision fp32")
        candidates = [only]
    if not candidates:
        return plain
    graph = graph_engines.ENGINES[candidates[0]](encoder, decoder, plain, precision, examples, images)
    return CheckedEngine(graph, plain, TOLERANCE if precision == "fp32" else None, unit, unit_name, piece)


class CheckedEngine:
    """Runs ``quick``, once it agrees with ``plain`` on the first image.

    tolerance: (largest, mean) difference allowed, in [-1, 1]; above it ``plain`` runs everything. None: any, it is only
    told. piece: side of the square in the middle of the image that both convert for this (``plain`` takes a second for
    512 x 512, which a conversion of few images would feel), a size that the network takes. None: the whole image.
    ``chosen``: which of the two runs, None before the first image.
    """

    def __init__(
        self,
        quick: graph_engines.GraphEngine,
        plain: Engine,
        tolerance: tuple[float, float] | None,
        unit: float,
        unit_name: str,
        piece: int | None = None,
    ) -> None:
        self.piece = piece
        self.quick, self.plain, self.tolerance = quick, plain, tolerance
        self.unit, self.unit_name = unit, unit_name
        self.at_once = quick.at_once
        self.chosen: Engine | None = None
        self._lock = threading.Lock()

    def run(self, x: np.ndarray, frame: Frame | None = None) -> np.ndarray:
        """As Engine.run."""
        with self._lock:
            self.chosen = self.chosen or self._check(x[:1], frame)
        return self.chosen.run(x, frame)

    def _check(self, x: np.ndarray, frame: Frame | None) -> Engine:
        if self.piece is not None and self.piece < min(x.shape[2:]):
            rows, columns = (slice((size - self.piece) // 2, (size + self.piece) // 2) for size in x.shape[2:])
            x, frame = np.ascontiguousarray(x[..., rows, columns]), None
        difference = np.abs(self.quick.run(x, frame) - self.plain.run(x, frame))
        largest, mean = float(difference.max()), float(difference.mean())
        told = (
            f"differs from Chainer on the first image by at most {largest * self.unit:.2g} {self.unit_name}, "
            f"{mean * self.unit:.2g} on average"
        )
        # Written so that not-a-number is refused, too.
        if self.tolerance is not None and not (largest <= self.tolerance[0] and mean <= self.tolerance[1]):
            log.warning("%s %s: too much, so Chainer runs", self.quick.name, told)
            return self.plain
        log.info("%s %s", self.quick.name, told)
        return self.quick
