"""Write a trained generator as an ONNX file, for ONNX Runtime, OpenVINO and whatever else reads it.

    python tools/export_onnx.py result/20260101_120000 -o generator.onnx

The graph takes images (N, C, H, W) in [-1, 1], any N, H and W that the network divides, and is in test mode. Before it
is written, the checker of the format goes through it, and ONNX Runtime runs it once and is compared with Chainer.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import medi2i  # noqa: F401  # isort: skip  # first: it finds the environment of scripts

import numpy as np
import onnx

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError, as_main
from medi2i.common.inference.engines import TOLERANCE, ChainerEngine
from medi2i.common.inference.graph_engines import quiet_onnxruntime
from medi2i.common.inference.onnx_graph import INPUT, export
from medi2i.common.networks.checkpoint import Generator, load_generator
from medi2i.common.networks.from_options import fitting_of, fixed_size
from medi2i.common.options import Checked, option, parse
from medi2i.common.outputs import whole_file


@dataclass
class ExportOptions(Checked):
    """What to export"""

    model: str = option(
        "result",
        "-m",
        bare=True,
        metavar="RUN",
        help="a run folder (of several the newest), or a file enc_x50.npz (enc_y50.npz for the other direction), "
        "or gen_50.npz",
    )
    out: str = option("generator.onnx", "-o", metavar="FILE", help="the ONNX file")
    argfile: str | None = option(
        None, "-a", metavar="FILE", help="args file of the training; default: beside the weights"
    )
    epoch: str = option("last", "-e", help="last, best or a number, where RUN is a folder")
    force: bool = option(False, type=bool, help="overwrite FILE")


def command(argv: list[str]) -> int:
    """One export. Raises UserError."""
    options = parse(ExportOptions, argv, __doc__)
    out = Path(options.out)
    if out.exists() and not options.force:
        raise UserError(f"--out: {out} exists; --force would overwrite it")
    if not out.parent.is_dir():
        raise UserError(f"--out: {out.parent} is no folder")
    epoch = int(options.epoch) if options.epoch.isdigit() else options.epoch
    generator = load_generator(options.model, options.argfile, epoch=epoch)
    content = export(generator.encoder, generator.decoder, metadata_of(generator))
    largest = check(content, generator)
    with whole_file(out, force=True) as temporary:
        temporary.write_bytes(content)
    print(f"{out}: {len(content) / 1e6:.1f} MB, differs from Chainer by at most {largest:.1e} of [-1, 1]")
    return 0


def metadata_of(generator: Generator) -> dict[str, str]:
    """What the file says of where it comes from: weights, direction, and what -1 and 1 are."""
    trained = generator.options
    fit = fitting_of(trained)
    return {
        "weights": " ".join(file.name for file in generator.files),
        "sha256": generator.sha256,
        "direction": generator.direction,
        "clipA": str(trained.clipA),
        "clipB": str(trained.clipB),
        "size_multiple": str(fit.multiple),
        "size_rest": str(fit.rest),
        "enlarge_first": str(getattr(trained, "scale", 1)),
    }


def check(content: bytes, generator: Generator) -> float:
    """Largest difference between ONNX Runtime and Chainer on an image of noise.

    Raises UserError if it is too large, onnx.checker.ValidationError if the graph is not as the format says.
    """
    onnx.checker.check_model(content, full_check=True)
    session = quiet_onnxruntime().InferenceSession(content, providers=["CPUExecutionProvider"])
    fit = fitting_of(generator.options)
    height, width = fixed_size(generator.options) or (
        fit.above(max(2 * fit.multiple, 32)),
        fit.above(max(3 * fit.multiple, 48)),
    )
    shape = 2, generator.encoder.spec.in_ch, height, width
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    expected = ChainerEngine(generator.encoder, generator.decoder, chainer.get_device("@numpy")).run(x)
    difference = np.abs(session.run(None, {INPUT: x})[0] - expected)
    largest, scale = float(difference.max()), max(1.0, float(np.abs(expected).max()))
    if not (largest <= TOLERANCE[0] * scale and float(difference.mean()) <= TOLERANCE[1] * scale):
        raise UserError(f"the graph differs from Chainer by {largest:.1e} of [-1, 1]; nothing was written")
    return largest


main = as_main(command)


if __name__ == "__main__":
    sys.exit(main())
