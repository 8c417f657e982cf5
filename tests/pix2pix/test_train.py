"""Tiny trainings from the command line: what a run leaves behind, exact resume, every way to stop, every bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import numpy as np
import pytest
from PIL import Image
from run_files import iteration_of, log_of, only_run, saved_arrays, translation

from medi2i.common.networks.checkpoint import find_run, load_generator
from medi2i.common.options import load_args
from medi2i.common.training import pictures
from medi2i.common.training.log import read_log
from medi2i.common.training.pictures import draw_all
from medi2i.pix2pix.train import main

SMALL = ["-cw", "16", "-ch", "16", "-gc", "4", "8", "-gnb", "1", "-dc", "4", "8", "-g", "-1", "--nvis", "0"]
# Everything that draws random numbers or keeps a state.
RESTLESS = [
    *SMALL,
    "-gdo",
    "0.3",
    "-n",
    "0.1",
    "-nz",
    "0.1",
    "-rt",
    "2",
    "-rr",
    "10",
    "-rs",
    "0.1",
    "-lm",
    "0.5",
    "-ddo",
    "0.2",
    "--vis_random",
]
TRAINING, VALIDATION = 7, 3


def write_pairs(root, channels=1, suffix="png"):
    """trainA/trainB and testA/testB: noisy and clean blocks, 18×22 pixels; npy files are CT-like numbers."""
    random = np.random.default_rng(5)
    for phase, count in (("train", TRAINING), ("test", VALIDATION)):
        for domain in "AB":
            (root / f"{phase}{domain}").mkdir(parents=True)
        for i in range(count):
            clean = np.kron(random.integers(0, 255, (3, 4)), np.ones((6, 6)))[:, :22]
            noisy = np.clip(clean + random.normal(0, 20, clean.shape), 0, 255)
            for domain, image in (("A", noisy), ("B", clean)):
                file = root / f"{phase}{domain}" / f"{i}.{suffix}"
                if suffix == "npy":
                    np.save(file, (image * 10 - 1000).astype(np.float32))
                else:
                    Image.fromarray(image.astype(np.uint8)).save(file)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def train(data, out, *argv, options=SMALL, status=0):
    """Run the command in this process; the run folder."""
    assert main(["-R", str(data), "-o", str(out), *options, *argv]) == status
    runs = sorted(Path(out).iterdir())
    assert len(runs) == 1
    return runs[0]


def start(*argv):
    """Run the command in a process of its own."""
    return commands.start("medi2i.pix2pix.train", *argv)


def weights(run, epoch):
    """All arrays of the networks saved for ``epoch``, as bytes."""
    return saved_arrays(run, epoch, ("enc_x", "dec_y", "dis", "opt_enc_x", "opt_dis"))


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """One whole run, 3 epochs, with its plots, looked at by several tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw_all", draw_all)
        return train(
            data,
            tmp_path_factory.mktemp("out"),
            *("-e", "3", "-si", "2", "--display_interval", "5", "-ps"),
            *("--vis_window", "50", "200", "--nvis", "2"),
        )


def test_a_run_leaves_weights_in_the_released_layout(finished):
    names = {path.name for path in finished.iterdir()}
    best = json.loads((finished / "best.json").read_text())
    epochs = {2, 3, best["epoch"]}
    assert {
        f"{kind}{epoch}.npz"
        for kind in ("enc_x", "dec_y", "dis", "opt_enc_x", "opt_dec_y", "opt_dis")
        for epoch in epochs
    } == {name for name in names if name.endswith(".npz")}
    options = load_args(finished)
    assert (options.ch, options.out_ch, options.clipA, options.crop_width, options.epoch) == (1, 1, [0, 255], 16, 3)
    assert (finished / "command.txt").read_text().startswith("pix2pix/train.py -R ")
    run = find_run(finished)
    assert run.epochs == tuple(sorted(epochs)) and run.best == best["epoch"]
    y = translation(load_generator(finished), np.zeros((1, 1, 16, 20), np.float32))
    assert y.shape == (1, 1, 16, 20)


def test_the_log_has_losses_rates_and_validation(finished):
    entries = read_log(finished / "log.jsonl")
    assert [entry["iteration"] for entry in entries] == [5, 7, 10, 14, 15, 20, 21]
    assert {"dec_y/loss_L1", "dec_y/loss_dis", "dis/loss_fake", "dis/loss_real", "enc_x/learning_rate"} <= set(
        entries[0]
    )
    epochs = [entry for entry in entries if "validation/RMSE" in entry]
    assert [entry["iteration"] for entry in epochs] == [7, 14, 21]
    # cosine over three epochs: the logged rate is the one that was used
    assert [entry["enc_x/learning_rate"] for entry in epochs] == pytest.approx([2e-4, 1.5e-4, 0.5e-4])
    best = json.loads((finished / "best.json").read_text())
    assert best["value"] == min(entry["validation/RMSE"] for entry in epochs)
    with open(finished / "parameters.csv") as file:
        assert sum(1 for line in file if line.startswith("3,21,enc_x/c0/c1/c/W,")) == 1


def test_validation_is_of_all_images_in_their_own_unit(finished, data):
    """Recomputed from the files: centre crop, grey levels, identity beside the network."""
    generator = load_generator(finished, epoch=3)
    errors, nothing = [], []
    for i in range(VALIDATION):
        x, t = (np.asarray(Image.open(data / f"test{d}" / f"{i}.png"), np.float32)[1:17, 3:19] for d in "AB")
        y = (translation(generator, (x / 127.5 - 1)[None, None])[0, 0] + 1) * 127.5
        errors.append(y - t)
        nothing.append(x - t)
    entry = read_log(finished / "log.jsonl")[-1]
    assert entry["validation/MAE"] == pytest.approx(np.abs(errors).mean(), rel=1e-4)
    assert entry["validation/RMSE"] == pytest.approx(np.mean(np.square(errors)) ** 0.5, rel=1e-4)
    assert entry["validation/MAE_identity"] == pytest.approx(np.abs(nothing).mean(), rel=1e-6)
    assert entry["validation/RMSE_identity"] == pytest.approx(np.mean(np.square(nothing)) ** 0.5, rel=1e-6)


def test_pictures_and_plots(finished):
    assert sorted(path.name for path in (finished / "vis").iterdir()) == [
        f"{name}_{iteration:07d}.png" for name in ("train", "val") for iteration in (7, 14, 21)
    ]
    # two rows, four columns of 16×16 pixels shown ten times as large
    assert Image.open(finished / "vis" / "val_0000021.png").size == (22 + 4 * 166, 34 + 2 * 166)
    assert sorted(path.name for path in (finished / "plots").iterdir()) == [
        "dec_y.png",
        "dis.png",
        "learning_rate.png",
        "validation.png",
    ]


def test_validating_and_drawing_change_nothing_in_the_training(tmp_path, finished):
    data = write_pairs(tmp_path / "d")
    for domain in "AB":
        shutil.rmtree(data / f"test{domain}")
    plain = train(data, tmp_path / "out", "-e", "3")
    assert not (plain / "best.json").exists()
    assert weights(plain, 3) == weights(finished, 3)


def test_killed_before_the_first_snapshot_and_in_the_middle(data, tmp_path):
    # The history pool (50 pairs) is full, and mispairs are drawn from it, before the last kill.
    argv = ["-e", "8", "--snapshot_interval", "3", "--snapshot_minutes", "0", "--display_interval", "1"]
    straight = train(data, tmp_path / "straight", *argv, options=RESTLESS)
    out = tmp_path / "killed"
    process = start("-R", data, "-o", out, *RESTLESS, *argv)
    wait_for(lambda: out.is_dir() and list(out.glob("2*/log.jsonl")), process)
    process.kill()
    process.wait()
    run = only_run(out)
    # The second time it is killed once snapshots are there, and the newest is damaged on top.
    process = start("--resume", run)
    wait_for(lambda: any(iteration_of(p) == 51 for p in (run / "snapshots").glob("snapshot_*.npz")), process)
    process.kill()
    process.wait()
    newest = max((run / "snapshots").glob("snapshot_*.npz"), key=iteration_of)
    newest.write_bytes(newest.read_bytes()[:-1000])
    process = start("--resume", run)
    out_text, err_text = process.communicate(timeout=240)
    assert process.returncode == 0, err_text
    assert "taking the snapshot before it" in err_text and newest.name in err_text
    assert f"iteration {iteration_of(newest) - 3}" in out_text
    assert weights(run, 8) == weights(straight, 8)
    assert log_of(run) == log_of(straight)
    assert (run / "best.json").read_text() == (straight / "best.json").read_text()
    assert sorted(p.name for p in run.glob("*.npz")) == sorted(p.name for p in straight.glob("*.npz"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_iteration_and_leaves_a_snapshot(data, tmp_path, number, finished):
    process = start("-R", data, "-o", tmp_path, *SMALL, "-e", "3", "--display_interval", "1")
    wait_for(lambda: list(tmp_path.glob("2*/log.jsonl")), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 128 + number
    run = only_run(tmp_path)
    assert f"{number.name} received; --resume {run} goes on" in err and "Traceback" not in err
    (snapshot,) = (run / "snapshots").iterdir()
    assert iteration_of(snapshot) == len(read_log(run / "log.jsonl"))
    assert main(["--resume", str(run)]) == 0
    assert weights(run, 3) == weights(finished, 3)


def test_a_finished_run_can_be_extended(data, tmp_path):
    run = train(data, tmp_path, "-e", "1", "--lr_drop", "1")
    assert main(["--resume", str(run)]) == 0  # nothing left to do
    first = weights(run, 1)
    assert main(["--resume", str(run), "-e", "2"]) == 0
    assert load_args(run).epoch == 2 and weights(run, 1) == first and weights(run, 2) != first
    assert [entry["iteration"] for entry in read_log(run / "log.jsonl")] == [7, 14]


def test_time_and_patience_end_it(data, tmp_path, capsys):
    run = train(data, tmp_path / "a", "-e", "50", "--max_hours", "0")
    assert "--max_hours 0 are over; --resume" in capsys.readouterr().err
    assert (run / "enc_x1.npz").is_file() and len(list((run / "snapshots").iterdir())) == 1
    # At a learning rate of 0 nothing ever gets better than after the first epoch, but for the running statistics.
    run = train(
        data, tmp_path / "b", "-e", "50", "-lrg", "0", "-lrd", "0", "--patience", "2", "-gn", "instance", "-wd", "0"
    )
    assert find_run(run).epochs == (1, 3)
    assert "has not been better" in capsys.readouterr().err


def test_nan_stops_with_one_line_and_the_last_good_snapshot(data, tmp_path, capsys):
    train(data, tmp_path / "a", "-e", "2", "--loss_limit", "1e-6", status=1)
    err = capsys.readouterr().err
    assert "error: " in err and "is above --loss_limit 1e-06" in err and "there is no snapshot yet" in err
    run = train(data, tmp_path / "b", "-e", "9", "-lr", "1e12", "--snapshot_interval", "1", "-op", "SGD", status=1)
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("error: ") and "iteration" in err
    snapshots = sorted((run / "snapshots").iterdir())
    assert f"the last good snapshot is {snapshots[-1]}" in err if snapshots else "no snapshot yet" in err
    assert not list(run.glob("enc_x*.npz"))


def test_starting_from_weights(data, tmp_path, finished):
    run = train(
        data,
        tmp_path / "a",
        "-e",
        "1",
        "-lrg",
        "0",
        "-lrd",
        "0",
        "-wd",
        "0",
        "-m",
        str(finished / "enc_x3.npz"),
        "-md",
        str(finished / "dis3.npz"),
        "-mo",
    )
    for name in ("enc_x", "dec_y", "dis"):
        with np.load(finished / f"{name}3.npz") as before, np.load(run / f"{name}1.npz") as after:
            learned = [key for key in before.files if key.endswith(("W", "gamma"))]
            assert learned and all(np.array_equal(before[key], after[key]) for key in learned)
    with np.load(run / "opt_enc_x1.npz") as optimizer:
        assert int(optimizer["t"]) == 3 * TRAINING + TRAINING


def test_check_does_everything_but_train(data, tmp_path, capsys):
    assert main(["-R", str(data), "-o", str(tmp_path / "out"), *SMALL, "--check", "--summary", "-e", "10"]) == 0
    text = capsys.readouterr().out
    assert "7 examples" in text and "3 examples" in text and "16×16" in text
    assert "for 70 updates, 7 in an epoch" in text and "MiB" in text and "receptive field" in text
    assert not (tmp_path / "out").exists()


def test_check_names_every_file_that_cannot_be_read(tmp_path, capsys, caplog):
    data = write_pairs(tmp_path / "d")
    for i in (1, 4):
        file = data / "trainA" / f"{i}.png"
        file.write_bytes(file.read_bytes()[:-30])
    assert main(["-R", str(data), "-o", str(tmp_path / "out"), *SMALL, "--check"]) == 0
    assert "1.png" in caplog.text and "4.png" in caplog.text and "5 examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv,said",
    [
        (["-cw", "64", "-ch", "64"], "64"),
        (["-cw", "15"], "15"),
        (["-g", "0"], "--gpu 0"),
        (["-m", "nowhere/enc_x5.npz"], "nowhere/enc_x5.npz"),
        (["-R", "nowhere"], "nowhere"),
        (["--resume", "nowhere"], "--resume: nowhere: no such folder"),
        (["--best_metric", "SSIM"], "--best_metric"),
        (["-t", "missing.txt"], "missing.txt"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(data, tmp_path, capsys, argv, said):
    if argv[0] == "-g":
        try:
            import cupy

            if cupy.cuda.is_available():
                pytest.skip("there is a GPU")
        except ImportError:
            pass
    assert main(["-R", str(data), "-o", str(tmp_path / "out"), *SMALL, "-e", "1", *argv]) == 1
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: ") and said in err and "\n" not in err
    assert not (tmp_path / "out").exists()


def test_weights_of_another_network_and_a_place_that_cannot_be_written(data, tmp_path, capsys, finished):
    argv = ["-R", str(data), *SMALL[:4], "-gc", "8", "16", "-g", "-1", "-m", str(finished / "enc_x3.npz")]
    assert main([*argv, "-o", str(tmp_path / "out")]) == 1
    assert "enc_x3.npz: does not fit" in capsys.readouterr().err and not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert main(["-R", str(data), *SMALL, "-o", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_numbers_stacks_and_a_list_file(tmp_path):
    """npy files with a clip in HU, three neighbours as channels, pairs from lists, B to A."""
    data = write_pairs(tmp_path / "d", suffix="npy")
    for phase, count in (("train", TRAINING), ("test", VALIDATION)):
        lines = [f"{phase}A/{i}.npy\t{phase}B/{i}.npy\n" for i in range(count)]
        (data / f"{phase}.txt").write_text("".join(lines))
    run = train(
        data,
        tmp_path / "out",
        "-t",
        "train.txt",
        "--val",
        "test.txt",
        "-e",
        "1",
        "--stack",
        "3",
        "--btoa",
        "-ca",
        "-1000",
        "1000",
        "-cb",
        "-1000",
        "1500",
        "-b",
        "2",
    )
    options = load_args(run)
    assert (options.ch, options.out_ch) == (3, 3)
    assert read_log(run / "log.jsonl")[-1]["validation/RMSE_identity"] > 10  # HU, not [-1, 1]


def test_the_scale_of_normalised_series_is_saved_and_validation_is_on_it(tmp_path):
    """Other gains in training and validation: both have the same values in [-1, 1] as a training of equal ones."""
    runs = []
    for name, gains in (("equal", (1.0, 1.0)), ("other", (2.5, 0.7))):
        root = write_pairs(tmp_path / name, suffix="npy")
        for phase, gain in zip(("trainA", "testA"), gains, strict=True):
            for file in (root / phase).iterdir():
                np.save(file, (np.load(file) + 1000) * gain)
        argv = ["--normaliseA", "nyul", "--random_gamma", "0", "-cb", "-1000", "1550", "-e", "2", "-rt", "0"]
        runs.append(train(root, tmp_path / f"{name}_runs", *argv))
    args = [load_args(run / "args") for run in runs]
    assert len(args[0].landmarksA) == 10 and args[0].landmarksB is None
    assert args[0].clipA == args[1].clipA == [0, 1000]
    np.testing.assert_allclose(args[0].landmarksA, args[1].landmarksA, rtol=1e-5)
    logs = [
        [{key: value for key, value in line.items() if "loss" in key or "valid" in key} for line in log_of(run)]
        for run in runs
    ]
    assert any("validation" in key for key in logs[0][-1])
    for line, other in zip(*logs, strict=True):
        assert line == pytest.approx(other, rel=1e-3)


def test_classes(tmp_path):
    data = tmp_path / "d"
    random = np.random.default_rng(0)
    for phase in ("train", "test"):
        for domain in "AB":
            (data / f"{phase}{domain}").mkdir(parents=True)
        for i in range(3):
            labels = np.kron(random.integers(0, 3, (4, 4)), np.ones((5, 5))).astype(np.uint8)
            Image.fromarray(labels).save(data / f"{phase}B" / f"{i}.png")
            Image.fromarray(labels * 100).save(data / f"{phase}A" / f"{i}.png")
    run = train(data, tmp_path / "out", "-e", "2", "-cn", "3", "--nvis", "1", "-lce", "1", "-l1", "0", "-it", "png")
    entry = read_log(run / "log.jsonl")[-1]
    assert 0 <= entry["validation/Dice"] <= 1 and 0 <= entry["validation/accuracy"] <= 1
    assert json.loads((run / "best.json").read_text())["metric"] == "validation/Dice"
    assert load_args(run).out_ch == 3 and len(list((run / "vis").iterdir())) == 4


def test_event_files_or_a_clear_message(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert main(["-R", str(data), "-o", str(tmp_path / "out"), *SMALL, "--tensorboard"]) == 1
    assert "medi2i[tensorboard]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_seeds_differ_and_one_repeats_whatever_the_workers(data, tmp_path):
    def final(name, *argv):
        return weights(train(data, tmp_path / name, "-e", "1", *argv), 1)

    first = final("a", "--workers", "0")
    assert final("b", "--workers", "3") == first
    assert final("c", "--seed", "1") != first


def test_images_augmented_where_the_networks_are(data, tmp_path):
    """Here that is the CPU: steps of whole pixels give the loader's run, noise one of its own, whatever the workers."""

    def final(name, *argv, epochs="1"):
        return weights(train(data, tmp_path / name, "-e", epochs, "-rt", "-1", "--random_rot90", *argv), epochs)

    assert final("device", "--augment_on", "device") == final("loader")
    noisy = ["--augment_noise", "0.1", "-rr", "9"]
    whole = final("noisy", "--augment_on", "device", *noisy, epochs="2")
    assert whole != final("other", *noisy, epochs="2")
    assert final("alone", "--augment_on", "device", *noisy, "--workers", "0", epochs="2") == whole


def test_the_script_runs_from_a_checkout(tmp_path):
    script = Path(__file__).resolve().parents[2] / "pix2pix" / "train.py"
    done = subprocess.run(
        [sys.executable, script, "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0 and "--resume" in done.stdout


def test_minutes_in_place_of_epochs(data, tmp_path, capsys):
    """The run ends within an epoch, is validated there, and goes on when it gets more minutes."""
    run = train(data, tmp_path, "--minutes", "0.04", "-e", "1", "--display_interval", "1000", "-b", "2")
    log = read_log(run / "log.jsonl")
    assert log[-1]["elapsed_time"] >= 2.4 and log[-1]["iteration"] > 4, "epochs, of four updates, do not count"
    assert log[-1]["validation/RMSE"] > 0
    rates = [line["dec_y/learning_rate"] for line in log]
    assert rates == sorted(rates, reverse=True) and rates[-1] < rates[0] / 2
    best = json.loads((run / "best.json").read_text())
    assert best["epoch"] in find_run(run).epochs
    assert min(line["validation/RMSE"] for line in log) == pytest.approx(best["value"])
    assert main(["--resume", str(run)]) == 0, "it is complete"
    assert read_log(run / "log.jsonl") == log
    assert main(["--resume", str(run), "--minutes", "0.06"]) == 0
    more = read_log(run / "log.jsonl")
    assert more[: len(log)] == log and more[-1]["elapsed_time"] >= 3.6 and more[-1]["iteration"] > log[-1]["iteration"]
    assert json.loads((run / "best.json").read_text())["epoch"] in find_run(run).epochs
    capsys.readouterr()
    assert main(["-R", str(data), *SMALL, "--minutes", "30", "--check"]) == 0
    assert "0:30:00 for " in capsys.readouterr().out
