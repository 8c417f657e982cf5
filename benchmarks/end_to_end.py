"""Conversion from DICOM to DICOM beside the engine alone: what reading, scaling, checking and writing cost."""

import contextlib
import io
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def run(repeats, size=512, slices=40):
    """Measure and print: seconds for ``slices`` slices of size², start of the command included. Returns [dict]."""
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        loader.write_slices(place, size, slices, ExplicitVRLittleEndian)
        must(
            train,
            [
                "-R",
                place,
                "-e",
                1,
                "-cw",
                64,
                "-ch",
                64,
                "-gc",
                *subjects.CHANNELS,
                "-db",
                8,
                "-g",
                -1,
                "-o",
                place / "run",
            ],
        )
        model = next((place / "run").iterdir())
        results = []
        for name in installed():
            counter = iter(range(1000))
            candidates = {
                "engine alone": alone(name, size, slices),
                "DICOM to DICOM": lambda name=name, counter=counter: must(
                    convert,
                    [model, "-R", place / "trainA", "-o", place / f"{name}{next(counter)}", "--engine", name, "-g", -1],
                ),
            }
            rows = measure.summary(measure.alternate(candidates, repeats), "engine alone")
            measure.show(f"{slices} slices of {size}x{size} by {name}", rows, "engine alone")
            results.append({"what": "end to end", "engine": name, "size": size, "slices": slices, "candidates": rows})
    return results


def alone(name, size, slices):
    """A function that runs the engine ``name`` on ``slices`` images, as many at a time as it is made for."""
    networks, _ = subjects.pix2pix(size, 1)
    engine = ENGINES[name](
        networks.enc_x,
        networks.dec_y,
        ChainerEngine(networks.enc_x, networks.dec_y, chainer.get_device("@numpy")),
        images=slices,
    )
    x = np.stack(subjects.images(1, size, 3))

    def convert_all():
        with ThreadPoolExecutor(engine.at_once) as pool:
            list(pool.map(engine.run, [x] * slices))

    return convert_all


def must(command, words):
    """Run a command of this project quietly. Raises RuntimeError where it fails, or falls back to another engine."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told), cpu_engine.using("auto"):
        status = command.main([str(word) for word in words])
    if status or "so Chainer runs" in told.getvalue():
        raise RuntimeError(f"{command.__name__}: status {status}\n{told.getvalue()}")
