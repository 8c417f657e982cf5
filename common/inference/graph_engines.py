"""Engines that run a generator's exported graph on the CPU: ONNX Runtime, also in 8-bit integers, and OpenVINO.

Both report their use to their makers; they are imported by ``quiet_…`` alone, so that they do not.

In 8 bits the first and the last convolution stay in float32: 8 bits of a range of 3000 HU are steps of 12 HU, which is
the noise that a network may be there to remove. In between, values are features; their ranges are those that a few of
the images to be converted have, and what rounding them does is measured on the first image of every conversion.
"""

import functools
import importlib.util
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from medi2i.common.choices import SampleKind, Sampling
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.inference.slices import Preparation, load_slice
from medi2i.common.inference.tiling import Frame, pad_to_fit
from medi2i.common.networks.receptive import Fitting
from medi2i.common.outputs import naming
from medi2i.common.resources import threads
from medi2i.datasets.catalogue import Catalogue

ENOUGH = 8  # images, for two at a time: the last one may run alone, on half of the threads
EXAMPLES = 8  # images that give features their ranges
LARGE = 1 << 28  # bytes of the features of the widest level, of which a network holds several
OUT_OF_MEMORY = ("failed to allocate", "bad_alloc", "bad alloc", "out of memory", "cannot allocate")

Examples = Callable[[], list[np.ndarray]]


def quiet_openvino() -> ModuleType:
    """The module ``openvino``, kept from reporting its use to Google Analytics.

    It does so unasked, from a forked process, as soon as it is imported, where ``openvino_telemetry`` is installed,
    which it requires. None in ``sys.modules`` makes that import fail, and OpenVINO goes on without (2024.4 - 2026.4).
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is what stops an import
    import openvino

    return openvino


def quiet_onnxruntime() -> ModuleType:
    """The module ``onnxruntime``, kept from reporting models and sessions to Microsoft.

    Official builds from 1.29 on do so unasked, and keep an identifier in the user's cache folder
    (https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md). The variable counts where it is set before
    the module is imported for the first time; the function is for Windows, where older builds write to a trace.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


class Engine(Protocol):
    """Runs one generator."""

    @property
    def at_once(self) -> int:
        """How many threads may, and for speed should, call ``run`` together."""

    def run(self, x: np.ndarray, frame: Frame | None = None) -> np.ndarray:
        """(N, C, H, W) float32 in [-1, 1] -> (N, C', H, W) float32. ``frame``: where in a larger image ``x`` lies."""


class GraphEngine:
    """What both have in common. Images of a batch run one by one, as in ChainerEngine and for the same reason.

    A graph maps its corner-aligned upsampling to the image it is given, so a tile with its place in a larger image
    (``frame``) goes to ``chainer_engine`` where the generator has such layers.

    images: of the conversion. Several are run two at a time, each on half of the threads: those wait less for each
    other, and less for the ones that read and write meanwhile. Shards and resumed conversions decide by all images, so
    that their results are the same.
    """

    name: str  # as on the command line

    def __init__(self, encoder: chainer.Chain, decoder: chainer.Chain, chainer_engine: Engine, images: int) -> None:
        self.chainer_engine = chainer_engine
        self.at_once = 2 if images >= ENOUGH and threads() > 1 else 1
        samplings = [v for link in (encoder, decoder) for v in vars(link.spec).values() if isinstance(v, Sampling)]
        self._aligned = any(sampling.kind is SampleKind.RESIZE for sampling in samplings)

    def run(self, x: np.ndarray, frame: Frame | None = None) -> np.ndarray:
        if frame is not None and self._aligned:
            return self.chainer_engine.run(x, frame)
        x = np.ascontiguousarray(x, np.float32)
        try:
            return np.concatenate([self.run_one(x[i : i + 1]) for i in range(len(x))])
        except Exception as error:  # of classes of their own, which tell nothing
            if not isinstance(error, RuntimeError) and not type(error).__module__.startswith("onnxruntime"):
                raise
            text = " ".join(str(error).split())
            if any(words in text.lower() for words in OUT_OF_MEMORY):
                raise MemoryError(f"{self.name}: {text}") from error
            raise UserError(
                f"{self.name} cannot run the network on {x.shape[2]} x {x.shape[3]} pixels ({text[:300]}); "
                "--engine chainer might"
            ) from error

    def run_one(self, x: np.ndarray) -> np.ndarray:
        """(1, C, H, W) -> (1, C', H, W), float32."""
        raise NotImplementedError


class OnnxRuntimeEngine(GraphEngine):
    """ONNX Runtime's CPU provider; with ``precision`` "int8" features have the ranges that ``examples()`` have.

    It keeps what it took, and plans its arrays anew for each size, in one piece beside them: large images have a
    session that does neither, which is a little slower and takes far less memory.
    """

    name = "onnxruntime"

    def __init__(
        self,
        encoder: chainer.Chain,
        decoder: chainer.Chain,
        chainer_engine: Engine,
        precision: str = "fp32",
        examples: Examples | None = None,
        images: int = 1,
    ) -> None:
        super().__init__(encoder, decoder, chainer_engine, images)
        if precision == "bf16":
            raise UserError(
                "--precision bf16: ONNX Runtime computes in fp32 or int8 on this CPU; --engine openvino could do it"
            )
        self._graph = functools.partial(_onnx_graph, encoder, decoder, precision, examples)
        self._pixel = 4 * max(channels / 4**level for level, channels in enumerate(encoder.spec.chs))
        self._lock = threading.Lock()
        self._sessions = {False: self._session(frugal=False)}

    def _session(self, frugal: bool) -> Any:
        onnxruntime = quiet_onnxruntime()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads() // self.at_once
        settings.log_severity_level = 3
        # Reading and writing go on meanwhile: a thread that waits must not hold a core.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.enable_cpu_mem_arena = settings.enable_mem_pattern = not frugal
        return onnxruntime.InferenceSession(self._graph(), settings, providers=["CPUExecutionProvider"])

    def run_one(self, x: np.ndarray) -> np.ndarray:
        frugal = x.shape[2] * x.shape[3] * self._pixel >= LARGE
        with self._lock:
            if frugal not in self._sessions:
                self._sessions[frugal] = self._session(frugal)
        session = self._sessions[frugal]
        return session.run(None, {session.get_inputs()[0].name: x})[0]


def _onnx_graph(
    encoder: chainer.Chain, decoder: chainer.Chain, precision: str, examples: Examples | None, change: bool = False
) -> bytes:
    from medi2i.common.inference.onnx_graph import export  # onnx takes time to import

    content = export(encoder, decoder, change=change)
    if precision == "int8":
        return quantised(content, [] if examples is None else examples())
    return content


class OpenVinoEngine(GraphEngine):
    """OpenVINO's CPU plug-in; ``precision`` "bf16" where the CPU has it.

    bf16 has 8 binary digits: near the ends of a clip of 3000 HU a step is 6 HU. So an image whose change is asked for
    (``residual``) goes in as two such numbers a pixel, and is not in what comes out.
    """

    name = "openvino"

    def __init__(
        self,
        encoder: chainer.Chain,
        decoder: chainer.Chain,
        chainer_engine: Engine,
        precision: str = "fp32",
        examples: Examples | None = None,
        images: int = 1,
    ) -> None:
        super().__init__(encoder, decoder, chainer_engine, images)
        core = _openvino_core()
        if precision == "int8":
            raise UserError("--precision int8: not with OpenVINO; --engine onnxruntime could do it")
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UserError("--precision bf16: this CPU has no bf16 arithmetic; --precision fp32 would do")
        settings = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": threads(),
            "NUM_STREAMS": self.at_once,
            "ENABLE_CPU_PINNING": False,  # threads that read and write are on the same cores
        }
        self._residual = decoder.spec.residual if precision == "bf16" and not encoder.spec.conv.separable else 0.0
        graph = core.read_model(_onnx_graph(encoder, decoder, precision, None, bool(self._residual)))
        self._model = core.compile_model(graph, "CPU", settings)
        self._own = threading.local()

    def run_one(self, x: np.ndarray) -> np.ndarray:
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        if not self._residual:
            return np.array(self._own.request.infer({0: x})[0])
        high = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        change = self._own.request.infer({0: np.concatenate([high, x - high], axis=1)})[0]
        return x + np.float32(self._residual) * change


@functools.cache
def bf16_here() -> bool:
    """Whether OpenVINO is installed and this CPU computes in bf16."""
    if "openvino" not in installed():
        return False
    return "BF16" in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _openvino_core() -> Any:
    """The one Core of this process: with the last one its plug-in is unloaded, perhaps while its threads still run."""
    return quiet_openvino().Core()


ENGINES = {"openvino": OpenVinoEngine, "onnxruntime": OnnxRuntimeEngine}


def installed() -> list[str]:
    """Names of the graph engines that are installed, the quicker first."""
    return [name for name in ENGINES if importlib.util.find_spec(name) is not None]


def examples_of(inputs: Catalogue, preparation: Preparation, stack: int, fit: Fitting) -> list[np.ndarray]:
    """Network inputs (1, C, H, W) of ``EXAMPLES`` evenly spaced images; a stack holds one of them several times.

    fit: the sizes that the network takes. They are the same in every shard. Images that cannot be read are left out;
    raises UserError if none is left.
    """
    sources, told = inputs.sources, None
    found: list[np.ndarray] = []
    for index in sorted({*np.linspace(0, len(sources) - 1, EXAMPLES).round().astype(int).tolist()}):
        try:
            unit = load_slice(sources[index], preparation).unit
        except UserError as error:
            told = error
            continue
        found.append(pad_to_fit(np.concatenate([unit] * stack)[np.newaxis], fit)[0])
    if not found:
        raise UserError(f"--precision int8: none of the images that were tried can be read; {told}")
    return found


def quantised(content: bytes, images: list[np.ndarray]) -> bytes:
    """``content`` of an ONNX file of ``onnx_graph.export`` -> that of the 8-bit graph, by ONNX Runtime's own tools.

    images: list of (1, C, H, W) float32 in [-1, 1]; features get the ranges that these have. Weights have a range for
    each output channel.
    """
    import onnx

    quiet_onnxruntime()
    from onnxruntime import quantization

    graph = onnx.load_model_from_string(content).graph
    inputs = ({graph.input[0].name: image} for image in reversed(images))

    class Images(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(inputs, None)

    names = [node.name for node in graph.node if node.op_type == "Conv"]
    with tempfile.TemporaryDirectory() as place:
        plain, small = Path(place) / "float32.onnx", Path(place) / "int8.onnx"
        with naming(plain):
            plain.write_bytes(content)
        logging.disable(logging.WARNING)  # advice on graphs that were not made here
        try:
            quantization.quantize_static(
                plain,
                small,
                Images(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=[names[0], names[-1]],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
        return small.read_bytes()
