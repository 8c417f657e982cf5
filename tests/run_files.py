"""What the tests of several folders read of a run folder."""

import json
from pathlib import Path

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.networks.files import save_networks
from medi2i.common.options import PairedOptions, save_args
from medi2i.pix2pix import net


def only_run(out):
    """The one run folder in ``out``."""
    (run,) = (path for path in Path(out).iterdir() if not path.name.startswith("."))
    return run


def iteration_of(path):
    """The iteration in a snapshot's name."""
    return int(Path(path).stem.removeprefix("snapshot_"))


def saved_arrays(run, epoch, names):
    """All arrays of the files ``names`` saved for ``epoch``: {"enc_x/name": bytes}."""
    found = {}
    for name in names:
        with np.load(Path(run) / f"{name}{epoch}.npz", allow_pickle=False) as file:
            found.update({f"{name}/{key}": file[key].tobytes() for key in file.files})
    return found


def log_of(run):
    """The entries of the log, without the time they were written at."""
    lines = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "elapsed_time"} for line in lines]


def join_generator(encoder_arrays, decoder_arrays):
    """The arrays of both under ``encoder/`` and ``decoder/``, for one file."""
    parts = (("encoder/", encoder_arrays), ("decoder/", decoder_arrays))
    return {prefix + name: array for prefix, arrays in parts for name, array in arrays.items()}


def translation(generator, x):
    """(N, C, H, W) in [-1, 1] → what a loaded generator makes of it, in test mode."""
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        return generator.decoder(generator.encoder(x)).array


def save_segmentor(folder, clip=(-200, 600), seed=3, **given):
    """A run folder of pix2pix with three classes, of one-channel images of ``clip``: the folder."""
    folder.mkdir()
    small = {"gen_chs": [3, 4], "gen_nblock": 1, "lambda_dis": 0, "unet": "concat", "gen_norm": "batch"}
    options = PairedOptions(**{**small, "class_num": 3, "clipA": list(clip), **given})
    options.ch, options.out_ch = options.stack, options.stack * options.class_num
    np.random.seed(seed)
    save_args(options, folder / "args")
    save_networks(folder, net.build(options).as_dict(), 4)
    return folder


def arrays_of(folder):
    """Every weight and every state of an optimizer of a run folder."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            found |= {f"{path.name}/{name}": arrays[name] for name in arrays.files}
    return found
