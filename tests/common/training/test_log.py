"""The log: means between lines, exact after a resume, readable after a kill."""

import csv
import json
import types

import numpy as np

from medi2i.common.compat import chainer
from medi2i.common.training.ending import Ending
from medi2i.common.training.log import Log, read_log
from medi2i.common.training.snapshot import Reader, Writer


def trainer_at(iteration, observation, epoch_length=5):
    updater = types.SimpleNamespace(
        iteration=iteration, epoch=iteration // epoch_length, is_new_epoch=iteration % epoch_length == 0
    )
    return types.SimpleNamespace(
        updater=updater, observation=observation, elapsed_time=float(iteration), stop_trigger=Ending(None)
    )


def write(log, iterations, value=lambda i: i):
    for i in iterations:
        observation = {"dec_y/loss_L1": chainer.Variable(np.array(value(i), np.float32)), "dis/loss_fake": 0.5}
        if i % 5 == 0:
            observation["validation/RMSE"] = 100.0 + i
        log(trainer_at(i, observation))


def started(folder, interval=2, **kwargs):
    log = Log(folder, interval, **kwargs)
    log.initialize(None)
    return log


def test_lines_are_means_since_the_line_before(tmp_path):
    log = started(tmp_path, rates=lambda: {"enc_x/learning_rate": 0.25})
    write(log, range(1, 8))
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["iteration"] for entry in entries] == [2, 4, 5, 6]
    assert [entry["dec_y/loss_L1"] for entry in entries] == [1.5, 3.5, 5.0, 6.0]
    assert [entry["epoch"] for entry in entries] == [0, 0, 1, 1]
    assert entries[2]["validation/RMSE"] == 105.0 and "validation/RMSE" not in entries[3]
    assert entries[0]["enc_x/learning_rate"] == 0.25 and entries[0]["elapsed_time"] == 2.0
    assert log.entry is None and log.lines == 4  # iteration 7 wrote none
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["2", "4", "5", "6"]
    assert [row["validation/RMSE"] for row in rows] == ["", "", "105.0", ""]
    assert list(rows[0])[:3] == ["epoch", "iteration", "elapsed_time"]


def test_a_resumed_log_is_the_log_of_a_run_without_a_stop(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        folder.mkdir()
    write(started(straight), range(1, 12))
    log = started(killed)
    write(log, range(1, 4))
    state = {}
    log.serialize(Writer(state))  # after iteration 3: a sum is open
    write(log, range(4, 8))
    with open(killed / "log.jsonl", "a") as file:
        file.write('{"epoch": 1, "iterat')  # killed while writing
    resumed = Log(killed, 2)
    resumed.serialize(Reader(state))
    resumed.initialize(None)
    assert [entry["iteration"] for entry in read_log(killed / "log.jsonl")] == [2]
    write(resumed, range(4, 12))
    for name in ("log.jsonl", "log.csv"):
        assert (killed / name).read_text() == (straight / name).read_text()


def test_nan_is_strict_json_and_missing_lines_are_said(tmp_path, capsys):
    log = started(tmp_path)
    write(log, range(1, 3), value=lambda i: float("nan"))
    text = (tmp_path / "log.jsonl").read_text()
    assert json.loads(text, parse_constant=lambda name: 1 / 0)["dec_y/loss_L1"] == "nan"
    state = {}
    log.serialize(Writer(state))
    (tmp_path / "log.jsonl").unlink()
    again = Log(tmp_path, 2)
    again.serialize(Reader(state))
    again.initialize(None)
    assert again.lines == 0 and "1 lines are missing" in capsys.readouterr().err
