"""Processes of an mpiexec convert together, without MPI."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import commands
import pytest

from medi2i.common.inference import shards
from medi2i.common.inference.report import find_report
from medi2i.common.options.conversion import PairedConversionOptions
from medi2i.common.resources import LAUNCHERS
from medi2i.cyclegan import convert as unpaired
from medi2i.pix2pix import convert

SECONDS = 120  # no process of these tests may take longer
VARIABLES = [name for names in LAUNCHERS.values() for name in names]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Whatever started the tests."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_no_process_starts_mpi(tmp_path, files):
    folder = files.write_series(tmp_path / "in", 2)
    code = (
        "import sys\nfrom medi2i.pix2pix.convert import main\nstatus = main(sys.argv[1:])\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] in ('mpi4py', 'chainermn')]\n"
        "sys.exit(status)"
    )
    second = {"PMI_RANK": "1", "PMI_SIZE": "2"}
    cases = ([], {}, 2), (["--shards", "1/2"], second, 1), ([], second, 1)  # --shards needs no launcher and wins
    for number, (more, launcher, written) in enumerate(cases):
        out = tmp_path / f"out{number}"
        done = commands.finish(code, "-m", "identity", "-R", folder, "-o", out, *more, **launcher)
        assert done.returncode == 0 and f"{written} written" in done.stderr, done.stderr


@pytest.mark.parametrize("names", LAUNCHERS.values())
def test_ranks_are_shards(monkeypatch, names):
    for rank in range(4):
        for name, value in zip(names, (rank, 4, 0), strict=True):
            monkeypatch.setenv(name, str(value))
        shard, _ = shards.sharing(PairedConversionOptions(gpu=-1))
        assert shard == shards.Shard(rank + 1, 4, quiet=rank > 0)
    assert shards.sharing(PairedConversionOptions(shards="2/3"))[0] == shards.Shard(2, 3)
    monkeypatch.setenv(names[1], "1")
    assert shards.sharing(PairedConversionOptions())[0] is None


@pytest.mark.parametrize(
    ("local", "given", "gpus", "expected"),
    [
        ("5", None, 4, 1),
        ("2", None, 8, 2),
        ("2", 0, 8, 0),
        ("2", -1, 8, -1),
        ("2", None, 0, None),
        (None, None, 4, None),
    ],
)
def test_processes_of_one_machine_take_its_gpus_in_turn(monkeypatch, local, given, gpus, expected):
    monkeypatch.setattr(shards, "gpu_count", lambda: (gpus, ""))
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "8")
    if local is not None:
        monkeypatch.setenv("MPI_LOCALRANKID", local)
    assert shards.sharing(PairedConversionOptions(gpu=given))[1].gpu == expected


@pytest.fixture(scope="module")
def launcher():
    """The command line before the program: an mpiexec. Skips where there is none."""
    beside = Path(sys.executable).with_name("mpiexec")
    program = str(beside) if beside.exists() else shutil.which("mpiexec")
    if program is None:
        pytest.skip("no mpiexec is installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=SECONDS).stdout
    return [program, *(["--allow-run-as-root", "--oversubscribe"] if "Open MPI" in version else [])]


def launched(count, *arguments, module="pix2pix"):
    """(status, errors) of each of ``count`` processes that a launcher would have started."""
    started = [
        commands.start(
            f"medi2i.{module}.convert", *arguments, PMI_RANK=str(rank), PMI_SIZE=str(count), MPI_LOCALRANKID=str(rank)
        )
        for rank in range(count)
    ]
    return [(command.wait(SECONDS), command.communicate()[1]) for command in started]


@pytest.fixture
def mpiexec(launcher):
    """run(processes, arguments of convert.py) -> finished process."""

    def run(processes, *arguments, code=None):
        script = ["-c", code] if code else ["-m", "medi2i.pix2pix.convert"]
        return subprocess.run(
            [*launcher, "-n", str(processes), sys.executable, *script, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    return run


def test_two_processes_write_what_one_writes(tmp_path, paired_run, files, mpiexec):
    folder, model = files.write_series(tmp_path / "in", 5), paired_run(stack=3, ch=3, out_ch=3)
    (folder / "notes").write_text("no image")
    done = mpiexec(2, model, "-R", folder, "-o", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("all 2 shards have finished: 5 converted, 1 skipped") == 1
    assert done.stderr.count("skipped notes") == 1 and done.stderr.count("written, 0 there already") == 2
    assert convert.main([str(word) for word in (model, "-R", folder, "-o", tmp_path / "one")]) == 0
    assert files.contents(tmp_path / "two") == files.contents(tmp_path / "one")


def test_three_processes_of_cyclegan(tmp_path, unpaired_run, files):
    folder, model = files.write_series(tmp_path / "in", 4), unpaired_run(stack=3, ch=3, out_ch=3)
    done = launched(3, model, "-R", folder, "-o", tmp_path / "three", module="cyclegan")
    assert [status for status, _ in done] == [0, 0, 0], done
    assert unpaired.main([str(word) for word in (model, "-R", folder, "-o", tmp_path / "one")]) == 0
    assert files.contents(tmp_path / "three") == files.contents(tmp_path / "one")


def test_errors_are_told_by_each_and_nothing_hangs(tmp_path, files):
    folder = files.write_series(tmp_path / "in", 2)
    for arguments, words in (
        (["-m", tmp_path / "none", "-R", folder], "none: no such file or folder"),
        (["-m", "identity", "-R", folder / "IM0"], "2 shards for 1 image(s)"),
    ):
        for status, told in launched(2, "-o", tmp_path / "out", *arguments):
            assert status == 1 and told.count("error: ") == told.count(words) == 1, told


FAILING = """
import sys
from medi2i.common.inference import jobs
from medi2i.common.resources import launched
def fail(self):
    {error}
if launched().rank == 1:
    jobs.Jobs._jobs = fail
from medi2i.pix2pix.convert import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "error",
    ["raise OSError(28, 'No space left on device', 'x')", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
)
def test_a_process_that_fails_ends_the_job_and_resume_finishes_it(tmp_path, files, mpiexec, error):
    folder = files.write_series(tmp_path / "in", 4)
    arguments, out = ["-m", "identity", "-R", folder, "-o"], tmp_path / "out"
    done = mpiexec(2, *arguments, out, code=FAILING.format(error=error))
    assert done.returncode != 0
    if error.startswith("raise"):
        assert "error: x: No space left on device" in done.stderr
    assert find_report(out) is None
    done = launched(2, *arguments, out, "--resume")
    assert [status for status, _ in done] == [0, 0], done
    assert convert.main([str(word) for word in (*arguments, tmp_path / "one")]) == 0
    assert {name: data for name, data in files.contents(out).items() if name != "conversion.json"} == {
        name: data for name, data in files.contents(tmp_path / "one").items() if name != "conversion.json"
    }
