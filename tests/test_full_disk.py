"""A full disk while a file of any kind is written: the error names it, and what was there before is there still."""

import contextlib
import errno
import os
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medi2i.common.compat import chainer
from medi2i.common.inference.report import Report
from medi2i.common.networks.files import write_arrays
from medi2i.common.options import PairedOptions, save_args
from medi2i.common.outputs import append_text, csv_text, write_text
from medi2i.common.training.ending import Ending
from medi2i.common.training.log import Log, ParameterStatistics
from medi2i.common.training.pictures import save_figure
from medi2i.common.training.profiling import write_rows
from medi2i.common.training.run_folder import RunFolder
from medi2i.common.training.snapshot import write_npz
from medi2i.datasets.writing import write_image
from medi2i.tools import export_onnx, make_shapes, make_sinograms, split_pairs
from medi2i.tools.demo import StepFolders
from medi2i.tools.evaluation import table
from medi2i.tools.evaluation.metrics import Window
from medi2i.tools.evaluation.picture import comparison

resource = pytest.importorskip("resource")
LIMIT = 100  # bytes


@contextlib.contextmanager
def full_disk(limit=LIMIT):
    """No file of this process grows beyond ``limit`` bytes: EFBIG comes where a full disk gives ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def figure():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(1, 1))
    FigureCanvasAgg(made)
    return made


def log_line(path):
    trainer = types.SimpleNamespace(
        updater=types.SimpleNamespace(iteration=1, epoch=0, is_new_epoch=True),
        observation={"loss": 1.0, "a" * 80: 2.0},
        elapsed_time=1.0,
        stop_trigger=Ending(None),
    )
    Log(path.parent, 1)(trainer)


def parameters(path):
    link = chainer.links.Linear(2, 2)
    networks = types.SimpleNamespace(as_dict=lambda: {"n" * 60: link})
    updater = types.SimpleNamespace(iteration=1, epoch=1, is_new_epoch=True, networks=networks)
    ParameterStatistics(path)(types.SimpleNamespace(updater=updater))


def record(path):
    with StepFolders(path.parent).step("m" * LIMIT):
        pass


def exported(path):
    stubs = {
        "load_generator": lambda *_, **__: types.SimpleNamespace(encoder=None, decoder=None),
        "metadata_of": lambda generator: {},
        "export": lambda *_: b"x" * 2 * LIMIT,
        "check": lambda *_: 0.0,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, stub in stubs.items():
            patch.setattr(export_onnx, name, stub)
        export_onnx.command(["run", "-o", str(path), "--force"])


ARRAY = np.arange(400.0, dtype=np.float32).reshape(20, 20)
LONG = types.SimpleNamespace(by_length=lambda: [("x" * LIMIT, 1, 1)], times={})
WRITERS = {
    "args": lambda path: save_args(PairedOptions(), path),
    "enc_x1.npz": lambda path: write_arrays(path, {"W": ARRAY}),
    "snapshot.npz": lambda path: write_npz(path, {"W": ARRAY}),
    "plot.png": lambda path: save_figure(figure(), path),
    "profile.csv": lambda path: write_rows(
        path, types.SimpleNamespace(by_length=lambda: [("x" * LIMIT, 1, 1)], times={}), 1, 2
    ),
    "log.jsonl": log_line,
    "log.csv": lambda path: Log(path.parent, 1)._tabulate([{"a" * LIMIT: 1}]),
    "parameters.csv": parameters,
    "conversion.json": lambda path: Report(path.parent, {}, {}, []).write(),
    "best.json": lambda path: write_text(path, "x" * 2 * LIMIT),
    "summary.csv": lambda path: write_text(path, csv_text([["x" * LIMIT, 1]])),
    "evaluation.json": lambda path: table.write_json(path, {"x": "y" * LIMIT}),
    "worst.png": lambda path: comparison(path, "title", {"a": ARRAY}, ARRAY, Window("full", 0, 400), "HU", {}),
    ".made-by.json": record,
    "out.onnx": exported,
    "sinogram.png": lambda path: make_sinograms.save(path, np.random.default_rng(0).random((40, 40)), 1.0),
    "sinogram.npy": lambda path: make_sinograms.save(path, ARRAY, 1.0),
    "shapes.jpg": lambda path: make_shapes.save(path, np.random.default_rng(0).random((3, 40, 40))),
    "shapes.png": lambda path: make_shapes.save(path, np.random.default_rng(0).random((3, 40, 40))),
    "image.png": lambda path: write_image(path, np.random.default_rng(0).random((1, 40, 40)) * 255, "png", bits=8),
    "image.jpg": lambda path: write_image(path, np.random.default_rng(0).random((1, 40, 40)) * 255, "jpg", bits=8),
    "image.tif": lambda path: write_image(path, np.random.default_rng(0).random((1, 40, 40)) * 255, "tif", bits=8),
    "image.npy": lambda path: write_image(path, ARRAY[None], "npy"),
    "image.csv": lambda path: write_image(path, ARRAY[None], "csv"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_file_is_named_and_nothing_is_half_written(tmp_path, name):
    path = tmp_path / "folder" / name
    path.parent.mkdir()
    if name not in ("log.csv", "profile.csv", ".made-by.json"):  # these read what is there
        path.write_bytes(b"before")
    before = path.read_bytes() if path.exists() else None
    with full_disk(), pytest.raises(OSError) as caught:
        WRITERS[name](path)
    assert caught.value.filename == str(path) or str(path) in str(caught.value)
    assert caught.value.errno in (errno.EFBIG, None)
    assert os.listdir(path.parent) == ([] if before is None else [name])
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_every_error_of_a_disk_is_told_with_the_name(tmp_path, monkeypatch, number):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    (tmp_path / "log").write_text("one\n")
    monkeypatch.setattr(os, "fsync", fail)
    for write in (
        lambda: append_text(tmp_path / "log", "two\n", lasting=True),
        lambda: write_text(tmp_path / "log", "two\n", lasting=True),
    ):
        with pytest.raises(OSError) as caught:
            write()
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "log"))
        assert (tmp_path / "log").read_text() == "one\n" and os.listdir(tmp_path) == ["log"]


def test_a_new_run_leaves_no_folder(tmp_path):
    with full_disk(), pytest.raises(OSError) as caught:
        RunFolder.create(tmp_path / "runs", PairedOptions(), ["train"])
    assert Path(caught.value.filename).name == "args" and os.listdir(tmp_path / "runs") == []


def test_commands_say_it_in_one_line(tmp_path, capsys):
    pairs = tmp_path / "pairs.txt"
    names = [f"{'n' * 120}{i}.png" for i in range(10)]
    for name in names:
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    pairs.write_text("".join(f"{name}\t{name}\n" for name in names))
    with full_disk(1000):  # the lock of a folder fits
        assert split_pairs.main(["-i", str(pairs), "--by", "image"]) == 1
    assert capsys.readouterr().err.strip() == f"error: {tmp_path / 'pairs_train.txt'}: File too large"
    with full_disk(1000):
        assert make_shapes.main(["-o", str(tmp_path / "shapes"), "--num", "3", "--size", "512"]) == 1
    assert capsys.readouterr().err.strip() == f"error: {tmp_path / 'shapes/trainA/00001.png'}: File too large"
    assert not list(tmp_path.rglob("pairs_*")) and not [path for path in tmp_path.rglob("*") if path.suffix == ".part"]
