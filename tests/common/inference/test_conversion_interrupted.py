"""Signals and kills in a conversion: nothing half-done, nothing forgotten."""

import os
import signal

import commands
import pytest

from medi2i.common.inference import generator
from medi2i.common.inference.engines import IdentityEngine
from medi2i.common.inference.report import Report, journal_of, read_journal, read_report
from medi2i.pix2pix import convert

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def interrupting(number, at):
    """An engine that sends this process a signal while it has image ``at`` (from 1)."""

    class Engine(IdentityEngine):
        seen = 0

        def run(self, x, frame=None):
            Engine.seen += 1
            if Engine.seen == at:
                os.kill(os.getpid(), number)
            return x.copy()

    return Engine


@pytest.mark.parametrize(
    ("number", "more"),
    [(signal.SIGTERM, []), (signal.SIGINT, ["--shards", "1/1"]), (signal.SIGHUP, ["--imgtype_out", "npy"])],
)
def test_what_is_under_way_is_finished_and_the_rest_left_out(tmp_path, files, monkeypatch, capsys, number, more):
    folder, out = files.write_series(tmp_path / "in", 8), tmp_path / "out"
    (folder / "notes.txt").write_text("no image")
    arguments = ["-m", "identity", "-R", folder, *more, "-o"]
    assert run(*arguments, tmp_path / "whole") == 0
    expected = files.contents(tmp_path / "whole")
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    monkeypatch.setattr(generator, "IdentityEngine", interrupting(number, 3))
    assert run(*arguments, out) == 128 + number
    told = capsys.readouterr().err
    assert f"{number.name}: finishing the images under way, then the report; once more to leave at once" in told
    assert f"{number.name}: 3 written, 0 there already, 1 skipped, 5 left out, as " in told
    assert before == [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    place = out / "conversion.shards/1.json" if "--shards" in more else None
    report = files.report_of(out) if place is None else read_report(place, ("files",))
    assert report["state"] == "interrupted" and report["counts"] == {"skipped": 1, "written": 3}
    results = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".json"]
    assert len(results) == 3 and all(expected[path.name] == path.read_bytes() for path in results)
    assert not [path for path in tmp_path.rglob(".*")]
    monkeypatch.undo()
    assert run(*arguments, out, "--resume") == 0
    assert files.contents(out) == expected


def test_a_signal_at_the_last_image_changes_nothing(tmp_path, files, monkeypatch):
    folder = files.write_series(tmp_path / "in", 3)
    monkeypatch.setattr(generator, "IdentityEngine", interrupting(signal.SIGTERM, 3))
    assert run("-m", "identity", "-R", folder, "-o", tmp_path / "out") == 0
    assert files.report_of(tmp_path / "out")["state"] == "complete"


KILLED = """
import os, signal, sys
from medi2i.common.inference.report import Report
original, seen = Report.{name}, []
def call(*arguments, **named):
    seen.append(arguments)
    if {before} and len(seen) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    original(*arguments, **named)
    if len(seen) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
Report.{name} = call
from medi2i.pix2pix.convert import main
sys.exit(main(sys.argv[1:]))
"""
MOMENTS = {
    "begun": ("begin", 3, False),
    "written, not noted": ("note", 3, True),
    "the last one noted": ("note", 5, False),
}


@pytest.mark.parametrize(("moment", "shards"), [*((moment, False) for moment in MOMENTS), ("written, not noted", True)])
def test_a_kill_is_forgotten_once_the_rest_is_done(tmp_path, files, moment, shards):
    name, at, before = MOMENTS[moment]
    folder, out = files.write_series(tmp_path / "in", 5), tmp_path / "out"
    (folder / "notes.txt").write_text("no image")
    arguments = ["-m", "identity", "-R", str(folder), "--structure", "maps", "-o"]
    assert run(*arguments, tmp_path / "whole") == 0
    expected = files.contents(tmp_path / "whole")
    part = ["--shards", "1/1"] if shards else []
    code = KILLED.format(name=name, at=at, before=before)
    done = commands.finish(code, *arguments, out, *part)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert run(*arguments, out, "--resume", *part) == 0
    assert files.contents(out) == expected
    assert not [path for path in tmp_path.rglob(".*")]


def test_a_file_of_the_user_is_left_where_no_run_began_it(tmp_path, files):
    """--resume leaves what is there, unless an earlier run was writing it."""
    folder, out = files.write_series(tmp_path / "in", 2), tmp_path / "out"
    out.mkdir()
    (out / "IM7").write_text("mine")
    assert run("-m", "identity", "-R", folder, "-o", out, "--resume") == 0
    assert (out / "IM7").read_text() == "mine"
    assert files.report_of(out)["files"]["IM7"] == {"status": "there already", "results": "IM7"}


def test_the_journal(tmp_path):
    report = Report(tmp_path, {}, {}, [])
    journal = journal_of(report.path)
    journal.write_text('{"begun": "of another run"}\n')
    report.write()
    assert not journal.exists()
    for name in ("a", "b", "c"):
        report.begin(name)
    report.note("a", "written", clipped=3)
    with journal.open("ab") as file:
        file.write(b'{"name": "b", "entry": {"sta')  # a kill
    assert read_report(report.path, ("files",))["files"] == {"a": {"status": "written", "clipped": 3}}
    later = Report(tmp_path, {}, {}, [])
    assert read_journal(later.path)[1] == {"b", "c"}
    later.resume()
    later.write()
    assert later.content["files"] == {"a": {"status": "written", "clipped": 3}} and not journal.exists()
    later.begin("d")
    later.write()  # now and then, while d is being written
    assert read_journal(Report(tmp_path, {}, {}, []).path)[1] == {"d"}
    later.note("d", "written")
    later.write("complete")
    assert not journal.exists() and sorted(read_report(report.path, ("files",))["files"]) == ["a", "d"]
