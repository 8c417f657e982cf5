"""``--engine`` and ``--precision``: which library runs the generator, and the check on the first image."""

import logging
import threading

import numpy as np

from medi2i.common.errors import UserError
from medi2i.common.inference.engines import ChainerEngine
from medi2i.common.inference.graph_engines import ENGINES, PRECISIONS, installed

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)  # how far the engine differs is told in every conversion

NAMES = ("auto", "chainer", *ENGINES)
_ONLY_WITH = {"bf16": ("openvino", "OpenVINO"), "int8": ("onnxruntime", "ONNX Runtime")}
# Largest and mean difference in [-1, 1], where a 12-bit CT has steps of 5e-4. Libraries round differently: by some 1e-6
# on average; a network that was hardly trained blows that up to 3e-4 here and there (Chainer's own code does, too).
# A graph that is wrong differs by far more on average.
TOLERANCE = 1e-3, 2e-5


def choose(encoder, decoder, device, name, precision, unit, unit_name, examples=None, images=1, piece=None):
    """The Engine for a generator.

    Args:
        encoder, decoder: links of ``common.networks``. device: of ``chainer.get_device``; a GPU runs Chainer.
        name: "auto" takes OpenVINO, else ONNX Runtime, else Chainer, as installed; or one of them by name.
        precision: "fp32"; "bf16" with OpenVINO on a CPU that has it; "int8" with ONNX Runtime.
        examples: function that gives a list of inputs (1, C, H, W) that are like those to come, for "int8".
        images: how many are to be run, as far as is known.
        piece: as for CheckedEngine, with "fp32"; with the others all of the first image shows how far they deviate.
        unit, unit_name: what 1 of the network's [-1, 1] is, as 750 "HU", for the report of the check.

    Raises UserError for a combination that does not exist here.
    """
    if name not in NAMES or precision not in PRECISIONS:
        raise ValueError(
            f"engine {name!r}, precision {precision!r}: they can be {', '.join(NAMES)} and {', '.join(PRECISIONS)}"
        )
    plain = ChainerEngine(encoder, decoder, device)
    if name == "chainer" or device.xp is not np:
        _refuse(name if name in ENGINES else None, precision, "on the GPU" if device.xp is not np else "with Chainer")
        return plain
    candidates = installed() if name == "auto" else [name]
    if name in ENGINES and name not in installed():
        raise UserError(f"--engine {name}: it is not installed; pip install {name}, or --engine auto")
    if name == "auto" and precision in _ONLY_WITH:
        only, package = _ONLY_WITH[precision]
        if only not in candidates:
            raise UserError(f"--precision {precision}: it needs {package}; pip install {only}, or --precision fp32")
        candidates = [only]
    if not candidates:
        return plain
    graph = ENGINES[candidates[0]](encoder, decoder, plain, precision, examples, images)
    if precision != "fp32":
        return CheckedEngine(graph, plain, None, unit, unit_name)
    return CheckedEngine(graph, plain, TOLERANCE, unit, unit_name, piece)


def _refuse(name, precision, where):
    if name is not None:
        raise UserError(f"--engine {name}: it runs on the CPU; -g -1, or --engine auto")
    if precision != "fp32":
        raise UserError(
            f"--precision {precision}: not {where}; --engine {_ONLY_WITH[precision][0]} on the CPU could do it"
        )


class CheckedEngine:
    """Runs ``quick``, once it agrees with ``plain`` on the first image.

    tolerance: (largest, mean) difference allowed, in [-1, 1]; above it ``plain`` runs everything. None: any, it is only
    told. piece: side of the square in the middle of the image that both convert for this (``plain`` takes a second for
    512 x 512, which a conversion of few images would feel), a size that the network takes. None: the whole image.
    """

    places_tiles = True

    def __init__(self, quick, plain, tolerance, unit, unit_name, piece=None):
        self.piece = piece
        self.quick, self.plain, self.tolerance = quick, plain, tolerance
        self.unit, self.unit_name = unit, unit_name
        self.deviation = None
        self._chosen = None
        self._lock = threading.Lock()

    @property
    def at_once(self):
        """That of the quick engine."""
        return self.quick.at_once

    @property
    def name(self):
        """Of the engine in use."""
        return (self._chosen or self.quick).name

    def run(self, x, frame=None):
        """As Engine.run."""
        if self._chosen is None:
            with self._lock:
                if self._chosen is None:
                    self._check(x[:1], frame)
        return self._chosen.run(x, frame)

    def _check(self, x, frame):
        if self.piece is not None and self.piece < min(x.shape[2:]):
            rows, columns = (slice((size - self.piece) // 2, (size + self.piece) // 2) for size in x.shape[2:])
            x, frame = np.ascontiguousarray(x[..., rows, columns]), None
        found, expected = self.quick.run(x, frame), self.plain.run(x, frame)
        difference = np.abs(found - expected)
        largest, mean = float(difference.max()), float(difference.mean())
        self.deviation = largest * self.unit, mean * self.unit
        told = (
            f"differs from Chainer on the first image by at most {largest * self.unit:.2g} {self.unit_name}, "
            f"{mean * self.unit:.2g} on average"
        )
        # Written so that not-a-number is refused, too.
        if self.tolerance is not None and not (largest <= self.tolerance[0] and mean <= self.tolerance[1]):
            log.warning("%s %s: too much, so Chainer runs", self.quick.name, told)
            self._chosen = self.plain
            return
        log.info("%s %s", self.quick.name, told)
        self._chosen = self.quick
