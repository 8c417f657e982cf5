"""Conversion from DICOM to DICOM beside the engine alone: what reading, scaling, checking and writing cost."""

import contextlib
import io
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import loader
import measure
import numpy as np
import subjects
from pydicom.uid import ExplicitVRLittleEndian

from medi2i.common.compat import chainer
from medi2i.common.inference.engines import ChainerEngine
from medi2i.common.inference.graph_engines import ENGINES, installed
from medi2i.common.kernels import cpu_engine
from medi2i.pix2pix import convert, train


def run(repeats: int, size: int = 512, slices: int = 40) -> list[dict[str, Any]]:
    """Measure and print: seconds for ``slices`` slices of size², start of the command included. Returns [dict]."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        loader.write_slices(place, size, slices, ExplicitVRLittleEndian)
        options = "-e 1 -cw 64 -ch 64 -db 8 -g -1".split()
        must(train, ["-R", place, "-o", place / "run", *options, "-gc", *subjects.CHANNELS])
        model = next((place / "run").iterdir())
        results = []
        for name in installed():
            candidates: dict[str, Callable[[], None]] = {
                "engine alone": alone(name, size, slices),
                "DICOM to DICOM": partial(_convert, model, place, name),
            }
            rows = measure.summary(measure.alternate(candidates, repeats), "engine alone")
            measure.show(f"{slices} slices of {size}x{size} by {name}", rows, "engine alone")
            results.append({"what": "end to end", "engine": name, "size": size, "slices": slices, "candidates": rows})
    return results


def _convert(model: Path, place: Path, engine: str) -> None:
    out = tempfile.mkdtemp(prefix=engine, dir=place)
    must(convert, [model, "-R", place / "trainA", "-o", out, "--engine", engine, "-g", -1])


def alone(name: str, size: int, slices: int) -> Callable[[], None]:
    """A function that runs the engine ``name`` on ``slices`` images, as many at a time as it is made for."""
    networks, _ = subjects.pix2pix(size, 1)
    engine = ENGINES[name](
        networks.enc_x,
        networks.dec_y,
        ChainerEngine(networks.enc_x, networks.dec_y, chainer.get_device("@numpy")),
        images=slices,
    )
    x = np.stack(subjects.images(1, size, 3))

    def convert_all() -> None:
        with ThreadPoolExecutor(engine.at_once) as pool:
            list(pool.map(engine.run, [x] * slices))

    return convert_all


def must(command: ModuleType, words: list) -> None:
    """Run a command of this project quietly. Raises RuntimeError where it fails, or falls back to another engine."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told), cpu_engine.using("auto"):
        status = command.main([str(word) for word in words])
    if status or "so Chainer runs" in told.getvalue():
        raise RuntimeError(f"{command.__name__}: status {status}\n{told.getvalue()}")
