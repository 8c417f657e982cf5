"""The last words of a training: the verdict is right, and the commands that it names run as they stand."""

import shlex

import pytest

from medi2i.common.options import PairedOptions, load_args
from medi2i.pix2pix import convert, train
from medi2i.pix2pix.validation import beside_identity, evaluation_command, report_commands
from medi2i.tools import evaluate, make_noisy, make_phantom, split_pairs


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([(30.0, 20.0), (12.5, 20.0), (14.0, 20.0)], "RMSE 12.5, better than doing nothing (20)"),
        ([(30.0, 20.0), (25.0, 20.0)], "RMSE 25, WORSE than doing nothing (20)"),
        ([(20.0, 20.0)], "RMSE 20, NO BETTER than doing nothing (20)"),
        ([("nan", 20.0), (21.0, 20.0)], "RMSE 21, WORSE"),
    ],
)
def test_verdict_is_on_the_best_epoch(values, words):
    entries = [
        {"epoch": 1},
        *({"validation/RMSE": own, "validation/RMSE_identity": nothing} for own, nothing in values),
    ]
    assert words in beside_identity(entries)


def test_no_verdict_without_a_doing_nothing():
    assert beside_identity([]) is None
    assert beside_identity([{"validation/RMSE": 3.0}, {"validation/Dice": 0.5}]) is None


def test_commands_of_folders_and_of_columns(tmp_path):
    assert report_commands(PairedOptions(root=str(tmp_path)), "run") == []
    for name in ("testA", "testB"):
        (tmp_path / name).mkdir()
    converting, judging = map(shlex.split, report_commands(PairedOptions(root=str(tmp_path), btoa=True), "run"))
    assert converting[2:] == ["run", "-R", f"{tmp_path}/testB", "-o", "run/converted"]
    assert judging[2:6] == ["-i", f"{tmp_path}/testB", "-t", f"{tmp_path}/testA"] and "--classical" not in judging
    options = PairedOptions(root="data", train="a.txt", val="b c.txt", from_col=[2], to_col=[0], class_num=3)
    _, judging = map(shlex.split, report_commands(options, "run"))
    assert judging[2:10] == ["-R", "data", "--pairs", "b c.txt", "-c1", "2", "-c2", "0"]
    assert judging[-4:] == ["-cn", "3", "-o", "run/evaluation"]


@pytest.mark.parametrize(
    ("change", "clip", "bias"),
    [
        (-99.984, [-1024, 2000], ["--bias", "99.98"]),
        (12.5, [-1024, 2000], ["--bias", "-12.5"]),
        (None, None, []),
        (0.4, [-1024, 2000], []),
        (0.4, [0, 255], ["--bias", "-0.4"]),
        (0.4, None, ["--bias", "-0.4"]),
    ],
)
def test_a_known_change_of_the_mean_is_handed_on_as_the_bias_of_the_inputs(tmp_path, change, clip, bias):
    for name in ("testA", "testB"):
        (tmp_path / name).mkdir()
    options = PairedOptions(root=str(tmp_path), clipA=[0, 7], clipB=clip)
    options.mean_change = change
    words = shlex.split(report_commands(options, "run")[1])
    assert (words[words.index("--bias") :][:2] if "--bias" in words else []) == bias


def test_no_command_where_no_truth_is_known(tmp_path):
    assert evaluation_command(PairedOptions(), tmp_path / "images", None, "out", "judged") is None
    assert evaluation_command(PairedOptions(), tmp_path / "trainA", None, "out", "judged") is None
    (tmp_path / "trainB").mkdir()
    command = evaluation_command(PairedOptions(), tmp_path / "trainA", None, "out", "judged")
    assert shlex.split(command)[2:6] == ["-i", f"{tmp_path}/trainA", "-t", f"{tmp_path}/trainB"]


def test_commands_run_as_they_are_printed(tmp_path, capsys):
    data = tmp_path / "data"
    for tool, argv in (
        (make_phantom, ["-o", tmp_path / "ct", "--size", 48, "--slices", 5]),
        (make_noisy, ["-i", tmp_path / "ct", "-o", data, "-j", 1]),
        (split_pairs, ["-i", data / "pairs.txt", "--ratio", 0.6]),
    ):
        assert tool.main([str(word) for word in argv]) == 0
    argv = [
        "-R",
        data,
        "-t",
        "pairs_train.txt",
        "--val",
        "pairs_val.txt",
        "-o",
        tmp_path / "runs",
        "-e",
        1,
        "-cw",
        32,
        "-ch",
        32,
        "-gc",
        2,
        4,
        "-gnb",
        1,
        "-ldis",
        0,
        "--nvis",
        0,
    ]
    assert train.main([str(word) for word in argv]) == 0
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith("validation: RMSE ") and "doing nothing" in line for line in told)
    assert any(line.startswith("this model takes ") and " HU away: " in line for line in told)
    converting, judging = (shlex.split(line)[1:] for line in told if line.startswith("  python "))
    assert converting[0] == "pix2pix/convert.py" and convert.main(converting[1:]) == 0
    (after,) = (shlex.split(line)[1:] for line in capsys.readouterr().err.splitlines() if line.startswith("  python "))
    assert after[0] == "tools/evaluate.py" and evaluate.main(after[1:]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    bias = -load_args(run).mean_change
    assert bias == pytest.approx(100, abs=0.5)
    for words in (judging, after):
        assert float(words[words.index("--bias") + 1]) == pytest.approx(bias, rel=1e-3)
    capsys.readouterr()
    assert judging[0] == "tools/evaluate.py" and evaluate.main(judging[1:]) == 0
    out = capsys.readouterr().out
    for row in ("identity", "pix2pix", "tv", "nlm"):
        assert any(line.startswith(f"{row} ") for line in out.splitlines()), row
    assert (run / "evaluation" / "report.html").is_file() and (run / "converted_evaluation" / "report.html").is_file()
