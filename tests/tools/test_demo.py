"""The tutorial from end to end, as small as it gets: what is tested is that the commands go together."""

import json
import shlex
import shutil

import pytest

from medi2i.datasets import dicom
from medi2i.tools import demo, make_phantom

SMALL = ["--updates", "8", "--size", "48", "--slices", "10"]


def test_demo_on_a_phantom_and_the_way_to_the_next(tmp_path, capsys):
    out = tmp_path / "demo"
    assert demo.main(["--out", str(out), *SMALL]) == 0
    told = capsys.readouterr().out
    commands = [line[2:] for line in told.splitlines() if line.startswith("$ ")]
    assert [shlex.split(line)[1] for line in commands] == [
        "tools/make_phantom.py",
        "tools/make_noisy.py",
        "tools/split_pairs.py",
        "pix2pix/train.py",
        "pix2pix/convert.py",
        "tools/evaluate.py",
    ]
    for row in ("identity", "identity - 100", "pix2pix", "tv", "nlm"):
        assert any(line.startswith(f"{row} ") for line in told.splitlines()), row
    assert "training: 1 epochs of 8 slices, 64 updates" in told and f"picture: {out}/evaluation/worst.png" in told
    report = out / "evaluation" / "report.html"
    assert f"open {report} in a browser" in told and report.stat().st_size > 10_000
    said = json.loads((out / "evaluation" / "evaluation.json").read_text())
    assert {one["slice"] for one in said["slices"]} and said["windows"]["soft"] == [-160, 240]
    assert dicom.scan(out / "converted" / "images").series[0].modality == "CT"

    (out / "notes.txt").write_text("mine")
    (out / "run" / "thoughts.txt").write_text("mine too")
    assert demo.main(["--out", str(out), *SMALL]) == 1
    assert "run/thoughts.txt: was not made by medi2i demo" in capsys.readouterr().err
    assert report.exists()
    (out / "run" / "thoughts.txt").unlink()
    (tmp_path / "empty").mkdir()
    assert demo.main(["--out", str(out), "--ct", str(tmp_path / "empty"), *SMALL]) == 1  # as far as clearing
    assert [path.name for path in sorted(out.iterdir())] == [".made-by.json", "notes.txt"]


def test_demo_on_a_ct_as_found(tmp_path, capsys):
    """Two series in one folder, names without a suffix, other files between them."""
    argv = ["-o", str(tmp_path / "made"), "--size", "56", "48", "--slices", "6", "--series", "2"]
    assert make_phantom.main(argv) == 0
    found = tmp_path / "found"
    found.mkdir()
    for number, path in enumerate(sorted((tmp_path / "made").rglob("*.dcm"))):
        shutil.copy(path, found / f"IM{number:03d}")
    (found / "README").write_text("from the archive")
    assert demo.main(["--out", str(tmp_path / "demo"), "--ct", str(found), *SMALL]) == 0
    told = capsys.readouterr().out
    assert "make_phantom" not in told and f"-i {found} " in told and "--by block" in told
    assert sorted(found.iterdir()) == [*(found / f"IM{number:03d}" for number in range(12)), found / "README"]


@pytest.mark.parametrize(
    ("ct", "message"), [("nowhere", "nowhere: no such folder"), ("demo/ct", "which the demo empties")]
)
def test_a_ct_that_cannot_be_is_told_before_anything_is_made(tmp_path, capsys, ct, message):
    (tmp_path / "demo" / "ct").mkdir(parents=True)
    assert demo.main(["--out", str(tmp_path / "demo"), "--ct", str(tmp_path / ct)]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["ct"]


def test_a_step_that_fails_stops_the_demo(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert demo.main(["--out", str(tmp_path / "demo"), "--ct", str(tmp_path / "empty")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: tools/make_noisy.py: ") and "empty: the folder is empty" in line
    assert not (tmp_path / "demo" / "run").exists()
