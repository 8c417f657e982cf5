"""Two commands that write into one folder at once: the second is told of the first, and nothing of it lies there."""

import os

import numpy as np
import pytest
from PIL import Image

from medi2i.common.inference.jobs import Jobs
from medi2i.common.locks import FolderLock
from medi2i.common.options import PairedOptions
from medi2i.common.training.run_folder import RunFolder
from medi2i.pix2pix import convert, train
from medi2i.tools import (
    demo,
    evaluate,
    make_lowres,
    make_noisy,
    make_phantom,
    make_shapes,
    make_sinograms,
    nifti,
    register,
    split_pairs,
)

COMMANDS = {
    "convert": (convert, ["-m", "identity", "-R", "IN", "-o", "OUT"]),
    "convert --force": (convert, ["-m", "identity", "-R", "IN", "-o", "OUT", "--force"]),
    "convert --resume": (convert, ["-m", "identity", "-R", "IN", "-o", "OUT", "--resume"]),
    "a shard": (convert, ["-m", "identity", "-R", "IN", "-o", "OUT", "--shards", "1/2"]),
    "make_noisy": (make_noisy, ["-i", "IN", "-o", "OUT"]),
    "make_lowres": (make_lowres, ["-i", "IN", "-o", "OUT"]),
    "make_phantom": (make_phantom, ["-o", "OUT", "--size", "16", "--slices", "1"]),
    "make_shapes": (make_shapes, ["-o", "OUT", "--num", "1"]),
    "make_sinograms": (make_sinograms, ["-o", "OUT", "--num", "1", "--size", "16"]),
    "register": (register, ["-i", "CT", "-o", "OUT"]),
    "nifti": (nifti, ["-i", "CT", "-o", "OUT"]),
    "split_pairs": (split_pairs, ["IN/pairs.txt", "-o", "OUT", "--by", "image"]),
    "evaluate": (evaluate, ["-i", "IN", "-t", "IN", "-o", "OUT"]),
    "demo": (demo, ["--out", "OUT"]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """IN: pictures and a list of them. CT: a series of one slice."""
    folder = tmp_path_factory.mktemp("data")
    assert make_phantom.main(["-o", str(folder / "CT"), "--size", "16", "--slices", "1"]) == 0
    (folder / "IN").mkdir()
    for number in (1, 2):
        picture = np.random.default_rng(number).integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(picture).save(folder / "IN" / f"{number}.png")
    (folder / "IN/pairs.txt").write_text("1.png\t1.png\n2.png\t2.png\n")
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_is_refused_in_one_line(data, tmp_path, capsys, name):
    module, words = COMMANDS[name]
    out = tmp_path / "out"
    out.mkdir()
    words = [
        word.replace("IN", str(data / "IN")).replace("CT", str(data / "CT")).replace("OUT", str(out)) for word in words
    ]
    first = FolderLock(out, "converting")
    held = os.listdir(out)
    assert module.main(words) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {out}: another process is converting in this folder (process {os.getpid()}, since")
    assert os.listdir(out) == held
    first.release()
    if name != "demo":
        assert module.main(words) == 0 and not [path for path in out.rglob(".*")] and any(out.iterdir())


def test_shards_of_one_conversion_work_together(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ["-m", "identity", "-R", str(data / "IN"), "-it", "png", "-o", str(out), "--shards"]
    assert convert.main([*arguments, "1/2"]) == 0
    held = {}

    run = Jobs.run

    def others_meanwhile(self, watch):
        monkeypatch.setattr(Jobs, "run", run)
        held["names"] = sorted(path.name for path in out.glob(".medi2i*"))
        held["again"] = convert.main([*arguments, "2/2"])
        held["whole"] = convert.main([*arguments[:-1], "--resume"])
        held["first"] = convert.main([*arguments, "1/2", "--resume"])
        return run(self, watch)

    monkeypatch.setattr(Jobs, "run", others_meanwhile)
    assert convert.main([*arguments, "2/2"]) == 0
    assert held == {"names": [".medi2i.2of2.lock"], "again": 1, "whole": 1, "first": 0}
    assert sorted(path.name for path in out.iterdir()) == ["1.png", "2.png", "conversion.json"]


def test_two_that_resume_one_training(tmp_path, capsys):
    run = RunFolder.create(tmp_path, PairedOptions(root=str(tmp_path)), ["train"])
    before = (run.path / "args").read_bytes(), (run.path / "command.txt").read_bytes()
    np.save(tmp_path / "a.npy", np.zeros((16, 16), np.float32))
    for domain in "AB":
        (tmp_path / f"train{domain}").mkdir()
        np.save(tmp_path / f"train{domain}" / "1.npy", np.zeros((16, 16), np.float32))
    arguments = ["--resume", str(run.path), "-g", "-1"]
    assert train.main(arguments) == 1
    assert f"error: {run.path}: another process is training in this folder" in capsys.readouterr().err
    assert before == ((run.path / "args").read_bytes(), (run.path / "command.txt").read_bytes())
    run.close()
