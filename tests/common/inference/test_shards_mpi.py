"""Processes of an mpiexec convert together; plain processes never touch MPI."""

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from medi2i.common.errors import Terminated, UserError
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


class Threads:
    """Stands in for an MPI communicator among threads."""

    def __init__(self, rank, size, shared):
        self.rank, self.size, self.shared = rank, size, shared
        self.aborted = None

    @classmethod
    def several(cls, size):
        shared = SimpleNamespace(values=[None] * size, barrier=threading.Barrier(size, timeout=30))
        return [cls(rank, size, shared) for rank in range(size)]

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size

    def Ibarrier(self):
        self.shared.barrier.wait()
        return SimpleNamespace(Test=lambda: True)

    def allgather(self, value):
        self.shared.values[self.rank] = value
        self.shared.barrier.wait()
        found = list(self.shared.values)
        self.shared.barrier.wait()
        return found

    def Abort(self, status):
        self.aborted = status


def together(step, size=3):
    """What ``step(MpiCrew)`` gives or raises on each of ``size`` ranks."""
    found = [None] * size

    def one(rank, comm):
        try:
            found[rank] = step(shards.MpiCrew(comm))
        except (SystemExit, UserError) as error:
            found[rank] = error

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(Threads.several(size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def fail(rank, *bad):
    if rank in bad:
        raise UserError(f"x: is bad on {rank}")
    return rank * 10


def test_all_agree():
    assert together(lambda one: one.agree(lambda: fail(one.shard.number, 0))) == [10, 20, 30]
    assert together(lambda one: one.gather(one.shard.number)) == [[1, 2, 3]] * 3
    assert together(lambda one: (str(one.shard), one.leads)) == [("1/3", True), ("2/3", False), ("3/3", False)]


def test_what_fails_on_one_ends_all_and_is_told_once():
    one, two, three = together(lambda one: one.agree(lambda: fail(one.shard.number, 2, 3)))
    assert [type(error) for error in (one, two, three)] == [SystemExit, UserError, SystemExit]
    assert str(two) == "process 2/3: x: is bad on 2" and one.code == three.code == 1
    one, two, three = together(lambda one: one.agree(lambda: fail(one.shard.number, 1, 2, 3)))
    assert str(one) == "x: is bad on 1"  # the same everywhere: of no process in particular
    assert [type(error) for error in (two, three)] == [SystemExit] * 2


def test_what_fails_in_a_long_step_is_told_at_once(capsys):
    found = together(lambda one: one.agree(lambda: fail(one.shard.number, 3), at_once=True))
    assert [type(error) for error in found] == [SystemExit] * 3
    told = capsys.readouterr().err
    assert "error: process 3/3: x: is bad on 3\n" in told
    assert "1 of 3 processes failed; --resume would convert what is missing" in told


def test_an_unexpected_error_aborts_instead_of_leaving_the_others_waiting(capsys):
    comm = Threads.several(1)[0]
    with pytest.raises(ZeroDivisionError), shards.MpiCrew(comm):
        1 / 0  # noqa: B018
    assert comm.aborted == 1 and "ZeroDivisionError" in capsys.readouterr().err
    with pytest.raises(SystemExit), shards.MpiCrew(comm := Threads.several(1)[0]):
        raise SystemExit(1)
    assert comm.aborted is None


@pytest.mark.parametrize("error,status,name", [(KeyboardInterrupt(), 130, "SIGINT"), (Terminated(15), 143, "SIGTERM")])
def test_a_process_that_is_ended_ends_the_others_with_one_line(capsys, error, status, name):
    comm = Threads.several(1)[0]
    with pytest.raises(KeyboardInterrupt), shards.MpiCrew(comm):
        raise error
    assert comm.aborted == status and capsys.readouterr().err == f"process 1/1: ended by {name}\n"


def test_a_plain_process_and_a_shard_import_no_mpi(tmp_path, files):
    folder = files.write_series(tmp_path / "in", 2)
    code = (
        "import sys\nfrom medi2i.pix2pix.convert import main\nstatus = main(sys.argv[1:])\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] in ('mpi4py', 'chainermn')]\n"
        "sys.exit(status)"
    )
    for more in ([], ["--shards", "1/2"]):
        environment = os.environ | ({"PMI_RANK": "0", "PMI_SIZE": "2"} if more else {})  # --shards needs no launcher
        done = subprocess.run(
            [sys.executable, "-c", code, "-m", "identity", "-R", folder, "-o", tmp_path / f"out{len(more)}", *more],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr


def test_without_mpi4py_shards_are_named(tmp_path, files, monkeypatch, capsys):
    folder = files.write_series(tmp_path / "in", 2)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    assert convert.main(["-m", "identity", "-R", str(folder), "-o", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "mpiexec started 2 processes, which need mpi4py" in error and "--shards I/N instead" in error
    assert len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("known", "works"), [(1, False), (4, True)])
def test_an_mpi_that_knows_nothing_of_the_launcher_is_refused(monkeypatch, known, works):
    world = Threads(3, known, None)
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=SimpleNamespace(COMM_WORLD=world)))
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    if works:
        assert shards.sharing(PairedConversionOptions())[0].comm is world
        return
    with pytest.raises(UserError, match="started 4 processes, but mpi4py's MPI knows 1: .*--shards"):
        shards.sharing(PairedConversionOptions())


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
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=SimpleNamespace(COMM_WORLD=Threads(0, 8, None))))
    monkeypatch.setattr(shards, "gpu_count", lambda: (gpus, ""))
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "8")
    if local is not None:
        monkeypatch.setenv("MPI_LOCALRANKID", local)
    assert shards.sharing(PairedConversionOptions(gpu=given))[1].gpu == expected


@pytest.fixture(scope="module")
def launcher():
    """The command line before the program: an mpiexec whose processes mpi4py knows. Skips where there is none."""
    beside = Path(sys.executable).with_name("mpiexec")
    program = str(beside) if beside.exists() else shutil.which("mpiexec")
    if program is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py or an mpiexec is not installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=SECONDS).stdout
    words = [program, *(["--allow-run-as-root", "--oversubscribe"] if "Open MPI" in version else [])]
    probe = "from mpi4py.MPI import COMM_WORLD; print(COMM_WORLD.size)"
    done = subprocess.run(
        [*words, "-n", "2", sys.executable, "-c", probe], capture_output=True, text=True, timeout=SECONDS
    )
    if "".join(done.stdout.split()) != "22":  # whose line ends come first is open
        pytest.skip(f"mpi4py does not work with {program}")
    return words


@pytest.fixture
def mpiexec(launcher):
    """run(processes, arguments of convert.py) -> finished process."""

    def run(processes, *arguments, module="pix2pix", code=None):
        script = ["-c", code] if code else ["-m", f"medi2i.{module}.convert"]
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
    assert done.stderr.count("5 written, 0 there already, 1 skipped") == 1 and done.stderr.count("skipped notes") == 1
    assert convert.main([str(word) for word in (model, "-R", folder, "-o", tmp_path / "one")]) == 0
    assert files.contents(tmp_path / "two") == files.contents(tmp_path / "one")


def test_three_processes_of_cyclegan(tmp_path, unpaired_run, files, mpiexec):
    folder, model = files.write_series(tmp_path / "in", 4), unpaired_run(stack=3, ch=3, out_ch=3)
    assert mpiexec(3, model, "-R", folder, "-o", tmp_path / "three", module="cyclegan").returncode == 0
    assert unpaired.main([str(word) for word in (model, "-R", folder, "-o", tmp_path / "one")]) == 0
    assert files.contents(tmp_path / "three") == files.contents(tmp_path / "one")


def test_errors_under_mpiexec_are_told_once_and_nothing_hangs(tmp_path, files, mpiexec):
    folder = files.write_series(tmp_path / "in", 2)
    for arguments, words in (
        (["-m", tmp_path / "none", "-R", folder], "none: no such file or folder"),
        (["-m", "identity", "-R", folder / "IM0"], "2 shards for 1 image(s)"),
    ):
        done = mpiexec(2, "-o", tmp_path / "out", *arguments)
        assert done.returncode != 0 and done.stderr.count("error: ") == 1 and words in done.stderr, done.stderr


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
        assert "error: process 2/2: x: No space left on device" in done.stderr and "1 of 2 processes" in done.stderr
    assert find_report(out) is None
    done = mpiexec(2, *arguments, out, "--resume")
    assert done.returncode == 0, done.stderr
    assert convert.main([str(word) for word in (*arguments, tmp_path / "one")]) == 0
    assert {name: data for name, data in files.contents(out).items() if name != "conversion.json"} == {
        name: data for name, data in files.contents(tmp_path / "one").items() if name != "conversion.json"
    }
