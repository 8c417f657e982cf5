"""Resume, force, kill, and one line for whatever a user can get wrong."""

import json
import os
import signal
import time

import commands
import numpy as np
import pytest

from medi2i.common.inference.report import find_report
from medi2i.cyclegan import convert as cyclegan_convert
from medi2i.pix2pix import convert


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def report_of(out):
    return json.loads(find_report(out).read_text())


def test_resume_converts_what_is_missing_and_leaves_the_rest(tmp_path, paired_run, files, capsys):
    folder, out, run_folder = files.write_series(tmp_path / "in", 4), tmp_path / "out", paired_run(offset=0.1)
    assert run(run_folder, "-R", folder, "-o", out) == 0
    complete = {name: (out / name).read_bytes() for name in files.tree(out)}
    (out / "IM7").unlink()
    times = {name: (out / name).stat().st_mtime_ns for name in files.tree(out)}
    assert run(run_folder, "-R", folder, "-o", out, "--resume") == 0
    assert "1 written, 3 there already, 0 skipped" in capsys.readouterr().err
    assert {name: (out / name).read_bytes() for name in files.tree(out)} == complete
    assert all((out / name).stat().st_mtime_ns == at for name, at in times.items())


def test_existing_results_are_never_overwritten_unless_forced(tmp_path, paired_run, files, capsys):
    folder, out = files.write_series(tmp_path / "in", 2), tmp_path / "out"
    out.mkdir()
    (out / "IM7").write_text("mine")
    assert run("-m", "identity", "-R", folder, "-o", out) == 1
    assert "IM7: exists" in capsys.readouterr().err
    assert files.tree(out) == ["IM7"] and (out / "IM7").read_text() == "mine"
    assert run("-m", "identity", "-R", folder, "-o", out, "--force") == 0
    np.testing.assert_array_equal(files.hu_of(out / "IM7"), files.hu_of(folder / "IM7"))


def test_resume_refuses_another_model_other_options_and_other_inputs(tmp_path, paired_run, files, capsys):
    folder, out = files.write_series(tmp_path / "in", 2), tmp_path / "out"
    assert run(paired_run(), "-R", folder, "-o", out) == 0
    for arguments, words in (
        ([paired_run(offset=0.5, name="other"), "-R", folder], "another sha256"),
        ([paired_run(), "-R", folder, "-cw", 20], "another crop"),
        ([paired_run(), "-R", folder / "IM0"], "another given"),
    ):
        assert run(*arguments, "-o", out, "--resume") == 1
        assert words in capsys.readouterr().err


SLOW = """
import sys, time
from medi2i.common.inference import engines
class Slow(engines.IdentityEngine):
    def run(self, x, frame=None):
        time.sleep(0.05)
        return x.copy()
from medi2i.common.inference import generator
generator.IdentityEngine = Slow
from medi2i.pix2pix.convert import main
sys.exit(main(sys.argv[1:]))
"""


def test_killed_and_resumed_gives_the_same_bytes_as_never_killed(tmp_path, files):
    folder = files.write_series(tmp_path / "in", 10)
    arguments = ["-m", "identity", "-R", str(folder), "-o"]
    assert run(*arguments, tmp_path / "whole", "-b", 2) == 0
    out = tmp_path / "killed"
    for enough in (2, 6):
        process = commands.start(SLOW, *arguments, out, "-b", "2", "--resume")
        deadline = time.monotonic() + 60
        while len(list(out.glob("IM*"))) < enough and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was to be killed on the way"
        for path in out.glob("IM*"):
            assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
        assert report_of(out)["state"] == "running"
    assert len(list(out.glob("IM*"))) < 10
    assert run(*arguments, out, "-b", 2, "--resume") == 0
    for path in (tmp_path / "whole").glob("IM*"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert report_of(out)["state"] == "complete" and len(report_of(out)["files"]) == 10
    assert not [path for path in out.iterdir() if path.name.endswith((".tmp", ".part"))]


def test_results_inside_of_the_root_are_no_inputs(tmp_path, files):
    folder = files.write_series(tmp_path / "in", 2)
    for _ in range(2):
        assert run("-m", "identity", "-R", folder, "-o", folder / "out", "--force") == 0
    assert files.tree(folder / "out") == ["IM0", "IM7"]


def test_several_roots_keep_their_names(tmp_path, files):
    roots = [files.write_series(tmp_path / name, 1, series=f"1.2.3.{i}", start=i) for i, name in enumerate("ab")]
    lone = files.write_slice(tmp_path / "lone.dcm", files.stored_image(5), series="1.2.9")
    assert run("-m", "identity", "-R", *roots, lone, "-o", tmp_path / "out") == 0
    assert files.tree(tmp_path / "out") == ["a/IM0", "b/IM10", "lone.dcm"]


def test_the_released_spelling_runs(tmp_path, paired_run, files):
    folder, run_folder = files.write_series(tmp_path / "in", 1), paired_run(epoch=50)
    assert (
        run(
            "-a",
            run_folder / "args",
            "-m",
            run_folder / "enc_x50.npz",
            "-R",
            folder,
            "-o",
            tmp_path / "out",
            "-it",
            "dcm",
            "-gc",
            1,
            "-l1",
            1.0,
            "-e",
            50,
            "-g",
            -1,
        )
        == 0
    )


def test_a_run_folder_alone_means_its_best_epoch_else_its_last(tmp_path, paired_run, files):
    folder = files.write_series(tmp_path / "in", 1)
    paired_run(offset=0.1, epoch=2)
    run_folder = paired_run(offset=0.2, epoch=10)
    assert run(run_folder, "-R", folder, "-o", tmp_path / "last") == 0
    assert report_of(tmp_path / "last")["model"]["name"] == "enc_x10.npz+dec_y10.npz"
    (run_folder / "best.json").write_text('{"epoch": 2, "metric": "MAE", "value": 1.0}')
    assert run("-m", run_folder, "-R", folder, "-o", tmp_path / "best") == 0
    assert report_of(tmp_path / "best")["model"]["name"] == "enc_x2.npz+dec_y2.npz"
    assert run("-a", run_folder / "args", "-R", folder, "-o", tmp_path / "args") == 0


def errors_of(capsys, *arguments, main=convert.main):
    status = main([str(argument) for argument in arguments])
    error = capsys.readouterr().err.strip()
    assert status == 1 and error.startswith("error: ") and len(error.splitlines()) == 1, error
    return error


def test_what_is_wrong_is_said_in_one_line(tmp_path, paired_run, files, capsys):
    folder, run_folder = files.write_series(tmp_path / "in", 1), paired_run()
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.dcm").write_text("no")
    out = ["-o", tmp_path / "out"]
    cases = [
        (["-R", folder, *out], "--model_gen"),
        ([run_folder, "-R", tmp_path / "nothing", *out], "nothing: no such file or folder"),
        ([run_folder, "-R", tmp_path / "empty", *out], "empty: the folder is empty"),
        ([run_folder, "-R", tmp_path / "texts", *out], "no image to convert (1 x not DICOM"),
        (["-m", run_folder / "enc_x9.npz", "-R", folder, *out], "enc_x9.npz"),
        ([tmp_path / "norun", "-R", folder, *out], "norun"),
        ([run_folder, "-R", folder, "-o", folder], "--out: "),
        ([run_folder, "-R", folder, "-o", run_folder / "args"], "is, or lies below, a file"),
        ([run_folder, "-R", folder, *out, "-gn", "instance"], "--gen_norm: instance is not what"),
        ([run_folder, "-R", folder, *out, "-ch", 100], "fewer than --crop_height"),
        ([run_folder, "-R", folder, *out, "--tile", 8], "--tile: 8 is all overlap"),
        ([run_folder, "-R", folder, *out, "--val", "list.txt"], "list.txt: no such list file"),
        ([run_folder, "-R", folder, *out, "--imgtype_out", "csv", "-it", "png"], "no png images here"),
        ([run_folder, "-R", folder, *out, "-g", 99], "--gpu 99"),
    ]
    for arguments, words in cases:
        assert words in errors_of(capsys, *arguments), arguments
        assert not (tmp_path / "out").exists() or report_of(tmp_path / "out")["state"] == "nothing converted"
    with pytest.raises(SystemExit):
        convert.main([str(word) for word in (run_folder, "-m", run_folder, "-R", folder, *out)])
    assert f"error: {run_folder}: nothing is expected here that follows no option" in capsys.readouterr().err


def test_a_checkpoint_of_another_network_or_application(tmp_path, paired_run, unpaired_run, files, capsys):
    folder = files.write_series(tmp_path / "in", 1)
    small, large = paired_run(), paired_run(name="large", gen_chs=[2, 4])
    out = ["-R", folder, "-o", tmp_path / "out"]
    assert "does not fit" in errors_of(capsys, "-a", large / "args", "-m", small / "enc_x3.npz", *out)
    assert "cyclegan/convert.py would be right" in errors_of(capsys, unpaired_run(), *out)
    assert "pix2pix/convert.py would be right" in errors_of(capsys, small, *out, main=cyclegan_convert.main)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(tmp_path, files, capsys):
    folder = files.write_series(tmp_path / "in", 1)
    (tmp_path / "locked").mkdir(mode=0o555)
    assert "permission" in errors_of(capsys, "-m", "identity", "-R", folder, "-o", tmp_path / "locked/out").lower()


def test_no_permission_is_found_before_anything_is_done(tmp_path, files, capsys, monkeypatch):
    folder = files.write_series(tmp_path / "in", 1)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "no permission to write into" in errors_of(capsys, "-m", "identity", "-R", folder, "-o", tmp_path / "out")
    assert files.tree(tmp_path / "out") == []


def test_images_of_the_training_are_told(tmp_path, paired_run, files, capsys):
    folder, run_folder = files.write_series(tmp_path / "in", 3), paired_run()
    options = json.loads((run_folder / "args").read_text())
    (run_folder / "args").write_text(json.dumps({**options, "root": str(tmp_path)}))
    (run_folder / "files_train.txt").write_text("in/IM0\tclean/IM0\nin/IM4\tclean/IM4\nelsewhere\tin/none\n")
    words = "what this model was trained on: measured on such, it looks better than it is"
    for given, told in ((folder, f"2 of 3 images are {words}"), (folder / "IM0", f"this image is {words}")):
        assert run(run_folder, "-R", given, "-o", tmp_path / "out", "--force") == 0
        assert told in capsys.readouterr().err
    assert run(run_folder, "-R", folder / "IM7", "-o", tmp_path / "out", "--force") == 0
    assert words not in capsys.readouterr().err


def test_two_inputs_for_one_output_are_refused(tmp_path, paired_run, capsys):
    from PIL import Image as Pillow

    for name in ("a.tif", "a.tiff"):
        Pillow.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    out = tmp_path / "out"
    error = errors_of(capsys, "-m", "identity", "-R", tmp_path, "-it", "tif", "--imgtype_out", "png", "-o", out)
    assert "a.tiff and a.tif would both be written" in error or "a.tif and a.tiff would both be written" in error
    assert not out.exists()


@pytest.mark.parametrize("named", ["folder", "args", "-m folder"])
def test_the_weights_of_one_epoch_are_taken_or_those_that_are_there_named(tmp_path, paired_run, files, capsys, named):
    run_folder = paired_run(offset=0.1, epoch=1)
    paired_run(offset=0.2, epoch=3)
    (run_folder / "best.json").write_text('{"epoch": 3, "value": 1}')
    folder = files.write_series(tmp_path / "in", 1)
    which = {"folder": [run_folder], "args": ["-a", run_folder / "args"], "-m folder": ["-m", run_folder]}[named]
    assert run(*which, "-e", 1, "-R", folder, "-o", tmp_path / "out") == 0
    assert report_of(tmp_path / "out")["model"]["name"] == "enc_x1.npz+dec_y1.npz"
    assert run(*which, "-R", folder, "-o", tmp_path / "best") == 0
    assert report_of(tmp_path / "best")["model"]["name"] == "enc_x3.npz+dec_y3.npz"
    capsys.readouterr()
    assert run(*which, "-e", 2, "-R", folder, "-o", tmp_path / "none") == 1
    assert f"{run_folder}: no weights of epoch 2; there are those of 1, 3" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_an_epoch_beside_a_file_of_another_is_refused(tmp_path, paired_run, files, capsys):
    run_folder, folder = paired_run(), files.write_series(tmp_path / "in", 1)
    assert run("-m", run_folder / "enc_x3.npz", "-e", 3, "-R", folder, "-o", tmp_path / "out") == 0
    capsys.readouterr()
    assert run("-m", run_folder / "enc_x3.npz", "-e", 50, "-R", folder, "-o", tmp_path / "other") == 1
    assert "--epoch: 50 is given together with the file --model_gen" in capsys.readouterr().err
    assert run("-m", "identity", "-e", 5, "-R", folder, "-o", tmp_path / "other") == 1
    assert "--epoch: 5" in capsys.readouterr().err
