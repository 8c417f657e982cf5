"""Run folders, their weights, and the options of a resumed run."""

import os
import re
import shutil
import time
from datetime import UTC, datetime

import numpy as np
import pytest

from medi2i.common.compat import L, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.checkpoint import find_run
from medi2i.common.options import PairedOptions, UnpairedOptions, load_args, save_args
from medi2i.common.training.run_folder import RunFolder, WeightStore
from medi2i.common.training.setup import lasting, load_initial, load_optimizers, siblings, training_options


def test_a_run_folder_appears_whole(tmp_path):
    run = RunFolder.create(tmp_path / "out" / "deep", PairedOptions(gen_chs=[4, 8]), ["pix2pix/train.py", "-R", "a b"])
    other = RunFolder.create(tmp_path / "out" / "deep", PairedOptions(), [])
    assert re.fullmatch(r"\d{8}_\d{6}", run.path.name) and other.path != run.path
    assert load_args(run.path).gen_chs == [4, 8]
    assert (run.path / "command.txt").read_text() == "pix2pix/train.py -R 'a b'\n"
    assert sorted(p.name for p in run.path.iterdir() if p.is_dir()) == ["plots", "snapshots", "vis"]
    assert not run.resumed and len(list((tmp_path / "out" / "deep").iterdir())) == 2


def test_nothing_is_left_where_it_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "medi2i.common.training.run_folder.save_args",
        lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device", "args")),
    )
    with pytest.raises(OSError, match="No space"):
        RunFolder.create(tmp_path, PairedOptions(), [])
    assert list(tmp_path.iterdir()) == []


def test_opening_cleans_up_and_locks(tmp_path):
    run = RunFolder.create(tmp_path, PairedOptions(), ["train"])
    with pytest.raises(UserError, match="another process is training"):
        RunFolder.open(run.path, PairedOptions(), [])
    run.close()
    for leftover in (run.path / ".enc_x3.npz.tmp", run.snapshots / ".0123456789abcdef.1.host.part"):
        leftover.write_bytes(b"half")
    again = RunFolder.open(run.path, PairedOptions(epoch=7), ["train", "--resume", "x"])
    assert again.resumed and load_args(run.path).epoch == 7
    assert (run.path / "command.txt").read_text() == "train\ntrain --resume x\n"
    assert not [name for _, _, names in os.walk(run.path) for name in names if name.endswith((".tmp", ".part"))]


def test_best_json(tmp_path):
    run = RunFolder.create(tmp_path, PairedOptions(), [])
    run.write_best(3, "validation/RMSE", 41.5)
    assert (run.path / "best.json").read_text() == '{"epoch": 3, "metric": "validation/RMSE", "value": 41.5}\n'
    run.write_best(None, None, None)
    assert not (run.path / "best.json").exists()


def networks(seed):
    np.random.seed(seed)
    links = {"enc_x": L.Linear(2, 3), "dec_y": L.Linear(3, 1), "dis": L.Linear(1, 1)}
    optimizers = {name: chainer.optimizers.Adam().setup(link) for name, link in links.items()}
    for link in links.values():
        for parameter in link.params():
            parameter.grad = np.ones_like(parameter.array)
    return links, optimizers


def test_weights_and_optimizers_come_back(tmp_path):
    links, optimizers = networks(0)
    for optimizer in optimizers.values():
        optimizer.update()
    WeightStore(tmp_path, links, optimizers, -1).save(12)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dec_y12.npz",
        "dis12.npz",
        "enc_x12.npz",
        "opt_dec_y12.npz",
        "opt_dis12.npz",
        "opt_enc_x12.npz",
    ]
    found, fresh = networks(1)
    generator = {name: found[name] for name in ("enc_x", "dec_y")}
    loaded = load_initial(tmp_path / "dec_y12.npz", generator, generator)
    assert sorted(loaded) == ["dec_y", "enc_x"]
    assert np.array_equal(found["enc_x"].W.array, links["enc_x"].W.array)
    assert not np.array_equal(found["dis"].W.array, links["dis"].W.array)
    load_optimizers(loaded, fresh)
    assert fresh["enc_x"].t == 1 and fresh["dis"].t == 0
    assert np.array_equal(fresh["dec_y"].target.W.update_rule.state["m"], links["dec_y"].W.update_rule.state["m"])
    (tmp_path / "opt_dec_y12.npz").write_bytes(b"x")
    with pytest.raises(UserError, match="opt_dec_y12.npz: not the state"):
        load_optimizers(loaded, fresh)
    (tmp_path / "opt_enc_x12.npz").unlink()
    with pytest.raises(UserError, match="--load_optimizer: .*opt_enc_x12.npz is missing"):
        load_optimizers(loaded, fresh)


def test_weights_from_the_future_are_removed(tmp_path):
    store = WeightStore(tmp_path, *networks(0), -1)
    for epoch in (2, 9, 10):
        store.save(epoch)
    (tmp_path / "mine10.npz").write_bytes(b"")
    store.remove_after(9)
    store.remove(2)
    assert sorted(p.name for p in tmp_path.glob("*.npz")) == sorted(
        [f"{kind}{name}9.npz" for name in ("enc_x", "dec_y", "dis") for kind in ("", "opt_")] + ["mine10.npz"]
    )


def test_siblings():
    found = siblings("run/enc_x50.npz", ["enc_x", "dec_y"])
    assert {name: str(path) for name, path in found.items()} == {"enc_x": "run/enc_x50.npz", "dec_y": "run/dec_y50.npz"}
    with pytest.raises(UserError, match="model.npz is not named like enc_x50.npz, dec_y50.npz"):
        siblings("model.npz", ["enc_x", "dec_y"])


@pytest.fixture
def run_path(tmp_path):
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
    options = PairedOptions(root=str(tmp_path), epoch=5, gen_chs=[4, 8], seed=3, argfile="x")
    save_args(lasting(options), tmp_path / "args")
    return str(tmp_path)


def test_resume_needs_no_other_option_and_allows_harmless_ones(run_path):
    options, resumed = training_options(PairedOptions, ["--resume", run_path], "")
    assert resumed == run_path and (options.epoch, options.gen_chs, options.seed) == (5, [4, 8], 3)
    assert lasting(options).resume is None and lasting(options).argfile is None
    options, _ = training_options(PairedOptions, ["--resume", run_path, "-e", "9", "-gc", "4", "8", "-g", "-1"], "")
    assert (options.epoch, options.gpu) == (9, -1)
    assert training_options(PairedOptions, ["-e", "9"], "")[1] is None


@pytest.mark.parametrize(
    "argv,said",
    [
        (["-gc", "4", "16"], "--gen_chs: cannot change"),
        (["--seed", "4"], "--seed"),
        (["-b", "2"], "--batch_size: cannot change in a resumed run, which has 1"),
        (["-l1", "3"], "--lambda_rec_l1"),
    ],
)
def test_resume_refuses_another_training(run_path, argv, said):
    with pytest.raises(UserError, match=re.escape(said)):
        training_options(PairedOptions, ["--resume", run_path, *argv], "")


def test_resume_refuses_another_application_and_what_is_no_run(run_path, tmp_path_factory):
    with pytest.raises(UserError, match="a run of pix2pix, not of cyclegan"):
        training_options(UnpairedOptions, ["--resume", run_path], "")
    with pytest.raises(UserError, match="no such file"):
        training_options(PairedOptions, ["--resume", str(tmp_path_factory.mktemp("empty"))], "")


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="needs a time zone that can be set")
def test_the_newest_run_on_the_night_when_clocks_are_put_back(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        summer = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
        names = {}
        # at 2:30, at 2:10 an hour later by the clock put back, and ten of one second after it
        for number, now in enumerate([summer, summer + 2400, *[summer + 2401] * 10]):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            run = RunFolder.create(tmp_path, PairedOptions(), ["train"])
            run.close()
            for name in ("enc_x1.npz", "dec_y1.npz"):
                (run.path / name).touch()
            names[number] = run.path.name
            if number < 2:
                assert find_run(tmp_path).folder == run.path
        assert (names[0], names[1], names[11]) == ("20261025_023000", "20261025_021000", "20261025_021001_10")
        assert load_args(tmp_path / names[1]).started == "2026-10-25T01:10:00+00:00"
        again = RunFolder.open(tmp_path / names[1], load_args(tmp_path / names[1]), ["--resume"])
        assert load_args(again.path).started == "2026-10-25T01:10:00+00:00"
        again.close()
        for name in names.values():  # of a version that did not write it down: by name, ten after nine
            save_args(PairedOptions(), tmp_path / name / "args")
        assert find_run(tmp_path).folder.name == names[0]
        shutil.rmtree(tmp_path / names[0])
        assert find_run(tmp_path).folder.name == names[11]
        other = tmp_path / "1025_0210"  # of the released codes
        (tmp_path / names[11]).rename(other)
        os.utime(other / "args", (summer + 9000, summer + 9000))
        assert find_run(tmp_path).folder == other
    finally:
        monkeypatch.undo()
        time.tzset()
