"""Conversion of one image: plain Chainer, medi2i's engines, PyTorch, and ONNX Runtime on PyTorch's own export."""

import io
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType
from typing import Any

import measure
import numpy as np
import subjects

from medi2i.common.choices import PRECISIONS
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.inference.engines import ChainerEngine
from medi2i.common.inference.graph_engines import ENGINES, installed, quiet_onnxruntime
from medi2i.common.kernels import cpu_engine
from medi2i.common.resources import threads

SIZES = (256, 512)
TWIN_EXPORT = "ONNX Runtime, PyTorch's export"


def candidates(size: int) -> dict[str, Callable[[], np.ndarray]]:
    """dict name -> function that converts one image (1, 1, size, size) and returns the result."""
    networks, _ = subjects.pix2pix(size, 1)
    x = subjects.images(1, size, 3)[0][None]
    plain = ChainerEngine(networks.enc_x, networks.dec_y, chainer.get_device("@numpy"))

    def with_cpu_engine(name: str) -> np.ndarray:
        with cpu_engine.using(name):
            return plain.run(x)

    found: dict[str, Callable[[], np.ndarray]] = {
        "Chainer": partial(with_cpu_engine, "chainer"),
        "medi2i, --engine chainer": partial(with_cpu_engine, "auto"),
    }
    for name in installed():
        for precision in PRECISIONS:
            try:
                engine = ENGINES[name](networks.enc_x, networks.dec_y, plain, precision, lambda: [x])
            except UserError:
                continue
            found[f"medi2i, --engine {name}, {precision}"] = partial(engine.run, x)
    found.update(_torch(networks, x))
    return found


def _torch(networks: subjects.pix2pix_net.Networks, x: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    try:
        import torch
        import twin
    except ImportError:
        return {}
    generator = torch.nn.Sequential(twin.twin(networks.enc_x), twin.twin(networks.dec_y)).eval()

    def run_module(module: torch.nn.Module, image: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return module(image).numpy()

    found: dict[str, Callable[[], np.ndarray]] = {}
    for name, layout in (("PyTorch", torch.contiguous_format), ("PyTorch channels last", torch.channels_last)):
        module = (
            torch.nn.Sequential(twin.twin(networks.enc_x), twin.twin(networks.dec_y)).eval().to(memory_format=layout)
        )
        found[name] = partial(run_module, module, torch.from_numpy(x).contiguous(memory_format=layout))
    session = _session_of_export(torch, generator, x)
    if session is not None:
        found[TWIN_EXPORT] = lambda: session.run(None, {"image": x})[0]
    return found


def _session_of_export(torch: ModuleType, generator: Any, x: np.ndarray) -> Any:
    try:
        onnxruntime = quiet_onnxruntime()
        content = io.BytesIO()
        torch.onnx.export(
            generator,
            (torch.from_numpy(x),),
            content,
            input_names=["image"],
            output_names=["y"],
            opset_version=17,
            dynamo=False,
        )
    except (ImportError, RuntimeError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
        print(f"no export by PyTorch: {error}")
        return None
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads()
    return onnxruntime.InferenceSession(content.getvalue(), settings, providers=["CPUExecutionProvider"])


def run(repeats: int, sizes: Iterable[int] = SIZES) -> list[dict[str, Any]]:
    """Measure and print all sizes; every candidate's result is compared with Chainer's first."""
    results = []
    for size in sizes:
        found = candidates(size)
        expected = found["Chainer"]()
        deviation = {name: float(np.abs(convert() - expected).max()) for name, convert in found.items()}
        seconds = measure.alternate(found, repeats)
        rows = measure.summary(seconds, "Chainer")
        for name, row in rows.items():
            row["largest_deviation"] = deviation[name]
        measure.show(f"Conversion of one image, {size}x{size}", rows, "Chainer")
        result = {"what": "conversion", "size": size, "candidates": rows}
        if TWIN_EXPORT in rows:
            best = min((name for name in rows if "fp32" in name), key=lambda name: rows[name]["median_s"])
            pair = {name: seconds[name] for name in (best, TWIN_EXPORT)}
            ratio = measure.summary(pair, TWIN_EXPORT)[best]["ratio"]
            result["medi2i_to_onnxruntime"] = ratio
            print(f"  {best} takes {ratio:.2f} x the time of {TWIN_EXPORT}")
        results.append(result)
    return results
