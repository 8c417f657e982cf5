"""Two processes under mpiexec: the same weights, one batch, and what happens when one of them dies.

Skipped where MPI is not installed; each has a time limit. The rules are in test_distributed.py, with threads.
"""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ranks import LIMIT, finish, no_mpi, start
from run_files import iteration_of, log_of, only_run, saved_arrays

from medi2i.common.training.snapshot import SnapshotStore
from medi2i.pix2pix.train import main

SMALL = ["-cw", "16", "-ch", "16", "-gc", "4", "8", "-gnb", "1", "-dc", "4", "8", "-g", "-1", "--nvis", "0"]
RESTLESS = [*SMALL, "-gdo", "0.3", "-n", "0.1", "-nz", "0.1", "-rt", "2", "-rr", "10", "-rs", "0.1", "-ddo", "0.2"]
SAVED = ("enc_x", "dec_y", "dis", "opt_enc_x", "opt_dis")
SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """As for tests of pix2pix: 7 pairs to train with and 3 to validate, 18×22 pixels."""
    return write_images(tmp_path_factory.mktemp("pairs"), 7)


def write_images(root, count):
    random = np.random.default_rng(5)
    for phase, number in (("train", count), ("test", 3)):
        for domain in "AB":
            (root / f"{phase}{domain}").mkdir(parents=True)
        for i in range(number):
            clean = np.kron(random.integers(0, 255, (3, 4)), np.ones((6, 6)))[:, :22]
            noisy = np.clip(clean + random.normal(0, 20, clean.shape), 0, 255)
            for domain, image in (("A", noisy), ("B", clean)):
                Image.fromarray(image.astype(np.uint8)).save(root / f"{phase}{domain}" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def mpi():
    reason = no_mpi()
    if reason is not None:
        pytest.skip(reason)


def test_equal_weights_joined_gradient_and_joined_batch_normalisation(mpi, data, tmp_path):
    write_images(tmp_path / "pairs", 2)
    write_images(tmp_path / "domains", 5)
    status, out, err = finish(start(SCRIPT, "check", data, tmp_path / "domains", tmp_path))
    assert status == 0 and "all checks passed" in out, out + err


def test_a_killed_rank_ends_the_job_and_the_resumed_one_matches(mpi, data, tmp_path, capsys):
    argv = [
        "-R",
        data,
        *RESTLESS,
        "-e",
        "5",
        "--snapshot_interval",
        "3",
        "--snapshot_minutes",
        "0",
        "--display_interval",
        "1",
        "--communicator",
        "naive",
    ]
    straight = start(SCRIPT, "train", tmp_path, *argv, "-o", tmp_path / "straight")
    status, out, err = finish(straight)
    assert status == 0 and " on 2 ranks" in out, out + err
    process = start(SCRIPT, "train", tmp_path, *argv, "-o", tmp_path / "killed")
    end = time.monotonic() + LIMIT
    while not list((tmp_path / "killed").glob("2*/snapshots/snapshot_000000006.npz")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.005)
    began = time.monotonic()
    os.kill(int((tmp_path / "pid1").read_text()), 9)
    status, _, _ = finish(process)
    assert status != 0 and time.monotonic() - began < 30
    run = only_run(tmp_path / "killed")
    shutil.copytree(run, tmp_path / "copy")
    assert not list(run.glob("enc_x5.npz"))
    status, out, err = finish(start(SCRIPT, "train", tmp_path, "--resume", run, "--communicator", "naive"))
    assert status == 0 and "resumed from" in out and "bit for bit" not in out, out + err
    expected = only_run(tmp_path / "straight")
    assert saved_arrays(run, 5, SAVED) == saved_arrays(expected, 5, SAVED)
    assert log_of(run) == log_of(expected)
    # The same on one rank: it goes on, and says that it is another training from there.
    assert main(["--resume", str(tmp_path / "copy")]) == 0
    assert "written by 2 rank(s), now 1" in capsys.readouterr().out
    assert log_of(tmp_path / "copy")[-1]["epoch"] == 5


def test_a_rank_that_raises_ends_the_job_with_its_message(mpi, data, tmp_path):
    began = time.monotonic()
    process = start(
        SCRIPT,
        "train",
        tmp_path,
        "--fail",
        "-R",
        data,
        *SMALL,
        "-e",
        "500",
        "-o",
        tmp_path / "out",
        "--snapshot_interval",
        "1",
        "--communicator",
        "naive",
    )
    status, out, err = finish(process)
    assert status != 0 and time.monotonic() - began < 30
    assert err.count("error: rank 1 of 2: /scratch/cache: No space left on device\n") == 1, err
    assert "Traceback" not in err
    assert [iteration_of(path) for path in SnapshotStore(only_run(tmp_path / "out") / "snapshots").files()] == [2, 3]
