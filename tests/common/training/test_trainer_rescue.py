"""Images that cannot be loaded any more end a training with a snapshot, from which it goes on undisturbed."""

import itertools
import shutil
import signal

import numpy as np
import pytest
from run_files import log_of, only_run, saved_arrays

from medi2i.cyclegan import train as cyclegan
from medi2i.datasets.iterator import ImageIterator
from medi2i.datasets.unpaired import UnpairedDataset
from medi2i.pix2pix import train as pix2pix

# Epochs of the two domains end at different times, and every draw counts.
ARGV = [
    "-e",
    "2",
    "-cw",
    "16",
    "-ch",
    "16",
    "-gc",
    "2",
    "4",
    "-gnb",
    "1",
    "-dc",
    "2",
    "4",
    "-g",
    "-1",
    "-n",
    "0.1",
    "--snapshot_minutes",
    "0",
    "--workers",
    "1",
]
NETWORKS = ("enc_x", "enc_y", "dec_x", "dec_y", "dis_x", "dis_y", "opt_enc_x")


def write(root):
    random = np.random.default_rng(1)
    for name, count in zip(("trainA", "trainB"), (4, 3), strict=True):
        (root / name).mkdir(parents=True)
        for number in range(count):
            np.save(root / name / f"{number}.npy", random.uniform(-1, 1, (17, 19)).astype(np.float32))
    (root / "pairs.txt").write_text("".join(f"trainA/{i}.npy\ttrainB/{i}.npy\n" for i in range(3)))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("domains"))


def kill_the_loader(monkeypatch):
    """The fifth example is not loaded: the process that should do it is killed."""
    make, count = ImageIterator._make_pool, itertools.count()

    def mortal(self):
        pool = make(self)
        submit = pool.submit
        pool.submit = lambda *work: submit(signal.raise_signal, signal.SIGKILL) if next(count) == 4 else submit(*work)
        return pool

    monkeypatch.setattr(ImageIterator, "_make_pool", mortal)


def lose_a_file(monkeypatch):
    """The fourth time that an image of domain B is loaded, whose batch comes after that of A, it is gone."""
    load, count = UnpairedDataset.load, itertools.count()

    def failing(self, index, rng=None):
        if rng is not None and len(self) == 3 and next(count) == 3:
            raise OSError(5, "Input/output error", "image.npy")
        return load(self, index, rng)

    monkeypatch.setattr(UnpairedDataset, "load", failing)


@pytest.mark.parametrize(
    "train, disturb, more, said",
    [
        (
            pix2pix,
            kill_the_loader,
            ["--worker_processes"],
            "--worker_processes: a process that loads images died (SIGKI",
        ),
        (cyclegan, lose_a_file, [], "image.npy: Input/output error"),
    ],
    ids=["killed", "lost"],
)
def test_a_training_whose_images_fail_goes_on_undisturbed(data, tmp_path, capsys, train, disturb, more, said):
    argv = [
        "-R",
        str(data),
        *ARGV,
        *(["-t", "pairs.txt", "--nvis", "0"] if train is pix2pix else ["--nvis_A", "0", "--nvis_B", "0"]),
    ]
    assert train.main([*argv, "-o", str(tmp_path / "whole")]) == 0
    with pytest.MonkeyPatch.context() as monkeypatch:
        disturb(monkeypatch)
        assert train.main([*argv, "-o", str(tmp_path / "disturbed"), *more]) == 1
    undisturbed, run = only_run(tmp_path / "whole"), only_run(tmp_path / "disturbed")
    (snapshot,) = (run / "snapshots").iterdir()
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith(f"error: {said}") and str(snapshot) in err and f"--resume {run} goes on" in err
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
    names = ("enc_x", "dec_y", "dis", "opt_enc_x") if train is pix2pix else NETWORKS
    assert saved_arrays(run, 2, names) == saved_arrays(undisturbed, 2, names)
    assert log_of(run) == log_of(undisturbed)


def test_data_that_were_moved_are_named_with_what_to_do(data, tmp_path, capsys):
    root = tmp_path / "here"
    shutil.copytree(data, root)
    (root / "trainB" / "3.npy").write_bytes((root / "trainA" / "3.npy").read_bytes())
    shutil.copy(data / "pairs.txt", tmp_path / "list.txt")
    short = [*ARGV, "-e", "1", "-ldis", "0", "--nvis", "0"]
    for out, listed in (("folders", []), ("list", ["-t", str(tmp_path / "list.txt")])):
        assert pix2pix.main(["-R", str(root), "-o", str(tmp_path / out), *listed, *short]) == 0
    runs = {out: only_run(tmp_path / out) for out in ("folders", "list")}
    shutil.move(root, tmp_path / "there")
    (tmp_path / "list.txt").unlink()
    capsys.readouterr()
    for run, more in ((runs["folders"], ""), (runs["list"], " (and -t LIST)")):
        assert pix2pix.main(["--resume", str(run), "-e", "2"]) == 1
        err = capsys.readouterr().err.strip()
        assert err.startswith(f"error: --resume: {root}, ") and f"--resume {run} -R FOLDER{more} goes on" in err
    for run, more in ((runs["folders"], []), (runs["list"], ["-t", "pairs.txt"])):
        assert pix2pix.main(["--resume", str(run), "-e", "2", "-R", str(tmp_path / "there"), *more]) == 0


def test_an_iterator_steps_back_one_batch():
    class Numbers:
        def __len__(self):
            return 3

        def load(self, index, rng):
            return index

    iterator = ImageIterator(Numbers(), 2, workers=2)
    first = iterator.next()
    state = iterator.epoch_detail, iterator.previous_epoch_detail, iterator.is_new_epoch
    second = iterator.next()
    iterator.step_back()
    assert (iterator.epoch_detail, iterator.previous_epoch_detail, iterator.is_new_epoch) == state
    assert iterator.next() == second
    iterator.finalize()
    assert len(first) == len(second) == 2
