"""Engines that run a generator's exported graph: ONNX Runtime and OpenVINO, both on the CPU."""

import functools
import importlib.util
import threading

import numpy as np

from medi2i.common.errors import UserError
from medi2i.common.inference import quantised
from medi2i.common.inference.onnx_graph import INPUT, export
from medi2i.common.inference.quiet import quiet_onnxruntime, quiet_openvino
from medi2i.common.kernels.cpu.threads import threads
from medi2i.common.networks.spec import SampleKind, Sampling

ENOUGH = 8  # images, for two at a time: the last one may run alone, on half of the threads
PRECISIONS = ("fp32", "bf16", "int8")
OUT_OF_MEMORY = ("failed to allocate", "bad_alloc", "bad alloc", "out of memory", "cannot allocate")


class GraphEngine:
    """What both have in common. Images of a batch run one by one, as in ChainerEngine and for the same reason.

    A graph maps its corner-aligned upsampling to the image it is given, so a tile with its place in a larger image
    (``frame``) goes to ``chainer_engine`` where the generator has such layers.

    images: of the conversion. Several are run two at a time, each on half of the threads: those wait less for each
    other, and less for the ones that read and write meanwhile. Shards and resumed conversions decide by all images, so
    that their results are the same.
    """

    places_tiles = True

    def __init__(self, encoder, decoder, chainer_engine, images):
        self.chainer_engine = chainer_engine
        self.at_once = 2 if images >= ENOUGH and threads() > 1 else 1
        self._aligned = SampleKind.RESIZE in {
            sampling.kind
            for spec in (encoder.spec, decoder.spec)
            for sampling in vars(spec).values()
            if isinstance(sampling, Sampling)
        }

    def run(self, x, frame=None):
        if frame is not None and self._aligned:
            return self.chainer_engine.run(x, frame)
        x = np.ascontiguousarray(x, np.float32)
        return np.concatenate([self._run_one(x[i : i + 1]) for i in range(len(x))])

    def _run_one(self, x):
        try:
            return self.run_one(x)
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

    def run_one(self, x):
        """(1, C, H, W) -> (1, C', H, W), float32."""
        raise NotImplementedError


class OnnxRuntimeEngine(GraphEngine):
    """ONNX Runtime's CPU provider; with ``precision`` "int8" features have the ranges that ``examples()`` have."""

    name = "onnxruntime"

    def __init__(self, encoder, decoder, chainer_engine, precision="fp32", examples=None, images=1):
        super().__init__(encoder, decoder, chainer_engine, images)
        if precision == "bf16":
            raise UserError(
                "--precision bf16: ONNX Runtime computes in fp32 or int8 on this CPU; --engine openvino could do it"
            )
        content = export(encoder, decoder)
        if precision == "int8":
            quantised.require()
            content = quantised.quantised(content, examples())
        onnxruntime = quiet_onnxruntime()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads() // self.at_once
        settings.log_severity_level = 3
        # Reading and writing go on meanwhile: a thread that waits must not hold a core.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])

    def run_one(self, x):
        return self._session.run(None, {INPUT: x})[0]


class OpenVinoEngine(GraphEngine):
    """OpenVINO's CPU plug-in; ``precision`` "bf16" where the CPU has it."""

    name = "openvino"

    def __init__(self, encoder, decoder, chainer_engine, precision="fp32", examples=None, images=1):
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
        }
        self._model = core.compile_model(core.read_model(export(encoder, decoder)), "CPU", settings)
        self._own = threading.local()

    def run_one(self, x):
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        return np.array(self._own.request.infer({0: x})[0])


@functools.cache
def _openvino_core():
    """The one Core of this process: with the last one its plug-in is unloaded, perhaps while its threads still run."""
    return quiet_openvino().Core()


ENGINES = {"openvino": OpenVinoEngine, "onnxruntime": OnnxRuntimeEngine}


def installed():
    """Names of the graph engines that are installed, the quicker first."""
    return [name for name in ENGINES if importlib.util.find_spec(name) is not None]
